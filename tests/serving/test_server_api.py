"""The gRPC surface on one version: answers, and TF Serving's words for bad requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ServingError
from serving.server import ModelServer
from serving.signature_checks import check_predict
from tests.serving.stubs import Stubs, refused

pytestmark = pytest.mark.unit

Request = Callable[..., predict_pb2.PredictRequest]


def arrays(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    return {alias: tf.make_ndarray(proto) for alias, proto in response.outputs.items()}


def example(**features: tf.train.Feature) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def byte_feature(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


SIGNATURE_INPUTS = {
    "recommend": {"history": np.array([[b"ad01"] + [b""] * 4] * 2, dtype=object)},
    "recommend_filtered": {
        "history": np.array([[b"ad01"] + [b""] * 4] * 2, dtype=object),
        "exclude_ad_ids": np.array([[b"ad13", b"", b""]] * 2, dtype=object),
        "filter_seen": np.array([True, False]),
        "mode": np.array([b"generative", b"hybrid"], dtype=object),
    },
    "encode_ads": {"examples": np.array([example(title=byte_feature(b"abc"))] * 2, dtype=object)},
    "similar_ads": {"ad_ids": np.array([b"ad01", b"ad07"], dtype=object)},
    "similar_to_embedding": {"embedding": np.eye(8, dtype=np.float32)[:2]},
    "evaluate": {
        "examples": np.array(
            [example(history=byte_feature(b"ad01"), target=byte_feature(b"ad01"))] * 2, dtype=object
        )
    },
}


@pytest.mark.parametrize("signature", SIGNATURE_INPUTS)
def test_every_signature_answers_as_the_loaded_model_does(
    stubs, toys: dict[int, Path], request_for: Request, signature: str
) -> None:
    inputs = SIGNATURE_INPUTS[signature]
    response = stubs.prediction.Predict(request_for(signature, **inputs))
    loaded = tf.saved_model.load(str(toys[1]))
    expected = loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
    got = arrays(response)
    assert set(got) == set(expected)
    for alias, value in expected.items():
        np.testing.assert_array_equal(got[alias], value.numpy(), err_msg=alias)
        assert got[alias].dtype == value.numpy().dtype


def test_empty_signature_name_is_serving_default_and_the_spec_is_echoed(
    stubs, request_for: Request, history: np.ndarray
) -> None:
    response = stubs.prediction.Predict(request_for("", history=history))
    assert response.model_spec.name == "sid_tfx"
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == 1


def test_a_specific_version_answers(stubs, request_for: Request, history: np.ndarray) -> None:
    request = request_for("recommend", history=history)
    request.model_spec.version.value = 1
    assert stubs.prediction.Predict(request).model_spec.version.value == 1


def test_output_filter_picks_outputs(stubs, request_for: Request, history: np.ndarray) -> None:
    request = request_for("recommend", history=history)
    everything = arrays(stubs.prediction.Predict(request))
    request.output_filter.extend(["scores", "count"])
    filtered = arrays(stubs.prediction.Predict(request))
    assert set(filtered) == {"scores", "count"}
    for alias, value in filtered.items():
        np.testing.assert_array_equal(value, everything[alias])


def test_answers_use_typed_fields_as_tf_serving_does(
    stubs, request_for: Request, history: np.ndarray
) -> None:
    outputs = stubs.prediction.Predict(request_for("recommend", history=history)).outputs
    assert len(outputs["scores"].float_val) == 4
    assert len(outputs["sids"].int_val) == 12
    assert len(outputs["ad_ids"].string_val) == 4


def test_tensor_content_and_repeated_values_are_understood(stubs, request_for: Request) -> None:
    content = request_for("similar_to_embedding")
    embedding = np.full([1, 8], 0.5, np.float32)
    content.inputs["embedding"].CopyFrom(tf.make_tensor_proto(embedding))
    assert content.inputs["embedding"].tensor_content
    repeated = request_for("similar_to_embedding")
    proto = repeated.inputs["embedding"]
    proto.dtype = tf.float32.as_datatype_enum
    proto.tensor_shape.dim.add(size=1)
    proto.tensor_shape.dim.add(size=8)
    proto.float_val.append(0.5)
    first, second = (arrays(stubs.prediction.Predict(one)) for one in (content, repeated))
    np.testing.assert_array_equal(first["ad_ids"], second["ad_ids"])


def text_request(text: str) -> predict_pb2.PredictRequest:
    return text_format.Parse(text, predict_pb2.PredictRequest())


HISTORY = (
    'inputs {{ key: "{name}" value {{ dtype: {dtype} '
    "tensor_shape {{ dim {{ size: {rows} }} dim {{ size: {columns} }} }} {values} }} }}"
)


def history_input(
    name: str = "history",
    dtype: str = "DT_STRING",
    rows: int = 1,
    columns: int = 5,
    values: str = 'string_val: "ad01"',
) -> str:
    return HISTORY.format(name=name, dtype=dtype, rows=rows, columns=columns, values=values)


SPEC = 'model_spec { name: "sid_tfx" signature_name: "recommend" } '
INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_REQUESTS = {
    "no spec": (history_input(), INVALID, "Missing ModelSpec"),
    "no name": ('model_spec { signature_name: "x" }', INVALID, "ModelSpec has no name specified."),
    "unknown model": (
        'model_spec { name: "other" } ' + history_input(),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(other)",
    ),
    "unknown version": (
        'model_spec { name: "sid_tfx" version { value: 7 } } ' + history_input(),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(sid_tfx, 7)",
    ),
    "unknown model and version": (
        'model_spec { name: "other" version { value: 7 } } ' + history_input(),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(other, 7)",
    ),
    "unknown label": (
        'model_spec { name: "sid_tfx" version_label: "canary" } ' + history_input(),
        INVALID,
        "Unrecognized servable version label: canary",
    ),
    "unknown signature": (
        'model_spec { name: "sid_tfx" signature_name: "nope" } ' + history_input(),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    ),
    "missing input": (
        SPEC,
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({history}). "
        "Sent extra: {}. Missing but required: {history}.",
    ),
    "extra input": (
        SPEC + history_input() + history_input("more"),
        INVALID,
        "input size does not match signature: 2!=1 len({history,more}) != len({history}). "
        "Sent extra: {more}. Missing but required: {}.",
    ),
    "wrong input": (
        SPEC + history_input("histroy"),
        INVALID,
        "input tensor alias not found in signature: histroy. "
        "Inputs expected to be in the set {history}.",
    ),
    "wrong dtype": (
        SPEC + history_input(dtype="DT_INT64", values="int64_val: 1"),
        INVALID,
        "Expects arg[0] to be string but int64 is provided",
    ),
    "no dtype": (SPEC + history_input(dtype="DT_INVALID"), INVALID, "to be string but"),
    "wrong width": (SPEC + history_input(columns=6), INVALID, "[-1, 5] but [1, 6] is provided"),
    "too many values": (
        SPEC + history_input(values='string_val: "a" ' * 7),
        INVALID,
        "tensor parsing error: history",
    ),
    "negative dimension": (
        SPEC + history_input(rows=-1),
        INVALID,
        "tensor parsing error: history: a tensor value needs a full shape",
    ),
    "huge declared shape": (
        SPEC + history_input(rows=10**12),
        INVALID,
        "Task size 1000000000000 is larger than maximum batch size 10000",
    ),
    "unknown output": (
        SPEC + history_input() + ' output_filter: "x"',
        INVALID,
        "output tensor alias not found in signature: x "
        "Outputs expected to be in the set {ad_ids,count,scores,sids}.",
    ),
    "output twice": (
        SPEC + history_input() + ' output_filter: "count" output_filter: "count"',
        INVALID,
        "duplicate output tensor alias: count",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_predict_requests(stubs, request_for: Request, history: np.ndarray, case: str) -> None:
    text, code, message = BAD_REQUESTS[case]
    got_code, got_message = refused(stubs.prediction.Predict, text_request(text))
    assert got_code == code, got_message
    assert message in got_message
    # The next request is none the worse for it.
    stubs.prediction.Predict(request_for("recommend", history=history))


def test_a_long_message_of_any_script_fits_the_header_it_travels_in(
    stubs, request_for: Request, history: np.ndarray
) -> None:
    request = request_for("recommend", "広告" * 5000, history=history)
    code, message = refused(stubs.prediction.Predict, request)
    assert code == grpc.StatusCode.NOT_FOUND
    assert message.startswith("Servable not found for request: Latest(広告広告")


def test_an_error_inside_the_graph_keeps_its_code(stubs, request_for: Request) -> None:
    garbage = request_for("encode_ads", examples=np.array([b"not an example"], dtype=object))
    code, message = refused(stubs.prediction.Predict, garbage)
    assert code == INVALID
    assert "parse" in message.lower()


def test_rows_of_different_number_are_refused(stubs, request_for: Request) -> None:
    inputs = dict(SIGNATURE_INPUTS["recommend_filtered"])
    inputs["exclude_ad_ids"] = np.array([[b"", b"", b""]] * 3, dtype=object)
    code, _ = refused(stubs.prediction.Predict, request_for("recommend_filtered", **inputs))
    assert code == INVALID


def test_malformed_bytes_are_refused_and_the_server_lives(
    stubs, request_for: Request, history: np.ndarray
) -> None:
    raw = stubs.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\xff\xff\xff\xff")
    assert caught.value.code() in (grpc.StatusCode.INTERNAL, INVALID)
    stubs.prediction.Predict(request_for("recommend", history=history))


def test_classify_regress_and_multi_inference_are_refused_as_tf_serving_does(stubs) -> None:
    classify = classification_pb2.ClassificationRequest()
    assert refused(stubs.prediction.Classify, classify) == (INVALID, "Missing ModelSpec")
    classify.model_spec.name = "sid_tfx"
    assert refused(stubs.prediction.Classify, classify) == (
        INVALID,
        "Expected one or two output Tensors, found 4",
    )
    classify.model_spec.signature_name = "recommend_filtered"
    assert refused(stubs.prediction.Classify, classify) == (INVALID, "Expected one input Tensor.")
    classify.model_spec.signature_name = "encode_ads"
    code, message = refused(stubs.prediction.Classify, classify)
    assert code == INVALID
    assert message.startswith("No classification inputs found in SignatureDef: inputs {\n  key: ")
    assert 'method_name: "tensorflow/serving/predict"' in message
    regress = regression_pb2.RegressionRequest()
    regress.model_spec.name = "sid_tfx"
    assert refused(stubs.prediction.Regress, regress) == (INVALID, "Expected one output Tensor.")
    regress.model_spec.signature_name = "nope"
    assert refused(stubs.prediction.Regress, regress) == (
        INVALID,
        "No signature was found with the name: nope",
    )
    multi = inference_pb2.MultiInferenceRequest()
    no_name = (INVALID, "ModelSpec has no name specified.")
    assert refused(stubs.prediction.MultiInference, multi) == no_name
    task = multi.tasks.add(method_name="tensorflow/serving/predict")
    assert refused(stubs.prediction.MultiInference, multi) == no_name
    task.model_spec.name = "sid_tfx"
    assert refused(stubs.prediction.MultiInference, multi) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Unsupported signature method_name: tensorflow/serving/predict",
    )
    task.method_name = "tensorflow/serving/regress"
    assert refused(stubs.prediction.MultiInference, multi) == (
        INVALID,
        "Expected one output Tensor.",
    )
    task.model_spec.signature_name = "nope"
    assert refused(stubs.prediction.MultiInference, multi) == (
        INVALID,
        "Requested signature not found in model graph: nope",
    )


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose signatures have one input and one output, of the names that decide."""

    def made(given: str, answer: str) -> tf.types.experimental.ConcreteFunction:
        spec = tf.TensorSpec([None], tf.string, name=given)
        return tf.function(lambda text: {answer: text}).get_concrete_function(spec)

    names = [("text", "echo"), ("inputs", "echo"), ("inputs", "outputs"), ("inputs", "scores")]
    signatures = {f"{given}_{answer}": made(given, answer) for given, answer in names}
    base = tmp_path_factory.mktemp("named")
    tf.saved_model.save(tf.Module(), str(base / "1"), signatures=signatures)
    return base


