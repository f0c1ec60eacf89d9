import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.quantizers import QUANTIZERS, ResidualQuantizer, VectorQuantizer
from tests.quantizer_fixtures import VECTOR_CASES, VECTORS, fitted_case, model_around, new_case

pytestmark = pytest.mark.unit


def fitted(levels=3, size=8, dim=4, rows=200, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype("float32")
    quantizer = ResidualQuantizer(levels, size, dim, seed=seed)
    quantizer.initialize(vectors, seed)
    return quantizer, vectors


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 12))
def test_codes_are_in_range_and_mean_what_they_decode_to(seed, levels, size):
    quantizer, vectors = fitted(levels, size, rows=50, seed=seed)
    out = quantizer(vectors)
    codes = np.asarray(out.codes)
    assert codes.dtype == np.int32
    assert codes.shape == (50, levels)
    assert codes.min() >= 0
    assert codes.max() < size
    np.testing.assert_allclose(quantizer.decode(codes), out.quantized, atol=1e-5)
    np.testing.assert_allclose(np.sum(out.vectors, axis=1), out.quantized, atol=1e-5)


def test_each_level_takes_the_nearest_code_of_what_is_left():
    quantizer, vectors = fitted()
    out = quantizer(vectors)
    residual = vectors.copy()
    for level, book in enumerate(np.asarray(quantizer.codebooks)):
        np.testing.assert_allclose(out.inputs[:, level], residual, atol=1e-5)
        nearest = ((residual[:, None] - book) ** 2).sum(-1).argmin(-1)
        np.testing.assert_array_equal(out.codes[:, level], nearest)
        residual = residual - book[nearest]


@pytest.mark.parametrize(("name", "options"), VECTOR_CASES)
def test_the_code_that_fits_best_is_the_one_chosen(name, options):
    quantizer = fitted_case(name, options)
    out = quantizer(VECTORS)
    fits = quantizer.last_fits(out.inputs[:, -1])
    np.testing.assert_array_equal(np.argmax(fits, axis=1), out.codes[:, -1])


def test_a_coarse_part_without_a_level_to_see_it_is_refused():
    with pytest.raises(ValueError, match=r"coarse_dim=4 .* levels=1"):
        ResidualQuantizer(1, 8, 7, coarse_dim=4)


def test_levels_before_the_last_see_the_coarse_part_alone():
    quantizer = new_case("residual", {"coarse_dim": 4})
    quantizer.initialize(VECTORS)
    before = quantizer(VECTORS)
    changed = VECTORS.copy()
    changed[:, 4:] = VECTORS[::-1, 4:]
    after = quantizer(changed)
    np.testing.assert_array_equal(after.codes[:, :2], before.codes[:, :2])
    assert np.mean(np.asarray(after.codes[:, 2]) != before.codes[:, 2]) > 0.3
    left, books = changed.copy(), np.asarray(quantizer.codebooks)
    for level in (0, 1):
        left[:, :4] -= books[level, np.asarray(after.codes[:, level]), :4]
    nearest = ((left[:, None] - books[2]) ** 2).sum(-1).argmin(-1)
    np.testing.assert_array_equal(after.codes[:, 2], nearest)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_mean_residual_never_grows_on_the_data_it_was_fitted_to(seed):
    quantizer, vectors = fitted(seed=seed)
    norms = np.square(quantizer(vectors).residual_norms).mean(0)
    assert (np.diff(norms) <= 1e-6).all()


def test_gradient_is_the_identity():
    quantizer, vectors = fitted()
    x = tf.Variable(vectors[:5])
    upstream = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(quantizer(x).quantized * upstream)
    np.testing.assert_allclose(tape.gradient(value, x), upstream, atol=1e-6)


def test_batch_order_and_size_do_not_matter():
    quantizer, vectors = fitted()
    codes = np.asarray(quantizer(vectors).codes)
    order = np.random.default_rng(0).permutation(len(vectors))
    np.testing.assert_array_equal(quantizer(vectors[order]).codes, codes[order])
    np.testing.assert_array_equal(quantizer(vectors[:1]).codes, codes[:1])


