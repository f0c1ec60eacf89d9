"""Checked arguments of the clients as the wire's blocks, in the shapes that a servable has."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np

from serving import wire
from serving.client_errors import InvalidRequestError
from serving.event_context import HistoryContext
from serving.results import ModelMetadata, PortSpec

Blocks = dict[str, np.ndarray]


class WireInputs:
    """Pads and trims to the fixed shapes of one version.

    Args:
        metadata: the version's signatures.
        model_name: for error messages.
    """

    def __init__(self, metadata: ModelMetadata, model_name: str) -> None:
        self.metadata, self._model_name = metadata, model_name

    def check_k(self, signature: str, k: int | None) -> None:
        """Checks that a signature returns `k` ads.

        Raises:
            ValueError: it returns fewer.
        """
        spec = self.metadata.signatures.get(signature)
        if k is None or spec is None:
            return
        limit = spec.outputs["ad_ids"].shape[1]
        if 0 <= limit < k:
            raise ValueError(f"k is {k}, the servable returns {limit}: export it with a larger k")

    def recommend(self, histories: Sequence[Sequence[str]]) -> Blocks:
        """Inputs of `recommend`; of a history that is too long the newest ads are kept."""
        return {"history": self._padded("recommend", "history", histories, newest=True)}

    def recommend_filtered(
        self,
        histories: Sequence[Sequence[str]],
        exclude: Sequence[str],
        filter_seen: bool,
        mode: str,
    ) -> Blocks:
        """Inputs of `recommend_filtered`.

        The servable filters what it is sent, the newest ads of a history. Seen ads before those
        are sent as exclusions of their row.

        Raises:
            ValueError: more exclusions than the servable takes, older seen ads included.
        """
        signature, rows = "recommend_filtered", len(histories)
        width = self._input(signature, "history").shape[1]
        limit = self._input(signature, "exclude_ad_ids").shape[1]
        if len(exclude) > limit:
            # Cutting the list would show an excluded ad.
            raise ValueError(
                f"{len(exclude)} ads to exclude, the servable takes {limit}: "
                "export it with a larger bound"
            )
        excluded: list[Sequence[str]] = [exclude] * rows
        if filter_seen:
            excluded = [_with_older(exclude, history, width, limit) for history in histories]
        return {
            "history": self._padded(signature, "history", histories, newest=True),
            "exclude_ad_ids": self._padded(signature, "exclude_ad_ids", excluded),
            "filter_seen": np.full(rows, filter_seen, np.bool_),
            "mode": wire.strings([mode] * rows),
        }

    def recommend_in_context(
        self,
        histories: Sequence[Sequence[str]],
        context: HistoryContext,
        exclude: Sequence[str],
        filter_seen: bool,
        mode: str,
    ) -> Blocks:
        """Inputs of `recommend_in_context`, whose rules are those of `recommend_filtered`.

        Raises:
            ValueError: more exclusions than the servable takes, older seen ads included.
        """
        width = self._input("recommend_in_context", "history").shape[1]
        return {
            **self.recommend_filtered(histories, exclude, filter_seen, mode),
            **context.blocks(width),
        }

    def similar_to_embedding(self, matrix: np.ndarray) -> Blocks:
        """Inputs of `similar_to_embedding`.

        Raises:
            ValueError: the size is not the servable's.
        """
        size = self._input("similar_to_embedding", "embedding").shape[1]
        if matrix.ndim != 2 or matrix.shape[1] != size:
            raise ValueError(f"embedding has shape {matrix.shape}, the servable's have {size}")
        return {"embedding": matrix}

    def _input(self, signature: str, alias: str) -> PortSpec:
        spec = self.metadata.signatures.get(signature)
        if spec is None or alias not in spec.inputs:
            raise InvalidRequestError(
                f"version {self.metadata.version} of {self._model_name} has no signature "
                f"{signature!r} with an input {alias!r}; it has {sorted(self.metadata.signatures)}",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        return spec.inputs[alias]

    def _padded(
        self, signature: str, alias: str, rows: Sequence[Sequence[str]], newest: bool = False
    ) -> np.ndarray:
        width = self._input(signature, alias).shape[1]
        block = np.full((len(rows), width), b"", dtype=object)
        for index, row in enumerate(rows):
            kept = row[-width:] if newest else row
            block[index, : len(kept)] = wire.strings(kept)
        return block


def _with_older(
    exclude: Sequence[str], history: Sequence[str], width: int, limit: int
) -> Sequence[str]:
    """The exclusions and the seen ads that are older than the `width` newest, each once.

    Raises:
        ValueError: they are more than `limit`.
    """
    named = {*exclude, *history[-width:], ""}
    older = [ad for ad in dict.fromkeys(history[:-width]) if ad not in named]
    if len(exclude) + len(older) > limit:
        # Forgetting the oldest would show an ad that was seen.
        raise ValueError(
            f"filter_seen: {len(older)} ads of a history are older than the {width} newest, which "
            f"the servable filters itself, and with {len(exclude)} ads to exclude they are more "
            f"than the {limit} it takes: leave out the oldest, or export it with a larger bound"
        )
    return [*exclude, *older]
