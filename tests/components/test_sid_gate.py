"""SidEvaluator's checks: the number, the limit, and fairness to small catalogues."""

import numpy as np
import pytest

from components.sid_evaluator.component import checks
from sid_tfx.metrics.sid_quality import sid_quality

pytestmark = pytest.mark.unit

LIMITS = {
    "max_collision_share": 0.2,
    "max_largest_group": 4,
    "min_entropy_share": 0.9,
    "min_coverage": 0.5,
}


def _checks(codes, codebook_size):
    quality = sid_quality(codes, codebook_size)
    found = checks(quality, len(codes), codebook_size, LIMITS)
    return {check.name: check for check in found}


def test_distinct_codes_pass_every_check():
    codes = np.stack(np.unravel_index(np.arange(64), (8, 8)), axis=1)
    assert all(check.ok for check in _checks(codes, 8).values())


def test_a_collapsed_codebook_fails_every_check_and_says_the_numbers():
    found = _checks(np.zeros((64, 2), int), 8)
    assert not any(check.ok for check in found.values())
    assert "is 1, the limit is at most 0.2" in found["collision_share"].sentence
    assert "is 64, the limit is at most 4" in found["largest_group"].sentence
    assert "at least" in found["entropy_share"].sentence


def test_three_ads_are_not_blamed_for_unused_codes():
    found = _checks(np.array([[0, 1], [1, 2], [2, 0]]), 256)
    assert found["coverage"].ok
    assert found["coverage"].limit == pytest.approx(0.5 * 3 / 256)


def test_one_pair_in_collision_is_measured_exactly():
    codes = np.stack(np.unravel_index(np.arange(20), (8, 8)), axis=1)
    codes[1] = codes[0]
    found = _checks(codes, 8)
    assert found["collision_share"].value == pytest.approx(2 / 20)
    assert found["largest_group"].value == 2
