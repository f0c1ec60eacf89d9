"""The research script as a researcher runs it, on a small market."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from sid_tfx.datasets.market import write_sample
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parents[1] / "examples" / "research.py"
ON_JAX = SCRIPT.with_name("jax_recommender.py")
QUICK = ["--codebook-size", "16", "--tokenizer-epochs", "2", "--recommender-epochs", "2"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> str:
    ads, events = write_sample(tmp_path_factory.mktemp("market"), ads=150, users=200)
    # A researcher's own file lacks most of what the sample has.
    few = pd.read_parquet(ads)[["ad_id", "title", "advertiser", "category_path"]]
    few.to_parquet(ads)
    done = run("--ads", ads, "--events", events, *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_it_goes_through_every_step(output):
    assert "150 ads, 200 users" in output
    assert re.search(r"\d+ co-engaged pairs", output)
    assert re.search(r"[\d.]+% of ads share their codes", output)
    assert re.search(r"\n +\d+-\d+-\d+-\d+ +\w+ > \w", output)


@pytest.mark.slow
def test_it_compares_four_methods(output):
    methods = ("popularity", "item kNN", "SID, generative", "SID, hybrid")
    for method in methods:
        row = re.search(rf"^{method} +([\d. ]+)$", output, re.MULTILINE)
        assert row, method
        recall_5, recall_10, ndcg_5, ndcg_10 = map(float, row[1].split())
        assert 0 <= ndcg_5 <= recall_5 <= recall_10 <= 1
        assert ndcg_5 <= ndcg_10
    assert re.search(r"95% interval [+-]\d\.\d+ to [+-]\d\.\d+", output)


def test_one_table_without_the_other_is_refused():
    done = run("--ads", "ads.parquet")
    assert done.returncode == 2
    assert "--ads and --events go together" in done.stderr


def test_it_needs_no_tfx():
    imports = re.findall(r"^(?:from|import) ([\w.]+)", SCRIPT.read_text(), re.MULTILINE)
    code = "import sys\n" + "\n".join(f"import {name}" for name in imports)
    code += "\nprint([m for m in ('tfx', 'apache_beam', 'grpc', 'pipeline') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_recommender_is_trained_and_measured_on_jax_without_tensorflow(tmp_path):
    pytest.importorskip("jax")
    ads, events = write_sample(tmp_path, ads=150, users=200)
    rng = np.random.default_rng(0)
    codes, embedding = rng.integers(0, 16, (150, 3)), rng.normal(size=(150, 8))
    np.savez(tmp_path / "codes.npz", codes=codes, embedding=embedding)
    # A module that fails where it is imported stands for one that is not installed.
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no TensorFlow here')")
    out = tmp_path / "out.json"
    given = {"ads": ads, "events": events, "codes": tmp_path / "codes.npz", "json": out}
    given["model"] = tmp_path / "model.keras"
    small = ["--codebook-size=16", "--hidden-size=32", "--epochs=2", "--batch-positions=640"]
    done = subprocess.run(
        [sys.executable, ON_JAX, *(f"--{name}={path}" for name, path in given.items()), *small],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(SCRIPT.parents[1])]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = json.loads(out.read_text())
    assert [(record["mode"], record["filtered"]) for record in records] == [
        ("generative", False),
        ("generative", True),
        ("hybrid", False),
        ("hybrid", True),
    ]
    for record in records:
        assert record["backend"] == "jax"
        assert record["users"] == 200
        assert 0 < record["recall@10"] <= 1
    # What a GPU trained is exported here.
    model = keras.saving.load_model(tmp_path / "model.keras")
    found = GenerativeRecommender(SidDecoder(model), "hybrid").recommend(
        np.array([[1, 2, 0]], np.int32), 5
    )
    assert (found >= 0).all()
