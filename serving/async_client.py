"""The client for asyncio, with the methods, arguments and errors of `serving.client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, overload

import grpc
import numpy as np

from serving import queries, wire
from serving.async_connection import AsyncConnection
from serving.client_errors import InvalidRequestError, RecommenderError
from serving.messages import Messages, available_version
from serving.queries import AdQuery, History
from serving.results import AdList, EncodedAd, ModelMetadata, VersionState
from serving.wire_inputs import Blocks


class AsyncRecommenderClient:
    """`RecommenderClient` for asyncio; make it inside the event loop that uses it.

    Args:
        target: `host:port` of the server's gRPC port.
        model_name: the model's name on the server.
        timeout: seconds for a call, retries and reading the servable's shapes included.
        max_message_bytes: bound on a request's and an answer's size.
        version_label: asks the version of this label; the newest when None.
        credentials: of a server with TLS.
        connections: HTTP/2 connections that calls take turns on.

    Example:

    >>> async with AsyncRecommenderClient("localhost:8500") as client:
    ...     answers = await asyncio.gather(*[client.recommend(ads) for ads in histories])
    """

    def __init__(
        self,
        target: str,
        model_name: str = "sid_tfx",
        timeout: float = 10.0,
        max_message_bytes: int = 64 * 1024 * 1024,
        *,
        version_label: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        connections: int = 1,
    ) -> None:
        messages = Messages(target, model_name, timeout, max_message_bytes, version_label)
        self._connection = AsyncConnection(messages, credentials, connections)
        self._known: ModelMetadata | None = None

    async def close(self) -> None:
        """Closes the connections."""
        await self._connection.close()

    async def __aenter__(self) -> AsyncRecommenderClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def status(self) -> list[VersionState]:
        """See `ModelClient.status`."""
        return await self._connection.status()

    async def metadata(self) -> ModelMetadata:
        """See `ModelClient.metadata`."""
        return await self._learn(None)

    async def wait_until_available(self, timeout: float = 60.0) -> int:
        """See `ModelClient.wait_until_available`."""
        deadline = time.monotonic() + timeout
        last = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                version, last = available_version(await self._connection.status(deadline))
            except RecommenderError as error:
                last = str(error)
            else:
                if version is not None:
                    return version
            await asyncio.sleep(min(0.05, max(left, 0)))
        raise self._connection.messages.not_available(timeout, last)

    # A str is itself a Sequence[str], which is why the overloads overlap for the type checker.
    @overload
    async def recommend(  # type: ignore[overload-overlap]
        self, history: Sequence[str], k: int | None = None
    ) -> AdList: ...
    @overload
    async def recommend(self, history: Sequence[History], k: int | None = None) -> list[AdList]: ...
    async def recommend(
        self, history: Sequence[str] | Sequence[History], k: int | None = None
    ) -> AdList | list[AdList]:
        """See `RecommenderClient.recommend`."""
        query = queries.recommend(history, k)
        return query.unwrapped(await self._ask(query))

    @overload
    async def recommend_filtered(  # type: ignore[overload-overlap]
        self,
        history: Sequence[str],
        exclude: Sequence[str] = ...,
        filter_seen: bool = ...,
        mode: str = ...,
        k: int | None = ...,
    ) -> AdList: ...
    @overload
    async def recommend_filtered(
        self,
        history: Sequence[History],
        exclude: Sequence[str] = ...,
        filter_seen: bool = ...,
        mode: str = ...,
        k: int | None = ...,
    ) -> list[AdList]: ...
    async def recommend_filtered(
        self,
        history: Sequence[str] | Sequence[History],
        exclude: Sequence[str] = (),
        filter_seen: bool = False,
        mode: str = "generative",
        k: int | None = None,
    ) -> AdList | list[AdList]:
        """See `RecommenderClient.recommend_filtered`."""
        query = queries.recommend_filtered(history, exclude, filter_seen, mode, k)
        return query.unwrapped(await self._ask(query))

    @overload
    async def recommend_in_context(  # type: ignore[overload-overlap]
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
    async def recommend_in_context(
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
    async def recommend_in_context(
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
        """See `RecommenderClient.recommend_in_context`."""
        query = queries.recommend_in_context(
            history, timestamps, events, weights, exclude, filter_seen, mode, k
        )
        return query.unwrapped(await self._ask(query))

    async def encode_ads(self, ads: Sequence[Mapping[str, Any]]) -> list[EncodedAd]:
        """See `RecommenderClient.encode_ads`."""
        if not ads:
            return []
        outputs, version = await self._connection.predict(
            queries.ENCODE_SIGNATURE, queries.encode_inputs(ads), queries.ENCODE_OUTPUTS
        )
        return wire.encoded_ads(outputs, version)

    async def similar_ads(
        self, ad_ids: Sequence[str], k: int | None = None, by: str = "embedding"
    ) -> list[AdList]:
        """See `RecommenderClient.similar_ads`."""
        return await self._ask(queries.similar_ads(ad_ids, k, by))

    async def similar_to_embedding(
        self,
        embedding: np.ndarray | Sequence[float] | Sequence[Sequence[float]],
        k: int | None = None,
    ) -> list[AdList]:
        """See `RecommenderClient.similar_to_embedding`."""
        return await self._ask(queries.similar_to_embedding(embedding, k))

    async def _ask(self, query: AdQuery) -> list[AdList]:
        if query.rows == 0:
            return []
        used, deadline = self._known, self._connection.messages.deadline()
        try:
            outputs, version = await self._predict(query, deadline)
        except (InvalidRequestError, ValueError):
            # A new version may have other shapes and bounds than the ones this client learnt.
            if used is None or await self._learn(deadline) == used:
                raise
            outputs, version = await self._predict(query, deadline)
        known = self._known
        if known is not None and known.version != version:
            self._known = None
        return query.answer(outputs, version)

    async def _predict(self, query: AdQuery, deadline: float) -> tuple[Blocks, int]:
        known = self._known or await self._learn(deadline)
        inputs = query.inputs(known, self._connection.messages.model_name)
        return await self._connection.predict(query.signature, inputs, (), deadline)

    async def _learn(self, deadline: float | None) -> ModelMetadata:
        self._known = await self._connection.metadata(deadline)
        return self._known
