"""Ranking by the score of every ad: what a beam that misses nothing finds, on JAX too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import ExhaustiveRecommender, GenerativeRecommender
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog, walks

pytestmark = pytest.mark.unit

HISTORIES = np.array([[5, 9, 2, 7], [1, 0, 0, 0], [0, 0, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def model():
    table = SuccessorTable.count(walks()[0].train, ADS, most=4)
    model = SidRecommender.for_catalog(make_catalog(), table, **SMALL)
    model.dense_weight.assign(0.5)
    model.successor_weight.assign(0.7)
    return model


@pytest.mark.parametrize("mode", ["generative", "hybrid"])
@pytest.mark.parametrize("filter_seen", [False, True])
def test_it_finds_what_a_beam_over_the_whole_catalogue_finds(model, mode, filter_seen):
    beams = GenerativeRecommender(SidDecoder(model, beam_size=ADS), mode)
    every = ExhaustiveRecommender(model, mode, batch_size=2)
    # More results than ads: both say so by -1.
    wanted = beams.recommend(HISTORIES, ADS + 2, filter_seen)
    np.testing.assert_array_equal(every.recommend(HISTORIES, ADS + 2, filter_seen), wanted)
    missing = (wanted < 0).sum(1).tolist()
    assert missing == ([6, 3, 2] if filter_seen else [2, 2, 2])


def test_it_ranks_with_the_weights_of_the_moment(model):
    every = ExhaustiveRecommender(model, "hybrid")
    before = every.recommend(HISTORIES, 10)
    model.dense_weight.assign(50.0)
    after = every.recommend(HISTORIES, 10)
    model.dense_weight.assign(0.5)
    assert (before != after).any()
    np.testing.assert_array_equal(every.recommend(HISTORIES, 10), before)


def test_nobody_and_an_unknown_mode(model):
    assert ExhaustiveRecommender(model).recommend(HISTORIES[:0], 5).shape == (0, 5)
    with pytest.raises(ValueError, match="mode must be 'generative' or 'hybrid', got 'dense'"):
        ExhaustiveRecommender(model, "dense")


ON_JAX = """
import json, sys
import keras, numpy as np
from pipeline.config import RecommenderConfig
from pipeline.recommender_training import train_recommender
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.evaluation import ExhaustiveRecommender, choose_hybrid_weights
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import SMALL, make_catalog, walks
assert keras.backend.backend() == "jax"
model = keras.saving.load_model(sys.argv[1])
histories = np.array(json.loads(sys.argv[2]))
found = {
    mode: ExhaustiveRecommender(model, mode).recommend(histories, 10, True).tolist()
    for mode in ("generative", "hybrid")
}
splits, _ = walks()
table = SuccessorTable.count(splits.train, len(make_catalog()))
new = SidRecommender.for_catalog(make_catalog(), table, **SMALL)
ranked = ExhaustiveRecommender(new, batch_size=100)
settings = RecommenderConfig(epochs=12, learning_rate=1e-2, deletion=0, ema_momentum=0.8)
history = train_recommender(new, splits.train, splits.validation, settings, 0, ranked=ranked)
found["validation"] = history.history["val_ndcg@10"]
hybrid = ExhaustiveRecommender(new, "hybrid", batch_size=100)
trials = choose_hybrid_weights(hybrid, splits.validation, (0.0, 1.0), (0.0, 1.0))
found["weights"] = [trial["ndcg@10"] for trial in trials]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_recommender_is_trained_chosen_and_ranked_on_jax(model, tmp_path):
    pytest.importorskip("jax")
    model.save(tmp_path / "model.keras")
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ON_JAX,
            str(tmp_path / "model.keras"),
            json.dumps(HISTORIES.tolist()),
        ],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert keras.backend.backend() == "tensorflow"
    for mode in ("generative", "hybrid"):
        here = ExhaustiveRecommender(model, mode).recommend(HISTORIES, 10, True)
        assert found[mode] == here.tolist()
    assert found["validation"][-1] > 0.5 > found["validation"][0]
    assert max(found["weights"]) > 0.5
