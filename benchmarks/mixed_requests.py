"""Requests of several signatures over gRPC and REST, and the answers that a servable gives them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from benchmarks.serving_load import MODEL, draw_histories, history_length, known_ads, padded
from serving.servable import Servable
from serving.tensors import fill
from serving.wire import strings

# Of eight requests. Half are the one that a servable is for; the index and the rules take turns.
_MIX = (
    "recommend",
    "recommend_filtered",
    "recommend",
    "similar_ads",
    "recommend",
    "similar_to_embedding",
    "recommend",
    "recommend_filtered",
)
_BATCH = 32
# The same history in another batch: rounding, and the order of ads whose scores differ by no more.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Answer:
    """Ads and their scores, best first; `b""` past the last."""

    ad_ids: tuple[bytes, ...]
    scores: np.ndarray

    def is_like(self, other: Answer) -> bool:
        """Whether both are one answer, but for rounding."""
        if len(self.ad_ids) != len(other.ad_ids):
            return False
        scale = np.maximum(1.0, np.abs(other.scores))
        if (np.abs(self.scores - other.scores) > _TOLERANCE * scale).any():
            return False
        if self.ad_ids == other.ad_ids:
            return True
        known = dict(zip(other.ad_ids, other.scores, strict=True))
        # Only ads of nearly equal score may have changed places, at the end with one left out.
        last = float(other.scores[-1])
        return len(set(self.ad_ids)) == len(set(other.ad_ids)) and all(
            abs(score - known.get(ad, last)) <= _TOLERANCE * max(1.0, abs(score))
            for ad, score in zip(self.ad_ids, self.scores, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Request:
    """One request, as both protocols send it.

    Attributes:
        signature: Which one it asks.
        inputs: Its blocks, batch 1.
        grpc: A serialized PredictRequest.
        rest: The body for `:predict`.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    grpc: bytes
    rest: bytes

    @classmethod
    def of(cls, signature: str, inputs: Mapping[str, np.ndarray]) -> Request:
        """A request of these inputs."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = MODEL, signature
        for name, block in inputs.items():
            fill(request.inputs[name], block)
        instance = {name: _plain(block[0]) for name, block in inputs.items()}
        body = {"signature_name": signature, "instances": [instance]}
        return cls(signature, inputs, request.SerializeToString(), json.dumps(body).encode())


def draw_requests(servable: Servable, count: int, seed: int) -> list[Request]:
    """Draws requests of every signature of the mix that the servable has."""
    ads = known_ads(servable)
    rng = np.random.default_rng(seed)
    histories = draw_histories(ads, history_length(servable), count, seed)
    mix = [name for name in _MIX if name in servable.signatures]
    return [
        Request.of(name, _inputs(servable, name, history, ads, rng))
        for name, history in zip((mix * count)[:count], histories, strict=True)
    ]


def _inputs(
    servable: Servable,
    signature: str,
    history: Sequence[str],
    ads: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    shapes = {name: port.shape for name, port in servable.signatures[signature].inputs.items()}

    def width(name: str) -> int:
        shape = shapes[name]
        assert shape is not None
        return shape[1]

    if signature == "similar_ads":
        return {"ad_ids": strings([ads[rng.integers(len(ads))]])}
    if signature == "similar_to_embedding":
        vector = rng.normal(size=(1, width("embedding"))).astype(np.float32)
        return {"embedding": vector / np.linalg.norm(vector)}
    inputs = {"history": padded([history], width("history"))}
    if signature == "recommend_filtered":
        excluded = [ads[i] for i in rng.integers(len(ads), size=min(2, width("exclude_ad_ids")))]
        inputs |= {
            "exclude_ad_ids": padded([excluded], width("exclude_ad_ids")),
            "filter_seen": np.array([rng.random() < 0.5]),
            "mode": strings(["hybrid" if rng.random() < 0.5 else "generative"]),
        }
    return inputs


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(part) for part in value] if isinstance(value, np.ndarray) else value.item()


def known_answers(servable: Servable, requests: Sequence[Request]) -> list[list[Answer]]:
    """The servable's own answers to each request: alone, and in a batch of others."""
    found: list[list[Answer]] = [[] for _ in requests]
    for size in (1, _BATCH):
        for some in _batches(requests, size):
            blocks = [requests[index].inputs for index in some]
            inputs = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
            ads, scores = servable.run(requests[some[0]].signature, inputs, ["ad_ids", "scores"])
            for row, index in enumerate(some):
                found[index].append(Answer(tuple(ads[row].tolist()), scores[row]))
    return found


def _batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    for signature in sorted({request.signature for request in requests}):
        rows = [i for i, request in enumerate(requests) if request.signature == signature]
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def read_grpc(body: bytes) -> tuple[int, Answer]:
    """The version that answered, and what, from a serialized PredictResponse."""
    response = predict_pb2.PredictResponse.FromString(body)
    ads = tuple(response.outputs["ad_ids"].string_val)
    scores = np.array(response.outputs["scores"].float_val)
    return response.model_spec.version.value, Answer(ads, scores)


def read_rest(body: bytes) -> Answer:
    """The answer in a body of `:predict`, which names no version."""
    [found] = json.loads(body)["predictions"]
    ads = tuple(ad.encode() for ad in found["ad_ids"])
    return Answer(ads, np.array(found["scores"]))
