"""Between the wire's blocks and the client's typed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusResponse,
    ModelVersionStatus,
)

from serving.results import (
    AdList,
    EncodedAd,
    ModelMetadata,
    PortSpec,
    ScoredAd,
    SignatureSpec,
    VersionState,
)


def strings(values: Sequence[str]) -> np.ndarray:
    """Ids as an object array of bytes [n].

    Raises:
        TypeError: an id is not a string.
    """
    block = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"an id is {value!r}: ids are strings, send str(id)")
        block[index] = value.encode()
    return block


def as_batch(
    history: Sequence[str] | Sequence[Sequence[str]],
) -> tuple[list[Sequence[str]], bool]:
    """A history or several as a list of histories, and whether it was a single one.

    An empty list is one empty history.
    """
    if isinstance(history, str | bytes):
        raise TypeError(f"history is {history!r}: give a list of ad ids")
    if all(isinstance(item, list | tuple | np.ndarray) for item in history) and len(history):
        return cast(list[Sequence[str]], list(history)), False
    return [cast(Sequence[str], history)], True


def ad_lists(outputs: Mapping[str, np.ndarray], version: int, k: int | None) -> list[AdList]:
    """Rows of `ad_ids`, `scores`, `count` and, if there, `sids`, trimmed to count and k."""
    ad_ids, scores = outputs["ad_ids"].tolist(), outputs["scores"].tolist()
    sids = outputs["sids"].tolist() if "sids" in outputs else [[()] * len(row) for row in ad_ids]
    answer = []
    for count, ids, values, codes in zip(
        outputs["count"].tolist(), ad_ids, scores, sids, strict=True
    ):
        size = count if k is None else min(count, k)
        ads = zip(ids[:size], values[:size], codes[:size], strict=True)
        answer.append(
            AdList(
                tuple(ScoredAd(ad.decode(), score, tuple(sid)) for ad, score, sid in ads), version
            )
        )
    return answer


def encoded_ads(outputs: Mapping[str, np.ndarray], version: int) -> list[EncodedAd]:
    """Rows of `sids` and `embedding`."""
    return [
        EncodedAd(tuple(sid), embedding, version)
        for sid, embedding in zip(outputs["sids"].tolist(), outputs["embedding"], strict=True)
    ]


def states(response: GetModelStatusResponse) -> list[VersionState]:
    """GetModelStatus as the client returns it."""
    return [
        VersionState(
            entry.version,
            ModelVersionStatus.State.Name(entry.state),
            entry.status.error_message,
        )
        for entry in response.model_version_status
    ]


def model_metadata(signatures: SignatureDefMap, version: int) -> ModelMetadata:
    """GetModelMetadata as the client returns it."""
    return ModelMetadata(
        version,
        {
            key: SignatureSpec(_ports(proto.inputs), _ports(proto.outputs))
            for key, proto in signatures.signature_def.items()
            if not key.startswith("__saved_model")
        },
    )


def _ports(infos: Mapping) -> dict[str, PortSpec]:
    return {
        alias: PortSpec(
            tf.dtypes.as_dtype(info.dtype).name, tuple(dim.size for dim in info.tensor_shape.dim)
        )
        for alias, info in infos.items()
    }
