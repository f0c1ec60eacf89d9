import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.metrics.sid_quality import churn, group_sizes, prefix_purity, sid_quality

pytestmark = pytest.mark.unit

CODES = np.array([[0, 1], [0, 1], [0, 2], [3, 1]], "int32")


def test_counts_collisions_of_a_known_table():
    quality = sid_quality(CODES, codebook_size=4)
    assert quality["collision_share"] == 0.5
    assert quality["largest_group"] == 2
    assert quality["distinct_sids"] == 3
    expected = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    assert quality["entropy_nats"] == pytest.approx(expected)
    assert quality["entropy_share"] == pytest.approx(expected / np.log(4))
    assert quality["coverage"] == [0.5, 0.5]
    assert quality["dead_codes"] == [2, 2]
    first = np.array([0.75, 0.25])
    assert quality["perplexity"][0] == pytest.approx(np.exp(-(first * np.log(first)).sum()))


def test_even_use_has_full_entropy_and_no_inequality():
    codes = np.array([[i, j] for i in range(4) for j in range(4)])
    quality = sid_quality(codes, 4)
    assert quality["collision_share"] == 0.0
    assert quality["entropy_share"] == pytest.approx(1.0)
    assert quality["perplexity"] == pytest.approx([4.0, 4.0])
    assert quality["gini"] == pytest.approx([0.0, 0.0])


def test_a_collapsed_table_is_seen():
    quality = sid_quality(np.zeros((10, 3), int), 256)
    assert quality["collision_share"] == 1.0
    assert quality["largest_group"] == 10
    assert quality["entropy_nats"] == 0.0
    assert quality["perplexity"] == pytest.approx([1.0] * 3)
    assert min(quality["gini"]) > 0.99


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 4))
def test_agrees_with_counting_tuples_in_any_row_order(seed, rows, levels):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (rows, levels))
    tuples = [tuple(row) for row in codes]
    quality = sid_quality(codes, 3)
    colliding = sum(tuples.count(row) > 1 for row in tuples)
    assert quality["collision_share"] == pytest.approx(colliding / rows)
    assert quality["largest_group"] == max(map(tuples.count, tuples))
    np.testing.assert_array_equal(group_sizes(codes), [tuples.count(row) for row in tuples])
    shuffled = sid_quality(codes[rng.permutation(rows)], 3)
    assert shuffled["entropy_nats"] == pytest.approx(quality["entropy_nats"])
    assert shuffled["perplexity"] == pytest.approx(quality["perplexity"])


def test_v_measure_and_purity_tell_meaning_from_noise():
    rng = np.random.default_rng(0)
    categories = rng.integers(0, 5, 500)
    codes = np.stack([categories, rng.integers(0, 5, 500)], axis=1)
    quality = sid_quality(codes, 5, categories)
    assert quality["v_measure"][0] == pytest.approx(1.0)
    assert quality["v_measure"][1] < 0.1
    assert prefix_purity(codes, categories) == [1.0, 1.0]
    noise, both = prefix_purity(codes[:, ::-1], categories)
    assert noise < 0.4
    assert both == 1.0


def test_churn_per_ad_and_per_level():
    after = CODES.copy()
    after[0, 1] = 3
    after[1] = [2, 2]
    assert churn(CODES, after) == {"churn": 0.5, "level_churn": [0.25, 0.5]}
    assert churn(CODES, CODES)["churn"] == 0.0
    with pytest.raises(ValueError, match="one shape"):
        churn(CODES, CODES[:2])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, 3), int), "N > 0"),
        (np.zeros(3, int), r"\(3,\)"),
        (np.zeros((3, 2)), "float64"),
        (np.full((3, 2), 4), r"\[0, 4\), got 4 to 4"),
        (np.full((3, 2), -1), "got -1"),
    ],
)
def test_wrong_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        sid_quality(codes, 4)


def test_categories_must_match_the_ads():
    with pytest.raises(ValueError, match="4 values"):
        sid_quality(CODES, 4, [1, 2])