CHECKS = {
    ("Classify", "text_echo"): "No classification inputs found in SignatureDef: ",
    ("Classify", "inputs_echo"): (
        "Expected classification signature outputs to contain at least one of "
        '"classes" or "scores". Signature was: '
    ),
    ("Regress", "text_echo"): "No regression inputs found in SignatureDef: ",
    ("Regress", "inputs_echo"): "No regression outputs found in SignatureDef: ",
    ("Classify", "inputs_scores"): "",
    ("Regress", "inputs_outputs"): "",
}
REQUESTS = {
    "Classify": classification_pb2.ClassificationRequest,
    "Regress": regression_pb2.RegressionRequest,
}


@pytest.mark.parametrize("by_method_name", [False, True])
def test_names_and_where_asked_for_the_method_name_decide_who_may_run_a_signature(
    named: Path, request_for: Request, by_method_name: bool
) -> None:
    with ModelServer(
        "sid_tfx", named, settle_seconds=0, check_method_names=by_method_name
    ) as server:
        server.wait_until_available(30)
        made = Stubs(server.port)
        with made.channel:
            for (api, signature), message in CHECKS.items():
                request = REQUESTS[api]()
                request.model_spec.name, request.model_spec.signature_name = "sid_tfx", signature
                code, told = refused(getattr(made.prediction, api), request)
                if by_method_name:
                    assert code == INVALID
                    assert f"signature method_name to be tensorflow/serving/{api.lower()}. " in told
                    assert told.endswith("Was: tensorflow/serving/predict")
                elif message:
                    assert (code, told[: len(message)]) == (INVALID, message)
                else:
                    assert code == grpc.StatusCode.UNIMPLEMENTED
            text = np.array([b"a"], dtype=object)
            response = made.prediction.Predict(request_for("text_echo", text=text))
            assert list(response.outputs["echo"].string_val) == [b"a"]


