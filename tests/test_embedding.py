import numpy as np
import pytest
from keras import ops

from sid_tfx.embedding import DenseGradientEmbedding
from sid_tfx.transformer import SeededLayers
from tests.embedding_values import IDS, clipped_step

pytestmark = pytest.mark.unit


def test_the_norm_that_is_clipped_is_that_of_the_summed_gradient():
    gradient = np.zeros([4, 2])
    np.add.at(gradient, IDS[0], 1.0)
    np.testing.assert_allclose(clipped_step(100.0), -gradient)
    np.testing.assert_allclose(clipped_step(0.5), -0.5 * gradient / np.linalg.norm(gradient))


def test_it_looks_up_what_keras_does_and_survives_its_config():
    layer = SeededLayers(3).embedding(10, 4, name="words")
    assert isinstance(layer, DenseGradientEmbedding)
    vectors = ops.convert_to_numpy(layer(IDS))
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer.embeddings)[IDS])
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer(IDS, training=True)))
    again = DenseGradientEmbedding.from_config(layer.get_config())
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(again(IDS)))
