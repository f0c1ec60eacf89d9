import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.losses.reconstruction import CodebookCommitment
from sid_tfx.quantizers import (
    QUANTIZERS,
    GroupedResidualQuantizer,
    ProductQuantizer,
    ResidualProductQuantizer,
    ResidualQuantizer,
)
from sid_tfx.quantizers.gradient import rotation_trick
from sid_tfx.quantizers.gumbel import gumbel_noise
from sid_tfx.quantizers.learning import mean_cost
from sid_tfx.quantizers.sinkhorn import sinkhorn_codes
from tests.quantizer_fixtures import VECTORS

pytestmark = pytest.mark.unit

UPSTREAM = np.random.default_rng(1).normal(size=(6, 7)).astype("float32")


def residual(levels=2, size=8, **options):
    quantizer = ResidualQuantizer(levels, size, 7, **options)
    quantizer.initialize(VECTORS)
    return quantizer


def gradients(quantizer, vectors, upstream, training=False):
    """Returns the gradients at the vectors and at every trainable weight."""
    x = tf.Variable(vectors)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(quantizer(x, training=training).quantized * upstream)
    at_vectors, at_weights = tape.gradient(
        value, [x, [weight.value for weight in quantizer.trainable_weights]]
    )
    names = [weight.name for weight in quantizer.trainable_weights]
    return np.asarray(at_vectors), {
        name: None if gradient is None else np.asarray(tf.convert_to_tensor(gradient))
        for name, gradient in zip(names, at_weights, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual", {"assignment": "cosine"}),
        ("product", {"rotation": True}),
        ("grouped", {"codebook": "linear"}),
        ("residual_product", {}),
    ],
)
def test_straight_through_is_the_identity_in_every_structure(name, options):
    quantizer = QUANTIZERS[name](3, 8, 7, **options)
    quantizer.initialize(VECTORS)
    at_vectors, at_weights = gradients(quantizer, VECTORS[:6], UPSTREAM)
    np.testing.assert_allclose(at_vectors, UPSTREAM, atol=1e-5)
    for weight in ("vectors", "matrix"):
        assert at_weights.get(weight) is None, "the codebook learns from its own loss term alone"


