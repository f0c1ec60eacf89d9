"""Writes a servable as a SavedModel."""

import json
import os
from typing import Any

import tensorflow as tf
from tensorflow.io import gfile

from sid_tfx.export.servable import Servable
from sid_tfx.file_list import MANIFEST_FILE, describe_file
from sid_tfx.servable_set_file import LIST_FILE, SERVABLE_SET_FILE, list_servable_set

_FORMAT_VERSION = 1


def signatures(servable: Servable) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Traces every signature of a servable with its fixed wire shapes, batch first."""
    limits = servable.limits

    def spec(name: str, dtype: tf.DType, *shape: int) -> tf.TensorSpec:
        return tf.TensorSpec([None, *shape], dtype, name=name)

    def trace(method: Any, *specs: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
        return tf.function(method, autograph=False).get_concrete_function(*specs)

    history = spec("history", tf.string, limits.max_history)
    examples = spec("examples", tf.string)
    recommend = trace(servable.recommend, history)
    rules = (
        spec("exclude_ad_ids", tf.string, limits.max_exclude),
        spec("filter_seen", tf.bool),
        spec("mode", tf.string),
    )
    further = {}
    if servable.sid_index is not None:
        ad_ids = spec("ad_ids", tf.string)
        further["similar_ads_by_sid"] = trace(servable.similar_ads_by_sid, ad_ids)
    if servable.context:
        further["recommend_in_context"] = trace(
            servable.recommend_in_context,
            history,
            spec("history_timestamps", tf.int64, limits.max_history),
            spec("history_events", tf.string, limits.max_history),
            spec("history_weights", tf.float32, limits.max_history),
            *rules,
        )
    return {
        "serving_default": recommend,
        "recommend": recommend,
        "recommend_filtered": trace(servable.recommend_filtered, history, *rules),
        "encode_ads": trace(servable.encode_ads, examples),
        "similar_ads": trace(servable.similar_ads, spec("ad_ids", tf.string)),
        "similar_to_embedding": trace(
            servable.similar_to_embedding, spec("embedding", tf.float32, servable.embedding_dim)
        ),
        "evaluate": trace(servable.evaluate, examples),
        **further,
    }


def save(
    servable: Servable, path: str | os.PathLike[str], extra: dict[str, Any] | None = None
) -> None:
    """Writes a servable as a SavedModel that TF Serving, sessions and TensorFlow 2 load.

    Beside it, `assets.extra/sid_tfx.json` says what the servable was made from, and lists its files
    with their sizes and checksums (`sid_tfx.file_list`); the servable set has a list of its own.

    Args:
        servable: What to save.
        path: Directory of the SavedModel.
        extra: Further JSON-able entries of that file, e.g. fingerprints of the models.

    Example:

    >>> save(servable, "servable/1")
    >>> loaded = tf.saved_model.load("servable/1")
    >>> loaded.signatures["similar_ads"](ad_ids=tf.constant(["ad-1"]))["ad_ids"]
    """
    path = os.fspath(path)
    tf.saved_model.save(servable, path, signatures=signatures(servable))
    manifest = {
        "format_version": _FORMAT_VERSION,
        "ads": servable.ads.size,
        "levels": servable.levels,
        "embedding_dim": servable.embedding_dim,
        "index": servable.index.kind,
        "sid_index": servable.sid_index.kind if servable.sid_index is not None else None,
        "default_mode": servable.default_mode,
        "limits": servable.limits.to_dict(),
        "context": servable.context.to_dict(),
        "fingerprints": servable.fingerprints,
        "files": saved_files(path),
        **(extra or {}),
    }
    file = os.path.join(path, MANIFEST_FILE)
    gfile.makedirs(os.path.dirname(file))
    with gfile.GFile(file, "w") as out:
        out.write(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    with gfile.GFile(os.path.join(path, SERVABLE_SET_FILE), "rb") as content:
        listed = list_servable_set(content.read())
    with gfile.GFile(os.path.join(path, LIST_FILE), "w") as out:
        out.write(listed)


def saved_files(path: str) -> dict[str, dict[str, int]]:
    """What `describe_file` says of the files of a SavedModel, its servable set aside."""
    found = {}
    for folder, _, names in gfile.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with gfile.GFile(file, "rb") as content:
                found[os.path.relpath(file, path)] = describe_file(content)
    for file in (SERVABLE_SET_FILE, LIST_FILE):
        found.pop(file, None)
    return found


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the file that `save` wrote beside a SavedModel."""
    with gfile.GFile(os.path.join(os.fspath(path), MANIFEST_FILE)) as file:
        return json.loads(file.read())
