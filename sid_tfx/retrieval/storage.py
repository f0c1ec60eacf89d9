"""An index on disk: `index.json` and one file a tensor."""

import json
import os

import numpy as np
import tensorflow as tf
from tensorflow.io import gfile

from sid_tfx.retrieval.brute_force import BruteForce
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.topk import TopK

_CONFIG_FILE = "index.json"
_KINDS: dict[str, type[TopK]] = {kind.kind: kind for kind in (BruteForce, Partitioned, ScaNN)}


def save_index(index: TopK, path: str) -> None:
    """Writes an index into a directory, made if absent.

    Args:
        index: An index that was built.
        path: The directory.
    """
    gfile.makedirs(path)
    tensors = {"identifiers": tf.convert_to_tensor(index.identifiers), **index.state()}
    for name, tensor in tensors.items():
        _write(os.path.join(path, name), tensor)
    config = {
        "kind": index.kind,
        "config": index.get_config(),
        "tensors": {name: tensor.dtype.name for name, tensor in tensors.items()},
    }
    # Written last: a directory without it is an index that was never finished.
    with gfile.GFile(os.path.join(path, _CONFIG_FILE), "w") as file:
        file.write(json.dumps(config, indent=2) + "\n")


def load_index(path: str) -> TopK:
    """Reads the index that `save_index` left in a directory.

    Args:
        path: The directory.

    Returns:
        The index, ready to search; ScaNN comes back as it was trained.

    Raises:
        ValueError: if the index is of an unknown kind.
    """
    with gfile.GFile(os.path.join(path, _CONFIG_FILE)) as file:
        stored = json.loads(file.read())
    if stored["kind"] not in _KINDS:
        raise ValueError(f"{path}: kind must be one of {sorted(_KINDS)}, got '{stored['kind']}'")
    index = _KINDS[stored["kind"]](**stored["config"])
    tensors = {
        name: _read(os.path.join(path, name), dtype) for name, dtype in stored["tensors"].items()
    }
    index.set_identifiers(tensors.pop("identifiers"))
    index.restore(tensors)
    return index


def _write(path: str, tensor: tf.Tensor) -> None:
    if tensor.dtype == tf.string:
        # NumPy would drop trailing zero bytes, and ScaNN's configuration is binary.
        with gfile.GFile(path, "wb") as file:
            file.write(tf.io.serialize_tensor(tensor).numpy())
    else:
        with gfile.GFile(path, "wb") as file:
            np.save(file, tensor.numpy())


def _read(path: str, dtype: str) -> tf.Tensor:
    with gfile.GFile(path, "rb") as file:
        if dtype == "string":
            return tf.io.parse_tensor(file.read(), tf.string)
        return tf.convert_to_tensor(np.load(file))
