"""Every architecture trains with `fit`, decodes under the trie, exports and comes back."""

import importlib
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.architectures import ARCHITECTURES
from sid_tfx.datasets.batches import SequenceBatches, TargetBatches
from sid_tfx.decoder import SidDecoder
from sid_tfx.recommender import SidRecommender
from sid_tfx.refresh import refresh_recommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog, walks

pytestmark = pytest.mark.unit

EPOCHS = {"flat": 50, "tiger": 50}
HISTORIES = np.array([[5, 9, 2, 7, 0], [1, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def catalog():
    return make_catalog()


# The default one is trained in test_recommender.py.
@pytest.fixture(scope="module", params=sorted(EPOCHS))
def trained(request, catalog):
    splits, after = walks(400, length=5)
    model = SidRecommender.for_catalog(catalog, **SMALL, architecture=request.param)
    batches = (TargetBatches if model.one_target else SequenceBatches)(splits.train, 12, 1024)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    model.fit(batches, epochs=EPOCHS[request.param], shuffle=False, verbose=0)
    return model, after


def test_it_learns_what_follows_what(trained):
    model, after = trained
    last = tf.constant(np.arange(ADS)[:, None] + 1)
    decoder = SidDecoder(model, beam_size=10)
    for mode in ("generative", "hybrid"):
        first = decoder.recommend(last, 1, mode).rows.numpy()[:, 0]
        assert (first == after).mean() > 0.7


def test_padding_and_unknown_ads_change_nothing(trained):
    model = trained[0]
    variants = np.array([[5, 9, 2, 7, 0, 0], [0, 0, 5, 9, 2, 7], [0, 5, 0, 9, 2, 7]])
    want = model.sid_log_probs(model.user_state(np.array([[5, 9, 2, 7]])), np.array([[1, 2, 3]]))
    got = model.sid_log_probs(model.user_state(variants), np.tile([[1, 2, 3]], (3, 1)))
    np.testing.assert_allclose(got, np.repeat(want, 3, 0), atol=1e-4)
    query = model.dense_query(model.user_state(variants))
    np.testing.assert_allclose(query, np.repeat(query[:1], 3, 0), atol=1e-5)


def log_probs_one_code_at_a_time(model, history, target):
    """Of each level, from decoding: `next_log_probs` without the cache."""
    state = model.user_state(history[None])
    codes = np.asarray(model.ad_codes)[target]
    return [
        np.asarray(model.next_log_probs(state, codes[None, None, :level]))[0, 0]
        for level in range(len(codes))
    ], codes


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_training_loss_equals_what_decoding_says(catalog, architecture):
    model = SidRecommender.for_catalog(
        catalog,
        **SMALL,
        architecture=architecture,
        dense_loss_weight=0.3,
        catalog_softmax=False,
        seed=3,
    )
    rows = np.array([[3, 1, 4], [9, 2, 0], [7, 0, 0]])
    y = np.array([5, 6, 0]) if model.one_target else None
    if model.one_target:
        pairs = [(rows[0], 5), (rows[1, :2], 6)]
    else:
        pairs = [(rows[0, :1], 1), (rows[0, :2], 4), (rows[1, :1], 2)]
    total = 0.0
    for history, target in pairs:
        log_probs, codes = log_probs_one_code_at_a_time(model, history, target)
        smooth = model.label_smoothing
        for level, code in enumerate(codes):
            total -= (1 - smooth) * log_probs[level][code] + smooth * log_probs[level].mean()
        dense = tf.nn.log_softmax(model.dense_scores(model.user_state(history[None])))[0]
        total -= 0.3 * float(dense[target - 1])
    loss = model.compute_loss(x=rows, y=y, y_pred=model(rows), training=False)
    assert float(loss) == pytest.approx(total / len(pairs), rel=1e-4)


def test_the_cache_changes_nothing(trained):
    model = trained[0]
    state = model.user_state(HISTORIES)
    prefix = np.random.default_rng(0).integers(0, 6, (2, 7, 2)).astype(np.int32)
    cache = model.initial_cache(state)
    for level in range(3):
        beams = prefix[..., :level] if level else prefix[:, :1, :0]
        got, cache = model.cached_log_probs(state, beams, cache)
        np.testing.assert_allclose(got, model.next_log_probs(state, beams), atol=1e-5)


def test_beam_search_equals_scoring_every_ad(trained):
    model = trained[0]
    everything = np.tile(np.arange(1, ADS + 1), (2, 1))
    scores = np.asarray(model.sid_log_probs(model.user_state(HISTORIES), everything))
    found = SidDecoder(model, beam_size=ADS).recommend(tf.constant(HISTORIES), ADS)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1), atol=1e-3)
    assert (np.sort(found.rows, axis=1) == np.arange(ADS)).all()


class Exported(tf.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.int32)])
    def serve(self, rows):
        return {"rows": self.decoder.recommend(rows, 5, "hybrid").rows}


