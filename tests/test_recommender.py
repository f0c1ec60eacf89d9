"""The recommender and its decoder: training, padding, files, JAX, hybrid scoring, exclusions."""

import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.batches import SequenceBatches
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender, choose_hybrid_weights, evaluate
from sid_tfx.layers import AdEmbedding, CausalBlock, DenseHead, LevelHead, MaskedAttention
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog, walks

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def catalog():
    return make_catalog()


@pytest.fixture(scope="module")
def trained(catalog):
    splits, after = walks()
    model = SidRecommender.for_catalog(catalog, **SMALL)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    log = model.fit(SequenceBatches(splits.train, 12, 512), epochs=25, verbose=0).history
    return model, splits, after, log


def test_it_learns_what_follows_what(trained, catalog):
    model, splits, after, log = trained
    assert log["loss"][-1] < 0.6 * log["loss"][0]
    assert set(log) == {"loss", "sid_loss", "dense_loss"}
    decoder = SidDecoder(model, beam_size=10)
    last = tf.constant(np.arange(ADS)[:, None] + 1)
    for mode in ("generative", "hybrid"):
        first = decoder.recommend(last, 1, mode).rows.numpy()[:, 0]
        assert (first == after).mean() > 0.9
        method = GenerativeRecommender(decoder, mode)
        assert evaluate("ours", method, splits.test, catalog, mode=mode).record()["recall@5"] > 0.7


def test_padding_and_unknown_ads_change_nothing(trained):
    model = trained[0]
    history = [5, 9, 2, 7]
    variants = np.array(
        [
            [5, 9, 2, 7, 0, 0, 0, 0],
            [0, 0, 0, 0, 5, 9, 2, 7],
            [0, 5, 0, 9, 2, 0, 0, 7],
        ]
    )
    want = model.user_state(np.array([history])).numpy()
    np.testing.assert_allclose(model.user_state(variants), np.repeat(want, 3, 0), atol=1e-5)


def test_only_the_newest_ads_are_read(trained):
    model = trained[0]
    long = np.random.default_rng(0).integers(1, ADS + 1, (2, 30))
    long[1, 20:] = 0
    newest = np.stack([long[0, 18:], long[1, 8:20]])
    np.testing.assert_allclose(model.user_state(long), model.user_state(newest), atol=1e-5)


def test_states_never_see_the_future(trained):
    model = trained[0]
    one = np.array([[3, 4, 5, 6, 7]])
    two = np.array([[3, 4, 5, 9, 9]])
    np.testing.assert_allclose(model(one)[:, :3], model(two)[:, :3], atol=1e-6)
    assert np.abs(np.asarray(model(one)[:, 3:]) - np.asarray(model(two)[:, 3:])).max() > 1e-3


def test_log_probs_of_codes_agree_with_the_beam(trained, catalog):
    model = trained[0]
    rows = tf.constant([[5, 9, 2], [7, 0, 0]])
    state = model.user_state(rows)
    everything = np.tile(np.arange(1, ADS + 1), (2, 1))
    scores = model.sid_log_probs(state, everything).numpy()
    result = SidDecoder(model, beam_size=ADS).recommend(rows, ADS)
    got = np.take_along_axis(scores, result.rows.numpy(), axis=1)
    np.testing.assert_allclose(result.scores, got, rtol=1e-4, atol=1e-4)
    assert (np.sort(result.rows.numpy(), axis=1) == np.arange(ADS)).all()
    # All code sequences together, catalogue or not, have probability 1.
    grid = np.stack(np.meshgrid(range(6), range(6), range(8), indexing="ij"), -1).reshape(-1, 3)
    total = 0.0
    for level in range(3):
        prefix = tf.constant(np.tile(grid[:, :level], (2, 1, 1)), tf.int32)
        level_scores = tf.nn.log_softmax(model.next_log_probs(state, prefix)).numpy()
        level_scores = np.broadcast_to(level_scores, (2, len(grid), level_scores.shape[-1]))
        total = total + level_scores[:, np.arange(len(grid)), grid[:, level]]
    np.testing.assert_allclose(np.exp(total).sum(axis=1), 1, rtol=1e-4)


