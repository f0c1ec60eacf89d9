"""The client of a sid_tfx servable; works the same against TF Serving and `python -m serving`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from serving import queries, wire
from serving.client_errors import InvalidRequestError
from serving.model_client import ModelClient
from serving.queries import AdQuery, History
from serving.results import AdList, EncodedAd
from serving.wire_inputs import Blocks


class RecommenderClient(ModelClient):
    """Asks a model server for recommendations, semantic IDs and similar ads.

    The servable's shapes are fixed at export. The client reads them from the server's metadata,
    pads shorter histories and keeps the newest ads of longer ones. Thread-safe: make one and share
    it. `serving.async_client.AsyncRecommenderClient` is the same for asyncio.

    Args:
        target: `host:port` of the server's gRPC port.
        model_name: the model's name on the server.
        timeout: seconds for a call, reading the servable's shapes included. While the server
            cannot be reached (a restart) a call is retried until then.
        max_message_bytes: bound on a request's and an answer's size.
        version_label: asks the version of this label, such as `canary`; the newest when None.
        credentials: of a server with TLS, `grpc.ssl_channel_credentials(...)`.
        connections: HTTP/2 connections that calls take turns on. One carries any number of calls
            at once, but is one CPU core's work at either end.

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
        query = queries.recommend(history, k)
        return query.unwrapped(self._ask(query))

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
            filter_seen: also leave out the ads of the history itself, all of them: those before
                the newest that the servable reads are sent as further exclusions.
            mode: `generative`, or `hybrid` to score candidates densely as well.
            k: as for `recommend`.

        Returns:
            As `recommend`.

        Raises:
            ValueError: more exclusions than the servable takes, older seen ads included; an
                unknown mode; `k` too large.
            RecommenderError: the call failed, see `client_errors`.
        """
        query = queries.recommend_filtered(history, exclude, filter_seen, mode, k)
        return query.unwrapped(self._ask(query))

    @overload
    def recommend_in_context(  # type: ignore[overload-overlap]
        self,
        history: Sequence[str],
        timestamps: Sequence[int] | None = ...,
        events: Sequence[str] | None = ...,
        weights: Sequence[float] | None = ...,
        exclude: Sequence[str] = ...,
        filter_seen: bool = ...,
        mode: str = ...,
        k: int | None = ...,
    ) -> AdList: ...
    @overload
    def recommend_in_context(
        self,
        history: Sequence[History],
        timestamps: Sequence[Sequence[int]] | None = ...,
        events: Sequence[Sequence[str]] | None = ...,
        weights: Sequence[Sequence[float]] | None = ...,
        exclude: Sequence[str] = ...,
        filter_seen: bool = ...,
        mode: str = ...,
        k: int | None = ...,
    ) -> list[AdList]: ...
    def recommend_in_context(
        self,
        history: Sequence[str] | Sequence[History],
        timestamps: Sequence[int] | Sequence[Sequence[int]] | None = None,
        events: Sequence[str] | Sequence[Sequence[str]] | None = None,
        weights: Sequence[float] | Sequence[Sequence[float]] | None = None,
        exclude: Sequence[str] = (),
        filter_seen: bool = False,
        mode: str = "generative",
        k: int | None = None,
    ) -> AdList | list[AdList]:
        """What to show next, with more of the history than its ads.

        Only a servable whose recommender reads a context has this signature. What isn't given is
        unknown to it, which is no error: it was trained for that too.

        Args:
            history: as for `recommend`.
            timestamps: Unix seconds of each ad of the history, ascending, 0 where unknown; one
                such list a history where several are given.
            events: event type of each, such as `click`, "" where unknown.
            weights: weight of each, 0 where unknown.
            exclude: as for `recommend_filtered`.
            filter_seen: as for `recommend_filtered`.
            mode: as for `recommend_filtered`.
            k: as for `recommend`.

        Returns:
            As `recommend`.

        Raises:
            TypeError: a timestamp is no integer, an event type no string, a weight no number.
            ValueError: a list is not as long as its history, timestamps do not ascend, a weight is
                negative or not finite; as for `recommend_filtered`.
            RecommenderError: the call failed, see `client_errors`; `InvalidRequestError` where the
                servable has no such signature.
        """
        query = queries.recommend_in_context(
            history, timestamps, events, weights, exclude, filter_seen, mode, k
        )
        return query.unwrapped(self._ask(query))

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
        outputs, version = self._connection.predict(
            queries.ENCODE_SIGNATURE, queries.encode_inputs(ads), queries.ENCODE_OUTPUTS
        )
        return wire.encoded_ads(outputs, version)

    def similar_ads(
        self, ad_ids: Sequence[str], k: int | None = None, by: str = "embedding"
    ) -> list[AdList]:
        """The nearest ads of each of these ads.

        Args:
            ad_ids: ads of the catalogue.
            k: how many for each; all that the servable returns when None.
            by: `embedding`, or `sid` for what the codes alone say of an ad.

        Raises:
            ValueError: `k` is larger than the servable returns, `by` is neither.
            RecommenderError: the call failed, see `client_errors`.
        """
        return self._ask(queries.similar_ads(ad_ids, k, by))

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
        return self._ask(queries.similar_to_embedding(embedding, k))

    def _ask(self, query: AdQuery) -> list[AdList]:
        if query.rows == 0:
            return []
        used, deadline = self._known, self._connection.messages.deadline()
        try:
            outputs, version = self._predict(query, deadline)
        except (InvalidRequestError, ValueError):
            # A new version may have other shapes and bounds than the ones this client learnt.
            if used is None or self._learn(deadline) == used:
                raise
            outputs, version = self._predict(query, deadline)
        known = self._known
        if known is not None and known.version != version:
            self._known = None
        return query.answer(outputs, version)

    def _predict(self, query: AdQuery, deadline: float) -> tuple[Blocks, int]:
        known = self._known or self._learn(deadline)
        inputs = query.inputs(known, self._connection.messages.model_name)
        return self._connection.predict(query.signature, inputs, (), deadline)
