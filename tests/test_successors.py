"""What followed which ad: counted as item kNN counts, and a third source of hybrid mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.baselines import ItemKnn
from sid_tfx.datasets.sequences import Sequences
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import (
    ExhaustiveRecommender,
    GenerativeRecommender,
    choose_hybrid_weights,
    evaluate,
)
from sid_tfx.layers import SuccessorMemory
from sid_tfx.recommender import SidRecommender
from sid_tfx.refresh import refresh_recommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog, walks

pytestmark = pytest.mark.unit

LOGS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=5)


def as_sequences(log):
    rows = np.array([ad for history in log for ad in history], np.int32)
    offsets = np.cumsum([0, *(len(history) for history in log)])
    return Sequences(offsets, rows, np.arange(len(rows)))


def counted(log, window=3):
    """Successor counts by ad, one event after the other."""
    counts = {}
    for history in log:
        for i, ad in enumerate(history):
            for other in history[i + 1 : i + 1 + window]:
                if ad >= 0 and other >= 0:
                    counts.setdefault(ad, {}).setdefault(other, 0)
                    counts[ad][other] += 1
    return counts


def entries(table, ad):
    inside = slice(table.offsets[ad], table.offsets[ad + 1])
    return list(zip(table.rows[inside].tolist(), table.counts[inside].tolist(), strict=True))


@settings(max_examples=50, deadline=None)
@given(log=LOGS, most=st.integers(0, 4))
def test_the_table_has_the_most_frequent_successors(log, most):
    table = SuccessorTable.count(as_sequences(log), num_ads=6, most=most)
    found = counted(log)
    for ad in range(6):
        wanted = sorted(found.get(ad, {}).items(), key=lambda entry: (-entry[1], entry[0]))
        assert entries(table, ad) == wanted[:most]
    assert len(table) == table.offsets[-1]
    assert table.most <= most


def test_an_ad_that_the_catalogue_lacks_keeps_its_place_and_counts_for_nothing():
    table = SuccessorTable.count(as_sequences([[0, -1, 1, 2, 3]]), num_ads=4)
    assert entries(table, 0) == [(1, 1.0), (2, 1.0)]


def test_bad_arguments_are_refused():
    log = as_sequences([[0, 1]])
    with pytest.raises(ValueError, match="got most=-1, window=3"):
        SuccessorTable.count(log, 2, most=-1)
    with pytest.raises(ValueError, match="got most=32, window=0"):
        SuccessorTable.count(log, 2, window=0)


@settings(max_examples=50, deadline=None)
@given(log=LOGS, moves=st.permutations(range(-2, 6)))
def test_a_moved_table_names_the_same_ads(log, moves):
    # Two of the ads have no row in the new catalogue of eight.
    new = np.array([max(row, -1) for row in moves[:6]])
    table = SuccessorTable.count(as_sequences(log), num_ads=6, most=3)
    moved = table.moved(new, num_ads=8)
    wanted = {row: [] for row in range(8)}
    for ad in range(6):
        if new[ad] >= 0:
            wanted[new[ad]] = [(new[b], count) for b, count in entries(table, ad) if new[b] >= 0]
    assert {row: entries(moved, row) for row in range(8)} == wanted


def reference_scores(log, history, ads, newest=5, decay=0.5):
    scores, counts = np.zeros(ads), counted(log)
    known = [ad - 1 for ad in history if ad > 0]
    for age, ad in enumerate(known[::-1][:newest]):
        for other, count in counts.get(ad, {}).items():
            scores[other] += decay**age * count
    return np.log1p(scores)


@settings(max_examples=25, deadline=None)
@given(
    log=LOGS.filter(lambda log: max(map(len, log)) > 1),
    history=st.lists(st.integers(0, 6), min_size=1, max_size=9),
)
def test_scores_are_those_of_item_knn(log, history):
    memory = SuccessorMemory.of(SuccessorTable.count(as_sequences(log), num_ads=6))
    wanted = reference_scores(log, history, ads=6)
    followers = memory.followers(np.array([history, [0] * len(history)], np.int32))
    everything = np.tile(np.arange(6), (2, 1))
    np.testing.assert_allclose(memory(followers, everything)[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(memory.all_scores(followers)[0], wanted, rtol=1e-5)
    # Nothing follows nothing, and no row -1 is anybody's successor.
    assert not np.asarray(memory.all_scores(followers)[1]).any()
    assert not np.asarray(memory(followers, -np.ones((2, 3), np.int32))).any()
    rows = np.asarray(followers.rows)
    assert set(rows[0]) - {-1} == set(np.flatnonzero(wanted))
    assert (rows[1] == -1).all()


def test_what_is_past_the_most_counts_nothing():
    log = [[0, 1], [0, 1], [0, 2], [3, 2]]
    memory = SuccessorMemory.of(SuccessorTable.count(as_sequences(log), num_ads=4, most=1))
    # Ad 2 followed ad 3 once, and ad 0, which is older, once too: only the first is remembered.
    found = memory(memory.followers(np.array([[1, 4]])), np.array([[1, 2]]))
    np.testing.assert_allclose(found, np.log1p([[0.5 * 2, 1.0]]), rtol=1e-6)


def test_arguments_and_tables_that_do_not_fit_are_refused():
    table = SuccessorTable.count(as_sequences([[0, 1, 2]]), num_ads=3)
    for bad in ({"newest": 0}, {"decay": 0.0}, {"decay": 1.5}):
        with pytest.raises(ValueError, match="must be >= 1 and decay in"):
            SuccessorMemory.of(table, **bad)
    with pytest.raises(ValueError, match="pairs=0, most=0"):
        SuccessorMemory.of(SuccessorTable.count(as_sequences([[0]]), num_ads=3))
    other = SuccessorTable.count(as_sequences([[0, 1], [1, 2], [2, 0]]), num_ads=3)
    with pytest.raises(ValueError, match=r"\(3, 3, 2\), the table has \(3, 3, 1\)"):
        SuccessorMemory.of(table).set_table(other)


@pytest.fixture(scope="module")
def remembering():
    splits, _ = walks()
    table = SuccessorTable.count(splits.train, ADS, most=4)
    return SidRecommender.for_catalog(make_catalog(), table, **SMALL), splits


def test_an_untrained_hybrid_finds_what_followed(remembering):
    model, splits = remembering
    model.successor_weight.assign(100.0)
    decoder = SidDecoder(model, beam_size=1, dense_candidates=1)
    histories = splits.test.histories(12)
    found = GenerativeRecommender(decoder, "hybrid").recommend(histories, 1, True)
    wanted = ItemKnn(splits.train, ADS).recommend(histories, 1, True)
    assert np.mean(found == wanted) > 0.9
    model.successor_weight.assign(0.0)
    dull = GenerativeRecommender(decoder, "hybrid").recommend(histories, 1, True)
    assert np.mean(dull == wanted) < 0.2


def test_results_are_distinct_live_and_not_excluded(remembering):
    model, splits = remembering
    model.successor_weight.assign(1.0)
    decoder = SidDecoder(model, beam_size=20, dense_candidates=20)
    histories = tf.constant(splits.test.histories(12)[:50])
    first = decoder.recommend(histories, 20, "hybrid").rows.numpy()
    live = np.ones(ADS, bool)
    live[np.unique(first[:, 0])[:10]] = False
    decoder.trie.set_live(live)
    excluded = tf.constant(first[:, 1:2])
    found = decoder.recommend(histories, 20, "hybrid", excluded).rows.numpy()
    for row, (ads, gone) in enumerate(zip(found, first[:, 1], strict=True)):
        assert len(set(ads)) == 20, row
        assert live[ads].all()
        assert gone not in ads


def test_excluded_ads_take_nobodys_place(remembering):
    model, _ = remembering
    log = [[0, 1], [0, 1], [0, 2]]
    table = SuccessorTable.count(as_sequences(log), num_ads=ADS)
    model = SidRecommender.for_catalog(make_catalog(), table, **SMALL)
    model.successor_weight.assign(100.0)
    decoder = SidDecoder(model, beam_size=1, dense_candidates=1, successor_candidates=1)
    history = tf.constant([[1, 0]])
    assert decoder.recommend(history, 1, "hybrid").rows.numpy().tolist() == [[1]]
    found = decoder.recommend(history, 1, "hybrid", tf.constant([[1]])).rows.numpy()
    assert found.tolist() == [[2]]


def test_both_weights_are_chosen_on_validation(remembering):
    model, splits = remembering
    # Where the search begins doesn't depend on this.
    model.dense_weight.assign(50.0)
    hybrid = GenerativeRecommender(SidDecoder(model, beam_size=10), "hybrid")
    trials = choose_hybrid_weights(hybrid, splits.validation, (0.0, 1.0), (0.0, 8.0, 0.5))
    # What is not trained has nothing to say beside the memory.
    assert float(model.successor_weight.numpy()) == 8.0
    assert [trial["successor_weight"] for trial in trials] == [0.0, 8.0, 0.5, 8.0, 8.0]
    assert trials[1]["ndcg@10"] > 0.5 > trials[0]["ndcg@10"]


def test_the_memorys_weight_is_chosen_beside_the_dense_weight_that_stays(remembering):
    model, splits = remembering
    hybrid = GenerativeRecommender(SidDecoder(model, beam_size=10), "hybrid")
    trials = choose_hybrid_weights(hybrid, splits.validation.sample(50), (0.25,), (0.0, 8.0))
    assert {trial["dense_weight"] for trial in trials} == {0.25}


@pytest.mark.parametrize("kind", ["beam", "exhaustive"])
def test_one_decoding_gives_the_figures_that_each_pair_of_weights_would(remembering, kind):
    model, splits = remembering
    hybrid = (
        GenerativeRecommender(SidDecoder(model, 5, successor_candidates=3), "hybrid", 64)
        if kind == "beam"
        else ExhaustiveRecommender(model, "hybrid", 64)
    )
    validation = splits.validation.sample(100)
    trials = choose_hybrid_weights(hybrid, validation, (0.0, 1.5), (0.0, 0.5))
    for trial in trials:
        model.dense_weight.assign(trial["dense_weight"])
        model.successor_weight.assign(trial["successor_weight"])
        found = evaluate("", hybrid, validation, make_catalog(), filtered=True, k=10)
        assert trial["ndcg@10"] == pytest.approx(found.record()["ndcg@10"], abs=1e-12)


def remembered(model, histories):
    return np.asarray(model.successors.all_scores(model.successors.followers(histories)))


def test_a_keras_file_and_a_changed_catalogue_keep_it(remembering, tmp_path):
    model, _ = remembering
    model.successor_weight.assign(3.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    histories = np.array([[5, 9, 2], [1, 0, 0]])
    wanted = remembered(model, histories)
    np.testing.assert_array_equal(remembered(loaded, histories), wanted)

    catalog = make_catalog()
    grown = catalog.extend(["a", "ad030a"], [[0, 1], [2, 3]], np.ones((2, 8)))
    refreshed = refresh_recommender(model, catalog, grown)
    rows = grown.rows(catalog.ad_ids)
    moved = np.where(histories > 0, rows[histories - 1] + 1, 0)
    found = remembered(refreshed, moved)
    np.testing.assert_array_equal(found[:, rows], wanted)
    assert float(refreshed.successor_weight.numpy()) == 3.0
    new = SuccessorTable.count(as_sequences([[0, 1]]), len(grown))
    recounted = refresh_recommender(model, catalog, grown, new)
    assert entries(recounted.successors.table(), 0) == [(1, 1.0)]
    # Nothing is left to remember of a catalogue without the ads that it is about.
    assert refresh_recommender(refreshed, grown, grown.keep(["a"])).successors is None