def test_hybrid_equals_scoring_every_ad(trained):
    model = trained[0]
    rows = tf.constant([[5, 9, 2, 7], [7, 1, 0, 0]])
    model.dense_weight.assign(0.7)
    state = model.user_state(rows)
    everything = np.tile(np.arange(1, ADS + 1), (2, 1))
    dense = tf.nn.log_softmax(model.dense_scores(state)).numpy()
    truth = model.sid_log_probs(state, everything).numpy() + 0.7 * dense
    decoder = SidDecoder(model, beam_size=ADS, dense_candidates=ADS)
    result = decoder.recommend(rows, 10, "hybrid")
    np.testing.assert_allclose(result.scores, -np.sort(-truth, axis=1)[:, :10], atol=1e-4)
    # A narrow beam still reaches what only the dense side finds.
    narrow = SidDecoder(model, beam_size=1, dense_candidates=ADS).recommend(rows, 10, "hybrid")
    np.testing.assert_array_equal(narrow.rows, result.rows)
    # Candidates from an index give the same order; repeats of beam ads and padding are dropped.
    given = tf.constant(np.pad(everything - 1, [(0, 0), (0, 3)], constant_values=-1))
    indexed = decoder.recommend(rows, 10, "hybrid", dense_rows=given)
    np.testing.assert_array_equal(indexed.rows, result.rows)
    model.dense_weight.assign(1.0)


@pytest.mark.parametrize("mode", ["generative", "hybrid"])
def test_excluded_seen_and_switched_off_ads_never_appear(trained, mode):
    decoder = SidDecoder(trained[0], beam_size=4, dense_candidates=4)
    live = np.arange(ADS) % 3 > 0
    decoder.trie.set_live(live)
    rows = np.random.default_rng(1).integers(0, ADS + 1, (5, 7))
    excluded = np.random.default_rng(2).integers(-1, ADS, (5, 9))
    seen = np.array([True, False, True, False, True])
    result = decoder.recommend(
        tf.constant(rows), 12, mode, tf.constant(excluded), tf.constant(seen)
    )
    assert (result.count.numpy() == 12).all()
    for b in range(5):
        found = result.rows.numpy()[b]
        gone = set(excluded[b]) | (set(rows[b] - 1) if seen[b] else set())
        assert not gone & set(found)
        assert live[found].all()
        assert len(set(found)) == 12
        assert (np.diff(result.scores.numpy()[b]) <= 1e-5).all()


def test_results_run_out_where_ads_do(trained):
    decoder = SidDecoder(trained[0], beam_size=4)
    decoder.trie.set_live(np.arange(ADS) < 3)
    for mode in ("generative", "hybrid"):
        result = decoder.recommend(tf.constant([[9, 8]]), 100, mode, tf.constant([[1]]))
        assert result.count.numpy().tolist() == [2]
        assert set(result.rows.numpy()[0, :2]) == {0, 2}
        assert (result.rows.numpy()[0, 2:] == -1).all()


def test_mode_per_request_in_one_graph(trained):
    decoder = SidDecoder(trained[0], beam_size=10)

    @tf.function(
        input_signature=[tf.TensorSpec([None, 6], tf.int32), tf.TensorSpec([None], tf.bool)]
    )
    def serve(rows, hybrid):
        return decoder.recommend(rows, 10, hybrid, filter_seen=hybrid)

    rows = np.random.default_rng(3).integers(0, ADS + 1, (4, 6)).astype(np.int32)
    mixed = serve(rows, np.array([True, False, True, False]))
    one = decoder.recommend(rows, 10, "hybrid", filter_seen=True)
    two = decoder.recommend(rows, 10, "generative")
    np.testing.assert_array_equal(mixed.rows[::2], one.rows[::2])
    np.testing.assert_array_equal(mixed.rows[1::2], two.rows[1::2])
    assert serve.get_concrete_function().graph.as_graph_def().ByteSize() < 500_000