def test_ranked_codes_start_with_the_assigned_ones_and_do_not_repeat():
    quantizer, vectors = fitted()
    ranked = np.asarray(quantizer.ranked_codes(vectors[:40], 20))
    assert ranked.shape == (40, 20, 3)
    np.testing.assert_array_equal(ranked[:, 0], quantizer(vectors[:40]).codes)
    for row, vector in zip(ranked, vectors, strict=False):
        assert len(np.unique(row, axis=0)) == 20
        costs = np.square(np.asarray(quantizer.decode(row)) - vector).sum(-1)
        assert (np.diff(costs[1:]) >= -1e-5).all()


def test_ranked_codes_of_a_full_beam_are_all_tuples_by_distance():
    quantizer, vectors = fitted(levels=2, size=3, rows=30)
    ranked = np.asarray(quantizer.ranked_codes(vectors[:6], 9))
    tuples = np.array(list(itertools.product(range(3), repeat=2)), "int32")
    cost = np.square(np.asarray(quantizer.decode(tuples))[None] - vectors[:6, None]).sum(-1)
    for row, costs in zip(ranked, cost, strict=True):
        greedy = np.flatnonzero((tuples == row[0]).all(1))[0]
        rest = [k for k in np.argsort(costs, kind="stable") if k != greedy]
        np.testing.assert_array_equal(row[1:], tuples[rest])


def test_ranked_codes_refuse_more_than_there_are():
    quantizer, vectors = fitted(levels=2, size=3, rows=30)
    with pytest.raises(ValueError, match=r"\[1, 3\^2\], got 10"):
        quantizer.ranked_codes(vectors, 10)


def test_initialization_is_deterministic_and_uses_every_code():
    first, vectors = fitted(size=16)
    second, _ = fitted(size=16)
    np.testing.assert_array_equal(first.codebooks, second.codebooks)
    assert all(len(np.unique(level)) == 16 for level in np.asarray(first(vectors).codes).T)


@pytest.mark.parametrize("rows", [1, 3])
def test_initialization_takes_fewer_vectors_than_codes(rows):
    quantizer, vectors = fitted(size=16, rows=rows)
    assert np.isfinite(quantizer.codebooks).all()
    assert len(np.unique(np.asarray(quantizer.codebooks)[0], axis=0)) == 16
    np.testing.assert_allclose(quantizer(vectors).quantized, vectors, atol=0.01)


def test_revival_brings_dead_codes_back_into_use():
    quantizer, vectors = fitted(size=16)
    books = np.asarray(quantizer.codebooks).copy()
    books[:, 4:] = 1e3
    quantizer.codebooks.assign(books)
    quantizer.usage_momentum = 0.5
    for _ in range(6):
        quantizer(vectors, training=True)
    assert (np.asarray(quantizer.usage)[:, 4:] < 0.05).all()
    assert quantizer.revive(seed=1) == 3 * 12
    used = [len(np.unique(level)) for level in np.asarray(quantizer(vectors).codes).T]
    assert used[0] >= 12, "four codes were in use before"
    assert quantizer.revive(seed=2) == 0


def test_usage_is_one_under_even_use_and_untouched_by_inference():
    quantizer = ResidualQuantizer(1, 2, 1, usage_momentum=0.0)
    quantizer.codebooks.assign([[[-1.0], [1.0]]])
    vectors = np.array([[-1.0], [1.0], [-1.0], [1.0]], "float32")
    quantizer(vectors[:1], training=False)
    np.testing.assert_array_equal(quantizer.usage, [[1.0, 1.0]])
    quantizer(vectors, training=True)
    np.testing.assert_allclose(quantizer.usage, [[1.0, 1.0]])
    quantizer(vectors[:1], training=True)
    np.testing.assert_allclose(quantizer.usage, [[2.0, 0.0]])


