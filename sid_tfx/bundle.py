"""A trained model on disk: `model.keras` beside a `metadata.json` that says what it is."""

import json
import os
from typing import Any

import keras
import tensorflow as tf

from sid_tfx.fingerprint import fingerprint

MODEL_FILE = "model.keras"
METADATA_FILE = "metadata.json"


def save_bundle(model: keras.Model, directory: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Writes a model and its metadata; the metadata last, so that it vouches for the model.

    Args:
        model: A built Keras model of this package.
        directory: Made if absent; a local folder or a bucket.
        metadata: JSON-able. `fingerprint` is added.

    Returns:
        The metadata as written.
    """
    tf.io.gfile.makedirs(directory)
    model.save(os.path.join(directory, MODEL_FILE))
    written = {**metadata, "fingerprint": fingerprint(model)}
    with tf.io.gfile.GFile(os.path.join(directory, METADATA_FILE), "w") as file:
        file.write(json.dumps(written, indent=2, sort_keys=True) + "\n")
    return written


def read_metadata(directory: str) -> dict[str, Any]:
    """Reads the metadata of a bundle.

    Raises:
        tf.errors.NotFoundError: The directory holds no finished bundle.
    """
    with tf.io.gfile.GFile(os.path.join(directory, METADATA_FILE)) as file:
        return json.loads(file.read())


def load_bundle(directory: str) -> tuple[keras.Model, dict[str, Any]]:
    """Loads a model and checks that its weights are those the metadata vouches for.

    Raises:
        ValueError: The weights are not those that were saved with the metadata.
    """
    # Registers the classes that the file names.
    import sid_tfx.recommender
    import sid_tfx.tokenizer  # noqa: F401

    metadata = read_metadata(directory)
    model = keras.saving.load_model(os.path.join(directory, MODEL_FILE), compile=False)
    found = fingerprint(model)
    if found != metadata["fingerprint"]:
        raise ValueError(
            f"{directory}: model.keras has fingerprint {found}, metadata.json says "
            f"{metadata['fingerprint']}; the two files are not of one training run."
        )
    return model, metadata
