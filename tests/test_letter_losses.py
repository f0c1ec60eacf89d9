"""LETTER's two regularizations against NumPy oracles, and the grouping of codes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx import losses

pytestmark = pytest.mark.unit


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def alignment_oracle(projected, collaborative, ad_row, tau):
    rows = [i for i in range(len(ad_row)) if collaborative[i].any()]
    terms = []
    for i in rows:
        candidates = [j for j in rows if j == i or ad_row[j] != ad_row[i]]
        s = {j: unit(projected[i]) @ unit(collaborative[j]) / tau for j in candidates}
        terms.append(np.log(sum(np.exp(v) for v in s.values())) - s[i])
    return np.mean(terms) if terms else 0.0


def diversity_oracle(codebooks, groups, codes, tau):
    per_level = []
    for level, (book, group) in enumerate(zip(codebooks, groups, strict=True)):
        total = 0.0
        for code in codes[:, level]:
            others = [j for j in range(len(book)) if j != code]
            logits = {j: book[code] @ book[j] / tau for j in others}
            normalizer = np.log(sum(np.exp(v) for v in logits.values()))
            mates = [j for j in others if group[j] == group[code]]
            total += np.mean([normalizer - logits[j] for j in mates])
        per_level.append(total / len(codes))
    return np.mean(per_level)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([0.07, 0.5]))
def test_alignment_equals_its_oracle(seed, rows, tau):
    rng = np.random.default_rng(seed)
    quantized = rng.normal(size=(rows, 4)).astype("float32")
    collaborative = rng.normal(size=(rows, 3)).astype("float32")
    collaborative[rng.random(rows) < 0.3] = 0.0
    ad_row = rng.integers(0, 5, rows).astype("int32")
    layer = losses.CollaborativeAlignment(4, 3, tau, seed=seed)
    value = layer(quantized, collaborative, ad_row)
    projected = np.asarray(layer.projection(quantized))
    expected = alignment_oracle(projected, collaborative, ad_row, tau)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_alignment_does_not_touch_ads_without_training_events():
    quantized = tf.Variable(np.random.default_rng(0).normal(size=(4, 4)), dtype="float32")
    collaborative = np.array([[1.0, 0], [0, 1], [0, 0], [1, 1]], "float32")
    layer = losses.CollaborativeAlignment(4, 2)
    with tf.GradientTape() as tape:
        value = layer(quantized, collaborative, np.arange(4))
    gradient = tape.gradient(value, quantized).numpy()
    assert np.abs(gradient[[0, 1, 3]]).min() > 0
    np.testing.assert_array_equal(gradient[2], 0.0)
    nothing = layer(quantized, np.zeros((4, 2), "float32"), np.arange(4))
    assert float(nothing) == 0.0


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([0.5, 1.0]))
def test_diversity_equals_its_oracle(seed, levels, tau):
    rng = np.random.default_rng(seed)
    codebooks = rng.normal(size=(levels, 9, 4)).astype("float32")
    codes = rng.integers(0, 9, (12, levels)).astype("int32")
    layer = losses.CodeDiversity(levels, 9, clusters=4, temperature=tau)
    assert float(layer(codebooks, codes)) == 0.0, "no groups, no loss"
    layer.refresh(codebooks, seed)
    expected = diversity_oracle(codebooks, np.asarray(layer.groups), codes, tau)
    np.testing.assert_allclose(layer(codebooks, codes), expected, rtol=1e-4)


def test_diversity_draws_a_used_code_to_its_group():
    books = np.array([[[1.0, 0.2], [1.0, -0.2], [-1.0, 0.2], [-1.0, -0.2]]], "float32")
    layer = losses.CodeDiversity(1, 4, clusters=2)
    layer.refresh(books)
    groups = np.asarray(layer.groups)[0]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    variable = tf.Variable(books)
    with tf.GradientTape() as tape:
        value = layer(variable, np.array([[0], [0]], "int32"))
    descent = -tape.gradient(value, variable).numpy()[0]
    assert descent[0] @ (books[0, 1] - books[0, 2]) > 0, "towards its group, away from the other"


def test_groups_are_of_one_size_and_follow_the_vectors():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 5)) * 10
    true = np.repeat(np.arange(4), 8)
    found = losses.equal_clusters(centers[true] + rng.normal(size=(32, 5)), 4, seed=1)
    assert len({(t, f) for t, f in zip(true, found, strict=True)}) == 4
    uneven = losses.equal_clusters(rng.normal(size=(23, 5)), 5)
    assert sorted(np.bincount(uneven)) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(
        losses.equal_clusters(centers, 2, seed=3), losses.equal_clusters(centers, 2, seed=3)
    )


@pytest.mark.parametrize(
    "layer",
    [losses.CollaborativeAlignment(4, 3, 0.3, seed=5), losses.CodeDiversity(2, 8, 3, 0.5)],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.CollaborativeAlignment(0, 3), "dim .* 0"),
        (lambda: losses.CollaborativeAlignment(3, 0), "collaborative_dim .* 0"),
        (lambda: losses.CollaborativeAlignment(3, 3, 0.0), "temperature .* 0.0"),
        (lambda: losses.CodeDiversity(0, 8), "levels .* 0"),
        (lambda: losses.CodeDiversity(2, 8, clusters=5), "8 codes, got 5"),
        (lambda: losses.CodeDiversity(2, 8, 2, temperature=-1.0), "temperature .* -1.0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
