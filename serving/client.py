"""The client of a sid_tfx servable; works the same against TF Serving and `python -m serving`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import grpc
import numpy as np

from serving import wire
from serving.client_errors import InvalidRequestError
from serving.examples import ad_example
from serving.model_client import ModelClient
from serving.results import AdList, EncodedAd, PortSpec

History = Sequence[str]
MODES = ("generative", "hybrid")


class RecommenderClient(ModelClient):
    """Asks a model server for recommendations, semantic IDs and similar ads.

    The servable's shapes are fixed at export. The client reads them from the server's metadata,
    pads shorter histories and keeps the newest ads of longer ones. Thread-safe; one client holds
    one HTTP/2 connection, which carries any number of calls at once.

    Args:
        target: `host:port` of the server's gRPC port.
        model_name: the model's name on the server.
        timeout: seconds for a call. While the server cannot be reached (a restart) a call is
            retried until then.
        max_message_bytes: bound on a request's and an answer's size.

    Example:

    >>> with RecommenderClient("localhost:8500") as client:
    ...     client.wait_until_available(timeout=60)
    ...     print(client.recommend(["ad17", "ad4"], k=10).ad_ids)
    """

    # A str is itself a Sequence[str], which is why the overloads overlap for the type checker.
    @overload
    def recommend(  # type: ignore[overload-overlap]
        self, history: Sequence[str], k: int | None = None
    ) -> AdList: ...
    @overload
    def recommend(self, history: Sequence[History], k: int | None = None) -> list[AdList]: ...
    def recommend(
        self, history: Sequence[str] | Sequence[History], k: int | None = None
    ) -> AdList | list[AdList]:
        """What to show next.

        Args:
            history: ad ids the user acted on, oldest first; or one such list a user. Ads the
                catalogue does not know are skipped, an empty history gets what is popular.
            k: how many ads; all that the servable returns when None.

        Returns:
            An `AdList` for one history, a list of them for several.

        Raises:
            ValueError: `k` is larger than the servable returns.
            RecommenderError: the call failed, see `client_errors`.
        """
        histories, single = wire.as_batch(history)
        answer = self._ads(
            "recommend",
            lambda: {"history": self._padded("recommend", "history", histories, newest=True)},
            len(histories),
            k,
        )
        return answer[0] if single else answer

    @overload
    def recommend_filtered(  # type: ignore[overload-overlap]
        self,
        history: Sequence[str],
        exclude: Sequence[str] = ...,
        filter_seen: bool = ...,
        mode: str = ...,
        k: int | None = ...,
    ) -> AdList: ...
    @overload
    def recommend_filtered(
        self,
        history: Sequence[History],
        exclude: Sequence[str] = ...,
        filter_seen: bool = ...,
        mode: str = ...,
        k: int | None = ...,
    ) -> list[AdList]: ...
    def recommend_filtered(
        self,
        history: Sequence[str] | Sequence[History],
        exclude: Sequence[str] = (),
        filter_seen: bool = False,
        mode: str = "generative",
        k: int | None = None,
    ) -> AdList | list[AdList]:
        """What to show next, with business rules.

        Args:
            history: as for `recommend`.
            exclude: ad ids that must not be returned, for every history of the call.
            filter_seen: also leave out the ads of the history itself.
            mode: `generative`, or `hybrid` to score candidates densely as well.
            k: as for `recommend`.

        Returns:
            As `recommend`.

        Raises:
            ValueError: more exclusions than the servable takes, an unknown mode, `k` too large.
            RecommenderError: the call failed, see `client_errors`.
        """
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}: choose one of {MODES}")
        if isinstance(exclude, str | bytes):
            raise TypeError(f"exclude is {exclude!r}: give a list of ad ids")
        histories, single = wire.as_batch(history)
        rows = len(histories)

        def inputs() -> dict[str, np.ndarray]:
            signature = "recommend_filtered"
            limit = self._input(signature, "exclude_ad_ids").shape[1]
            if len(exclude) > limit:
                # Cutting the list would show an excluded ad.
                raise ValueError(
                    f"{len(exclude)} ads to exclude, the servable takes {limit}: "
                    "export it with a larger bound"
                )
            return {
                "history": self._padded(signature, "history", histories, newest=True),
                "exclude_ad_ids": self._padded(signature, "exclude_ad_ids", [exclude] * rows),
                "filter_seen": np.full(rows, filter_seen, np.bool_),
                "mode": wire.strings([mode] * rows),
            }

        answer = self._ads("recommend_filtered", inputs, rows, k)
        return answer[0] if single else answer

    def encode_ads(self, ads: Sequence[Mapping[str, Any]]) -> list[EncodedAd]:
        """Semantic IDs and embeddings of raw ads, ones the catalogue has never seen too.

        Args:
            ads: canonical raw columns, see `examples.ad_example`.

        Raises:
            TypeError, ValueError: an ad has a value that no raw column takes.
            RecommenderError: the call failed, see `client_errors`.
        """
        if not ads:
            return []
        examples = np.array([ad_example(ad) for ad in ads], dtype=object)
        outputs, version = self._connection.predict(
            "encode_ads", {"examples": examples}, ["sids", "embedding"]
        )
        return [
            EncodedAd(tuple(sid), embedding, version)
            for sid, embedding in zip(outputs["sids"].tolist(), outputs["embedding"], strict=True)
        ]

    def similar_ads(self, ad_ids: Sequence[str], k: int | None = None) -> list[AdList]:
        """The nearest ads of each of these ads.

        Args:
            ad_ids: ads of the catalogue.
            k: how many for each; all that the servable returns when None.

        Raises:
            ValueError: `k` is larger than the servable returns.
            RecommenderError: the call failed, see `client_errors`.
        """
        if isinstance(ad_ids, str | bytes):
            raise TypeError(f"ad_ids is {ad_ids!r}: give a list of ad ids")
        return self._ads("similar_ads", lambda: {"ad_ids": wire.strings(ad_ids)}, len(ad_ids), k)

    def similar_to_embedding(
        self,
        embedding: np.ndarray | Sequence[float] | Sequence[Sequence[float]],
        k: int | None = None,
    ) -> list[AdList]:
        """The nearest ads of embeddings, as `encode_ads` returns them.

        Args:
            embedding: float [D] or [B, D].
            k: how many for each; all that the servable returns when None.

        Returns:
            One `AdList` an embedding.

        Raises:
            ValueError: the size is not the servable's, a value is not finite, `k` is too large.
            RecommenderError: the call failed, see `client_errors`.
        """
        matrix = np.atleast_2d(np.asarray(embedding, np.float32))
        if not np.isfinite(matrix).all():
            raise ValueError("embedding holds NaN or infinity")

        def inputs() -> dict[str, np.ndarray]:
            size = self._input("similar_to_embedding", "embedding").shape[1]
            if matrix.ndim != 2 or matrix.shape[1] != size:
                raise ValueError(f"embedding has shape {matrix.shape}, the servable's have {size}")
            return {"embedding": matrix}

        return self._ads("similar_to_embedding", inputs, len(matrix), k)

    def _input(self, signature: str, alias: str) -> PortSpec:
        known = self._known or self.metadata()
        spec = known.signatures.get(signature)
        if spec is None or alias not in spec.inputs:
            raise InvalidRequestError(
                f"version {known.version} of {self._connection.model_name} has no signature "
                f"{signature!r} with an input {alias!r}; it has {sorted(known.signatures)}",
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

    def _ads(
        self, signature: str, inputs: Callable[[], dict[str, np.ndarray]], rows: int, k: int | None
    ) -> list[AdList]:
        if k is not None and k < 1:
            raise ValueError(f"k is {k}: ask for at least 1 ad")
        if rows == 0:
            return []
        used = self._known
        try:
            outputs, version = self._predict_ads(signature, inputs(), k)
        except InvalidRequestError:
            # A new version may have other shapes than the ones this client learnt.
            if used is None or self.metadata() == used:
                raise
            outputs, version = self._predict_ads(signature, inputs(), k)
        if self._known is not None and self._known.version != version:
            self._known = None
        return wire.ad_lists(outputs, version, k)

    def _predict_ads(
        self, signature: str, inputs: Mapping[str, np.ndarray], k: int | None
    ) -> tuple[dict[str, np.ndarray], int]:
        known = self._known or self.metadata()
        spec = known.signatures.get(signature)
        if spec is not None:
            limit = spec.outputs["ad_ids"].shape[1]
            if k is not None and 0 <= limit < k:
                raise ValueError(
                    f"k is {k}, the servable returns {limit}: export it with a larger k"
                )
        return self._connection.predict(signature, inputs, ())
