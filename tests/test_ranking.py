"""Ranking metrics and the evaluation harness on lists whose answer is plain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.sequences import leave_one_out
from sid_tfx.evaluation import (
    Result,
    evaluate,
    full_record,
    list_figures,
    paired_bootstrap,
    user_slices,
)
from sid_tfx.metrics.ranking import (
    ndcg_at,
    ranking_metrics,
    reciprocal_rank,
    sid_ranks,
    target_ranks,
)

pytestmark = pytest.mark.unit


class Fixed:
    """Returns the same list to everybody and remembers what it was asked."""

    def __init__(self, rows):
        self.rows = rows

    def recommend(self, histories, k, filter_seen):
        self.asked = (histories, k, filter_seen)
        rows = np.pad(self.rows, (0, k), constant_values=-1)[:k]
        return np.tile(rows, (len(histories), 1))


def test_ranks_count_from_one_and_zero_means_missing():
    lists = np.array([[4, 2, 9], [4, 2, 9], [4, -1, -1]])
    assert target_ranks(lists, np.array([4, 9, 2])).tolist() == [1, 3, 0]


def test_values_by_hand():
    ranks = np.array([1, 3, 10, 11, 0])
    figures = ranking_metrics(ranks)
    assert figures["recall@5"] == pytest.approx(2 / 5)
    assert figures["recall@10"] == pytest.approx(3 / 5)
    assert figures["ndcg@5"] == pytest.approx((1 + 1 / 2) / 5)
    assert figures["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / np.log2(11)) / 5)
    assert figures["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 5)
    assert set(ranking_metrics(np.array([], int)).values()) == {0.0}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.integers(1, 50))
def test_ndcg_lies_between_reciprocal_rank_and_recall(ranks, k):
    ranks = np.array(ranks)
    inside = (ranks > 0) & (ranks <= k)
    ndcg = ndcg_at(ranks, k)
    assert (ndcg >= np.where(inside, reciprocal_rank(ranks), 0) - 1e-12).all()
    assert (ndcg <= inside).all()


def test_sid_level_ranks_distinct_semantic_ids():
    codes = np.array([[0, 0], [0, 0], [1, 1], [2, 2]])
    # Rows 0 and 1 share their codes, so row 2 is at the second place among semantic IDs.
    lists = np.array([[0, 1, 2, -1], [0, 1, 2, -1], [0, 1, 2, -1], [3, 2, 0, 1]])
    targets = np.array([1, 2, 3, 1])
    assert sid_ranks(lists, targets, codes).tolist() == [1, 2, 0, 3]
    assert target_ranks(lists, targets).tolist() == [2, 3, 0, 4]


def small_problem():
    catalog = SidCatalog.build(
        list("abcd"), [[0, 0], [0, 0], [1, 1], [0, 1]], np.eye(4), codebook_size=2
    )
    users = np.repeat(["u", "v", "w"], [4, 12, 7])
    rows = np.concatenate([[0, 1, 2, 1], np.arange(12) % 4, np.arange(7) % 3])
    splits = leave_one_out(users, rows, np.arange(len(rows)))
    return catalog, splits


def test_harness_records():
    catalog, splits = small_problem()
    method = Fixed(np.array([0, 1, 3]))
    result = evaluate("fixed", method, splits.test, catalog, filtered=True, mode="m", k=5)
    assert splits.test.targets.tolist() == [1, 3, 0]
    assert result.ranks.tolist() == [2, 3, 1]
    assert result.sid_ranks.tolist() == [1, 2, 1]
    histories, k, filtered = method.asked
    assert histories.shape == (3, 20)
    assert (k, filtered) == (5, True)
    record = result.record()
    assert record["method"] == "fixed"
    assert record["mode"] == "m"
    assert record["filtered"] is True
    assert record["level"] == "item"
    assert record["users"] == 3
    assert record["recall@5"] == 1.0
    assert record["mrr"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert result.record("sid")["mrr"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    with pytest.raises(ValueError, match="level"):
        result.record("ad")


def test_slices_part_the_users():
    _, splits = small_problem()
    slices = user_slices(splits.test, np.array([0, 5, 20, 100]))
    for kind in ("history:", "target:"):
        total = sum(mask.astype(int) for name, mask in slices.items() if name.startswith(kind))
        assert total.tolist() == [1, 1, 1]
    assert slices["history:1-4"].tolist() == [True, False, False]
    assert slices["target:cold"].tolist() == [False, False, True]


def test_list_figures():
    result = Result("m", "", False, np.zeros(2), np.zeros(2), np.array([[0, 1], [0, -1]]))
    figures = list_figures(result, np.array([6, 3, 0, 0]), np.array([1, 2]))
    want = {"coverage@10": 0.5, "mean_popularity@10": 5.0, "popularity_bias@10": 5.0 / 1.5}
    assert figures == want
    all_cold = list_figures(result, np.array([6, 3, 0, 0]), np.array([3, 2]))
    assert np.isfinite(all_cold["popularity_bias@10"])


def test_the_full_record_says_everything_about_a_result():
    catalog, splits = small_problem()
    popularity = np.array([0, 5, 20, 100])
    result = evaluate("fixed", Fixed(np.array([0, 1, 3])), splits.test, catalog, k=5)
    record = full_record(result, "item", splits.test, popularity)
    assert record.items() >= result.record().items()
    assert record["ndcg@10_low"] <= record["ndcg@10"] <= record["ndcg@10_high"]
    for name, users in user_slices(splits.test, popularity).items():
        assert record[f"{name}/users"] == users.sum()
        assert record[f"{name}/ndcg@10"] == result.record("item", users)["ndcg@10"]
    assert record["coverage@10"] == 0.75
    sid = full_record(result, "sid", splits.test, popularity)
    assert (sid["mrr"], sid["level"]) == (result.record("sid")["mrr"], "sid")
    assert not [value for value in record.values() if isinstance(value, dict | list)]


def test_a_method_with_a_wrong_shape_is_named():
    catalog, splits = small_problem()

    class Short:
        def recommend(self, histories, k, filter_seen):
            return np.zeros((len(histories), 2), int)

    with pytest.raises(ValueError, match="short returned"):
        evaluate("short", Short(), splits.test, catalog, k=5)


def result_of(ranks):
    return Result("m", "", False, np.array(ranks), np.array(ranks), np.zeros((len(ranks), 1)))


def test_bootstrap_interval():
    rng = np.random.default_rng(0)
    good = result_of(rng.integers(1, 12, 3000))
    poor = result_of(rng.integers(1, 40, 3000))
    interval = paired_bootstrap(good, poor)
    assert 0 < interval["low"] < interval["difference"] < interval["high"]
    assert paired_bootstrap(good, poor) == interval
    values = [ndcg_at(result.ranks, 10) for result in (good, poor)]
    error = (values[0] - values[1]).std() / np.sqrt(3000)
    width = interval["high"] - interval["low"]
    assert width == pytest.approx(2 * 1.96 * error, rel=0.1)
    same = paired_bootstrap(good, good)
    assert (same["low"], same["high"]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="same users"):
        paired_bootstrap(good, result_of([1]))
    with pytest.raises(ValueError, match="metric"):
        paired_bootstrap(good, poor, metric="auc")
