"""The dense side of a servable: what is chosen, on whose states, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from components.composer import dense_candidates as dense
from components.refusal import Refused
from sid_tfx.catalog import SidCatalog
from sid_tfx.context import EventContext
from sid_tfx.datasets.records import Sequences
from sid_tfx.decoder import DENSE_CANDIDATES, SidDecoder
from sid_tfx.export import WireLimits
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import Partitioned, Recall, ScaNN

pytestmark = pytest.mark.unit

ADS, USERS = 240, 80
LIMITS = WireLimits(max_history=5, max_k=4, max_exclude=3, beam_size=8)
SMALL = {"hidden_size": 16, "num_heads": 2, "mlp_size": 32, "head_size": 16}


def _catalog(ads: int = ADS) -> SidCatalog:
    rng = np.random.default_rng(0)
    ids = [f"ad{ad:04d}" for ad in range(ads)]
    return SidCatalog.build(ids, rng.integers(0, 8, (ads, 2)), rng.normal(size=(ads, 8)), 8)


def _sequences(catalog: SidCatalog, users: int = USERS) -> Sequences:
    rng = np.random.default_rng(1)
    histories = [catalog.ad_ids[rng.integers(0, len(catalog), n % 9 + 1)] for n in range(users)]
    return Sequences(
        np.array([f"u{user:03d}" for user in range(users)]),
        histories,
        np.array([""] * users),
        [100 + np.arange(len(history), dtype=np.int64) ** 3 for history in histories],
        [np.array(["click"] * len(history)) for history in histories],
        [np.ones(len(history), np.float32) for history in histories],
    )


@pytest.fixture(scope="module")
def catalog():
    return _catalog()


@pytest.fixture(scope="module")
def model(catalog):
    return SidRecommender.for_catalog(catalog, **SMALL)


@pytest.fixture(scope="module")
def sequences(catalog):
    return _sequences(catalog)


def _choose(model, catalog, sequences, asked, min_recall=0.8):
    return dense.dense_candidates(asked, model, catalog, sequences, LIMITS, min_recall, seed=0)


@pytest.fixture(scope="module")
def indexed(model, catalog, sequences):
    return _choose(model, catalog, sequences, "index")


def test_each_servable_gets_its_own_index_and_the_record_says_what_it_does(indexed):
    assert isinstance(indexed["scann"].index, ScaNN)
    assert isinstance(indexed["portable"].index, Partitioned)
    for flavour, name in (("scann", "ScaNN"), ("portable", "partitions")):
        record = indexed[flavour].record
        assert record["asked"] == "index"
        assert record["kind"] == indexed[flavour].index.kind
        assert record["recall@50"] >= 0.8
        assert record["milliseconds"] > 0
        assert "target 0.8" in record["reason"]
        assert record["parameters"]["similarity"] == "dot_product"
        # The most that a request may exclude, by name and as seen, comes on top.
        assert record["parameters"]["max_k"] == DENSE_CANDIDATES + 3 + 5
        wanted = f"dense candidates by {name}, recall@50 {record['recall@50']:.3f}"
        assert indexed[flavour].summary == wanted


@pytest.mark.parametrize("flavour", ["portable", "scann"])
def test_an_index_that_searches_everything_answers_as_all_ads_scored(model, indexed, flavour):
    index = indexed[flavour].index
    efforts = (index.partitions,) if flavour == "portable" else (index.get_config()["num_leaves"],)
    full = index.retuned(*efforts, *([ADS] if flavour == "scann" else []))
    histories = tf.constant([[5, 9, 2, 7, 1], [7, 1, 0, 0, 0], [240, 239, 238, 0, 0]])
    excluded = tf.constant([[3, 30, -1], [0, 1, 2], [-1, -1, -1]])
    live = np.arange(ADS) % 7 > 0
    answers = []
    for given in (None, full):
        decoder = SidDecoder(model, beam_size=30, index=given)
        decoder.trie.set_live(live)
        answers.append(decoder.recommend(histories, 30, "hybrid", excluded, True))
    np.testing.assert_array_equal(answers[0].rows, answers[1].rows)
    assert (answers[1].count.numpy() == 30).all()
    for rows, banned, seen in zip(answers[1].rows, excluded, histories, strict=True):
        assert live[rows.numpy()].all()
        assert not set(rows.numpy()) & {*banned.numpy(), *(seen.numpy() - 1)}


def test_queries_are_the_states_of_training_users_as_the_servable_reads_them(
    model, catalog, sequences
):
    queries = dense.user_queries(model, catalog, sequences, 5, seed=3)
    assert queries.shape == (USERS, 16)
    newest = [catalog.rows(history)[-5:] + 1 for history in sequences.histories]
    padded = np.stack([np.pad(rows, (0, 5 - len(rows))) for rows in newest])
    want = np.asarray(model.dense_query(model.user_state(padded)))
    # The same users in another order, which the seed draws.
    order = np.random.default_rng(3).permutation(USERS)
    np.testing.assert_allclose(queries, want[order], atol=1e-5)


def test_the_context_that_the_recommender_reads_is_part_of_the_state(catalog, sequences):
    context = EventContext(time=True, events=("click", "view"), weight=True)
    model = SidRecommender.for_catalog(catalog, context=context, **SMALL)
    queries = dense.user_queries(model, catalog, sequences, 5, seed=0)
    other = sequences._replace(events=[np.array(["view"] * len(h)) for h in sequences.histories])
    assert np.abs(queries - dense.user_queries(model, catalog, other, 5, seed=0)).max() > 1e-3
    again = dense.user_queries(model, catalog, sequences, 5, seed=0)
    np.testing.assert_array_equal(queries, again)


def test_users_are_drawn_and_those_without_a_known_ad_are_not(
    model, catalog, sequences, monkeypatch
):
    gone = [np.array(["gone", "gone"]), *sequences.histories[1:]]
    changed = sequences._replace(histories=gone)
    assert len(dense.user_queries(model, catalog, changed, 5, seed=0)) == USERS - 1
    monkeypatch.setattr(dense, "_USERS", 10)
    some = [dense.user_queries(model, catalog, sequences, 5, seed) for seed in (0, 0, 1)]
    assert len(some[0]) == 10
    np.testing.assert_array_equal(some[0], some[1])
    assert not np.allclose(some[0], some[2])


@pytest.mark.parametrize("asked", ["exact", "auto"])
def test_a_small_catalogue_is_scored_whole_unless_an_index_is_asked_for(
    model, catalog, sequences, asked, monkeypatch
):
    monkeypatch.setattr(dense, "build_index", None)
    chosen = _choose(model, catalog, sequences, asked)
    assert set(chosen) == {"portable", "scann"}
    for found in chosen.values():
        assert found.index is None
        assert found.record["kind"] == "brute_force"
        assert found.record["asked"] == asked
        assert found.summary == "dense candidates by brute force"
    if asked == "auto":
        assert "240 ads" in chosen["scann"].record["reason"]


def _timed(milliseconds):
    """A clock of the tuning that knows its results: kind -> milliseconds."""
    return lambda indices, *_: [milliseconds[index.kind] for index in indices]


@pytest.mark.parametrize(
    ("milliseconds", "kinds"),
    [
        ({"brute_force": 9.0, "partitioned": 2.0, "scann": 1.0}, ("partitioned", "scann")),
        ({"brute_force": 9.0, "partitioned": 1.0, "scann": 2.0}, ("partitioned", "partitioned")),
        ({"brute_force": 1.0, "partitioned": 1.0, "scann": 1.0}, ("brute_force", "brute_force")),
    ],
)
def test_auto_takes_the_fastest_over_many_ads(
    model, catalog, sequences, milliseconds, kinds, monkeypatch
):
    monkeypatch.setattr(dense, "AUTO_FROM", ADS)
    monkeypatch.setattr("sid_tfx.retrieval.selection.milliseconds", _timed(milliseconds))
    chosen = _choose(model, catalog, sequences, "auto")
    assert (chosen["portable"].record["kind"], chosen["scann"].record["kind"]) == kinds
    for found in chosen.values():
        exact = found.record["kind"] == "brute_force"
        assert (found.index is None) == exact
        assert "brute force takes" in found.record["reason"]


def test_an_index_that_misses_the_recall_is_refused_or_all_ads_are_scored(
    model, catalog, sequences, monkeypatch
):
    poor = Recall(0.5, 0.01)
    monkeypatch.setattr("sid_tfx.retrieval.selection.recall", lambda index, queries: poor)
    with pytest.raises(Refused, match=r"recall@50 0\.500 .*at least 0\.8.*dense_index=exact"):
        _choose(model, catalog, sequences, "index")
    monkeypatch.setattr(dense, "AUTO_FROM", ADS)
    fast = {"brute_force": 9.0, "partitioned": 2.0, "scann": 1.0}
    monkeypatch.setattr("sid_tfx.retrieval.selection.milliseconds", _timed(fast))
    for found in _choose(model, catalog, sequences, "auto").values():
        assert found.index is None
        assert "0.500" in found.record["reason"]


def test_what_cannot_be_done_is_refused_with_the_cure(model, catalog, sequences):
    with pytest.raises(Refused, match="dense_index must be one of"):
        _choose(model, catalog, sequences, "both")
    few = _catalog(20)
    small = SidRecommender.for_catalog(few, **SMALL)
    with pytest.raises(Refused, match=r"at least 32 candidates.*dense_index=exact"):
        _choose(small, few, _sequences(few), "index")


@pytest.mark.parametrize("users", [0, 63])
def test_too_few_users_measure_no_index(model, catalog, sequences, users, monkeypatch):
    few = sequences.users(range(users))
    with pytest.raises(Refused, match=rf"{users} training users.*at least 64.*dense_index=exact"):
        _choose(model, catalog, few, "index")
    monkeypatch.setattr(dense, "AUTO_FROM", ADS)
    for found in _choose(model, catalog, few, "auto").values():
        assert found.index is None
        assert f"{users} training users" in found.record["reason"]
