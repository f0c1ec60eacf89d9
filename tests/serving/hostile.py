"""What all generated requests that no sane client sends have in common."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from tensorflow_serving.apis import predict_pb2

from serving.tensors import fill
from tests.serving.toy_servable import AD_IDS, DIM, EXCLUDE, HISTORY

# Room for a history of 10^6 ads in JSON.
MAX_MESSAGE = 8_000_000
SERVICE = "/tensorflow.serving.{}"


@dataclass(frozen=True)
class Hostile:
    """One request and the codes it may be answered with: of gRPC, or of HTTP."""

    what: str
    method: str
    body: bytes
    codes: Set
    headers: Mapping[str, str] = field(default_factory=dict)


Rng = np.random.Generator


def ids(rng: Rng, *shape: int) -> np.ndarray:
    pool = [*(ad.encode() for ad in AD_IDS), b"", b"?", "é".encode(), b"\xff\xfe", b"x" * 300]
    block = np.empty(int(np.prod(shape)), dtype=object)
    block[:] = [pool[index] for index in rng.integers(len(pool), size=block.size)]
    return block.reshape(shape)


def good_inputs(rng: Rng, signature: str) -> dict[str, np.ndarray]:
    """Inputs that fit, of strange ids and numbers."""
    rows = int(rng.integers(1, 5))
    history = {"history": ids(rng, rows, HISTORY)}
    if signature == "recommend":
        return history
    if signature == "similar_ads":
        return {"ad_ids": ids(rng, rows)}
    if signature == "similar_to_embedding":
        values = rng.normal(size=(rows, DIM)).astype(np.float32)
        values[rng.random(values.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45])
        return {"embedding": values}
    return {
        **history,
        "exclude_ad_ids": ids(rng, rows, EXCLUDE),
        "filter_seen": rng.random(rows) < 0.5,
        "mode": ids(rng, rows),
    }


SIGNATURES = ("recommend", "recommend_filtered", "similar_ads", "similar_to_embedding")


def good_request(rng: Rng) -> predict_pb2.PredictRequest:
    """A request that must be answered."""
    signature = str(rng.choice(SIGNATURES))
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "sid_tfx", signature
    for alias, value in good_inputs(rng, signature).items():
        fill(request.inputs[alias], value)
    return request


def word(rng: Rng) -> str:
    letters = list("abk_/:\\\"'{}%é\u2603 \n0-9")
    return "".join(rng.choice(letters, size=rng.integers(1, 40)))
