"""Runs the recorded requests of `assets.extra/tf_serving_warmup_requests` on a fresh servable.

So that the first user of a version does not pay for graph optimization and allocation, and so
that a version which cannot answer its own recorded requests never serves.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import ServingError, from_exception, invalid_argument
from serving.predict import predict
from serving.servable import Runnable

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# TF Serving's own bound.
MAX_RECORDS = 1000


def warm_up(servable: Runnable) -> int:
    """Runs every record of the servable's warm-up file, if it has one.

    Returns:
        The number of records run.

    Raises:
        ServingError: a record that does not parse, is of another API than Predict, or fails.
    """
    path = servable.path / WARMUP_FILE
    if not path.is_file():
        return 0
    count = 0
    try:
        for count, record in enumerate(
            tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1
        ):
            if count > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
            _run(servable, record)
    except (ServingError, tf.errors.OpError, DecodeError) as error:
        cause = from_exception(error)
        raise ServingError(
            cause.code, f"Warmup record {count} of {path}: {cause.message}"
        ) from error
    return count


def _run(servable: Runnable, record: bytes) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise invalid_argument("Failed to parse warmup record") from error
    kind = log.WhichOneof("log_type")
    if kind != "predict_log":
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}"
        )
    predict(servable, log.predict_log.request)
