import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.health import distinct_share, perplexities

pytestmark = pytest.mark.unit


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_health_figures_equal_their_definitions(seed, size):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, size, (12, 2)).astype("int32")
    ad_row = rng.integers(0, 8, 12).astype("int32")
    copied = [
        any((codes[i] == codes[j]).all() and ad_row[i] != ad_row[j] for j in range(i))
        for i in range(12)
    ]
    assert float(distinct_share(codes, ad_row)) == pytest.approx(1 - np.mean(copied))
    for level, found in enumerate(np.asarray(perplexities(codes, size))):
        share = np.bincount(codes[:, level], minlength=size) / 12
        used = share[share > 0]
        assert found == pytest.approx(np.exp(-(used * np.log(used)).sum()), rel=1e-4)
