import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from sid_tfx.embedding import DenseGradientEmbedding
from sid_tfx.transformer import SeededLayers

pytestmark = pytest.mark.unit

IDS = np.array([[1, 1, 1, 2]])


def clipped_step(clip: float) -> np.ndarray:
    """Returns how a step on the sum of the vectors of IDS moves the table."""
    model = keras.Sequential([DenseGradientEmbedding(4, 2, embeddings_initializer="zeros")])
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=clip)
    model.compile(optimizer, loss=lambda _, y: ops.sum(y, axis=(1, 2)), jit_compile=False)
    model.fit(IDS, np.zeros(1), verbose=0)
    return ops.convert_to_numpy(model.layers[0].embeddings)


def test_the_norm_that_is_clipped_is_that_of_the_summed_gradient():
    gradient = np.zeros([4, 2])
    np.add.at(gradient, IDS[0], 1.0)
    np.testing.assert_allclose(clipped_step(100.0), -gradient)
    np.testing.assert_allclose(clipped_step(0.5), -0.5 * gradient / np.linalg.norm(gradient))


def test_jax_clips_alike():
    pytest.importorskip("jax")
    code = "from tests.test_embedding import *; print(json.dumps(clipped_step(0.5).tolist()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), clipped_step(0.5))


def test_it_looks_up_what_keras_does_and_survives_its_config():
    layer = SeededLayers(3).embedding(10, 4, name="words")
    assert isinstance(layer, DenseGradientEmbedding)
    vectors = ops.convert_to_numpy(layer(IDS))
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer.embeddings)[IDS])
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer(IDS, training=True)))
    again = DenseGradientEmbedding.from_config(layer.get_config())
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(again(IDS)))
