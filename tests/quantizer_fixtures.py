"""Quantizers of every structure with every option, and data for them."""

import functools
from typing import Any

import keras
import numpy as np

from sid_tfx.quantizers import QUANTIZERS, Quantizer

_RNG = np.random.default_rng(5)
VECTORS = (_RNG.normal(size=(200, 7)) @ _RNG.normal(size=(7, 7)) * 0.4).astype("float32")

VECTOR_CASES: list[tuple[str, dict[str, Any]]] = [
    ("residual", {}),
    ("residual", {"assignment": "cosine"}),
    ("residual", {"assignment": "cosine", "initialization": "balanced_kmeans"}),
    ("residual", {"coarse_dim": 4, "initialization": "balanced_kmeans"}),
    ("residual", {"assignment": "sinkhorn", "gradient": "rotation"}),
    ("residual", {"gradient": "gumbel", "temperature": 0.1}),
    ("residual", {"learning": "ema", "initialization": "balanced_kmeans"}),
    ("residual", {"codebook": "linear", "balance": 0.1}),
    ("residual", {"factor_dim": 3, "assignment": "cosine"}),
    ("residual", {"factor_dim": 3, "gradient": "gumbel", "codebook": "linear"}),
    ("residual", {"initialization": "random"}),
    ("product", {}),
    ("product", {"rotation": True, "learning": "ema", "assignment": "cosine"}),
    ("product", {"factor_dim": 2, "gradient": "rotation"}),
    ("grouped", {"codebook": "linear", "assignment": "sinkhorn"}),
    ("grouped", {"groups": 3, "initialization": "balanced_kmeans", "assignment": "cosine"}),
    ("residual_product", {"gradient": "rotation"}),
    ("residual_product", {"residual_levels": 2, "rotation": False, "gradient": "gumbel"}),
]

# Each option once: every operation costs JAX a compilation.
JAX_CASES: list[tuple[str, dict[str, Any]]] = [
    ("residual", {"assignment": "sinkhorn", "gradient": "rotation", "balance": 0.1}),
    ("residual", {"assignment": "cosine", "factor_dim": 3, "gradient": "gumbel"}),
    ("grouped", {"learning": "ema"}),
    ("residual_product", {"codebook": "linear"}),
]


def new_case(name: str, options: dict[str, Any], seed: int = 0) -> Quantizer:
    """Returns a quantizer of three levels, or four where two are residual, not fitted."""
    levels = 4 if options.get("residual_levels") == 2 else 3
    return QUANTIZERS[name](levels, 8, VECTORS.shape[1], seed=seed, **options)


def fitted_case(name: str, options: dict[str, Any]) -> Quantizer:
    """Returns a quantizer fitted to VECTORS, by weights of a fit made once for each case."""
    quantizer = new_case(name, options)
    quantizer.set_weights(_fitted_weights(name, tuple(options.items())))
    return quantizer


@functools.cache
def _fitted_weights(name: str, options: tuple[tuple[str, Any], ...]) -> list[np.ndarray]:
    quantizer = new_case(name, dict(options))
    quantizer.initialize(VECTORS)
    return quantizer.get_weights()


def model_around(quantizer, width):
    """Returns a functional model of the quantizer alone."""
    inputs = keras.Input((width,))
    return keras.Model(inputs, list(quantizer(inputs)))
