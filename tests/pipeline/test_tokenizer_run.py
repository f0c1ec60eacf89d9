"""TokenizerTrainer's `run_fn`: what it says of a collapse, and when it refuses."""

import json
import types
import warnings

import numpy as np
import pytest

from components.refusal import Refused
from pipeline import tokenizer_run
from pipeline.config import TokenizerConfig
from sid_tfx.callbacks import CollapseGuard
from sid_tfx.datasets.records import Pairs
from tests.ad_fixtures import SCHEMA, SIZES, catalogue, pairs

pytestmark = pytest.mark.unit

ADS = 300
HEALTHY: dict = {"levels": 3, "codebook_size": 32}
COLLAPSED: dict = {"levels": 1, "codebook_size": 2}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains on a small catalogue in place of files; returns the metadata it left."""
    features = catalogue(ADS)
    ids = np.array([f"ad{row:03d}" for row in range(ADS)])
    triggers, targets = ids[pairs(features, 200)].T
    found = Pairs(triggers, targets, np.ones(200, "float32"))
    monkeypatch.setattr(tokenizer_run, "read_features", lambda *_: (ids, dict(features)))
    monkeypatch.setattr(tokenizer_run, "read_pairs", lambda *_: found)
    monkeypatch.setattr(tokenizer_run, "feature_sizes", lambda *_: SIZES)
    monkeypatch.setattr(tokenizer_run.tft, "TFTransformOutput", lambda *_: None)
    # Deterministic kernels are for a process of its own: the setting can't be taken back.
    monkeypatch.setattr(tokenizer_run, "make_deterministic", lambda seed: None)

    def train(**settings):
        given = TokenizerConfig(
            preset="rq_vae",
            epochs=2,
            encoder={"hidden": [16], "code_dim": 8},
            arguments={"decoder_units": [16]},
            **settings,
        )
        custom = {"schema": SCHEMA.to_json(), "seed": 0, "tokenizer": given.model_dump()}
        tokenizer_run.run_fn(
            types.SimpleNamespace(
                custom_config={**custom, "inputs": {"pairs": ""}},
                train_files=[],
                transform_graph_path="",
                model_run_dir=str(tmp_path / "run"),
                serving_model_dir=str(tmp_path / "model"),
            )
        )
        return json.loads((tmp_path / "model" / "metadata.json").read_text())

    return train


def test_a_collapse_is_in_the_stage_line(run):
    with pytest.warns(UserWarning, match="Codebook collapse: after epoch 1 only"):
        summary = run(**COLLAPSED)["summary"]
    assert summary.startswith("300 ads, 200 pairs, 2 epochs, loss ")
    share = "a batch's ads have a semantic ID of their own, the limit is 50%"
    assert ", COLLAPSED: after epoch 2 only " in summary
    assert summary.endswith(share)


def test_a_collapse_stops_the_run_where_that_is_asked_for(run, tmp_path):
    words = r"after epoch 1 only \d.\d% of .* the limit is 50%\. Lower tokenizer\.learning_rate"
    with pytest.warns(UserWarning, match="collapse"), pytest.raises(Refused, match=words):
        run(**COLLAPSED, stop_on_collapse=True)
    assert not (tmp_path / "model").exists()


def test_stopping_changes_nothing_where_there_is_no_collapse(run):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Codebook collapse")
        plain, watched = run(**HEALTHY), run(**HEALTHY, stop_on_collapse=True)
    assert plain["summary"].split(", ")[-1].startswith("loss ")
    assert watched["history"] == plain["history"]


def test_a_collapse_that_passed_is_told_apart():
    guard = CollapseGuard()
    guard.collapsed = {1: 0.25, 2: 0.4}
    history = types.SimpleNamespace(history={"loss": [3.0, 2.0, 1.0]})
    assert tokenizer_run.collapse_summary(guard, history) == (
        ", recovered from a collapse: after epoch 2 only 40.0% of a batch's ads have a semantic ID "
        "of their own, the limit is 50%"
    )