def test_predict_wants_one_of_three_method_names_where_they_are_checked() -> None:
    for name in ("predict", "classify", "regress"):
        check_predict(f"tensorflow/serving/{name}")
    with pytest.raises(ServingError, match=r"one of \{.*\}\. Was: other") as caught:
        check_predict("other")
    assert caught.value.code == grpc.StatusCode.INTERNAL


def metadata_request(*fields: str) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "sid_tfx"
    return request


def test_metadata_holds_every_signature(stubs) -> None:
    response = stubs.prediction.GetModelMetadata(metadata_request("signature_def"))
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(SIGNATURE_INPUTS) | {"serving_default"} <= set(signatures.signature_def)
    history = signatures.signature_def["recommend"].inputs["history"]
    assert history.dtype == tf.string.as_datatype_enum
    assert [dim.size for dim in history.tensor_shape.dim] == [-1, 5]


def test_bad_metadata_requests(stubs) -> None:
    call = stubs.prediction.GetModelMetadata
    assert refused(call, metadata_request())[1] == (
        "GetModelMetadataRequest must specify at least one metadata_field"
    )
    assert refused(call, metadata_request("graph"))[1] == "Metadata field graph is not supported"
    assert refused(call, get_model_metadata_pb2.GetModelMetadataRequest()) == (
        INVALID,
        "Missing ModelSpec",
    )


