"""Serves the candidates, asks them, and writes one verdict over the whole run."""

import os
import time
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.anomalies import read_anomalies
from components.artifacts import set_summary
from components.serving_validator.requests import WARMUP_FILE, RequestMaker, read_signatures
from components.verdict import Check, Verdict, read_verdict, write_verdict
from serving.server import ModelServer
from sid_tfx.datasets.records import Sequences, read_sequences

MODEL_NAME = "sid_tfx"
_FLAVOURS = ("portable", "scann")
_SAMPLE = 256


class Executor(base_executor.BaseExecutor):
    """Validates both flavours and emits an InfraBlessing for each."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Stamps, serves and asks each candidate; writes verdicts."""
        self._log_startup(input_dict, output_dict, exec_properties)
        inputs = {
            key: artifact_utils.get_single_instance(value) for key, value in input_dict.items()
        }
        earlier = _earlier_gates(inputs)
        users = _users(inputs["sequences"])
        ads = _records(inputs["ads"], "all")
        blessings = {
            flavour: artifact_utils.get_single_instance(output_dict[f"{flavour}_blessing"])
            for flavour in _FLAVOURS
        }
        served: list[Check] = []
        summaries = {}
        for flavour, blessing in blessings.items():
            stamped = path_utils.stamped_model_path(blessing.uri)
            io_utils.copy_dir(path_utils.serving_model_path(inputs[flavour].uri), stamped)
            maker = RequestMaker(
                read_signatures(stamped),
                _lists(users.histories),
                ads,
                context={
                    "history_timestamps": _lists(users.timestamps),
                    "history_events": _lists(users.events),
                    "history_weights": _lists(users.weights),
                },
            )
            warmup = os.path.join(stamped, *WARMUP_FILE)
            fileio.makedirs(os.path.dirname(warmup))
            records = maker.write_warmup(warmup, MODEL_NAME)
            checks, p95 = _serve(stamped, maker, exec_properties, self._get_tmp_dir(), flavour)
            served += checks
            summaries[flavour] = (
                f"{exec_properties['requests']} real requests, p95 {p95:.1f} ms, "
                f"{records} warm-up records"
            )
        # One verdict for both: each Pusher reads its own flavour's blessing, and a run that is
        # refused must push neither.
        for flavour, blessing in blessings.items():
            verdict = write_verdict(blessing.uri, "ServingValidator", [*earlier, *served])
            _mark(blessing, verdict)
            outcome = "blessed" if verdict.blessed else f"NOT blessed: {verdict.refusal()}"
            set_summary(blessing, f"{outcome}; {summaries[flavour]}")