@pytest.mark.slow
def test_it_exports_and_a_session_loads_it(trained, tmp_path):
    module = Exported(SidDecoder(trained[0], beam_size=10))
    want = module.serve(tf.constant(HISTORIES, tf.int32))["rows"].numpy()
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.serve})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = meta.signature_def["serving_default"]
        [name] = [tensor.name for tensor in signature.inputs.values()]
        got = session.run(signature.outputs["rows"].name, {name: HISTORIES})
    np.testing.assert_array_equal(got, want)


def test_keras_file_round_trip(trained, tmp_path):
    model = trained[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    rows = np.array([[1, 2, 3]])
    want = model.sid_log_probs(model.user_state(HISTORIES[:1]), rows)
    got = loaded.sid_log_probs(loaded.user_state(HISTORIES[:1]), rows)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_new_ad_leaves_known_histories_as_they_were(trained, catalog):
    model = trained[0]
    grown = catalog.extend(["ad999"], [[0, 0]], np.ones((1, 8)))
    refreshed = refresh_recommender(model, catalog, grown)
    prefix = np.zeros((1, 1, 0), np.int32)
    want = model.next_log_probs(model.user_state(HISTORIES[:1]), prefix)
    got = refreshed.next_log_probs(refreshed.user_state(HISTORIES[:1]), prefix)
    np.testing.assert_allclose(got, want, atol=1e-5)
    everything = SidDecoder(refreshed, beam_size=ADS + 1).recommend(HISTORIES[:1], ADS + 1)
    assert ADS in everything.rows.numpy()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_it_comes_back_from_its_config(architecture):
    layer = ARCHITECTURES[architecture]((4, 4, 2), 3, 8, 1, 2, 16, 8, max_history=4)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    shapes = [tuple(weight.shape) for weight in layer.weights]
    assert shapes == [tuple(weight.shape) for weight in again.weights]


@pytest.mark.parametrize(
    ("architecture", "y", "cure"),
    [("flat", np.array([2]), "SequenceBatches"), ("tiger", None, "TargetBatches")],
)
def test_batches_of_the_wrong_kind_are_refused(catalog, architecture, y, cure):
    model = SidRecommender.for_catalog(catalog, **SMALL, architecture=architecture)
    rows = np.array([[1, 2, 3]])
    with pytest.raises(ValueError, match=cure) as error:
        model.compute_loss(x=rows, y=y, y_pred=model(rows))
    module, name = re.search(r"(sid_tfx[\w.]*)\.(\w+)", str(error.value)).groups()
    assert name == cure
    assert hasattr(importlib.import_module(module), name), "what the sentence names is there"


def test_the_default_also_trains_on_one_target_per_example(catalog):
    model = SidRecommender.for_catalog(catalog, **SMALL)
    rows = np.array([[3, 1, 4]])
    whole = model.compute_loss(x=rows, y_pred=model(rows), training=False)
    parts = [
        model.compute_loss(x=rows[:, :t], y=rows[:, t], y_pred=model(rows[:, :t]), training=False)
        for t in (1, 2)
    ]
    assert float(whole) == pytest.approx(np.mean(parts), rel=1e-5)


JAX_SCRIPT = """
import sys
import keras, numpy as np
import sid_tfx.recommender
assert keras.backend.backend() == "jax"
for path in sys.argv[1:]:
    model = keras.saving.load_model(path)
    rows = np.array([[5, 9, 2, 7, 0], [1, 0, 0, 0, 0]])
    scores = model.sid_log_probs(model.user_state(rows), np.tile([[1, 2, 3]], (2, 1)))
    np.save(path + ".npy", np.asarray(scores))
    model.compile(keras.optimizers.Adam(1e-2))
    x, y = np.tile(rows[:1, :4], (16, 1)), np.full(16, 3) if model.one_target else None
    losses = model.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
"""


@pytest.mark.slow
def test_jax_gives_the_same_scores_and_trains(catalog, tmp_path):
    paths, want = [], []
    for architecture in sorted(EPOCHS):
        model = SidRecommender.for_catalog(catalog, **SMALL, architecture=architecture)
        paths.append(str(tmp_path / f"{architecture}.keras"))
        model.save(paths[-1])
        state = model.user_state(HISTORIES)
        want.append(model.sid_log_probs(state, np.tile([[1, 2, 3]], (2, 1))))
    root = pathlib.Path(__file__).resolve().parents[1]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(JAX_SCRIPT), *paths],
        check=True,
        cwd=root,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(root)},
    )
    for path, scores in zip(paths, want, strict=True):
        np.testing.assert_allclose(np.load(path + ".npy"), scores, atol=1e-4, err_msg=path)