def test_the_dense_weight_is_chosen_on_validation(trained):
    model, splits, _, _ = trained
    decoder = SidDecoder(model, beam_size=10)
    with pytest.raises(ValueError, match="mode 'generative'"):
        choose_hybrid_weights(GenerativeRecommender(decoder), splits.validation)
    hybrid = GenerativeRecommender(decoder, "hybrid")
    trials = choose_hybrid_weights(hybrid, splits.validation, (0.0, 1.0))
    assert [trial["dense_weight"] for trial in trials] == [0.0, 1.0]
    best = max(trials, key=lambda trial: trial["ndcg@10"])
    assert float(model.dense_weight.numpy()) == best["dense_weight"]
    model.dense_weight.assign(1.0)


def test_keras_file_round_trip(trained, tmp_path):
    model = trained[0]
    model.dense_weight.assign(0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for got, want in zip(loaded.variables, model.variables, strict=True):
        if "seed_generator" not in got.path:
            np.testing.assert_array_equal(got, want, err_msg=got.path)
    model.dense_weight.assign(1.0)
    rows = np.array([[5, 9, 2, 7]])
    want = SidDecoder(model, 10).recommend(tf.constant(rows), 10)
    got = SidDecoder(loaded, 10).recommend(tf.constant(rows), 10)
    np.testing.assert_array_equal(got.rows, want.rows)


def test_a_seed_gives_the_same_model(catalog):
    splits, _ = walks(60)

    def train(seed, epochs):
        model = SidRecommender.for_catalog(
            catalog, **{**SMALL, "dropout": 0.2, "item_dropout": 0.2}, seed=seed
        )
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        start = np.asarray(model.user_state(np.array([[1, 2, 3]])))
        batches = SequenceBatches(splits.train, 12, 256, seed=seed)
        model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
        return start, np.asarray(model.user_state(np.array([[1, 2, 3]])))

    start, end = train(1, 2)
    again_start, again_end = train(1, 2)
    np.testing.assert_array_equal(start, again_start)
    np.testing.assert_allclose(end, again_end, rtol=1e-3, atol=1e-4)
    other = SidRecommender.for_catalog(catalog, **SMALL, seed=2)
    assert np.abs(start - np.asarray(other.user_state(np.array([[1, 2, 3]])))).max() > 1e-2


def loss_oracle(model, rows):
    """Mean loss over positions, in NumPy from the model's own log-probabilities."""
    codes = np.asarray(model.ad_codes)
    total, count = 0.0, 0
    for history in rows:
        ads = history[history > 0]
        for t in range(1, len(ads)):
            state = model.user_state(ads[None, :t])
            target = codes[ads[t]]
            for level in range(len(target)):
                log_probs = np.asarray(model.next_log_probs(state, target[None, None, :level]))
                log_probs = log_probs[0, 0]
                smooth = model.label_smoothing
                total -= (1 - smooth) * log_probs[target[level]] + smooth * log_probs.mean()
            dense = tf.nn.log_softmax(model.dense_scores(state))[0].numpy()
            total -= model.dense_loss_weight * dense[ads[t] - 1]
            count += 1
    return total / count


def test_loss_of_all_positions_equals_an_oracle_one_position_at_a_time(catalog):
    model = SidRecommender.for_catalog(
        catalog, **SMALL, dense_loss_weight=0.3, catalog_softmax=False
    )
    rows = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [7, 0, 0, 0, 0]])
    loss = model.compute_loss(x=rows, y_pred=model(rows), training=False)
    assert float(loss) == pytest.approx(loss_oracle(model, rows), rel=1e-5)