def _serve(
    stamped: str, maker: RequestMaker, limits: dict[str, Any], scratch: str, flavour: str
) -> tuple[list[Check], float]:
    """Starts the model server on one version and sends requests through every signature."""
    base = os.path.join(scratch, flavour, MODEL_NAME)
    io_utils.copy_dir(stamped, os.path.join(base, "1"))
    started = time.monotonic()
    with ModelServer(MODEL_NAME, base, port=0) as server:
        try:
            server.wait_until_available(limits["load_seconds"])
        except Exception as error:
            return [
                _check(
                    f"{flavour}_load_seconds",
                    np.inf,
                    limits["load_seconds"],
                    "most",
                    f"the {flavour} servable did not load ({error}): seconds to load",
                )
            ], np.inf
        load_seconds = time.monotonic() - started
        with grpc.insecure_channel(f"localhost:{server.port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            failed = _ask_every_signature(stub, maker)
            latencies, answered = _ask_recommend(stub, maker, limits["requests"])
    p95 = float(np.percentile(latencies, 95)) if latencies else np.inf
    return [
        _check(
            f"{flavour}_load_seconds",
            load_seconds,
            limits["load_seconds"],
            "most",
            f"the seconds the {flavour} servable took to become AVAILABLE",
        ),
        _check(
            f"{flavour}_failed_signatures",
            len(failed),
            0,
            "most",
            f"the number of failing signatures of the {flavour} servable {failed or ''}".strip(),
        ),
        _check(
            f"{flavour}_answered_share",
            answered,
            1.0,
            "least",
            f"the share of real histories the {flavour} servable recommends something for",
        ),
        _check(
            f"{flavour}_p95_ms",
            p95,
            limits["max_p95_ms"],
            "most",
            f"the p95 milliseconds of recommend on the {flavour} servable",
        ),
    ], p95


def _ask_every_signature(
    stub: prediction_service_pb2_grpc.PredictionServiceStub, maker: RequestMaker
) -> list[str]:
    failed = []
    for signature in sorted(maker.signatures):
        for batch in (1, 3):
            try:
                response = stub.Predict(maker.request(MODEL_NAME, signature, 0, batch), timeout=60)
            except grpc.RpcError as error:
                failed.append(f"{signature}: {error.code().name}: {error.details()}")
                break
            sizes = {output.tensor_shape.dim[0].size for output in response.outputs.values()}
            if sizes != {batch}:
                failed.append(f"{signature}: {batch} rows in, {sorted(sizes)} out")
                break
    return failed


def _ask_recommend(
    stub: prediction_service_pb2_grpc.PredictionServiceStub, maker: RequestMaker, requests: int
) -> tuple[list[float], float]:
    """Returns the milliseconds of the calls that came back, and the share that found something."""
    latencies, answered = [], 0
    for first in range(requests):
        request = maker.request(MODEL_NAME, "recommend", first, 1)
        begin = time.perf_counter()
        try:
            response = stub.Predict(request, timeout=60)
        except grpc.RpcError:
            # A bad servable must not break the verdict, and one that hangs must not hang it: the
            # requests that are left count as not answered. `_ask_every_signature` tells why.
            break
        latencies.append(1000 * (time.perf_counter() - begin))
        answered += int(tf.make_ndarray(response.outputs["count"])[0] > 0)
    return latencies, answered / requests


def _earlier_gates(inputs: dict[str, types.Artifact]) -> list[Check]:
    """Every other gate's outcome as checks of this one, so that one file tells the whole story."""
    checks: list[Check] = []
    for key in ("sid_blessing", "index_blessing"):
        checks += read_verdict(inputs[key].uri).checks
    blessed = model_utils.is_model_blessed(inputs["model_blessing"])
    validation = tfma.load_validation_result(inputs["evaluation"].uri)
    failures = [
        f"{failure.metric_key.name}: {failure.message}"
        for slice_result in validation.metric_validations_per_slice
        for failure in slice_result.failures
    ]
    checks.append(
        _check(
            "model_blessed",
            float(blessed),
            1.0,
            "least",
            f"the Evaluator's blessing {'; '.join(failures)}".strip(),
        )
    )
    for key in ("ads_anomalies", "events_anomalies"):
        found = read_anomalies(inputs[key])
        checks.append(
            _check(
                key,
                len(found),
                0,
                "most",
                f"the number of columns with {key.replace('_', ' ')} {found or ''}".strip(),
            )
        )
    return checks


def _check(name: str, value: float, limit: float, bound: str, words: str) -> Check:
    ok = value <= limit if bound == "most" else value >= limit
    sentence = f"{words} is {value:.4g}, the limit is at {bound} {limit:.4g}"
    return Check(name=name, value=float(value), limit=float(limit), ok=ok, sentence=sentence)


def _users(artifact: types.Artifact) -> Sequences:
    for split in ("test", "validation", "train"):
        pattern = os.path.join(artifact_utils.get_split_uri([artifact], split), "*")
        found = read_sequences(pattern)
        chosen = [row for row, history in enumerate(found.histories) if len(history) > 1]
        if chosen:
            return found.users(chosen[:_SAMPLE])
    raise ValueError("no user has a history of two ads or more; there is nothing to ask with")


def _lists(arrays: list[np.ndarray]) -> list[list[Any]]:
    return [array.tolist() for array in arrays]


def _records(artifact: types.Artifact, split: str) -> list[bytes]:
    pattern = os.path.join(artifact_utils.get_split_uri([artifact], split), "*")
    files = sorted(tf.io.gfile.glob(pattern))
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").take(_SAMPLE)
    return list(dataset.as_numpy_iterator())


def _mark(blessing: types.Artifact, verdict: Verdict) -> None:
    """Writes what stock Pusher looks for (see TFX's infra_validator executor)."""
    name = "INFRA_BLESSED" if verdict.blessed else "INFRA_NOT_BLESSED"
    io_utils.write_string_file(os.path.join(blessing.uri, name), "")
    blessing.set_int_custom_property("blessed", int(verdict.blessed))
    blessing.set_int_custom_property("has_model", 1)
