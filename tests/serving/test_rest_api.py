"""The REST API on one version: TF Serving's paths, bodies, statuses and words."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.json_tensors import to_json, to_tensor
from serving.server import ModelServer
from tests.serving.http_calls import call, call_json
from tests.serving.stubs import Stubs
from tests.serving.toy_servable import DIM, HISTORY, K

pytestmark = pytest.mark.unit

PREDICT = "/v1/models/sid_tfx:predict"
ROW = ["ad01", "ad02", "", "", ""]


@pytest.fixture
def rest(shared: ModelServer) -> Callable[..., tuple[int, Any]]:
    assert shared.rest_port

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return call_json(shared.rest_port or 0, method, path, body)

    return ask


@pytest.fixture
def grpc_answer(stubs: Stubs, request_for: Callable) -> dict[str, Any]:
    history = np.array([[ad.encode() for ad in ROW]], dtype=object)
    response = stubs.prediction.Predict(request_for("recommend", history=history))
    return {alias: tf.make_ndarray(proto) for alias, proto in response.outputs.items()}


def test_rows_and_columns_answer_what_grpc_answers(rest, grpc_answer: dict[str, Any]) -> None:
    status, by_row = rest("POST", PREDICT, {"instances": [ROW]})
    assert status == 200
    [row] = by_row["predictions"]
    assert row.keys() == grpc_answer.keys()
    assert row["ad_ids"] == [ad.decode() for ad in grpc_answer["ad_ids"][0]]
    np.testing.assert_array_equal(np.float32(row["scores"]), grpc_answer["scores"][0])
    assert row["sids"] == grpc_answer["sids"][0].tolist()
    named = {"signature_name": "recommend", "instances": [{"history": ROW}]}
    assert rest("POST", PREDICT, named) == (200, by_row)
    for inputs in ([ROW], {"history": [ROW]}):
        status, by_column = rest("POST", PREDICT, {"inputs": inputs})
        assert status == 200
        assert by_column["outputs"].keys() == grpc_answer.keys()
        assert by_column["outputs"]["ad_ids"] == [row["ad_ids"]]
        assert by_column["outputs"]["count"] == [K]


def test_a_signature_of_several_inputs_needs_names(rest) -> None:
    row = {"history": ROW, "exclude_ad_ids": ["ad03", "", ""], "filter_seen": True, "mode": "x"}
    body = {"signature_name": "recommend_filtered", "instances": [row, {**row, "mode": "hybrid"}]}
    status, answer = rest("POST", PREDICT, body)
    assert status == 200
    assert not {"ad01", "ad02", "ad03"} & set(answer["predictions"][0]["ad_ids"])
    plain = {"signature_name": "recommend_filtered", "instances": [ROW]}
    assert "expecting list of objects" in rest("POST", PREDICT, plain)[1]["error"]


def test_base64_carries_bytes(rest) -> None:
    example = tf.train.Example()
    example.features.feature["title"].bytes_list.value.append(b"abc")
    encoded = base64.b64encode(example.SerializeToString()).decode()
    body = {"signature_name": "encode_ads", "instances": [{"b64": encoded}] * 2}
    status, answer = rest("POST", PREDICT, body)
    assert status == 200
    assert [row["sids"] for row in answer["predictions"]] == [[3, -1, 0]] * 2
    same = {"signature_name": "encode_ads", "inputs": {"examples": [{"b64": encoded}] * 2}}
    assert rest("POST", PREDICT, same)[1]["outputs"]["sids"] == [[3, -1, 0]] * 2


BASE64 = {
    "": b"", "YWJj": b"abc", "YWI=": b"ab", "YQ==": b"a", "/+8=": b"\xff\xef",
    # Padding that is left out, or dots, or both kinds.
    "YWI": b"ab", "YQ": b"a", "YWI.": b"ab", "YQ..": b"a", "YQ=.": b"a",
    # White space, wherever it is.
    "YW I=": b"ab", "YWI= ": b"ab", " Y\tW\nI\v\f\r": b"ab", "YQ= =\n": b"a", "Y Q = = ": b"a",
    # Bits left over.
    "YR==": b"a",
}  # fmt: skip


@pytest.mark.parametrize("text", BASE64)
def test_base64_is_read_as_absl_reads_it(text: str) -> None:
    [read] = to_tensor([{"b64": text}], tf.string)
    assert read == BASE64[text]


@pytest.mark.parametrize(
    "text",
    [
        "Y", "YWJjZ", "YQ=", "YWI==", "YWJj=", "YWJj.", "=", "====", "YQ==YQ==", "YW=I", "YW-_",
        "YWI%", "YW\x00I", "YW\u00a0I", "\u00e9", "\ud800",
    ],
)  # fmt: skip
def test_what_absl_takes_for_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        to_tensor([{"b64": text}], tf.string)


def test_one_output_stands_alone_and_bytes_come_as_base64(
    toys: dict[int, Path], tmp_path: Path
) -> None:
    class Echo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def answer(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"echo_bytes": text}

    echo = Echo()
    tf.saved_model.save(echo, str(tmp_path / "1"), signatures={"serving_default": echo.answer})
    with ModelServer("echo", tmp_path, rest_port=0, settle_seconds=0) as server:
        server.wait_until_available(30)
        port, path = server.rest_port or 0, "/v1/models/echo:predict"
        coded = {"b64": base64.b64encode(b"\xff\x00").decode()}
        answer = call_json(port, "POST", path, {"instances": [coded, "a"]})
        assert answer == (200, {"predictions": [coded, {"b64": "YQ=="}]})
        answer = call_json(port, "POST", path, {"inputs": [coded]})
        assert answer == (200, {"outputs": [coded]})


def test_status_and_metadata(rest) -> None:
    status, answer = rest("GET", "/v1/models/sid_tfx")
    assert (status, answer) == (
        200,
        {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        },
    )
    assert rest("GET", "/v1/models/sid_tfx/versions/1") == (200, answer)
    status, described = rest("GET", "/v1/models/sid_tfx/versions/1/metadata")
    assert status == 200
    assert described["model_spec"] == {"name": "sid_tfx", "signature_name": "", "version": "1"}
    signatures = described["metadata"]["signature_def"]["signature_def"]
    history = signatures["recommend"]["inputs"]["history"]
    assert history["dtype"] == "DT_STRING"
    assert [dim["size"] for dim in history["tensor_shape"]["dim"]] == ["-1", str(HISTORY)]


NAN = b'{"signature_name": "similar_to_embedding", "instances": [[NaN%s]]}' % (b", 1" * (DIM - 1))
BAD_REQUESTS: dict[str, tuple[str, str, Any, int, str]] = {
    "no json": ("POST", PREDICT, b"{", 400, "JSON Parse error: "),
    "empty": ("POST", PREDICT, b"", 400, "The document is empty"),
    "no object": ("POST", PREDICT, [1], 400, "Is not object"),
    "too deep": ("POST", PREDICT, b"[" * 100_000, 400, "nested too deep"),
    "no key": ("POST", PREDICT, {"instance": []}, 400, "Missing 'inputs' or 'instances' key"),
    "both keys": ("POST", PREDICT, {"instances": [ROW], "inputs": [ROW]}, 400, "only one of"),
    "no list": ("POST", PREDICT, {"instances": "x"}, 400, "to be an list/array"),
    "no rows": ("POST", PREDICT, {"instances": []}, 400, "No values in 'instances'"),
    "bad name": ("POST", PREDICT, {"signature_name": 1, "instances": [ROW]}, 400, "string value"),
    "surrogate name": ("POST", PREDICT, b'{"signature_name": "\\ud800"}', 400, "UTF-8"),
    "bad signature": (
        "POST", PREDICT, {"signature_name": "nope", "instances": [ROW]}, 400,
        'Serving signature name: "nope" not found in signature def',
    ),
    "ragged": ("POST", PREDICT, {"instances": [ROW, ["a"]]}, 400, "list at unexpected size: 1"),
    "scalar in list": ("POST", PREDICT, {"instances": [ROW, "a"]}, 400, "incorrect level"),
    "list in scalars": ("POST", PREDICT, {"inputs": ["a", ["b"]]}, 400, "unexpected level"),
    "too wide": ("POST", PREDICT, {"instances": [["a"] * 6]}, 400, "[1, 6] is provided"),
    "number": ("POST", PREDICT, {"instances": [[1] * 5]}, 400, "not of expected type: string"),
    "null": ("POST", PREDICT, {"instances": [[None] * 5]}, 400, "Type: Null"),
    "bad base64": ("POST", PREDICT, {"inputs": {"b64": "%"}}, 400, "Unable to base64 decode"),
    "surrogate": ("POST", PREDICT, b'{"inputs": [["\\ud800"]]}', 400, "UTF-8"),
    "row object": ("POST", PREDICT, {"instances": [{"histroy": ROW}]}, 400, "equal to: history"),
    "missing": ("POST", PREDICT, {"inputs": {"x": 1}}, 400, "Missing named input: history"),
    "mixed rows": ("POST", PREDICT, {"instances": [{"history": ROW}, ROW]}, 400, "item 1 of"),
    "nan": ("POST", PREDICT, NAN.replace(b"NaN", b'"NaN"'), 400, "expected type: float32"),
    "overflow": ("POST", PREDICT, NAN.replace(b"NaN", b"1e400"), 400, "Number too big"),
    "underflow": ("POST", PREDICT, NAN.replace(b"NaN", b"-1e400"), 400, "Number too big"),
    "past float32": ("POST", PREDICT, NAN.replace(b"NaN", b"1e39"), 400, "loss of precision"),
    "other model": ("POST", "/v1/models/x:predict", {"instances": [ROW]}, 404, "Latest(x)"),
    # What is looked at first: the JSON, the model, the signature, the keys.
    "no rows, other model": (
        "POST", "/v1/models/x:predict", {"instances": []}, 404, "Latest(x)",
    ),
    "no key, other model": ("POST", "/v1/models/x:predict", {}, 404, "Latest(x)"),
    "bad signature, other model": (
        "POST", "/v1/models/x:predict", {"signature_name": "nope"}, 404, "Latest(x)",
    ),
    "no json, other model": ("POST", "/v1/models/x:predict", b"{", 400, "JSON Parse error: "),
    "bad name, other model": (
        "POST", "/v1/models/x:predict", {"signature_name": 1}, 400, "string value",
    ),
    "no key, bad signature": (
        "POST", PREDICT, {"signature_name": "nope"}, 400, 'name: "nope" not found in signature def',
    ),
    "version": (
        "POST", "/v1/models/sid_tfx/versions/7:predict", {"instances": [ROW]}, 404,
        "Specific(sid_tfx, 7)",
    ),
    "label": (
        "POST", "/v1/models/sid_tfx/labels/canary:predict", {"instances": [ROW]}, 400,
        "Unrecognized servable version label: canary",
    ),
    "huge version": ("GET", "/v1/models/sid_tfx/versions/" + "9" * 30, None, 400, "to numeric."),
    "unknown status": ("GET", "/v1/models/x", None, 404, "Could not find any versions of model x"),
    "no model": ("GET", "/v1/models", None, 400, "Missing model name in request."),
    "get predict": ("GET", PREDICT, None, 400, f"Malformed request: GET {PREDICT}"),
    "put": ("PUT", PREDICT, {}, 400, f"Malformed request: PUT {PREDICT}"),
    "post status": ("POST", "/v1/models/sid_tfx", {}, 400, "Malformed request: POST"),
    "options": ("OPTIONS", PREDICT, None, 400, f"Malformed request: OPTIONS {PREDICT}"),
    "method in capitals": (
        "POST", "/v1/models/sid_tfx:PREDICT", {"instances": [ROW]}, 400, "Malformed request: POST",
    ),
    "elsewhere": ("GET", "/", None, 404, "Not Found"),
    "classify": (
        "POST", "/v1/models/sid_tfx:classify", {"examples": [{}]}, 400,
        "Expected one or two output Tensors, found 4",
    ),
    "regress": (
        "POST", "/v1/models/sid_tfx:regress", {"signature_name": "no"}, 400,
        "No signature was found with the name: no",
    ),
    "bad classify name": (
        "POST", "/v1/models/sid_tfx:classify", {"signature_name": 1}, 400, "string value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(rest, case: str) -> None:
    method, path, body, status, message = BAD_REQUESTS[case]
    got, answer = rest(method, path, body)
    assert (got, list(answer)) == (status, ["error"]), answer
    assert message in answer["error"]
    assert rest("POST", PREDICT, {"instances": [ROW]})[0] == 200


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e-400"])
def test_nan_and_infinity_are_numbers_on_the_wire(rest, number: bytes) -> None:
    assert rest("POST", PREDICT, NAN.replace(b"NaN", number))[0] == 200


def test_gzip_both_ways_and_bounded(toys: dict[int, Path]) -> None:
    with ModelServer(
        "sid_tfx", toys[1].parent, rest_port=0, max_message_bytes=20_000, settle_seconds=0
    ) as server:
        server.wait_until_available(30)
        port = server.rest_port or 0
        body = json.dumps({"instances": [ROW] * 9}).encode()
        zipped = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
        status, answer, headers = call(port, "POST", PREDICT, gzip.compress(body), zipped)
        assert (status, headers["Content-Encoding"]) == (200, "gzip")
        plain = json.loads(call(port, "POST", PREDICT, body)[1])
        assert json.loads(gzip.decompress(answer)) == plain
        # A body over the limit, plain or once unpacked, ends the connection or is a 400.
        for big, sent in ((b" " * 30_000, {}), (gzip.compress(b" " * 10_000_000), zipped)):
            with contextlib.suppress(OSError, http.client.HTTPException):
                assert call(port, "POST", PREDICT, big, sent)[0] == 400
        assert call_json(port, "POST", PREDICT, {"instances": [ROW]})[0] == 200


DTYPES = {
    tf.float32: st.floats(width=32),
    tf.float64: st.floats(),
    tf.int32: st.integers(-(2**31), 2**31 - 1),
    tf.int64: st.integers(-(2**63), 2**63 - 1),
    tf.uint8: st.integers(0, 255),
    tf.bool: st.booleans(),
    tf.string: st.binary(max_size=5),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(list(DTYPES)), shape=st.lists(st.integers(1, 3)))
def test_a_tensor_survives_its_json(data: st.DataObject, dtype: tf.DType, shape: list[int]) -> None:
    size = int(np.prod(shape[:3]))
    values = data.draw(st.lists(DTYPES[dtype], min_size=size, max_size=size))
    array = np.empty(size, dtype.as_numpy_dtype)
    array[:] = values
    array = array.reshape(shape[:3])
    text = json.dumps(to_json("out_bytes", array))
    np.testing.assert_array_equal(to_tensor(json.loads(text), dtype), array)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1e39, tf.float32), (-(10**39), tf.float32), (10**400, tf.float64), (256, tf.uint8),
        (1.5, tf.int32), (True, tf.float32),
    ],
)  # fmt: skip
def test_numbers_that_the_dtype_has_no_place_for_are_refused(value: float, dtype: tf.DType) -> None:
    with pytest.raises(ServingError, match=r"loss of precision|not of expected type"):
        to_tensor(value, dtype)


def test_a_float_takes_the_nearest_number_as_the_documentation_says() -> None:
    # The documentation's own example.
    assert to_tensor(1435774380, tf.float32) == 1435774336
    assert to_tensor(2**127 + 1, tf.float32) == 2.0**127
    assert to_tensor(2**53 + 1, tf.float64) == 2**53
    np.testing.assert_array_equal(to_tensor([math.inf, -math.inf], tf.float32), [np.inf, -np.inf])


def test_a_path_matches_in_either_case_and_its_names_are_decoded(rest) -> None:
    status = rest("GET", "/v1/models/sid_tfx/versions/1")
    assert status[0] == 200
    for path in ("/V1/Models/sid_tfx/VERSIONS/1", "/v1/models/%73id_tfx/versions/1"):
        assert rest("GET", path) == status
        assert rest("POST", f"{path}:predict", {"instances": [ROW]})[0] == 200
    # TF Serving compares the subresource, not the path, and answers with the status.
    assert rest("GET", "/v1/models/sid_tfx/versions/1/METADATA") == status
    assert rest("GET", "/v1/models/SID_TFX")[0] == 404
    label = rest("POST", "/v1/models/sid_tfx/labels/a%20b:predict", {"instances": [ROW]})
    assert "Unrecognized servable version label: a b" in label[1]["error"]


def test_head_is_a_method_no_path_knows(shared: ModelServer) -> None:
    status, body, _ = call(shared.rest_port or 0, "HEAD", "/v1/models/sid_tfx")
    assert (status, body) == (400, b"")


def test_floats_show_no_digits_the_model_never_computed() -> None:
    assert to_json("x", np.array([0.2, 1e-30], np.float32)) == [0.2, 1e-30]
