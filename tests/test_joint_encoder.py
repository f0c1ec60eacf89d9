import keras
import numpy as np
import pytest

from sid_tfx.encoders import JointEncoder
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue

pytestmark = pytest.mark.unit


def encoder(**arguments):
    return JointEncoder(SCHEMA, SIZES, levels=3, seed=3, **{**SMALL_TOWER, **arguments})


@pytest.fixture(scope="module")
def ads():
    return catalogue(10)


def test_a_vector_column_reaches_the_vector_past_the_transformer(ads):
    layer = encoder(detail_dim=8)
    column = next(iter(SCHEMA.dense))
    assert list(layer.vector_heads) == list(SCHEMA.dense)
    before = layer(ads).vectors
    kernel = layer.vector_heads[column].kernel
    kernel.assign(np.asarray(kernel)[::-1])
    assert np.abs(layer(ads).vectors - before).max() > 1e-2


def test_a_vector_that_is_absent_gives_no_part(ads):
    absent = {**ads, **{column: np.zeros_like(ads[column]) for column in SCHEMA.dense}}
    with_heads, without = encoder(), encoder(vector_length=0.0)
    assert not without.vector_heads
    # The other layers draw the same seeds, because the vector heads come last.
    np.testing.assert_allclose(
        with_heads(absent).vectors, without(absent).vectors, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("length", [0.3, 1.5])
def test_a_vector_is_the_embedding_and_a_detail_on_the_sphere(ads, length):
    layer = encoder(detail_length=length)
    layer.adapt(ads)
    latent = layer(ads)
    coarse, detail = np.split(np.asarray(latent.vectors), [layer.coarse_dim], axis=1)
    np.testing.assert_allclose(np.linalg.norm(latent.vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(coarse, latent.embedding / np.hypot(1, length), rtol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(detail, axis=1) / np.linalg.norm(coarse, axis=1), length, rtol=1e-5
    )


def test_the_config_makes_the_same_encoder(ads):
    layer = encoder(vector_length=0.5)
    again = JointEncoder.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(ads).vectors, layer(ads).vectors)


def test_gradients_reach_every_vector_head_and_not_the_embedding(ads):
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.skip("a tape is TensorFlow's")
    layer = encoder()
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(ads).vectors ** 3)
    kernels = [head.kernel.value for head in layer.vector_heads.values()]
    *to_heads, to_embedding = tape.gradient(loss, [*kernels, layer.embedding_head.kernel.value])
    assert all(np.abs(gradient).max() > 0 for gradient in to_heads)
    assert to_embedding is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vector_length": -1.0}, "vector_length must not be negative, got -1"),
        ({"detail_length": 0.0}, "detail_length must be above 0, got 0"),
    ],
)
def test_lengths_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder(**arguments)