def test_sampled_dense_loss_estimates_the_full_one(catalog):
    rows = np.random.default_rng(0).integers(1, ADS + 1, (64, 12))
    full = SidRecommender.for_catalog(catalog, **SMALL)
    sampled = SidRecommender.for_catalog(catalog, **SMALL, dense_negatives=40)

    def loss(model):
        states = np.asarray(model(rows))[:, :-1].reshape(-1, SMALL["hidden_size"])
        tables = model.ad_content, model.id_vectors
        return np.asarray(model.dense_head.loss(states, rows[:, 1:].ravel(), *tables)).mean()

    want = loss(full)
    got = [loss(sampled) for _ in range(30)]
    assert np.mean(got) == pytest.approx(want, abs=0.03)


def test_the_sampled_partition_function_is_unbiased():
    head = DenseHead(4, content_size=2, negatives=2, seed=3)
    head.build((None, 4))
    head.query.kernel.assign(np.zeros((4, 4)))
    # All three ads score 0, so the partition function is 3.
    states, content = np.ones((1, 4), np.float32), np.ones((4, 2), np.float32)
    found = [np.exp(float(head.loss(states, np.array([2]), content)[0])) for _ in range(600)]
    assert np.mean(found) == pytest.approx(3, abs=0.2)


def test_a_dense_score_that_nothing_trains_has_no_say_in_hybrid_mode(catalog):
    model = SidRecommender.for_catalog(catalog, **SMALL, dense_loss_weight=0.0)
    rows = tf.constant([[5, 9, 2, 7], [7, 1, 0, 0]])
    decoder = SidDecoder(model, beam_size=ADS)
    generative, hybrid = (decoder.recommend(rows, 10, mode) for mode in ("generative", "hybrid"))
    np.testing.assert_array_equal(hybrid.rows, generative.rows)
    np.testing.assert_allclose(hybrid.scores, generative.scores, atol=1e-4)


def test_a_cold_ad_is_found_by_its_semantic_id():
    # Four groups of ads share a code each; users stay in theirs. The last ad of each is cold.
    groups, each = 4, 6
    rows = np.arange(groups * each)
    group, number = rows // each, rows % each
    content = np.eye(groups)[group] + 0.1 * np.random.default_rng(0).normal(size=(len(rows), 4))
    codes = np.stack([group, number], axis=1)
    catalog = SidCatalog.build([f"ad{row:02d}" for row in rows], codes, content, each)
    model = SidRecommender.for_catalog(catalog, **SMALL)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    met = np.random.default_rng(1).integers(0, each - 1, (240, 8))
    model.fit(met + each * (np.arange(240) % groups)[:, None] + 1, epochs=15, verbose=0)
    # A beam as wide as a group is far from the whole catalogue.
    decoder = SidDecoder(model, beam_size=each)
    for first in range(0, len(rows), each):
        seen = tf.constant([[first + 1, first + 2, first + 3]])
        found = decoder.recommend(seen, each).rows.numpy()[0]
        assert set(found) == set(range(first, first + each))
        # The dense score, which has learned that nobody met it, ranks it lower but can't lose it.
        assert first + each - 1 in decoder.recommend(seen, 2 * each, "hybrid").rows.numpy()[0]


@pytest.mark.parametrize("count", [1, 3])
def test_tiny_catalogues(count):
    catalog = SidCatalog.build(
        [str(i) for i in range(count)], np.zeros((count, 2), int), np.ones((count, 4)), 4
    )
    decoder = SidDecoder(SidRecommender.for_catalog(catalog, **SMALL))
    result = decoder.recommend(tf.constant([[1, 0]]), 10, "hybrid")
    assert result.count.numpy().tolist() == [count]


def test_one_step_at_a_time_on_one_position(catalog):
    model = SidRecommender.for_catalog(catalog, **SMALL)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    assert np.isfinite(model.train_on_batch(np.array([[4, 0], [0, 0]]))).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("dropout", 1.0),
        ("dense_loss_weight", -1.0),
        ("max_history", 0),
        ("architecture", "rnn"),
    ],
)
def test_bad_arguments_are_named(catalog, name, value):
    with pytest.raises(ValueError, match=name):
        SidRecommender.for_catalog(catalog, **{**SMALL, name: value})


