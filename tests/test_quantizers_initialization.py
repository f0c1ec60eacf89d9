import numpy as np
import pytest

from sid_tfx.quantizers import (
    ProductQuantizer,
    ResidualProductQuantizer,
    ResidualQuantizer,
    balanced_kmeans,
)
from sid_tfx.quantizers.fitting import fit_codebooks
from sid_tfx.quantizers.initialization import assign, kmeans, unit_rows

pytestmark = pytest.mark.unit


def crowded(rows=3000, dim=16, seed=0):
    """Returns vectors most of which lie in a few small crowds."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(5, dim)) * 2
    crowd = middles[rng.integers(5, size=rows)] + 0.3 * rng.normal(size=(rows, dim))
    spread = rng.normal(size=(rows // 4, dim)) * 2
    return np.concatenate([crowd, spread]).astype("float32")


@pytest.mark.parametrize("spherical", [False, True])
def test_balanced_clusters_are_of_nearly_equal_size(spherical):
    vectors = unit_rows(crowded()) if spherical else crowded()
    even = len(vectors) / 40
    plain = np.bincount(assign(vectors, *kmeans(vectors, 40, 0, spherical)), minlength=40)
    assert plain.max() > 1.5 * even, "the data is uneven"
    centers, offsets = balanced_kmeans(vectors, 40, 0, spherical)
    counts = np.bincount(assign(vectors, centers, offsets), minlength=40)
    assert np.abs(counts - even).mean() <= 0.05 * even
    assert np.abs(counts - even).max() <= 0.15 * even
    lengths = np.linalg.norm(centers, axis=-1)
    assert not spherical or np.allclose(lengths, 1.0, atol=1e-5)


def test_balanced_clusters_are_deterministic_and_close_to_their_vectors():
    vectors = crowded()
    first, second = balanced_kmeans(vectors, 20, 3), balanced_kmeans(vectors, 20, 3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    shuffled = np.random.default_rng(0).permutation(len(vectors)) % 20
    centers, offsets = first
    error = np.square(vectors - centers[assign(vectors, centers, offsets)]).sum(-1).mean()
    assert error < 0.5 * np.square(vectors - centers[shuffled]).sum(-1).mean()


@pytest.mark.parametrize("rows", [1, 5])
def test_balanced_clusters_of_few_vectors_are_finite(rows):
    centers, offsets = balanced_kmeans(crowded()[:rows], 8, 0)
    assert centers.shape == (8, 16)
    assert np.isfinite(centers).all()
    assert np.isfinite(offsets).all()


def test_offsets_carry_over_to_codes_of_single_vectors():
    vectors = crowded(dim=8)
    quantizer = ResidualQuantizer(2, 32, 8, initialization="balanced_kmeans")
    quantizer.initialize(vectors)
    assert np.abs(quantizer.offsets).max() > 0
    codes = np.asarray(quantizer(vectors).codes)
    even = len(vectors) / 32
    for level in codes.T:
        assert np.bincount(level, minlength=32).max() <= 1.25 * even
    alone = np.concatenate([quantizer(vectors[row : row + 1]).codes for row in range(20)])
    np.testing.assert_array_equal(alone, codes[:20])


def test_random_initialization_leaves_the_codebooks_as_drawn():
    quantizer = ResidualQuantizer(2, 8, 16, initialization="random")
    drawn = np.asarray(quantizer.codebooks).copy()
    quantizer.initialize(crowded())
    np.testing.assert_array_equal(quantizer.codebooks, drawn)
    assert float(quantizer.initialized) == 1.0
    with pytest.raises(ValueError, match="initialization='random' fits nothing"):
        fit_codebooks(crowded(), [(0, 16)], 8, 0, initialization="random")


def test_a_second_fit_keeps_projection_and_rotation():
    quantizer = ProductQuantizer(2, 8, 16, rotation=True, factor_dim=3)
    quantizer.initialize(crowded())
    kept = [np.asarray(w) for w in quantizer.projection.weights + quantizer.rotation.weights]
    before = np.asarray(quantizer.codebooks).copy()
    quantizer.initialize(crowded(seed=1))
    after = [np.asarray(w) for w in quantizer.projection.weights + quantizer.rotation.weights]
    for one, other in zip(kept, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(np.asarray(quantizer.codebooks) - before).max() > 0.01


@pytest.mark.parametrize("make", [ProductQuantizer, ResidualProductQuantizer])
def test_optimized_rotation_loses_less_than_plain_slices(make):
    rng = np.random.default_rng(0)
    # Four strong directions, mixed so that plain slices share them badly.
    mixing = np.linalg.qr(rng.normal(size=(8, 8)))[0] * np.array([3, 3, 3, 3, 0.1, 0.1, 0.1, 0.1])
    vectors = (rng.normal(size=(1000, 8)) @ mixing.T).astype("float32")
    errors = []
    for rotation in (False, True):
        quantizer = make(3, 16, 8, rotation=rotation)
        quantizer.initialize(vectors)
        errors.append(np.square(quantizer(vectors).residual_norms)[:, -1].mean())
    assert errors[1] < 0.8 * errors[0]


def test_product_slices_cover_all_dimensions_once():
    assert ProductQuantizer(3, 4, 7).slices == [(0, 2), (2, 4), (4, 7)]
