"""Generated HTTP requests that no sane client sends, each with the statuses it may get.

A `Hostile`'s method is verb and path.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Set
from functools import cache
from typing import Any

from tests.serving.hostile import MAX_MESSAGE, Hostile, Rng, word
from tests.serving.toy_servable import DIM, HISTORY

# Not a status: the server closed the connection, as it may on a body that it will not read.
CLOSED = 0
_MODEL = "/v1/models/sid_tfx"
_PREDICT = f"POST {_MODEL}:predict"
_RULES = {"exclude_ad_ids": ["", "", ""], "filter_seen": False, "mode": "generative"}


def _row() -> list[Any]:
    return ["ad01", "ad02", "", "", ""]


def _ask(body: Any, codes: Set[int] = frozenset({400}), method: str = _PREDICT) -> Hostile:
    return Hostile("", method, json.dumps(body).encode(), codes)


def _raw(body: bytes, codes: Set[int] = frozenset({400}), **headers: str) -> Hostile:
    return Hostile("", _PREDICT, body, codes, headers)


def _good(rng: Rng) -> Hostile:
    return _ask({"instances": [_row()]}, {200})


def _cut(rng: Rng) -> Hostile:
    text = json.dumps({"instances": [_row()]}).encode()
    return _raw(text[: rng.integers(len(text))])


def _bytes(rng: Rng) -> Hostile:
    return _raw(b"\xff" + rng.bytes(30))


def _model(rng: Rng) -> Hostile:
    name = rng.choice(["a", "sid", "SID_TFX", "%00", "%ff", ".."])
    return _ask({"instances": [_row()]}, {404}, f"POST /v1/models/{name}:predict")


def _model_first(rng: Rng) -> Hostile:
    """What else is wrong with a request is not looked at where its model is not served."""
    bodies: list[Any] = [{}, {"instances": []}, {"instances": 1}, {"signature_name": "x"}]
    return _ask(bodies[rng.integers(len(bodies))], {404}, "POST /v1/models/other:predict")


def _version(rng: Rng) -> Hostile:
    path = f"{_MODEL}/versions/{rng.integers(2, 10**9)}"
    return _ask({"instances": [_row()]}, {404}, f"POST {path}:predict")


def _label(rng: Rng) -> Hostile:
    path = f"{_MODEL}/labels/l{rng.integers(9)}"
    return _ask({"instances": [_row()]}, method=f"POST {path}:predict")


def _verb(rng: Rng) -> Hostile:
    verb = rng.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    return _ask({"instances": [_row()]}, method=f"{verb} {_MODEL}:predict")


def _path(rng: Rng) -> Hostile:
    path = rng.choice(["v2", "models", "..", "%2e%2e", "etc/passwd"])
    return _ask({"instances": [_row()]}, {404}, f"POST /{path}")


def _keys(rng: Rng) -> Hostile:
    return _ask({str(rng.choice(["instance", "input", "x", ""])): [_row()]})


def _both(rng: Rng) -> Hostile:
    return _ask({"instances": [_row()], "inputs": [_row()]})


def _signature(rng: Rng) -> Hostile:
    name = 5 if rng.random() < 0.3 else word(rng)
    return _ask({"signature_name": name, "instances": [_row()]})


def _value(rng: Rng) -> Hostile:
    odd: list[Any] = [None, 1, 1.5, True, {}, {"b64": "%"}, {"b64": "YQ="}, {"b64": 1}, []]
    row = _row()
    row[rng.integers(HISTORY)] = odd[rng.integers(len(odd))]
    return _ask({"instances": [row]})


def _ragged(rng: Rng) -> Hostile:
    return _ask({"instances": [_row(), _row()[: rng.integers(HISTORY)]]})


def _wide(rng: Rng) -> Hostile:
    return _ask({"inputs": [["ad01"] * int(rng.choice([0, 1, 6, 50_000]))]})


def _deep(rng: Rng) -> Hostile:
    depth = int(rng.integers(3, 50_000))
    return _raw(b'{"inputs":' + b"[" * depth + b"]" * depth + b"}")


def _number(rng: Rng) -> Hostile:
    values = json.dumps({"signature_name": "similar_to_embedding", "inputs": [[1.0] * DIM]})
    odd, code = {
        0: ("1e39", 400), 1: ("NaN", 200), 2: ("-Infinity", 200), 3: ("9" * 5000, 400),
        4: ('"1"', 400), 5: ("true", 400), 6: ("16777217", 200), 7: ("1e-400", 200),
    }[int(rng.integers(8))]  # fmt: skip
    return _raw(values.replace("1.0", odd, 1).encode(), {code})


def _example(rng: Rng) -> Hostile:
    broken = base64.b64encode(b"\x0a\xff\x01" + rng.bytes(5)).decode()
    return _ask({"signature_name": "encode_ads", "instances": [{"b64": broken}]})


def _method(rng: Rng) -> Hostile:
    method = rng.choice(["classify", "regress", "drop", "", "PREDICT"])
    return _ask({"instances": [_row()]}, method=f"POST {_MODEL}:{method}")


def _k(rng: Rng) -> Hostile:
    """The number of ads is the servable's: `k` is no input, and elsewhere it is not read."""
    k = int(rng.choice([0, -1, 10**6, 2**31 - 1, -(2**63)]))
    named = {"history": _row(), **_RULES}
    by_row = {"signature_name": "recommend_filtered", "instances": [{**named, "k": k}]}
    if rng.random() < 0.5:
        return _ask(by_row)
    if rng.random() < 0.5:
        return _ask({"inputs": {"history": [_row()], "k": [k]}}, {200})
    return _ask({"instances": [_row()], "k": k}, {200})


@cache
def _million() -> bytes:
    return b'{"inputs":[[' + b",".join([b'"ad01"'] * 10**6) + b"]]}"


def _long_history(rng: Rng) -> Hostile:
    return _raw(_million())


def _oversized(rng: Rng) -> Hostile:
    return _raw(b" " * (MAX_MESSAGE + int(rng.integers(1, 10**6))), {400, CLOSED})


def _bomb(rng: Rng) -> Hostile:
    packed = gzip.compress(b" " * (4 * MAX_MESSAGE), compresslevel=1)
    return _raw(packed, {400, CLOSED}, **{"Content-Encoding": "gzip"})


_KINDS: tuple[Callable[[Rng], Hostile], ...] = (
    _good, _cut, _bytes, _model, _model_first, _version, _label, _verb, _path, _keys, _both,
    _signature, _value, _ragged, _wide, _deep, _number, _example, _method, _k,
)  # fmt: skip
# Megabytes each.
HEAVY: tuple[Callable[[Rng], Hostile], ...] = (_long_history, _oversized, _bomb)
REST_KINDS = {f"rest{kind.__name__}" for kind in (*_KINDS, *HEAVY)}


def rest_case(rng: Rng) -> Hostile:
    """One HTTP request."""
    kinds = HEAVY if rng.random() < 0.008 else _KINDS
    make = kinds[rng.integers(len(kinds))]
    case = make(rng)
    return Hostile(f"rest{make.__name__}", case.method, case.body, case.codes, case.headers)
