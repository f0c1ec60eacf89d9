"""Generated requests of the signatures that only a real servable has in full.

Values that fit and mean nothing, which must be answered, and tf.Examples that do not fit. Each goes
over gRPC or REST.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import predict_pb2

from serving.tensors import fill
from tests.serving.hostile import Hostile, Rng, good_inputs, ids
from tests.serving.hostile_grpc import PREDICT
from tests.serving.toy_servable import HISTORY

TEXTS = ("ad_id", "title", "description", "summary", "advertiser", "category_path")
_REST = "POST /v1/models/sid_tfx:predict"
_ODD_TEXTS = (
    b"", b"word", b"two words", b"\xff\xfe", b"\0", "\u2028\U0001f600".encode(), b"x" * 10_000,
    b"a " * 5_000,
)  # fmt: skip
_ODD_FLOATS = (0.0, -1.0, 1e-45, 3e38, np.nan, np.inf, -np.inf)
_ODD_INTS = (0, 1, -1, 10**9, 2**62, 2**63 - 1, -(2**63))

Features = dict[str, tf.train.Feature]
Inputs = Mapping[str, np.ndarray]


def _texts(values: Sequence[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _floats(values: Sequence[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _ints(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _some(rng: Rng, odd: Sequence[Any], most: int) -> list[Any]:
    return [odd[index] for index in rng.integers(len(odd), size=rng.integers(most + 1))]


def _ad(rng: Rng) -> Features:
    """A raw ad: columns with none, one or several values, and one that nobody knows."""
    features = {name: _texts(_some(rng, _ODD_TEXTS, 3)) for name in TEXTS if rng.random() < 0.7}
    if rng.random() < 0.7:
        features["price"] = _floats(_some(rng, _ODD_FLOATS, 3))
    if rng.random() < 0.1:
        features["unheard"] = _ints(_some(rng, _ODD_INTS, 3))
    return features


def _user(rng: Rng) -> Features:
    """A history, and values of it that are as many or not."""
    return {
        "history": _texts(ids(rng, int(rng.integers(4 * HISTORY))).tolist()),
        "timestamps": _ints(_some(rng, _ODD_INTS, 3 * HISTORY)),
        "events": _texts(_some(rng, (b"click", b"", b"\xff"), 3 * HISTORY)),
        "weights": _floats(_some(rng, _ODD_FLOATS, 3 * HISTORY)),
        "target": _texts(ids(rng, 1).tolist()),
    }


_EXAMPLES: dict[str, Callable[[Rng], Features]] = {"encode_ads": _ad, "evaluate": _user}


def _block(values: Sequence[bytes]) -> np.ndarray:
    block = np.empty(len(values), dtype=object)
    block[:] = values
    return block


def _examples(users: Sequence[Features]) -> Inputs:
    made = [tf.train.Example(features=tf.train.Features(feature=user)) for user in users]
    return {"examples": _block([example.SerializeToString() for example in made])}


def _odd_examples(rng: Rng) -> tuple[str, Inputs, bool]:
    signature = str(rng.choice(list(_EXAMPLES)))
    rows = range(int(rng.integers(1, 5)))
    return signature, _examples([_EXAMPLES[signature](rng) for _ in rows]), True


@cache
def _endless(signature: str) -> Features:
    """Two bytes a value."""
    if signature == "encode_ads":
        return {"category_path": _texts([b""] * 400_000)}
    values = {"history": _texts([b""] * 400_000), "timestamps": _ints([1] * 400_000)}
    return {**values, "target": _texts([b"ad01"])}


def _one_is_endless(rng: Rng) -> tuple[str, Inputs, bool]:
    """In a dense block hundreds of others would be as wide."""
    signature = str(rng.choice(list(_EXAMPLES)))
    other = {"title": _texts([b"word"]), "target": _texts([b"ad01"])}
    return signature, _examples([_endless(signature), *[other] * 800]), True


def _odd_ids(rng: Rng) -> tuple[str, Inputs, bool]:
    return "similar_ads_by_sid", {"ad_ids": ids(rng, int(rng.integers(1, 5)))}, True


def _rules(rng: Rng) -> dict[str, np.ndarray]:
    """Both modes, and what is neither: a toy has none that reads an index."""
    rules = good_inputs(rng, "recommend_filtered")
    modes = _block([b"hybrid", b"generative", b"\xff"])
    return {**rules, "mode": rng.choice(modes, size=len(rules["mode"]))}


def _odd_rules(rng: Rng) -> tuple[str, Inputs, bool]:
    return "recommend_filtered", _rules(rng), True


def _odd_context(rng: Rng) -> tuple[str, Inputs, bool]:
    rules = _rules(rng)
    shape = rules["history"].shape
    weights = rng.choice(_ODD_FLOATS, size=shape).astype(np.float32)
    inputs = {
        **rules,
        "history_timestamps": rng.choice(np.array(_ODD_INTS, np.int64), size=shape),
        "history_events": ids(rng, *shape),
        "history_weights": weights,
    }
    return "recommend_in_context", inputs, True


def _other_type(rng: Rng) -> tuple[str, Inputs, bool]:
    """One of the examples has a column of another type."""
    signature = str(rng.choice(list(_EXAMPLES)))
    users = [_EXAMPLES[signature](rng) for _ in range(int(rng.integers(1, 5)))]
    name = str(rng.choice(["title", "price"] if signature == "encode_ads" else ["history"]))
    users[rng.integers(len(users))][name] = _ints([1, 2])
    return signature, _examples(users), False


def _no_or_two_targets(rng: Rng) -> tuple[str, Inputs, bool]:
    users = [_user(rng) for _ in range(int(rng.integers(1, 5)))]
    users[rng.integers(len(users))]["target"] = _texts([b"ad01"] * int(rng.choice([0, 2])))
    return "evaluate", _examples(users), False


def _no_example(rng: Rng) -> tuple[str, Inputs, bool]:
    """Beside others that are one: a length past the end."""
    signature = str(rng.choice(list(_EXAMPLES)))
    whole = _examples([_EXAMPLES[signature](rng)])["examples"].tolist()
    return signature, {"examples": _block([*whole, b"\x0a\xff\x01" + rng.bytes(9)])}, False


_CASES = (
    _odd_examples, _odd_rules, _odd_ids, _odd_context, _other_type, _no_or_two_targets, _no_example,
)  # fmt: skip
SIGNATURE_KINDS = {case.__name__ for case in (*_CASES, _one_is_endless)}


def signature_case(rng: Rng) -> Hostile:
    """One request."""
    make = _CASES[rng.integers(len(_CASES))]
    if rng.random() < 0.03:
        make = _one_is_endless
    signature, inputs, fits = make(rng)
    if rng.random() < 0.5:
        columns = {alias: _json(value.tolist()) for alias, value in inputs.items()}
        body = {"signature_name": signature, "inputs": columns}
        return Hostile(make.__name__, _REST, json.dumps(body).encode(), {200 if fits else 400})
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "sid_tfx", signature
    for alias, value in inputs.items():
        fill(request.inputs[alias], value)
    code = StatusCode.OK if fits else StatusCode.INVALID_ARGUMENT
    return Hostile(make.__name__, PREDICT, request.SerializeToString(), {code})


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
