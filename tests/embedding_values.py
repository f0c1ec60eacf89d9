"""A step with a clipped gradient of an embedding, on the backend in use."""

import keras
import numpy as np
from keras import ops

from sid_tfx.embedding import DenseGradientEmbedding

IDS = np.array([[1, 1, 1, 2]])


def clipped_step(clip: float) -> np.ndarray:
    """Returns how a step on the sum of the vectors of IDS moves the table."""
    model = keras.Sequential([DenseGradientEmbedding(4, 2, embeddings_initializer="zeros")])
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=clip)
    model.compile(optimizer, loss=lambda _, y: ops.sum(y, axis=(1, 2)), jit_compile=False)
    model.fit(IDS, np.zeros(1), verbose=0)
    return ops.convert_to_numpy(model.layers[0].embeddings)
