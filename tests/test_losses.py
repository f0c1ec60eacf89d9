"""Each loss against a NumPy oracle written from the paper's formula, and its gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx import losses
from sid_tfx.losses.repulsion import _candidates

pytestmark = pytest.mark.unit


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tower_oracle(vectors, ad_row, tau):
    pairs = len(vectors) // 2
    s = unit(vectors[:pairs]) @ unit(vectors[pairs:]).T / tau
    total = 0.0
    for m in range(pairs):
        allowed = [n for n in range(pairs) if n == m or ad_row[n] != ad_row[m]]
        total -= np.log(np.exp(s[m, m]) / np.exp(s[m, allowed]).sum())
    return total / pairs


def granularity_oracle(vectors, labels, tau):
    rows, levels = vectors.shape[:2]
    per_level = []
    for level in range(levels):
        s = unit(vectors[:, level]) @ unit(vectors[:, level]).T / tau
        terms = []
        for i in range(rows):
            others = [a for a in range(rows) if a != i]
            positives = [
                p
                for p in others
                if (labels[i, level] == labels[p, level]).all() and (labels[i, level] != 0).all()
            ]
            if positives:
                normalizer = np.log(np.exp(s[i, others]).sum())
                terms.append(np.mean([normalizer - s[i, p] for p in positives]))
        per_level.append(np.mean(terms) if terms else 0.0)
    return np.mean(per_level)


def repulsion_oracle(z, codes, ad_row, radius):
    rows = len(z)
    cosine = unit(z) @ unit(z).T
    full, partial = [], []
    for i in range(rows):
        for j in range(rows):
            if ad_row[i] == ad_row[j] or abs(i - j) == rows // 2:
                continue
            hamming = (codes[i] != codes[j]).sum()
            if hamming == 0:
                full.append(max(0.0, 0.8 - (1 - cosine[i, j])))
            elif hamming <= radius:
                partial.append(max(0.0, 0.5 - (1 - cosine[i, j])))
    return 0.2 * np.mean(full or [0]) + 0.1 * np.mean(partial or [0])


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.07, 0.5]))
def test_dual_tower_equals_its_oracle(seed, pairs, tau):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2 * pairs, 4)).astype("float32")
    ad_row = rng.integers(0, 4, 2 * pairs).astype("int32")
    value = losses.DualTowerContrastive(tau)(vectors, ad_row)
    np.testing.assert_allclose(value, tower_oracle(vectors, ad_row, tau), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 4))
def test_multi_granularity_equals_its_oracle(seed, rows, levels):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, levels, 4)).astype("float32")
    labels = rng.integers(0, 3, (rows, levels, 2)).astype("int32")
    value = losses.MultiGranularityContrastive(0.2)(vectors, labels)
    expected = granularity_oracle(vectors, labels, 0.2)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(0, 2))
def test_repulsion_equals_its_oracle(seed, pairs, radius):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2 * pairs, 3)).astype("float32")
    codes = rng.integers(0, 2, (2 * pairs, 3)).astype("int32")
    ad_row = rng.integers(0, 2 * pairs, 2 * pairs).astype("int32")
    value = losses.HammingMarginRepulsion(radius=radius)(z, codes, ad_row)
    expected = repulsion_oracle(z, codes, ad_row, radius)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("near", [0, 5, 25, 80], ids=lambda near: f"{near} near rows")
@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_repulsion_and_its_gradient_are_those_of_all_pairs(near, radius):
    """Whatever share of a batch is compared: a quarter, half or all of its rows."""
    rng = np.random.default_rng(near)
    rows = 80
    z = rng.normal(size=(rows, 6)) + 1.0
    codes = rng.integers(0, 1000, (rows, 3))
    codes[:near] = [3, 4, 5] * (rng.random((near, 3)) < 0.7)
    ad_row = rng.integers(0, rows // 2, rows)
    variable = tf.Variable(z, dtype="float64")
    layer = losses.HammingMarginRepulsion(radius=radius, dtype="float64")
    with tf.GradientTape() as tape:
        value = layer(variable, codes, ad_row)
    gradient = tape.gradient(value, variable).numpy()
    np.testing.assert_allclose(value, repulsion_oracle(z, codes, ad_row, radius), rtol=1e-6)
    for row in (0, near - 1, rows - 1):
        step = np.zeros_like(z)
        step[row, 2] = 1e-6
        up, down = (repulsion_oracle(z + s, codes, ad_row, radius) for s in (step, -step))
        assert gradient[row, 2] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def escape_oracle(fits, wanted, margin):
    short = []
    for row, code in zip(fits, wanted, strict=True):
        if code >= 0:
            short.append(max(0.0, np.delete(row, code).max() - row[code] + margin))
    return np.mean(short or [0.0])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_escape_equals_its_oracle_and_draws_to_the_wanted_code(seed, rows):
    rng = np.random.default_rng(seed)
    fits, wanted = rng.normal(size=(rows, 6)), rng.integers(-1, 6, rows)
    variable = tf.Variable(fits, dtype="float64")
    layer = losses.CollisionEscape(0.3, dtype="float64")
    with tf.GradientTape() as tape:
        value = layer(tf.identity(variable), wanted)
    np.testing.assert_allclose(value, escape_oracle(fits, wanted, 0.3), rtol=1e-6)
    gradient = tape.gradient(value, variable).numpy()
    assert (gradient[wanted < 0] == 0).all()
    for row, code in zip(gradient[wanted >= 0], wanted[wanted >= 0], strict=True):
        assert row[code] <= 0
        assert row.sum() == pytest.approx(0.0, abs=1e-9)


def test_repulsion_compares_only_rows_that_may_have_a_near_one():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (512, 3)).astype("int32")
    codes[100:110] = codes[300]
    order, count = (np.asarray(part) for part in _candidates(codes, 1))
    differing = (codes[:, None] != codes[None]).sum(-1)
    np.fill_diagonal(differing, 3)
    near = np.flatnonzero((differing <= 1).any(1))
    assert set(near) <= set(order[:count]), "none is missed"
    assert count <= len(near) + 2, "a shared hash is rare"
    np.testing.assert_array_equal(np.sort(order), np.arange(512))


def test_reconstruction_and_commitment_equal_their_oracles():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 3)).astype("float32")
    expected = ((a - b) ** 2).sum(-1).mean()
    np.testing.assert_allclose(losses.Reconstruction()(a, b), expected, rtol=1e-5)
    inputs, vectors = rng.normal(size=(2, 5, 3, 4)).astype("float32")
    expected = 1.25 * ((inputs - vectors) ** 2).sum((1, 2)).mean()
    value = losses.CodebookCommitment(0.25)(inputs, vectors)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_commitment_gradients_go_to_the_right_side():
    inputs, vectors = tf.Variable(tf.ones((2, 1, 3))), tf.Variable(tf.zeros((2, 1, 3)))
    with tf.GradientTape() as tape:
        value = losses.CodebookCommitment(0.25)(inputs, vectors)
    to_encoder, to_codebook = tape.gradient(value, [inputs, vectors])
    np.testing.assert_allclose(to_codebook, -np.ones((2, 1, 3)), rtol=1e-6)
    np.testing.assert_allclose(to_encoder, 0.25 * np.ones((2, 1, 3)), rtol=1e-6)


def test_repulsion_pushes_apart_only_ads_whose_codes_collide():
    z = tf.Variable(tf.constant([[1.0, 0.1], [1.0, -0.1], [1.0, 0.2], [1.0, -0.2]]))
    codes = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 1], [2, 2, 2]], "int32")
    with tf.GradientTape() as tape:
        value = losses.HammingMarginRepulsion()(z, codes, np.arange(4, dtype="int32"))
    gradient = tape.gradient(value, z).numpy()
    assert gradient[0, 1] < 0 < gradient[1, 1], "a descent step turns the two apart"
    np.testing.assert_array_equal(gradient[2:], 0.0)


def test_repulsion_passes_no_gradient_through_codes():
    codes = tf.Variable(tf.zeros((4, 2)))
    z = tf.Variable(tf.ones((4, 2)))
    with tf.GradientTape() as tape:
        value = losses.HammingMarginRepulsion()(z, codes, np.arange(4, dtype="int32"))
    assert value > 0
    assert tape.gradient(value, codes) is None


def test_conflict_mask_leaves_out_the_pair_and_the_same_ad_only():
    mask = np.asarray(losses.conflict_mask(np.array([5, 6, 7, 5], "int32")))
    expected = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], bool)
    np.testing.assert_array_equal(mask, expected)


def test_labels_go_from_the_root_to_category_and_advertiser():
    category = np.array([[2, 3, 4, 5], [2, 3, 4, 6], [2, 3, 0, 0], [0, 0, 0, 0]])
    labels = np.asarray(losses.granularity_labels(category, 2, np.array([9, 8, 0, 9])))
    np.testing.assert_array_equal(labels[:, 0, 0], [3, 3, 3, 0])
    np.testing.assert_array_equal(labels[:, 1, 0], [5, 6, 3, 0])
    np.testing.assert_array_equal(labels[:, 1, 1], [9, 8, 0, 9])
    np.testing.assert_array_equal(labels[:, 0, 1], 1)


def positives(labels, level):
    labels = np.asarray(labels)[:, level]
    return (labels[:, None] == labels[None]).all(-1) & (labels != 0).all(-1)[:, None]


def test_a_second_view_is_the_last_positive_of_an_ad_without_advertiser_or_category():
    category = np.array([[2, 3], [2, 3], [2, 3], [0, 0], [0, 0], [2, 3]])
    advertiser = np.array([9, 9, 0, 8, 8, 0])
    ad_row = np.array([4, 5, 6, 7, 7, 6])
    labels = losses.granularity_labels(category, 2, advertiser, ad_row)
    expected = np.zeros((6, 6), bool)
    for group in ([0, 1], [2, 5], [3, 4]):
        expected[np.ix_(group, group)] = True
    np.testing.assert_array_equal(positives(labels, 1), expected)
    branch = np.array([0, 1, 2, 5])
    assert positives(labels, 0)[np.ix_(branch, branch)].all(), "coarse levels stay as they are"
    assert not positives(labels, 0)[3].any()


def test_unknown_ids_are_missing_and_equal_no_other():
    category = np.array([[5, 1], [7, 1], [5, 6], [1, 1]])
    advertiser = np.array([1, 1, 9, 1])
    labels = np.asarray(losses.granularity_labels(category, 2, advertiser))
    np.testing.assert_array_equal(labels[:, :, 0], [[5, 5], [7, 7], [5, 6], [0, 0]])
    np.testing.assert_array_equal(labels[:, 1, 1], [0, 0, 9, 0])
    own = losses.granularity_labels(category, 2, advertiser, ad_row=np.arange(4))
    np.testing.assert_array_equal(positives(own, 1), np.eye(4, dtype=bool))


def test_a_schema_without_advertisers_takes_second_views_at_the_last_level():
    category = np.array([[2, 3], [2, 3], [2, 3]])
    labels = losses.granularity_labels(category, 2, ad_row=np.array([0, 1, 1]))
    np.testing.assert_array_equal(positives(labels, 1), [[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    assert positives(labels, 0).all()
    assert positives(losses.granularity_labels(category, 2), 1).all(), "unless no ad has one"


def summary(**arguments):
    return losses.SummaryReconstruction(
        **{
            "vocabulary_size": 12,
            "length": 5,
            "prefix": 3,
            "state_dim": 4,
            "dim": 8,
            "seed": 1,
            **arguments,
        }
    )


def test_summary_is_the_mean_negative_log_likelihood_of_its_words():
    rng = np.random.default_rng(0)
    layer = summary()
    states = rng.normal(size=(3, 3, 4)).astype("float32")
    tokens = np.array([[2, 3, 4, 0, 0], [5, 6, 7, 8, 9], [0, 0, 0, 0, 0]])
    predicted = np.asarray(layer.predict(states, tokens), "float64")
    logits = predicted @ np.asarray(layer.words.embeddings, "float64").T
    # Padding is no word that could follow.
    log_p = logits - np.log(np.exp(logits[..., 1:]).sum(-1, keepdims=True))
    words = [(b, t) for b, t in np.ndindex(3, 5) if tokens[b, t]]
    expected = -np.mean([log_p[b, t, tokens[b, t]] for b, t in words])
    np.testing.assert_allclose(layer(states, tokens), expected, rtol=1e-5)


def test_summary_decoder_is_causal_and_reads_the_states():
    rng = np.random.default_rng(0)
    layer = summary()
    states = rng.normal(size=(1, 3, 4)).astype("float32")
    tokens = np.array([[2, 3, 4, 5, 6]])
    changed = np.array([[2, 3, 9, 5, 6]])
    before, after = layer.predict(states, tokens), layer.predict(states, changed)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-5)
    assert np.abs(before[:, 3] - after[:, 3]).max() > 1e-5
    assert np.abs(before - layer.predict(states + 1.0 * (np.arange(4) > 1), tokens)).max() > 1e-5


def test_summary_decodes_at_most_its_rows():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(6, 3, 4)).astype("float32")
    tokens = rng.integers(1, 12, (6, 5))
    few = summary(rows=2)
    np.testing.assert_allclose(few(states, tokens), summary()(states[:2], tokens[:2]), rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        losses.Reconstruction(),
        losses.CodebookCommitment(0.5),
        losses.MultiGranularityContrastive(0.3),
        losses.DualTowerContrastive(0.3),
        losses.HammingMarginRepulsion(0.7, 0.4, 2, 0.3, 0.2),
        losses.CollisionEscape(0.2),
        summary(rows=7),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.CodebookCommitment(-1.0), "beta .* -1.0"),
        (lambda: losses.DualTowerContrastive(0.0), "temperature .* 0.0"),
        (lambda: losses.HammingMarginRepulsion(full_margin=3.0), "full_margin .* 3.0"),
        (lambda: losses.HammingMarginRepulsion(radius=-1), "radius .* -1"),
        (lambda: losses.CollisionEscape(-0.1), r"margin .* -0\.1"),
        (lambda: summary(heads=3), "heads must divide dim"),
        (lambda: summary(rows=0), "rows must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
