"""Every pairwise loss and the size of its gradient on the backend in use."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx import losses


def gradient_of(function: Callable[[Any], Any], at: np.ndarray) -> tuple[float, float]:
    """Returns a loss and the norm of its gradient, compiled."""
    if keras.backend.backend() == "jax":
        import jax

        value, gradient = jax.jit(jax.value_and_grad(function))(at)
    else:
        import tensorflow as tf

        variable = tf.Variable(at)
        with tf.GradientTape() as tape:
            value = function(variable)
        gradient = tape.gradient(value, variable)
    return float(value), float(np.linalg.norm(ops.convert_to_numpy(gradient)))


def values() -> dict[str, tuple[float, float]]:
    """Returns loss name -> value and gradient norm on fixed inputs."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 6)).astype("float32")
    # An ad without its vector: `ops.normalize` would give it NaN on JAX, 1e7 on TensorFlow.
    z[7] = 0.0
    books = rng.normal(size=(3, 8, 6)).astype("float32")
    levels = rng.normal(size=(40, 3, 6)).astype("float32")
    codes, near = (rng.integers(0, high, (40, 3)).astype("int32") for high in (500, 8))
    codes[:6, :2] = codes[20, :2]
    ad_row = rng.integers(0, 30, 40).astype("int32")
    collaborative = (rng.normal(size=(40, 4)) * (ad_row % 3 > 0)[:, None]).astype("float32")
    category = rng.integers(0, 4, (40, 2)).astype("int32")
    labels = losses.granularity_labels(category, 3, rng.integers(0, 3, 40), ad_row)
    repulsion = losses.HammingMarginRepulsion()
    diversity = losses.CodeDiversity(3, 8, clusters=3)
    diversity.refresh(books)
    alignment = losses.CollaborativeAlignment(6, 4)
    alignment.projection.kernel.assign(rng.normal(size=(6, 4)))
    granularity = losses.MultiGranularityContrastive()
    tower = losses.DualTowerContrastive()
    escape = losses.CollisionEscape()
    fits = rng.normal(size=(40, 8)).astype("float32")
    return {
        "repulsion of few": gradient_of(lambda x: repulsion(x, codes, ad_row), z),
        "repulsion of most": gradient_of(lambda x: repulsion(x, near, ad_row), z),
        "diversity": gradient_of(lambda x: diversity(x, near), books),
        "alignment": gradient_of(lambda x: alignment(x, collaborative, ad_row), z),
        "granularity": gradient_of(lambda x: granularity(x, labels), levels),
        "escape": gradient_of(lambda x: escape(x, near[:, 0] - 1), fits),
        "dual tower": gradient_of(lambda x: tower(x, ad_row), z),
    }