def test_slices_of_ones_own_survive_a_keras_file(tmp_path):
    slices = [(0, 7), (0, 4), (2, 7)]
    quantizer = VectorQuantizer(3, 8, 7, slices, gradient="rotation")
    quantizer.initialize(VECTORS)
    path = tmp_path / "model.keras"
    model_around(quantizer, 7).save(path)
    copy = keras.saving.load_model(path).layers[-1]
    assert type(copy) is VectorQuantizer
    assert copy.slices == slices
    assert copy.get_config() == quantizer.get_config()
    np.testing.assert_array_equal(copy(VECTORS).codes, quantizer(VECTORS).codes)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([(0, 4)], "one of levels=2 each, got 1"),
        ([(0, 4), (2, 5)], r"within dim=4, got \(2, 5\)"),
        ([(0, 4), (3, 3)], r"within dim=4, got \(3, 3\)"),
        ([(-1, 4), (0, 4)], r"got \(-1, 4\)"),
    ],
)
def test_slices_that_the_vector_lacks_are_refused(slices, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(2, 8, 4, slices)


def test_config_round_trip():
    quantizer = ResidualQuantizer(2, 5, 3, coarse_dim=2, seed=7, usage_momentum=0.5)
    saved = keras.saving.serialize_keras_object(quantizer)
    copy = keras.saving.deserialize_keras_object(saved)
    assert copy.get_config() == quantizer.get_config()
    np.testing.assert_array_equal(copy.codebooks, quantizer.codebooks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"codebook_size": 1}, "codebook_size must be at least 2, got 1"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"usage_momentum": 1.0}, "usage_momentum"),
        ({"assignment": "hash"}, r"assignment must be one of \['cosine', 'nearest', 'sinkhorn'\]"),
        ({"coarse_dim": 3}, r"coarse_dim must be in \[1, dim=3 - 1\], got 3"),
        ({"gradient": "none"}, r"gradient must be one of \['gumbel', .*, got 'none'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(**{"levels": 2, "codebook_size": 4, "dim": 3, **arguments})


def test_initialization_refuses_bad_vectors():
    quantizer = ResidualQuantizer(2, 4, 3)
    with pytest.raises(ValueError, match=r"\[N > 0, 3\], got \(5, 2\)"):
        quantizer.initialize(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        quantizer.initialize(np.full((5, 3), np.nan))


@pytest.mark.parametrize(("name", "options"), VECTOR_CASES)
def test_every_quantizer_keeps_the_contract(name, options):
    quantizer = fitted_case(name, options)
    out = quantizer(VECTORS)
    codes = np.asarray(out.codes)
    assert codes.shape == (len(VECTORS), quantizer.levels)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < quantizer.codebook_size
    assert out.inputs.shape == out.vectors.shape
    np.testing.assert_allclose(quantizer.decode(codes), out.quantized, atol=1e-5)
    explained = np.square(VECTORS - np.asarray(out.quantized)).sum(-1)
    np.testing.assert_allclose(
        np.square(out.residual_norms)[:, -1], explained, rtol=1e-3, atol=1e-4
    )
    order = np.random.default_rng(0).permutation(len(VECTORS))
    np.testing.assert_array_equal(quantizer(VECTORS[order]).codes, codes[order])
    np.testing.assert_array_equal(quantizer(VECTORS[:1]).codes, codes[:1])
    np.testing.assert_array_equal(quantizer.ranked_codes(VECTORS[:30], 5)[:, 0], codes[:30])


@pytest.mark.parametrize(
    ("name", "options"), [case for case in VECTOR_CASES if "random" not in case[1].values()]
)
def test_no_level_adds_to_the_mean_residual_of_the_data_it_was_fitted_to(name, options):
    norms = np.square(fitted_case(name, options)(VECTORS).residual_norms).mean(0)
    assert (np.diff(norms) < 0).all()


@pytest.mark.parametrize(("name", "options"), VECTOR_CASES)
def test_every_quantizer_survives_a_keras_file(name, options, tmp_path):
    quantizer = fitted_case(name, options)
    quantizer(VECTORS, training=True)
    model = model_around(quantizer, VECTORS.shape[1])
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert type(copy.layers[-1]) is type(quantizer)
    assert copy.layers[-1].get_config() == quantizer.get_config()
    assert len(copy.layers[-1].weights) == len(quantizer.weights)
    for loaded, saved in zip(copy.layers[-1].weights, quantizer.weights, strict=True):
        np.testing.assert_array_equal(loaded, saved)
    for loaded, saved in zip(copy(VECTORS), model(VECTORS), strict=True):
        np.testing.assert_array_equal(loaded, saved)


@pytest.mark.parametrize(("name", "options"), VECTOR_CASES)
def test_training_is_deterministic_by_seed(name, options):
    twins = [new_case(name, options, seed=3) for _ in range(2)]
    for twin in twins:
        twin.initialize(VECTORS, seed=3)
    for _ in range(2):
        first, second = (twin(VECTORS, training=True) for twin in twins)
        np.testing.assert_array_equal(first.codes, second.codes)
    for one, other in zip(twins[0].weights, twins[1].weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual", {"initialization": "balanced_kmeans"}),
        ("residual", {"assignment": "cosine"}),
        ("residual", {"coarse_dim": 4}),
        ("product", {}),
        ("product", {"rotation": True, "factor_dim": 2}),
        ("grouped", {}),
        ("residual_product", {}),
    ],
)
def test_ranked_codes_of_every_structure_equal_an_exhaustive_search(name, options):
    quantizer = QUANTIZERS[name](3, 3, 6, seed=1, **options)
    quantizer.initialize(VECTORS[:, :6])
    tuples = np.array(list(itertools.product(range(3), repeat=3)), "int32")
    decoded = np.asarray(quantizer.decode(tuples))
    queries = VECTORS[:5, :6]
    ranked = np.asarray(quantizer.ranked_codes(queries, 27))
    assigned = np.asarray(quantizer(queries).codes)
    for row, query, code in zip(ranked, queries, assigned, strict=True):
        np.testing.assert_array_equal(row[0], code)
        assert len(np.unique(row, axis=0)) == 27
        costs = np.square(decoded - query).sum(-1)
        greedy = np.flatnonzero((tuples == code).all(1))[0]
        rest = np.delete(
            np.sort(np.round(costs, 3)), np.searchsorted(np.sort(costs), costs[greedy])
        )
        found = np.square(np.asarray(quantizer.decode(row[1:])) - query).sum(-1)
        np.testing.assert_allclose(found, rest, atol=2e-3)


@pytest.mark.parametrize(("name", "options"), VECTOR_CASES)
def test_revival_keeps_live_codes_and_moves_dead_ones_beside_them(name, options):
    quantizer = fitted_case(name, options)
    usage = np.ones(quantizer.usage.shape, "float32")
    usage[:, 1::2] = 0.0
    usage[:, 0] = 3.0
    quantizer.usage.assign(usage)
    before = np.asarray(quantizer.codebooks).copy()
    assert quantizer.revive(threshold=0.1, seed=1) == quantizer.levels * 4
    after = np.asarray(quantizer.codebooks)
    np.testing.assert_allclose(after[:, ::2], before[:, ::2], atol=1e-5)
    for level, width in enumerate(quantizer.code_widths):
        live, moved = before[level, ::2, :width], after[level, 1::2, :width]
        assert (after[level, :, width:] == 0).all()
        away = np.abs(moved[:, None] - live).max(-1).min(-1)
        assert (away <= 0.5 * live.std(axis=0).max() + 1e-3).all()
        assert (away > 0).all()
    assert np.asarray(quantizer.usage).min() > 0.1
