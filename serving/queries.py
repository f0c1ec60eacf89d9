"""What the clients ask for, checked before anything is sent; both kinds of client share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import wire
from serving.event_context import HistoryContext
from serving.examples import ad_example
from serving.results import AdList, ModelMetadata
from serving.wire_inputs import Blocks, WireInputs

MODES = ("generative", "hybrid")
ENCODE_SIGNATURE, ENCODE_OUTPUTS = "encode_ads", ("sids", "embedding")
_SIMILAR = {"embedding": "similar_ads", "sid": "similar_ads_by_sid"}

History = Sequence[str]


@dataclass(frozen=True)
class AdQuery:
    """A request that is answered with lists of ads.

    Args:
        signature: the signature to run.
        rows: lists that the answer has.
        k: how many ads of each; all that the servable returns when None.
        make: makes the inputs in the shapes of the servable.
        single: whether the caller asked for one list and not for several.

    Raises:
        ValueError: `k` asks for no ad.
    """

    signature: str
    rows: int
    k: int | None
    make: Callable[[WireInputs], Blocks]
    single: bool = False

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k is {self.k}: ask for at least 1 ad")

    def inputs(self, metadata: ModelMetadata, model_name: str) -> Blocks:
        """The inputs for a version of these signatures.

        Raises:
            ValueError: the servable returns fewer than `k` ads, or takes less than is asked of it.
            InvalidRequestError: the version has no such signature.
        """
        inputs = WireInputs(metadata, model_name)
        inputs.check_k(self.signature, self.k)
        return self.make(inputs)

    def answer(self, outputs: Mapping[str, np.ndarray], version: int) -> list[AdList]:
        """The lists that a version has answered with."""
        return wire.ad_lists(outputs, version, self.k)

    def unwrapped(self, answers: list[AdList]) -> AdList | list[AdList]:
        """The answer as the caller asked: one list or several."""
        return answers[0] if self.single else answers


def recommend(history: Sequence[str] | Sequence[History], k: int | None) -> AdQuery:
    """See `RecommenderClient.recommend`."""
    histories, single = wire.as_batch(history)
    return AdQuery(
        "recommend", len(histories), k, lambda inputs: inputs.recommend(histories), single
    )


def recommend_filtered(
    history: Sequence[str] | Sequence[History],
    exclude: Sequence[str],
    filter_seen: bool,
    mode: str,
    k: int | None,
) -> AdQuery:
    """See `RecommenderClient.recommend_filtered`."""
    _check_rules(exclude, mode)
    histories, single = wire.as_batch(history)
    return AdQuery(
        "recommend_filtered",
        len(histories),
        k,
        lambda inputs: inputs.recommend_filtered(histories, exclude, filter_seen, mode),
        single,
    )


def recommend_in_context(
    history: Sequence[str] | Sequence[History],
    timestamps: Sequence[int] | Sequence[Sequence[int]] | None,
    events: Sequence[str] | Sequence[Sequence[str]] | None,
    weights: Sequence[float] | Sequence[Sequence[float]] | None,
    exclude: Sequence[str],
    filter_seen: bool,
    mode: str,
    k: int | None,
) -> AdQuery:
    """See `RecommenderClient.recommend_in_context`."""
    _check_rules(exclude, mode)
    histories, single = wire.as_batch(history)
    context = HistoryContext.of(histories, single, timestamps, events, weights)
    return AdQuery(
        "recommend_in_context",
        len(histories),
        k,
        lambda inputs: inputs.recommend_in_context(histories, context, exclude, filter_seen, mode),
        single,
    )


def _check_rules(exclude: Sequence[str], mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: choose one of {MODES}")
    if isinstance(exclude, str | bytes):
        raise TypeError(f"exclude is {exclude!r}: give a list of ad ids")


def similar_ads(ad_ids: Sequence[str], k: int | None, by: str) -> AdQuery:
    """See `RecommenderClient.similar_ads`."""
    if isinstance(ad_ids, str | bytes):
        raise TypeError(f"ad_ids is {ad_ids!r}: give a list of ad ids")
    if by not in _SIMILAR:
        raise ValueError(f"by is {by!r}: choose one of {tuple(_SIMILAR)}")
    ids = wire.strings(ad_ids)
    return AdQuery(_SIMILAR[by], len(ids), k, lambda inputs: {"ad_ids": ids})


def similar_to_embedding(
    embedding: np.ndarray | Sequence[float] | Sequence[Sequence[float]], k: int | None
) -> AdQuery:
    """See `RecommenderClient.similar_to_embedding`."""
    matrix = np.atleast_2d(np.asarray(embedding, np.float32))
    if not np.isfinite(matrix).all():
        raise ValueError("embedding holds NaN or infinity")
    return AdQuery(
        "similar_to_embedding", len(matrix), k, lambda inputs: inputs.similar_to_embedding(matrix)
    )


def encode_inputs(ads: Sequence[Mapping[str, Any]]) -> Blocks:
    """The inputs of `encode_ads`, whose shapes no servable changes."""
    return {"examples": np.array([ad_example(ad) for ad in ads], dtype=object)}
