"""`evaluate tokenizers` as a user runs it, on a small market: cells, tables, a second run."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.compare_tokenizers import compare
from sid_tfx.datasets.market import make_market

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KEYS = {
    "preset", "seed", "levels", "codebook_size", "collision_share", "largest_group",
    "entropy_nats", "v_measure", "recall@10", "ndcg@10", "sid_recall@10", "train_seconds",
    "peak_rss_mb",
}  # fmt: skip
"""What a record must have; others may stand beside them."""


def arguments(folder):
    """The options of the run, as the command line has them."""
    return {
        "ads": folder / "ads.parquet", "events": folder / "events.parquet",
        "results": folder / "results", "presets": "rq_vae,rq_kmeans", "seeds": 1,
        "codebook_size": 16, "reference": "rq_vae",
        "budget": ["epochs=1", "tokenizer_epochs=1"],
    }  # fmt: skip


def evaluate_tokenizers(folder):
    command = [sys.executable, "pipeline.py", "evaluate", "tokenizers"]
    command += ["--json", folder / "out.json"]
    for name, value in arguments(folder).items():
        for each in value if isinstance(value, list) else [value]:
            command += [f"--{name.replace('_', '-')}", each]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


def again(folder, only_report=False):
    """The same in this process; returns the records and what was printed."""
    given = arguments(folder)
    console = Console(record=True, width=200)
    presets = given.pop("presets").split(",")
    records, failed = compare(
        console, presets=presets, budget_settings=given.pop("budget"), **given, levels=3,
        ablate=False, with_repulsion=(), name="", memory_limit_gb=6.0, jobs=1,
        only_report=only_report,
    )  # fmt: skip
    assert failed == []
    return records, console.export_text()


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    made = make_market(ads=60, users=80)
    rng = np.random.default_rng(0)
    leaves = made.ads["category_path"].map(" > ".join)
    centers = {leaf: rng.normal(size=8) for leaf in sorted(set(leaves))}
    vectors = [centers[leaf] + 0.5 * rng.normal(size=8) for leaf in leaves]
    made.ads.assign(text_embedding=vectors).to_parquet(folder / "ads.parquet")
    made.events.to_parquet(folder / "events.parquet")
    return folder


@pytest.fixture(scope="module")
def first(market):
    done = evaluate_tokenizers(market)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_records_have_the_keys(first, market):
    kept = json.loads((market / "out.json").read_text())
    assert [record["preset"] for record in kept] == ["rq_vae", "rq_kmeans"]
    for record in kept:
        assert set(record) >= KEYS
        assert (record["levels"], record["codebook_size"], record["seed"]) == (3, 16, 0)
        assert len(record["v_measure"]) == 3
        assert 0 <= record["ndcg@10"] <= record["recall@10"] <= record["sid_recall@10"] <= 1
        assert record["users"] == 80
        assert 100 < record["tokenizer_peak_rss_mb"] <= record["peak_rss_mb"] < 6144


def test_tables_lie_beside_the_records(first, market):
    results = market / "results"
    page = (results / "tokenizers-L3-K16.md").read_text()
    assert re.search(r"^\| rq_kmeans \| 1 \| [\d.]+% \|", page, re.MULTILINE)
    assert re.search(r"^\| rq_vae \| rq_kmeans \| ndcg@10 \| [+-]", page, re.MULTILINE)
    frame = pd.read_csv(results / "tokenizers-L3-K16.csv")
    kept = json.loads((market / "out.json").read_text())
    assert frame["ndcg@10_mean"].tolist() == pytest.approx([r["ndcg@10"] for r in kept])
    assert (results / "tokenizers-L3-K16.png").stat().st_size > 5_000


def test_a_second_run_trains_nothing(first, market):
    cells = market / "results" / "cells"
    before = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    assert len([name for name in before if name.endswith((".json", ".npz"))]) == 4
    _, shown = again(market)
    assert shown.count("kept") == 2
    assert {path.name: path.stat().st_mtime_ns for path in cells.iterdir()} == before


def test_report_alone_trains_nothing(first, market):
    records, shown = again(market, only_report=True)
    assert records == json.loads((market / "out.json").read_text())
    assert "training" not in shown
    assert "rq_kmeans" in shown