def test_a_catalogue_of_another_size_is_refused(trained, catalog):
    other = catalog.extend(["new"], [[0, 0]], np.zeros((1, 8)))
    with pytest.raises(ValueError, match="was made for"):
        trained[0].set_catalog(other)
    with pytest.raises(ValueError, match="mode must be"):
        SidDecoder(trained[0]).recommend(tf.constant([[1]]), 5, "dense")


@pytest.mark.parametrize(
    "layer",
    [
        CausalBlock(8, 2, 16, max_length=5),
        LevelHead((4, 3), 8, num_layers=3),
        AdEmbedding((4, 3), 8),
        DenseHead(8, content_size=3, negatives=5),
        MaskedAttention(8, 2, max_distance=3),
    ],
)
def test_layers_come_back_from_their_config(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_a_block_gives_one_position_what_it_gives_all():
    block = CausalBlock(8, 2, 16, max_length=3, dropout=0.5, seed=1)
    inputs = np.random.default_rng(0).normal(size=(4, 5, 8)).astype(np.float32)
    block.build(inputs.shape)
    block.distance_bias.assign(np.random.default_rng(1).normal(size=(2, 3)))
    everywhere = np.asarray(block(inputs))
    position = np.array([0, 4, 2, 3], np.int32)
    found = np.asarray(block.at(inputs, position))
    np.testing.assert_allclose(found, everywhere[np.arange(4), position], atol=1e-5)


JAX_SCRIPT = """
import sys
import keras, numpy as np
from sid_tfx.recommender import SidRecommender
assert keras.backend.backend() == "jax"
model = keras.saving.load_model(sys.argv[1])
rows = np.array([[5, 9, 2, 7], [1, 0, 0, 0]])
np.save(sys.argv[2], np.asarray(model.user_state(rows)))
model.compile(keras.optimizers.Adam(1e-2))
losses = model.fit(np.tile(rows, (8, 1)), epochs=8, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
model.save(sys.argv[3])
reading = keras.saving.load_model(sys.argv[4])
histories = np.array([[[5, 0, 1], [9, 4, 2], [0, 0, 0]], [[1, 3, 1], [0, 0, 0], [0, 0, 0]]])
np.save(sys.argv[5], np.asarray(reading.user_state(histories)))
reading.compile(keras.optimizers.Adam(1e-2))
losses = reading.fit(np.tile(histories, (8, 1, 1)), epochs=8, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
"""


@pytest.mark.slow
def test_jax_gives_the_same_states_and_trains(trained, catalog, tmp_path):
    model = trained[0]
    model.save(tmp_path / "tf.keras")
    root = pathlib.Path(__file__).resolve().parents[1]
    reading = SidRecommender.for_catalog(
        catalog, **SMALL, context={"time": True, "events": ["view", "buy"]}
    )
    reading.save(tmp_path / "reading.keras")
    names = ("tf.keras", "states.npy", "jax.keras", "reading.keras", "in_context.npy")
    paths = [str(tmp_path / name) for name in names]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(JAX_SCRIPT), *paths],
        check=True,
        cwd=root,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(root)},
    )
    rows = np.array([[5, 9, 2, 7], [1, 0, 0, 0]])
    np.testing.assert_allclose(np.load(paths[1]), model.user_state(rows), atol=1e-4)
    histories = np.array([[[5, 0, 1], [9, 4, 2], [0, 0, 0]], [[1, 3, 1], [0, 0, 0], [0, 0, 0]]])
    np.testing.assert_allclose(np.load(paths[4]), reading.user_state(histories), atol=1e-4)
    back = keras.saving.load_model(paths[2])
    assert SidDecoder(back).recommend(tf.constant(rows), 5).count.numpy().tolist() == [5, 5]
