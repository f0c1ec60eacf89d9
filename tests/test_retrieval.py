"""Indices against a NumPy oracle, in this process and reloaded in a fresh one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import sid_tfx  # noqa: F401
from sid_tfx import retrieval
from sid_tfx.retrieval import PADDING_SCORE, BruteForce, ScaNN
from tests import fresh_process

pytestmark = pytest.mark.unit

N, D = 60, 8
KS = (1, 10, 100)
BATCHES = (1, 3, 16)
DTYPES = ("float16", "float32", "float64")


def _matrix(rows: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)


def _ids(kind: str, rows: int = N):
    if kind == "string":
        return np.array([f"ad-{row:03d}" for row in range(rows)])
    return np.arange(rows, dtype=kind) + 7


def _oracle(candidates, ids, queries, k, excluded=None):
    """Best k ids of each query by dot product, padded; in plain NumPy."""
    scores = queries.astype(np.float32) @ candidates.T
    if excluded is not None:
        scores[(ids[None, :, None] == excluded[:, None, :]).any(-1)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    missing = k - order.shape[1]
    padding = "" if ids.dtype.kind == "U" else -1
    found = np.where(np.isinf(best), padding, ids[order])
    best = np.where(np.isinf(best), PADDING_SCORE, best)
    return (
        np.pad(best, [(0, 0), (0, missing)], constant_values=PADDING_SCORE),
        np.pad(found, [(0, 0), (0, missing)], constant_values=padding),
    )


def _text(ids) -> np.ndarray:
    ids = np.asarray(ids)
    return np.char.decode(ids.astype("S")) if ids.dtype.kind in "OS" else ids


def _full_search() -> ScaNN:
    """ScaNN that reads every partition and reorders everything: then it is exact too."""
    return ScaNN(k=10, max_k=100, num_leaves=4, num_leaves_to_search=4)


def _export(index, path) -> None:
    module = tf.Module()
    module.index = index
    signatures = {}
    for k, dtype in itertools.product(KS, DTYPES):

        def search(queries, k=k):
            scores, ids = index(queries, k)
            return {"scores": scores, "ids": ids}

        spec = tf.TensorSpec([None, D], dtype, name="queries")
        signatures[f"{k}_{dtype}"] = tf.function(search).get_concrete_function(spec)
    tf.saved_model.save(module, str(path), signatures=signatures)


@pytest.mark.parametrize("make", [BruteForce, _full_search], ids=["brute_force", "scann"])
@pytest.mark.parametrize("ids_kind", ["string", "int32", "int64"])
def test_grid_matches_the_oracle_here_and_in_a_fresh_process(make, ids_kind, tmp_path):
    candidates, ids = _matrix(), _ids(ids_kind)
    index = make().index(candidates, ids)
    retrieval.save_index(index, str(tmp_path / "index"))
    reloaded = retrieval.load_index(str(tmp_path / "index"))
    assert type(reloaded) is type(index)
    _export(reloaded, tmp_path / "model")
    grid = [
        (k, dtype, _matrix(batch, seed=batch).astype(dtype))
        for k, dtype, batch in itertools.product(KS, DTYPES, BATCHES)
    ]
    asked = [(f"{k}_{dtype}", {"queries": queries}) for k, dtype, queries in grid]
    scann = isinstance(index, ScaNN)
    for loader in ("session", "tf2"):
        answers = fresh_process.run(tmp_path / "model", asked, loader, scann=scann)
        for (k, _, queries), answer in zip(grid, answers, strict=True):
            scores, expected = _oracle(candidates, ids, queries, k)
            np.testing.assert_array_equal(_text(answer["ids"]), expected)
            np.testing.assert_allclose(answer["scores"], scores, rtol=1e-4, atol=1e-5)
    for k, _, queries in grid:
        scores, expected = _oracle(candidates, ids, queries, k)
        for searched in (index, reloaded):
            found = searched(queries, k)
            np.testing.assert_array_equal(_text(found[1]), expected)
            np.testing.assert_allclose(found[0], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [BruteForce, _full_search], ids=["brute_force", "scann"])
@pytest.mark.parametrize("k", [1, 5, 58])
def test_exclusions_match_the_oracle(make, k):
    candidates, ids = _matrix(), _ids("string")
    index = make().index(candidates, ids)
    queries = _matrix(7, seed=3)
    best = _oracle(candidates, ids, queries, 3)[1]
    excluded = np.concatenate([best, np.full((7, 1), "")], axis=1)
    scores, found = index.query_with_exclusions(queries, tf.constant(excluded), k)
    expected_scores, expected = _oracle(candidates, ids, queries, k, excluded)
    np.testing.assert_array_equal(_text(found), expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [BruteForce, _full_search], ids=["brute_force", "scann"])
def test_vectors_are_what_was_indexed(make):
    index = make().index(_matrix())
    rows = np.array([[5, 0], [59, 5]], dtype=np.int32)
    np.testing.assert_array_equal(index.vectors(rows), _matrix()[rows])


def test_cosine_ignores_lengths():
    candidates = _matrix()
    scaled = candidates * np.linspace(0.1, 9, N, dtype=np.float32)[:, None]
    index = BruteForce(similarity="cosine").index(scaled)
    scores, rows = index(scaled[:5] * 3.0, 1)
    np.testing.assert_array_equal(rows[:, 0], np.arange(5))
    np.testing.assert_allclose(scores[:, 0], 1.0, rtol=1e-5)


def test_scann_pads_where_its_partitions_hold_too_few():
    candidates, ids = _matrix(64), _ids("string", 64)
    index = ScaNN(k=10, max_k=64, num_leaves=32, num_leaves_to_search=1).index(candidates, ids)
    scores, found = index(candidates, 40)
    assert scores.shape == (64, 40)
    empty = _text(found) == ""
    assert empty.any()
    np.testing.assert_array_equal(scores.numpy()[empty], PADDING_SCORE)
    assert np.isfinite(scores).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    for row in _text(found):
        real = row[row != ""]
        assert len(set(real)) == len(real)


@pytest.mark.parametrize("rows", [1, 2, 3, 31])
def test_a_tiny_catalogue_gets_brute_force_and_the_reason(rows):
    chosen = retrieval.build_index(_matrix(rows), k=10)
    assert chosen.kind == "brute_force"
    assert chosen.scann is None
    assert str(ScaNN.MIN_CANDIDATES) in chosen.reason
    assert str(rows) in chosen.reason
    assert chosen.index(_matrix(2), 10)[1].shape == (2, 10)
    with pytest.raises(ValueError, match="at least 32 candidates"):
        retrieval.build_index(_matrix(rows), kind="scann")
    with pytest.raises(ValueError, match="at least 32 candidates"):
        ScaNN().index(_matrix(rows))


@pytest.mark.parametrize("rows", [32, 33, 47, 400])
def test_scann_meets_the_recall_target_from_its_smallest_catalogue_on(rows):
    chosen = retrieval.build_index(_matrix(rows), kind="scann", recall_target=0.95, max_k=84)
    assert isinstance(chosen.index, ScaNN)
    assert chosen.approximate is not None
    assert chosen.approximate.recall >= 0.95
    assert chosen.exact.recall == 1.0
    assert chosen.exact.median_ms > 0


def test_the_faster_index_that_meets_the_target_is_chosen():
    exact = retrieval.Measurement(1.0, 2.0)
    choose = retrieval.selection._choose
    assert choose("auto", 10, 0.9, exact, retrieval.Measurement(0.95, 1.0))[0] == "scann"
    assert choose("auto", 10, 0.9, exact, retrieval.Measurement(0.95, 3.0))[0] == "brute_force"
    kind, reason = choose("auto", 10, 0.9, exact, retrieval.Measurement(0.85, 1.0))
    assert kind == "brute_force"
    assert "0.850" in reason
    assert "0.9" in reason


def test_measured_recall_counts_ties_and_misses():
    candidates = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    exact = BruteForce(k=1).index(candidates)
    mirrored = BruteForce(k=1).index(candidates[::-1].copy())
    queries = np.eye(4, dtype=np.float32)[[1]]
    assert retrieval.measure(mirrored, exact, queries, 1, repeats=2).recall == 1.0
    blind = BruteForce(k=1).index(candidates[[0, 3, 0, 3]])
    assert retrieval.measure(blind, exact, queries, 1, repeats=2).recall == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BruteForce(k=0), "k must be at least 1, got 0"),
        (lambda: BruteForce(similarity="l2"), "similarity must be one of"),
        (lambda: BruteForce().index(np.zeros((0, 4))), "non-empty"),
        (lambda: BruteForce().index(np.full((3, 2), np.nan)), "row 0 is not finite"),
        (lambda: BruteForce().index(_matrix(), _ids("string", 3)), "as many identifiers"),
        (lambda: BruteForce().index(_matrix(), _matrix()[:, 0]), "integers or strings"),
        (lambda: BruteForce()(_matrix()), "call `index"),
        (lambda: BruteForce().index(_matrix())(_matrix(), 0), "k must be at least 1"),
        (lambda: ScaNN(num_leaves=100).index(_matrix()), "num_leaves must be at most"),
        (lambda: ScaNN(k=10, max_k=5), "max_k must be at least 10, got 5"),
        (lambda: ScaNN(max_k=20).index(_matrix())(_matrix(), 30), "larger `max_k`"),
        (lambda: retrieval.build_index(_matrix(), kind="hnsw"), "kind must be one of"),
        (lambda: retrieval.build_index(_matrix(), recall_target=2.0), "recall_target"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_index_can_be_built_again():
    index = ScaNN(k=5, max_k=20).index(_matrix(400))
    index.index(_matrix(64))
    assert index(_matrix(2), 5)[1].numpy().max() < 64
