"""The client for asyncio, with the methods, arguments and errors of `serving.client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, overload

import grpc
import numpy as np

from serving import wire
from serving.async_connection import AsyncConnection
from serving.client_errors import InvalidRequestError, RecommenderError
from serving.examples import ad_example
from serving.messages import Messages, available_version
from serving.results import AdList, EncodedAd, ModelMetadata, VersionState
from serving.wire_inputs import (
    Blocks,
    WireInputs,
    check_filter,
    check_ids,
    check_k,
    embedding_matrix,
    similar_signature,
)

History = Sequence[str]


class AsyncRecommenderClient:
    """`RecommenderClient` for asyncio; make it inside the event loop that uses it.

    Args:
        target: `host:port` of the server's gRPC port.
        model_name: the model's name on the server.
        timeout: seconds for a call, retries included.
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
        self._known = await self._connection.metadata()
        return self._known

    async def wait_until_available(self, timeout: float = 60.0) -> int:
        """See `ModelClient.wait_until_available`."""
        deadline = time.monotonic() + timeout
        last = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                version, last = available_version(await self._connection.status(timeout=left))
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
        histories, single = wire.as_batch(history)
        answer = await self._ads(
            "recommend", lambda inputs: inputs.recommend(histories), len(histories), k
        )
        return answer[0] if single else answer

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
        check_filter(exclude, mode)
        histories, single = wire.as_batch(history)
        answer = await self._ads(
            "recommend_filtered",
            lambda inputs: inputs.recommend_filtered(histories, exclude, filter_seen, mode),
            len(histories),
            k,
        )
        return answer[0] if single else answer

    async def encode_ads(self, ads: Sequence[Mapping[str, Any]]) -> list[EncodedAd]:
        """See `RecommenderClient.encode_ads`."""
        if not ads:
            return []
        examples = np.array([ad_example(ad) for ad in ads], dtype=object)
        outputs, version = await self._connection.predict(
            "encode_ads", {"examples": examples}, ["sids", "embedding"]
        )
        return wire.encoded_ads(outputs, version)

    async def similar_ads(
        self, ad_ids: Sequence[str], k: int | None = None, by: str = "embedding"
    ) -> list[AdList]:
        """See `RecommenderClient.similar_ads`."""
        ids = check_ids(ad_ids)
        signature = similar_signature(by)
        return await self._ads(signature, lambda inputs: {"ad_ids": ids}, len(ids), k)

    async def similar_to_embedding(
        self,
        embedding: np.ndarray | Sequence[float] | Sequence[Sequence[float]],
        k: int | None = None,
    ) -> list[AdList]:
        """See `RecommenderClient.similar_to_embedding`."""
        matrix = embedding_matrix(embedding)
        return await self._ads(
            "similar_to_embedding",
            lambda inputs: inputs.similar_to_embedding(matrix),
            len(matrix),
            k,
        )

    async def _ads(
        self, signature: str, blocks: Callable[[WireInputs], Blocks], rows: int, k: int | None
    ) -> list[AdList]:
        check_k(k)
        if rows == 0:
            return []
        used = self._known
        try:
            outputs, version = await self._predict(signature, blocks, k)
        except InvalidRequestError:
            # A new version may have other shapes than the ones this client learnt.
            if used is None or await self.metadata() == used:
                raise
            outputs, version = await self._predict(signature, blocks, k)
        if self._known is not None and self._known.version != version:
            self._known = None
        return wire.ad_lists(outputs, version, k)

    async def _predict(
        self, signature: str, blocks: Callable[[WireInputs], Blocks], k: int | None
    ) -> tuple[Blocks, int]:
        known = self._known or await self.metadata()
        inputs = WireInputs(known, self._connection.model_name)
        inputs.check_k(signature, k)
        return await self._connection.predict(signature, blocks(inputs), ())