def test_status_of_versions(stubs) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refused(stubs.model.GetModelStatus, request) == (INVALID, "Missing ModelSpec")
    request.model_spec.name = "sid_tfx"
    [entry] = stubs.model.GetModelStatus(request).model_version_status
    assert entry.version == 1
    assert entry.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert entry.HasField("status")
    assert entry.status.error_code == 0
    request.model_spec.version.value = 9
    assert refused(stubs.model.GetModelStatus, request) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find version 9 of model sid_tfx",
    )
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "other"
    assert refused(stubs.model.GetModelStatus, request) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model other",
    )


def test_health_per_service(stubs) -> None:
    stub = health_pb2_grpc.HealthStub(stubs.channel)
    for service in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
        response = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    code, _ = refused(stub.Check, health_pb2.HealthCheckRequest(service="nope"))
    assert code == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_finds_their_files(stubs) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="tensorflow.serving.PredictionService"
        ),
    ]
    listed, file = stub.ServerReflectionInfo(iter(asked))
    names = {service.name for service in listed.list_services_response.service}
    assert {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    } <= names
    assert file.file_descriptor_response.file_descriptor_proto


def test_message_size_is_bounded(
    toys: dict[int, Path], request_for: Request, history: np.ndarray
) -> None:
    with ModelServer(
        "sid_tfx", toys[1].parent, max_message_bytes=10_000, settle_seconds=0
    ) as server:
        server.wait_until_available(30)
        made = Stubs(server.port)
        with made.channel:
            big = request_for("encode_ads", examples=np.array([b"x" * 20_000], dtype=object))
            code, _ = refused(made.prediction.Predict, big)
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            made.prediction.Predict(request_for("recommend", history=history))


def reload_request(**models: Path) -> model_management_pb2.ReloadConfigRequest:
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name, path in models.items():
        request.config.model_config_list.config.add(
            name=name, base_path=str(path), model_platform="tensorflow"
        )
    return request


def test_reload_config_replaces_the_served_models(
    toys: dict[int, Path], tmp_path: Path, request_for: Request, history: np.ndarray
) -> None:
    base = toys[1].parent
    with ModelServer("sid_tfx", base, settle_seconds=0) as server:
        server.wait_until_available(30)
        made = Stubs(server.port)
        reload = made.model.HandleReloadConfigRequest
        with made.channel:
            reload(reload_request(sid_tfx=base, second=base))
            for name in ("sid_tfx", "second"):
                made.prediction.Predict(request_for("", name, history=history))
            reload(reload_request(second=base))
            request = request_for("", "sid_tfx", history=history)
            assert refused(made.prediction.Predict, request)[0] == grpc.StatusCode.NOT_FOUND
            made.prediction.Predict(request_for("", "second", history=history))
            bad = tmp_path / "bad"
            (bad / "1").mkdir(parents=True)
            (bad / "1" / "saved_model.pb").write_bytes(b"nonsense")
            code, message = refused(reload, reload_request(second=base, third=bad))
            assert code == grpc.StatusCode.UNKNOWN
            assert "1 servable(s) did not become available: {name: third version: 1}" in message
            twice = reload_request(second=base)
            twice.config.model_config_list.config.add(name="second", base_path=str(base))
            assert "Illegal to list model second multiple times" in refused(reload, twice)[1]
            empty = model_management_pb2.ReloadConfigRequest(
                config=model_server_config_pb2.ModelServerConfig()
            )
            assert "Only ModelConfigList is currently supported" in refused(reload, empty)[1]
            made.prediction.Predict(request_for("", "second", history=history))
