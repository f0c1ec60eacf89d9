"""Popularity and item kNN against hand-computed answers and a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.baselines import ItemKnn, Popularity
from sid_tfx.datasets.sequences import Sequences

pytestmark = pytest.mark.unit


def sequences(lists):
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])])
    rows = np.array([r for x in lists for r in x], np.int32)
    return Sequences(offsets, rows, np.zeros(len(rows), np.int64))


def padded(lists, length):
    return np.array([[r + 1 for r in x] + [0] * (length - len(x)) for x in lists], np.int32)


def test_popularity_by_hand():
    model = Popularity(sequences([[3, 1], [3, 0], [3, 0, 2]]), num_ads=5)
    # Counts 2, 1, 1, 3, 0; ties by row.
    rows = model.recommend(padded([[0, 2], [3]], 4), k=3, filter_seen=False)
    assert rows.tolist() == [[3, 0, 1], [3, 0, 1]]
    rows = model.recommend(padded([[0, 2], [3]], 4), k=4, filter_seen=True)
    assert rows.tolist() == [[3, 1, 4, -1], [0, 1, 2, 4]]


def test_events_of_ads_that_the_catalogue_lacks_count_nowhere():
    assert sequences([[-1, 2], [2, 0, -1]]).popularity(4).tolist() == [1, 0, 2, 0]


def test_knn_by_hand():
    # Window 3: 0->1, 0->2, 0->3, 1->2, 1->3, 1->4, 2->3, 2->4, 3->4 of the first history and
    # 0->2, 2->1, 0->1 of the second.
    model = ItemKnn(sequences([[0, 1, 2, 3, 4], [0, 2, 1]]), num_ads=6)
    # Counts from 0: 1 twice, 2 twice, 3 once. From 2, at half weight: 3, 4, 1 once each.
    # History 2, 0: score(1) 2.5, (2) 2, (3) 1.5, (4) .5, and 0 and 5 nothing (0 more popular).
    rows = model.recommend(padded([[2, 0]], 4), k=6)
    assert rows.tolist() == [[1, 2, 3, 4, 0, 5]]
    rows = model.recommend(padded([[2, 0]], 4), k=6, filter_seen=True)
    assert rows.tolist() == [[1, 3, 4, 5, -1, -1]]


def oracle(train, num_ads, history, k, filter_seen):
    counts = np.zeros((num_ads, num_ads))
    popularity = np.zeros(num_ads)
    for ads in train:
        for i, a in enumerate(ads):
            popularity[a] += 1
            for b in ads[i + 1 : i + 4]:
                counts[a, b] += 1
    score = np.zeros(num_ads)
    for j, a in enumerate(reversed(history[-5:])):
        score += 0.5**j * counts[a]
    ranked = sorted(range(num_ads), key=lambda b: (-score[b], -popularity[b], b))
    ranked = [b for b in ranked if not (filter_seen and b in history)][:k]
    return ranked + [-1] * (k - len(ranked))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=8),
    st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=5),
    st.integers(1, 12),
    st.booleans(),
)
def test_knn_against_a_loop(train, histories, k, filter_seen):
    model = ItemKnn(sequences(train), num_ads=10)
    got = model.recommend(padded(histories, 8), k, filter_seen, chunk=2)
    want = [oracle(train, 10, h, k, filter_seen) for h in histories]
    assert got.tolist() == want


def test_padding_side_does_not_matter():
    model = ItemKnn(sequences([[0, 1, 2, 3, 4], [0, 2, 1]]), num_ads=6)
    left, right = np.array([[0, 0, 3, 1]]), np.array([[3, 1, 0, 0]])
    assert model.recommend(left, 4).tolist() == model.recommend(right, 4).tolist()


def test_no_users():
    model = ItemKnn(sequences([[0, 1]]), num_ads=2)
    assert model.recommend(np.zeros((0, 20), np.int32), 10).shape == (0, 10)


@pytest.mark.parametrize("arguments", [{"window": 0}, {"newest": 0}, {"decay": 0.0}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ItemKnn(sequences([[0, 1]]), num_ads=2, **arguments)
