"""Quantizers of every structure with every option, and data for them."""

import keras
import numpy as np

from sid_tfx.quantizers import QUANTIZERS

_RNG = np.random.default_rng(5)
VECTORS = (_RNG.normal(size=(200, 7)) @ _RNG.normal(size=(7, 7)) * 0.4).astype("float32")

VECTOR_CASES = [
    ("residual", {}),
    ("residual", {"assignment": "cosine"}),
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
JAX_CASES = [
    ("residual", {"assignment": "sinkhorn", "gradient": "rotation", "balance": 0.1}),
    ("residual", {"assignment": "cosine", "factor_dim": 3, "gradient": "gumbel"}),
    ("grouped", {"learning": "ema"}),
    ("residual_product", {"codebook": "linear"}),
]


def fitted_case(name, options, levels=3, size=8, seed=0):
    """Returns a quantizer fitted to VECTORS."""
    if name == "residual_product" and options.get("residual_levels") == 2:
        levels = 4
    quantizer = QUANTIZERS[name](levels, size, VECTORS.shape[1], seed=seed, **options)
    quantizer.initialize(VECTORS, seed)
    return quantizer


def model_around(quantizer, width):
    """Returns a functional model of the quantizer alone."""
    inputs = keras.Input((width,))
    return keras.Model(inputs, list(quantizer(inputs)))
