"""Trains a tokenizer two steps on the backend that KERAS_BACKEND names; prints its losses.

Run by test_jax_backend.py in a process of its own: a Keras backend is fixed at import.
"""

import json
import sys

import keras
import numpy as np

import sid_tfx  # noqa: F401
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, SMALL, SMALL_ENCODER, catalogue, pairs


def two_steps(weights_path: str) -> dict[str, object]:
    """Trains two steps from given weights; returns losses and codes.

    Plain SGD: Adam's first step is the sign of the gradient, also where that is rounding noise.
    """
    features = catalogue(200)
    model = SidTokenizer(SCHEMA, SIZES, **SMALL, **SMALL_ENCODER, dropout=0.0, field_dropout=0.0)
    with np.load(weights_path) as weights:
        model.set_weights([weights[name] for name in weights.files])
    model.compile(keras.optimizers.SGD(0.05))
    data = PairBatches(features, pairs(features, 100), batch_size=64)
    steps = [model.train_on_batch(data[step][0], return_dict=True) for step in range(2)]
    history = model.fit(data, epochs=2, verbose=0).history
    return {
        "backend": keras.backend.backend(),
        "steps": [{name: float(value) for name, value in logs.items()} for logs in steps],
        "fit": history["loss"],
        "distinct": history["distinct_sids"],
        "codes_shape": list(model.encode(features)["codes"].shape),
    }


if __name__ == "__main__":
    print(json.dumps(two_steps(sys.argv[1])))
