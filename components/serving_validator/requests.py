"""Real requests for every signature of a servable, made from the run's own data."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tfx.dsl.io import fileio

WARMUP_FILE = ("assets.extra", "tf_serving_warmup_requests")
# One row and a batch: TensorFlow specializes kernels and allocations by shape.
WARMUP_BATCHES = (1, 8)

Signatures = dict[str, dict[str, tuple[int, ...]]]

_CONTEXT = {"history_timestamps": np.int64, "history_events": object, "history_weights": np.float32}


def read_signatures(model_dir: str) -> Signatures:
    """Reads a SavedModel's signatures: name -> input -> shape, -1 for the batch."""
    saved_model = saved_model_pb2.SavedModel()
    with fileio.open(os.path.join(model_dir, "saved_model.pb"), "rb") as file:
        saved_model.ParseFromString(file.read())
    return {
        name: {
            key: tuple(dim.size for dim in info.tensor_shape.dim)
            for key, info in signature.inputs.items()
        }
        for name, signature in saved_model.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }


class RequestMaker:
    """Makes `PredictRequest`s of real histories and real ads in the servable's wire shapes.

    Args:
        signatures: What the servable takes.
        histories: Users' histories, ad ids oldest first; at least one.
        ads: Serialized raw ads; at least one.
        seed: Chooses the embeddings sent to `similar_to_embedding`.
        context: By input of `recommend_in_context` a row of values for each history; an input
            without one is asked with unknown values.
    """

    def __init__(
        self,
        signatures: Signatures,
        histories: Sequence[Sequence[str]],
        ads: Sequence[bytes],
        seed: int = 0,
        context: Mapping[str, Sequence[Sequence[Any]]] | None = None,
    ):
        self.signatures = signatures
        self._histories = list(histories)
        self._context = context or {}
        self._ads = list(ads)
        self._random = np.random.default_rng(seed)
        self._evaluate = [_evaluation_example(history) for history in self._histories]

    def inputs(self, signature: str, first: int, batch: int) -> dict[str, np.ndarray]:
        """Returns the inputs of one call, rows taken from the data from `first` on.

        Raises:
            ValueError: The servable has an input that the wire contract does not know.
        """
        rows = range(first, first + batch)
        return {
            key: self._value(signature, key, shape, rows)
            for key, shape in self.signatures[signature].items()
        }

    def request(
        self, model_name: str, signature: str, first: int, batch: int
    ) -> predict_pb2.PredictRequest:
        """Returns one request as it goes over the wire."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model_name
        request.model_spec.signature_name = signature
        for key, value in self.inputs(signature, first, batch).items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        return request

    def write_warmup(self, path: str, model_name: str) -> int:
        """Writes TF Serving's warm-up file, every signature at every warm-up batch size.

        Returns:
            The number of records.
        """
        combinations = list(itertools.product(sorted(self.signatures), WARMUP_BATCHES))
        with tf.io.TFRecordWriter(path) as writer:
            for signature, batch in combinations:
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(
                        request=self.request(model_name, signature, 0, batch)
                    )
                )
                writer.write(log.SerializeToString())
        return len(combinations)

    def _value(self, signature: str, key: str, shape: tuple[int, ...], rows: range) -> np.ndarray:
        histories = [self._histories[row % len(self._histories)] for row in rows]
        if key == "history":
            return _padded(histories, shape[1])
        if key in _CONTEXT:
            known = self._context.get(key) or [[]]
            return _block([known[row % len(known)] for row in rows], shape[1], _CONTEXT[key])
        if key == "exclude_ad_ids":
            return _padded([history[:1] for history in histories], shape[1])
        if key == "filter_seen":
            return np.array([row % 2 == 0 for row in rows])
        if key == "mode":
            modes = (b"generative", b"hybrid")
            return np.array([modes[row % 2] for row in rows], dtype=object)
        if key == "ad_ids":
            return np.array([history[-1].encode() for history in histories], dtype=object)
        if key == "embedding":
            vectors = self._random.normal(size=(len(rows), shape[1])).astype(np.float32)
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        if key == "examples":
            source = self._evaluate if signature == "evaluate" else self._ads
            return np.array([source[row % len(source)] for row in rows], dtype=object)
        raise ValueError(f"signature {signature!r} has an input {key!r} outside the wire contract")


def _padded(histories: Sequence[Sequence[str]], width: int) -> np.ndarray:
    return _block(histories, width, object)


def _block(rows: Sequence[Sequence[Any]], width: int, dtype: type) -> np.ndarray:
    """The newest `width` values of each row; "" as bytes or 0 after them."""
    block: np.ndarray = np.full((len(rows), width), b"" if dtype is object else 0, dtype)
    for place, row in enumerate(rows):
        newest = [value.encode() if isinstance(value, str) else value for value in row[-width:]]
        block[place, : len(newest)] = newest
    return block


def _evaluation_example(history: Sequence[str]) -> bytes:
    def feature(values: Sequence[str]) -> tf.train.Feature:
        return tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[value.encode() for value in values])
        )

    features = {"history": feature(history[:-1]), "target": feature(history[-1:])}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