def rotation_oracle(source, target):
    """Returns the matrix that carries `source` onto `target`, by its definition."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    middle = (a + b) / np.linalg.norm(a + b)
    turn = np.eye(len(a)) - 2 * np.outer(middle, middle) + 2 * np.outer(b, a)
    return np.linalg.norm(target) / np.linalg.norm(source) * turn


def test_rotation_gradient_turns_as_the_vector_does():
    quantizer = residual(gradient="rotation")
    out = np.asarray(quantizer(VECTORS[:6]).quantized)
    np.testing.assert_allclose(out, quantizer.decode(quantizer(VECTORS[:6]).codes), atol=1e-6)
    found, _ = gradients(quantizer, VECTORS[:6], UPSTREAM)
    for row, vector, quantized, upstream in zip(found, VECTORS, out, UPSTREAM, strict=False):
        matrix = rotation_oracle(vector.astype("float64"), quantized.astype("float64"))
        np.testing.assert_allclose(matrix @ vector, quantized, atol=1e-5)
        np.testing.assert_allclose(row, upstream @ matrix, rtol=1e-3, atol=1e-4)


def test_rotation_of_a_zero_vector_falls_back_to_the_identity():
    x = tf.Variable(np.zeros((1, 3), "float32"))
    with tf.GradientTape() as tape:
        out = rotation_trick(x, np.ones((1, 3), "float32"))
        value = tf.reduce_sum(out)
    np.testing.assert_array_equal(out, np.ones((1, 3)))
    np.testing.assert_array_equal(tape.gradient(value, x), np.ones((1, 3)))


def test_gumbel_is_hard_forward_and_reaches_vectors_and_codebook():
    quantizer = residual(gradient="gumbel", temperature=0.5, exploration=0.0)
    hard = quantizer(VECTORS[:6])
    soft = quantizer(VECTORS[:6], training=True)
    np.testing.assert_array_equal(soft.codes, hard.codes)
    np.testing.assert_allclose(soft.quantized, hard.quantized, atol=1e-5)
    x, book = VECTORS[:6].astype("float64"), np.asarray(quantizer.codebooks)[0].astype("float64")

    def mixture(x, book):
        logits = -np.square(x[:, None] - book).sum(-1) / 0.5
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True)) @ book

    one = ResidualQuantizer(1, 8, 7, gradient="gumbel", temperature=0.5, exploration=0.0)
    one.codebooks.assign(book[None])
    at_vectors, at_weights = gradients(one, VECTORS[:6], UPSTREAM, training=True)
    step = 1e-5
    for index in [(0, 0), (3, 4), (5, 6)]:
        moved = np.zeros_like(x)
        moved[index] = step
        slope = ((mixture(x + moved, book) - mixture(x - moved, book)) * UPSTREAM).sum() / 2 / step
        assert at_vectors[index] == pytest.approx(slope, rel=1e-3, abs=1e-3)
    for index in [(0, 0), (7, 6)]:
        moved = np.zeros_like(book)
        moved[index] = step
        slope = ((mixture(x, book + moved) - mixture(x, book - moved)) * UPSTREAM).sum() / 2 / step
        assert at_weights["vectors"][0][index] == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_gumbel_explores_in_training_alone_and_less_as_exploration_falls():
    quantizer = residual(gradient="gumbel", temperature=0.5, exploration=1.0)
    still = np.asarray(quantizer(VECTORS).codes)
    np.testing.assert_array_equal(quantizer(VECTORS, training=False).codes, still)

    def changed(exploration):
        quantizer.exploration.assign(exploration)
        return (np.asarray(quantizer(VECTORS, training=True).codes) != still).mean()

    assert changed(3.0) > changed(0.3) > changed(0.0) == 0.0


def test_gumbel_noise_has_the_mean_and_spread_of_its_distribution():
    noise = np.asarray(gumbel_noise((200_000,), keras.random.SeedGenerator(0)))
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.02)


def test_gumbel_draws_codes_by_their_softmax():
    quantizer = ResidualQuantizer(1, 3, 1, gradient="gumbel", temperature=2.0)
    quantizer.codebooks.assign([[[0.0], [1.0], [2.0]]])
    codes = np.asarray(quantizer(np.zeros((40_000, 1), "float32"), training=True).codes)
    weights = np.exp(-np.array([0.0, 1.0, 4.0]) / 2)
    shares = np.bincount(codes[:, 0], minlength=3) / len(codes)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.01)


def test_moving_averages_equal_the_definition():
    quantizer = residual(levels=2, learning="ema", ema_decay=0.9)
    assert not quantizer.codebook.trainable_weights
    books = np.asarray(quantizer.codebooks).astype("float64")
    counts = np.ones((2, 8))
    for step in range(4):
        batch = VECTORS[50 * step : 50 * (step + 1)]
        out = quantizer(batch, training=True)
        codes, inputs = np.asarray(out.codes), np.asarray(out.inputs)
        for level in range(2):
            sums = counts[level][:, None] * books[level] * 0.9
            counts[level] *= 0.9
            for code, vector in zip(codes[:, level], inputs[:, level], strict=True):
                sums[code] += 0.1 * vector * 8 / len(batch)
                counts[level][code] += 0.1 * 8 / len(batch)
            books[level] = sums / counts[level][:, None]
        np.testing.assert_allclose(quantizer.codebooks, books, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(quantizer.counts, counts, rtol=1e-4)


def test_moving_averages_leave_unused_codes_in_place_for_ever():
    quantizer = ResidualQuantizer(1, 2, 1, learning="ema", ema_decay=0.5)
    quantizer.codebooks.assign([[[0.0], [9.0]]])
    quantizer.counts.assign([[1.0, 1e-30]])
    for _ in range(12):
        quantizer(np.array([[0.5]], "float32"), training=True)
    np.testing.assert_allclose(quantizer.codebooks, [[[0.5], [9.0]]], atol=1e-3)
    quantizer.usage.assign([[2.0, 0.0]])
    assert quantizer.revive() == 1
    quantizer(np.array([[0.5]], "float32"), training=True)
    assert np.asarray(quantizer.counts).min() > 0.01, "a revived code counts again"


def test_sinkhorn_shares_a_batch_out_and_inference_does_not():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(240, 4)) * 0.1, rng.normal(size=(16, 4)) * 2])
    quantizer = ResidualQuantizer(1, 16, 4, assignment="sinkhorn", initialization="random")
    codes = np.asarray(quantizer(vectors.astype("float32"), training=True).codes)
    counts = np.bincount(codes[:, 0], minlength=16)
    assert counts.min() >= 10
    assert counts.max() <= 24
    plain = np.asarray(quantizer(vectors.astype("float32")).codes)
    assert np.bincount(plain[:, 0], minlength=16).max() > 24
    np.testing.assert_array_equal(quantizer(vectors[5:6].astype("float32")).codes, plain[5:6])


def test_sinkhorn_pays_the_least_for_evenness():
    # Codes 0 and 1 fit all alike; code 1 fits rows 2 and 3 less badly than rows 0 and 1.
    fits = np.array([[0.0, -5.0], [0.0, -4.0], [0.0, -1.0], [0.0, -2.0]], "float32")
    np.testing.assert_array_equal(sinkhorn_codes(fits), [0, 0, 1, 1])


def test_balance_raises_the_cost_of_crowded_codes():
    plain, balanced = residual(levels=1), residual(levels=1, balance=0.1)
    books = np.asarray(plain.codebooks).copy()
    books[:, 4:] *= 3.0
    for quantizer in (plain, balanced):
        quantizer.codebooks.assign(books)
    spread = []
    for quantizer in (plain, balanced):
        for _ in range(25):
            quantizer(VECTORS, training=True)
        spread.append(np.bincount(np.asarray(quantizer(VECTORS).codes)[:, 0], minlength=8).std())
    assert spread[1] < 0.5 * spread[0]
    np.testing.assert_array_equal(plain.offsets, np.zeros((1, 8)))


def test_balance_moves_offsets_by_use_and_mean_cost():
    quantizer = residual(levels=1, balance=0.5)
    book = np.asarray(quantizer.codebooks)[0]
    cost = np.square(VECTORS[:, None] - book).sum(-1).mean()
    assert float(mean_cost(VECTORS, book)) == pytest.approx(cost, rel=1e-4)
    quantizer(VECTORS, training=True)
    expected = 0.5 * (np.asarray(quantizer.usage) - 1) * cost
    np.testing.assert_allclose(quantizer.offsets, expected, rtol=1e-3, atol=1e-5)


def test_linear_codebook_moves_as_a_whole_and_its_basis_not_by_gradient():
    quantizer = residual(codebook="linear")
    loss = CodebookCommitment()
    with tf.GradientTape() as tape:
        out = quantizer(VECTORS[:6], training=True)
        value = loss(out.inputs, out.vectors)
    assert [weight.name for weight in quantizer.trainable_weights] == ["matrix"]
    before = np.asarray(quantizer.codebooks)
    gradient = tape.gradient(value, quantizer.codebook.matrix.value)
    quantizer.codebook.matrix.assign_sub(0.05 * gradient)
    moved = np.abs(np.asarray(quantizer.codebooks) - before).max(-1)
    assert (moved > 0).all(), "codes that nothing was assigned to as well"


def test_linear_revival_solves_for_the_basis_and_refuses_a_singular_matrix():
    quantizer = ProductQuantizer(3, 8, 7, codebook="linear")
    quantizer.initialize(VECTORS)
    rng = np.random.default_rng(0)
    matrix = np.asarray(quantizer.codebook.matrix) + 0.3 * rng.normal(size=(3, 3, 3))
    quantizer.codebook.matrix.assign(matrix)
    wanted = np.asarray(quantizer.codebooks).copy()
    wanted[0, 3, :2] = [5.0, -5.0]
    moved = np.zeros((3, 8), bool)
    moved[0, 3] = True
    quantizer.codebook.move(wanted, moved)
    for level, width in enumerate(quantizer.code_widths):
        found = np.asarray(quantizer.codebooks)[level, :, :width]
        np.testing.assert_allclose(found, wanted[level, :, :width], atol=1e-4)
    quantizer.codebook.matrix.assign(np.zeros((3, 3, 3)))
    quantizer.usage.assign(np.eye(3, 8))
    with pytest.raises(ValueError, match=r"level 1 of codebook='linear' is singular"):
        quantizer.revive()


def test_cosine_codes_ignore_length_and_factored_ones_compare_unit_vectors():
    plain = residual(levels=1, assignment="cosine")
    np.testing.assert_array_equal(plain(VECTORS * 3).codes, plain(VECTORS).codes)
    books = np.asarray(plain.codebooks)[0]
    cosine = VECTORS @ (books / np.linalg.norm(books, axis=-1, keepdims=True)).T
    np.testing.assert_array_equal(plain(VECTORS).codes[:, 0], cosine.argmax(-1))
    factored = residual(assignment="cosine", factor_dim=3)
    out = factored(VECTORS)
    assert out.inputs.shape == (200, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(out.inputs, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(out.vectors, axis=-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("gradient", ["straight_through", "rotation", "gumbel"])
def test_what_is_quantized_trains_the_projection(gradient):
    quantizer = residual(factor_dim=3, gradient=gradient, temperature=0.5)
    at_vectors, at_weights = gradients(quantizer, VECTORS[:6], UPSTREAM, training=True)
    assert np.abs(at_vectors).max() > 0.01
    for name in ("down", "up"):
        size = np.abs(at_weights[name]).max(axis=(1, 2))
        assert (size > 0.01).all(), "at every level"


def test_learned_rotation_stays_orthogonal_and_learns():
    quantizer = ProductQuantizer(3, 8, 7, rotation=True)
    quantizer.initialize(VECTORS)
    optimizer = keras.optimizers.SGD(0.01)
    losses = []
    for _ in range(8):
        with tf.GradientTape() as tape:
            out = quantizer(VECTORS, training=True)
            value = CodebookCommitment()(out.inputs, out.vectors)
        skew = quantizer.rotation.skew
        optimizer.apply_gradients([(tape.gradient(value, skew.value), skew)])
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert np.abs(skew).max() > 1e-3
    matrix = np.asarray(quantizer.rotation.matrix())
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(7), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ResidualQuantizer, {"rotation": True}, "rotation=True changes nothing in a residual"),
        (ResidualQuantizer, {"learning": "sgd"}, r"learning must be one of \['ema', 'gradient'\]"),
        (ResidualQuantizer, {"codebook": "tree"}, r"codebook must be one of \['linear', 'table'\]"),
        (ResidualQuantizer, {"initialization": "pca"}, "initialization must be one of"),
        (
            ResidualQuantizer,
            {"learning": "ema", "codebook": "linear"},
            "learning='ema' excludes codebook='linear': .*; use learning='gradient'",
        ),
        (
            ResidualQuantizer,
            {"learning": "ema", "gradient": "gumbel"},
            "learning='ema' excludes gradient='gumbel'",
        ),
        (
            ResidualQuantizer,
            {"assignment": "sinkhorn", "gradient": "gumbel"},
            "assignment='sinkhorn' excludes gradient='gumbel'",
        ),
        (ResidualQuantizer, {"factor_dim": 8}, r"factor_dim must be in \[1, 7\].* got 8"),
        (ProductQuantizer, {"factor_dim": 3}, r"factor_dim must be in \[1, 2\].* got 3"),
        (ResidualQuantizer, {"factor_dim": 0}, r"factor_dim must be in \[1, 7\].* got 0"),
        (ResidualQuantizer, {"ema_decay": 1.0}, "ema_decay .* got 1.0"),
        (ResidualQuantizer, {"temperature": 0.0}, "temperature must be positive, got 0.0"),
        (ResidualQuantizer, {"balance": -0.1}, "balance must not be negative, got -0.1"),
        (ResidualQuantizer, {"exploration": -1.0}, "exploration must not be negative"),
        (ProductQuantizer, {"levels": 8}, r"levels must be in \[1, dim=7\].* got 8"),
        (GroupedResidualQuantizer, {"groups": 4}, "groups must be at most levels=3, got 4"),
        (GroupedResidualQuantizer, {"groups": 0}, r"groups must be in \[1, dim=7\]"),
        (
            GroupedResidualQuantizer,
            {"groups": 1, "rotation": True},
            "changes nothing with groups=1",
        ),
        (ResidualProductQuantizer, {"residual_levels": 3}, "residual_levels must be in .* got 3"),
        (ResidualProductQuantizer, {"residual_levels": 2}, "changes nothing where one level"),
    ],
)
def test_options_that_contradict_are_refused_with_the_cure(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**{"levels": 3, "codebook_size": 4, "dim": 7, **arguments})
