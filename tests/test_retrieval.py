"""Indices against a NumPy oracle, in this process and reloaded in a fresh one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import sid_tfx  # noqa: F401
from sid_tfx import retrieval
from sid_tfx.retrieval import PADDING_SCORE, BruteForce, Partitioned, ScaNN, selection
from sid_tfx.retrieval.partitions import partition
from sid_tfx.retrieval.tuning import TUNERS, ScannTuner
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


def _all_partitions() -> Partitioned:
    return Partitioned(k=10, max_k=100, num_partitions=4, num_partitions_to_search=100)


EXACT_IN_EFFECT = pytest.mark.parametrize(
    "make",
    [BruteForce, _all_partitions, _full_search],
    ids=["brute_force", "partitioned", "scann"],
)


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


@pytest.mark.parametrize(
    ("make", "ids_kind"),
    [
        (BruteForce, "int32"),
        (BruteForce, "string"),
        (_all_partitions, "string"),
        (_full_search, "int64"),
        (_full_search, "string"),
    ],
)
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


@pytest.mark.parametrize("loader", ["session", "tf2"])
def test_two_scann_indices_of_one_model_answer_for_themselves(loader, tmp_path):
    module, signatures, queries = tf.Module(), {}, _matrix(9, seed=9)
    matrices = {"first": _matrix(seed=1), "second": _matrix(seed=2)}
    for name, candidates in matrices.items():
        index = _full_search().index(candidates)
        setattr(module, name, index)

        def search(queries, index=index):
            scores, ids = index(queries, 10)
            return {"scores": scores, "ids": ids}

        spec = tf.TensorSpec([None, D], tf.float32, name="queries")
        signatures[name] = tf.function(search).get_concrete_function(spec)
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    asked = [(name, {"queries": queries}) for name in ("first", "second", "first")]
    answers = fresh_process.run(tmp_path, asked, loader, scann=True)
    for (name, _), answer in zip(asked, answers, strict=True):
        wanted = _oracle(matrices[name], np.arange(len(matrices[name])), queries, 10)[1]
        np.testing.assert_array_equal(_text(answer["ids"]), _text(wanted))


@EXACT_IN_EFFECT
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


@pytest.mark.parametrize(
    ("kind", "exact"), [(BruteForce, True), (Partitioned, False), (ScaNN, False)]
)
def test_an_index_says_whether_it_is_exact(kind, exact):
    assert kind().index(_matrix()).is_exact() is exact


@EXACT_IN_EFFECT
def test_vectors_are_what_was_indexed(make):
    index = make().index(_matrix())
    rows = np.array([[5, 0], [59, 5]], dtype=np.int32)
    np.testing.assert_array_equal(index.vectors(rows), _matrix()[rows])


@EXACT_IN_EFFECT
@pytest.mark.parametrize("batch", [None, 3])
def test_a_search_in_a_graph_keeps_the_batch_size(make, batch):
    index = make().index(_matrix())

    @tf.function(input_signature=[tf.TensorSpec([batch, D])], autograph=False)
    def search(queries):
        scores, rows = index(queries, 5, tf.ones([N], tf.bool))
        assert scores.shape.as_list() == rows.shape.as_list() == [batch, 5]
        return rows

    search.get_concrete_function()


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


@EXACT_IN_EFFECT
def test_only_live_candidates_come_back_and_as_many_as_there_are(make):
    candidates, ids = _matrix(), _ids("int32")
    index = make().index(candidates, ids)
    queries = _matrix(9, seed=4)
    for share in (0.0, 0.1, 0.6, 1.0):
        live = np.random.default_rng(7).random(N) < share
        dead = np.repeat(ids[~live][None], 9, axis=0)
        expected_scores, expected = _oracle(candidates, ids, queries, 12, dead)
        scores, found = index(queries, 12, live=tf.constant(live))
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Partitioned, ScaNN])
def test_a_narrow_search_still_finds_k_live_candidates(kind):
    effort = "num_partitions_to_search" if kind is Partitioned else "num_leaves_to_search"
    index = kind(k=5, max_k=10, **{effort: 1}).index(_matrix(400))
    live = np.zeros(400, bool)
    live[np.random.default_rng(1).choice(400, 11, replace=False)] = True
    _, found = index.query_with_exclusions(
        _matrix(6, seed=2), np.full((6, 1), np.flatnonzero(live)[0], np.int32), 9, tf.constant(live)
    )
    for row in found.numpy():
        assert len(set(row)) == 9
        assert live[row].all()
        assert np.flatnonzero(live)[0] not in row


def test_partitions_hold_every_row_once_and_none_is_large():
    vectors = _matrix(500) + np.repeat([[9.0] * D, [0.0] * D], [400, 100], axis=0)
    parts = partition(vectors.astype(np.float32), 10)
    held = parts.rows[parts.rows >= 0]
    np.testing.assert_array_equal(np.sort(held), np.arange(500))
    assert (parts.rows >= 0).any(axis=1).all()
    assert parts.rows.shape[1] <= 1.25 * 500 / 10 + 1
    for center, row in zip(parts.centers, parts.rows, strict=True):
        np.testing.assert_allclose(center, vectors[row[row >= 0]].mean(axis=0), rtol=1e-4)


def test_the_rank_of_a_row_says_how_many_partitions_find_it():
    index = Partitioned(k=3, max_k=3, num_partitions=9).index(_matrix(400))
    queries = _matrix(20, seed=5)
    true = BruteForce().index(_matrix(400))(queries, 3)[1].numpy()
    ranks = index.ranks(queries, true)
    for effort in (1, 2, 4, index.partitions):
        found = index.retuned(effort)(queries, 3)[1].numpy()
        hits = (true[:, :, None] == found[:, None, :]).any(axis=-1)
        np.testing.assert_array_equal(hits, ranks < effort)


def test_a_search_reads_enough_partitions_for_its_largest_k():
    index = Partitioned(k=5, max_k=60, num_partitions=40, num_partitions_to_search=1)
    index.index(_matrix(400))
    rows = index(_matrix(30, seed=3), 60)[1].numpy()
    assert (rows >= 0).all()
    assert index.get_config()["num_partitions_to_search"] == index.least_read > 1


@pytest.mark.parametrize("kind", [Partitioned, ScaNN])
def test_a_retuned_index_is_saved_with_its_own_effort(kind, tmp_path):
    built = kind(k=5, max_k=10).index(_matrix(400))
    efforts = (2,) if kind is Partitioned else (2, 30)
    retuned = built.retuned(*efforts)
    retrieval.save_index(retuned, str(tmp_path))
    loaded = retrieval.load_index(str(tmp_path))
    assert loaded.get_config() == retuned.get_config() != built.get_config()
    queries = _matrix(8, seed=6)
    for left, right in zip(retuned(queries, 10), loaded(queries, 10), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("rows", [1, 2, 3, 31])
def test_a_tiny_catalogue_gets_brute_force_and_the_reason(rows):
    selection = retrieval.build_index(_matrix(rows), k=10)
    for chosen in selection.choices.values():
        assert isinstance(chosen.index, BruteForce)
        assert chosen.recall.mean == 1.0
        assert "too small" in chosen.reason
        assert chosen.index(_matrix(2), 10)[1].shape == (2, 10)
    with pytest.raises(ValueError, match=f"at least 32 candidates.* got {rows}"):
        retrieval.build_index(_matrix(rows), kind="scann")
    for kind in (ScaNN, Partitioned):
        with pytest.raises(ValueError, match="at least 32 candidates"):
            kind().index(_matrix(rows))


@pytest.mark.parametrize("rows", [32, 400])
def test_scann_is_tuned_to_the_target_from_its_smallest_catalogue_on(rows):
    ids = _ids("string", rows)
    selection = retrieval.build_index(_matrix(rows), ids, kind="scann", recall_target=0.8, max_k=84)
    chosen = selection.choices["scann"]
    assert isinstance(chosen.index, ScaNN)
    assert chosen.recall.mean >= 0.8
    assert "0.8" in chosen.reason
    assert not isinstance(selection.choices["portable"].index, ScaNN)
    assert chosen.index(_matrix(2), 3)[1].dtype == tf.string
    kinds = {trial.index.kind for trial in selection.trials}
    assert kinds == {"brute_force", "partitioned", "scann"}
    record = selection.trials[-1].record(10)
    assert record.keys() == {
        "kind", "recall@10", "milliseconds", "queries_per_second", "parameters",
    }  # fmt: skip


def test_the_partitioned_index_is_tuned_to_the_least_effort_that_surely_meets_the_target():
    matrix = _matrix(2000)
    selection = retrieval.build_index(matrix, kind="partitioned", max_k=20, recall_target=0.9)
    index = selection.choices["portable"].index
    assert isinstance(index, Partitioned)
    assert selection.choices["scann"].index is index
    assert index._read < index.partitions
    exact = BruteForce(similarity="cosine").index(matrix)
    queries = retrieval.Queries.make(exact, np.arange(0, 2000, 4), 10)
    assert retrieval.recall(index, queries).mean >= 0.9
    assert not retrieval.recall(index.retuned(index._read // 2), queries).surely(0.9)


def test_settings_are_tried_on_ads_that_their_index_lacks_and_the_best_is_built_over_all(
    monkeypatch,
):
    monkeypatch.setattr(selection, "_HOLD_OUT_FROM", 400)
    matrix = _matrix(1000)
    chosen = retrieval.build_index(matrix, kind="partitioned", max_k=20, recall_target=0.9)
    assert {trial.index.size for trial in chosen.trials[1:]} == {950}
    index = chosen.choices["portable"].index
    held = chosen.trials[1].index.vectors(np.arange(950)).numpy()
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors(np.arange(1000)), unit, rtol=1e-5)
    assert not {tuple(row) for row in held.round(4)} >= {tuple(row) for row in unit.round(4)}
    assert chosen.choices["portable"].recall.mean >= 0.9


def _queries(matrix, rows):
    return retrieval.Queries.make(BruteForce().index(matrix), np.arange(0, rows, 8), 10)


def test_several_numbers_of_partitions_are_tried_at_any_size():
    queries = _queries(_matrix(), 8)
    for rows, counts in ((1_000_000, [500, 1000, 2000, 3000]), (400, [10, 20, 25])):
        tuner = ScannTuner(np.zeros((rows, 1), np.float32), queries, 20, "dot_product")
        assert tuner._partition_counts((0.5, 1, 2, 3)) == counts


@pytest.mark.parametrize("tuner_class", TUNERS.values(), ids=list(TUNERS))
def test_a_second_target_is_reached_with_the_builds_of_the_first(tuner_class, monkeypatch):
    built = []
    for kind in (ScaNN, Partitioned):
        build = kind._build
        monkeypatch.setattr(
            kind, "_build", lambda self, rows, build=build: (built.append(1), build(self, rows))[1]
        )
    matrix = _matrix(600)
    tuner = tuner_class(matrix, _queries(matrix, 600), 20, "dot_product")
    low = tuner.tuned(0.6)
    once = len(built)
    high = tuner.tuned(0.95)
    assert len(built) == once
    assert low.met
    assert high.met
    assert low.best.recall.mean >= 0.6
    assert high.best.recall.mean >= 0.95
    assert low.best in low.trials


def test_what_reorders_more_but_reads_no_less_is_not_timed():
    matrix = _matrix(600)
    tuner = ScannTuner(matrix, _queries(matrix, 600), 20, "dot_product")
    searches = tuner._worthy(0.9, 24, 2, 0.2)
    met = [search for search in searches if search.cheapest(0.9)[1].surely(0.9)]
    efforts = [search.effort(0.9) for search in met]
    assert efforts == sorted(set(efforts), reverse=True)
    assert met


def test_the_fastest_that_meets_the_target_is_chosen():
    def tuned(recall, met=True):
        trial = retrieval.Trial(BruteForce(), retrieval.Recall(recall, 0.0), 1.0)
        return selection.Tuned(trial, met, (trial,))

    def choose(flavour, scann, partitioned, times, kind="auto", missed=""):
        found = {"scann": scann, "partitioned": partitioned}
        judged = {name: one.best.recall for name, one in found.items()}
        judged |= {missed: retrieval.Recall(0.89, 0.01)} if missed else {}
        times = dict(zip(("brute_force", "scann", "partitioned"), times, strict=True))
        return selection._choose(flavour, kind, 10, 0.9, found, judged, times)

    good, poor = tuned(0.95), tuned(0.85, met=False)
    assert choose("scann", good, good, (9.0, 1.0, 2.0))[0] == "scann"
    assert choose("scann", good, good, (9.0, 2.0, 1.0))[0] == "partitioned"
    assert choose("scann", poor, good, (9.0, 1.0, 2.0))[0] == "partitioned"
    assert choose("scann", good, good, (9.0, 1.0, 2.0), missed="scann")[0] == "partitioned"
    assert choose("portable", good, good, (9.0, 1.0, 2.0), missed="partitioned")[0] == "brute_force"
    assert choose("portable", good, good, (9.0, 1.0, 2.0))[0] == "partitioned"
    kind, reason = choose("portable", good, good, (1.0, 0.1, 0.9))
    assert kind == "brute_force"
    assert "exact and as fast" in reason
    kind, reason = choose("scann", poor, poor, (9.0, 1.0, 1.0))
    assert kind == "brute_force"
    assert "0.850" in reason
    assert "0.9" in reason
    assert choose("scann", poor, poor, (9.0, 1.0, 1.0), kind="scann")[0] == "scann"
    assert choose("portable", good, good, (9.0, 1.0, 1.0), kind="brute_force")[0] == "brute_force"


def test_recall_is_sure_where_another_sample_would_reach_the_target_too():
    hits = np.random.default_rng(0).random((400, 10)) < 0.96
    measured = retrieval.Recall.of(hits)
    assert measured.mean == pytest.approx(hits.mean())
    assert measured.error == pytest.approx(hits.mean(axis=1).std() / 20)
    assert measured.surely(measured.mean - 4.3 * measured.error)
    assert not measured.surely(measured.mean - 4.2 * measured.error)
    assert retrieval.Recall(1.0, 0.0).surely(1.0)


def test_measured_recall_counts_ties_and_misses():
    candidates = np.eye(4, dtype=np.float32)[[0, 1, 1, 2, 1]]
    exact = BruteForce(k=1).index(candidates)
    queries = retrieval.Queries.make(exact, np.array([1]), 1)
    assert queries.neighbours.tolist() == [[2]]
    tie = BruteForce(k=1).index(candidates, np.array([0, 1, 4, 3, 2], np.int32))
    assert retrieval.recall(tie, queries).mean == 1.0
    blind = BruteForce(k=1).index(candidates[[0, 0, 3, 3, 0]])
    assert retrieval.recall(blind, queries).mean == 0.0


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
        (lambda: BruteForce(max_k=20).index(_matrix())(_matrix(), 30), "larger `max_k`"),
        (
            lambda: Partitioned(num_partitions=100).index(_matrix()),
            "num_partitions must be at most",
        ),
        (lambda: Partitioned().retuned(0), "num_partitions_to_search must be at least 1, got 0"),
        (lambda: ScaNN(max_k=20).retuned(3, 10), "num_reordering_candidates must be at least 20"),
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
