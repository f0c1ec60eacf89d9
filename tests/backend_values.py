"""Prints what test_jax_backend.py compares, computed on the backend that KERAS_BACKEND names.

Run in a process of its own: a Keras backend is fixed at import.
"""

import json
import sys
from pathlib import Path

import keras

from tests import embedding_values, loss_values, quantizer_values, tokenizer_values


def values(weights: str | Path) -> dict[str, object]:
    """Returns what losses, layers and a tokenizer give; `weights` are the tokenizer's."""
    return {
        "backend": keras.backend.backend(),
        "clipped step": embedding_values.clipped_step(0.5).tolist(),
        "losses": loss_values.values(),
        "quantizers": quantizer_values.values(),
        "tokenizer": tokenizer_values.values(weights),
    }


if __name__ == "__main__":
    print(json.dumps(values(sys.argv[1])))
