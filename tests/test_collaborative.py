"""Collaborative vectors against a dense oracle."""

import numpy as np
import pytest

from sid_tfx.datasets.collaborative import collaborative_vectors

pytestmark = pytest.mark.unit


def graph(rows, pairs, seed=0):
    rng = np.random.default_rng(seed)
    made = rng.integers(0, rows, (pairs, 2))
    return made, rng.random(pairs) + 0.1


def oracle(pairs, weights, rows, dim):
    w = np.zeros((rows, rows))
    for (i, j), weight in zip(pairs, weights, strict=True):
        if i != j:
            w[i, j] += weight
            w[j, i] += weight
    ppmi = np.zeros_like(w)
    for i, j in zip(*np.nonzero(w), strict=True):
        ppmi[i, j] = max(0.0, np.log(w[i, j] * w.sum() / (w[i].sum() * w[j].sum())))
    values, vectors = np.linalg.eigh(ppmi)
    top = np.argsort(-values)[:dim]
    # An ad without any positive PMI has an eigenvalue of its own that only rounding parts from 0.
    values = np.where(values > 1e-6 * values.max(), values, 0.0)
    scaled = vectors[:, top] * np.sqrt(values[top])
    scaled[np.abs(scaled).max(axis=1) < 1e-9] = 0.0
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("dim", [3, 8, 64], ids=lambda dim: f"{dim} dimensions")
def test_cosines_are_those_of_the_dense_factorization(dim):
    pairs, weights = graph(40, 120)
    vectors = collaborative_vectors(pairs, weights, 40, dim)
    expected = oracle(pairs, weights, 40, dim)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-4)
    assert vectors.shape == (40, dim)
    assert vectors.dtype == np.float32


def test_ads_without_pairs_are_zero_and_the_others_of_length_one():
    pairs, weights = graph(30, 60)
    pairs = np.concatenate([pairs, [[35, 35]]])
    vectors = collaborative_vectors(pairs, np.append(weights, 1.0), 40, 8)
    length = np.linalg.norm(vectors, axis=1)
    others = pairs[pairs[:, 0] != pairs[:, 1]]
    np.testing.assert_allclose(length[np.unique(others)], 1.0, atol=1e-5)
    np.testing.assert_array_equal(vectors[np.setdiff1d(np.arange(40), others)], 0.0)


def test_communities_are_told_apart():
    inside = [(i, j) for group in (0, 6) for i in range(group, group + 6) for j in range(i)]
    pairs = np.array([(i, j) for i, j in inside if j >= 6 * (i >= 6)] + [(0, 6)])
    vectors = collaborative_vectors(pairs, np.ones(len(pairs)), 12, 2)
    cosine = vectors @ vectors.T
    assert cosine[:6, :6].min() > 0.8 > 0.5 > cosine[1:6, 7:].max()


def test_equal_seeds_give_equal_vectors_in_any_order_of_the_pairs():
    pairs, weights = graph(200, 800)
    first = collaborative_vectors(pairs, weights, 200, 16, seed=3)
    np.testing.assert_array_equal(first, collaborative_vectors(pairs, weights, 200, 16, seed=3))
    turned = collaborative_vectors(pairs[::-1, ::-1], weights[::-1], 200, 16, seed=3)
    np.testing.assert_allclose(turned, first, atol=1e-4)


@pytest.mark.parametrize("pairs", [np.zeros((0, 2), int), np.array([[1, 1]])])
def test_a_graph_without_edges_has_no_vectors(pairs):
    vectors = collaborative_vectors(pairs, np.ones(len(pairs)), 3, 4)
    np.testing.assert_array_equal(vectors, np.zeros((3, 4)))


def test_a_single_pair_fills_one_dimension():
    vectors = collaborative_vectors(np.array([[0, 2]]), np.ones(1), 3, 4)
    np.testing.assert_allclose(vectors, [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1]], [1.0], 0), "rows .* 0"),
        (([[0, 1]], [1.0], 2, 0), "dim .* 0"),
        (([[0, 2]], [1.0], 2), "rows 0 to 2; there are 2"),
        (([[0, 1]], [0.0], 2), "above 0"),
        (([[0, 1]], [1.0, 2.0], 2), "one weight each"),
        (([0, 1], [1.0], 2), r"\[P, 2\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        collaborative_vectors(*arguments)
