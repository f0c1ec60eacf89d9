"""Gumbel exploration: codes drawn at random in training, with a soft gradient."""

from typing import Any

import keras
from keras import ops

from sid_tfx.quantizers.gradient import straight_through


def gumbel_noise(shape: Any, generator: keras.random.SeedGenerator) -> Any:
    """Returns standard Gumbel noise, float32 of `shape`."""
    uniform = keras.random.uniform(shape, minval=1e-7, maxval=1.0, seed=generator)
    return -ops.log(-ops.log(uniform))


def soft_vectors(logits: Any, codebook: Any, chosen: Any) -> Any:
    """Returns the chosen code vectors forward and the softmax mixture's gradient backward.

    Args:
        logits: float `[B, K]`; gradients reach what they are made of.
        codebook: float `[K, W]`; gradients reach every code by its probability.
        chosen: The code vectors chosen, float `[B, W]`.

    Reference:
        [Jang et al., 2017, Categorical Reparameterization with Gumbel-Softmax](
        https://arxiv.org/abs/1611.01144), straight-through form
    """
    mixture = ops.matmul(ops.softmax(logits, axis=-1), codebook)
    return straight_through(mixture, chosen)
