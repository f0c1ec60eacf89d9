"""The asyncio client: the answers and errors of the blocking one, many at once; labels; TLS."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pytest

from serving.async_client import AsyncRecommenderClient
from serving.client import RecommenderClient
from serving.client_errors import (
    InvalidRequestError,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from serving.model_config import ModelConfig
from serving.policies import Latest
from serving.server import ModelServer, Server
from serving.settings import ServerSettings
from serving.tls import TlsConfig
from tests.serving.certificates import authority
from tests.serving.toy_servable import AD_IDS, DIM, HISTORY, K

pytestmark = pytest.mark.unit

Result = TypeVar("Result")


def with_client(
    port: int, use: Callable[[AsyncRecommenderClient], Awaitable[Result]], **options: object
) -> Result:
    async def run() -> Result:
        async with AsyncRecommenderClient(f"127.0.0.1:{port}", **options) as client:  # type: ignore[arg-type]
            return await use(client)

    return asyncio.run(run())


def test_every_method_answers_what_the_blocking_client_answers(
    shared: ModelServer, client: RecommenderClient
) -> None:
    ad = {"ad_id": "n", "title": "abc", "price": 7}
    embedding = np.eye(DIM, dtype=np.float32)[0]

    async def ask(other: AsyncRecommenderClient) -> list:
        assert await other.wait_until_available(20) == 1
        return [
            await other.recommend(["ad01"]),
            await other.recommend([["ad01"], []], k=2),
            await other.recommend_filtered(["ad01"], exclude=["ad02"], filter_seen=True),
            await other.recommend_filtered(AD_IDS[-HISTORY - 2 :], filter_seen=True),
            await other.recommend_in_context(["ad01"], timestamps=[4], events=["buy"]),
            await other.similar_ads(["ad03"], k=1),
            await other.similar_to_embedding(embedding),
            await other.status(),
            await other.metadata(),
            [code.sid for code in await other.encode_ads([ad])],
        ]

    assert with_client(shared.port, ask) == [
        client.recommend(["ad01"]),
        client.recommend([["ad01"], []], k=2),
        client.recommend_filtered(["ad01"], exclude=["ad02"], filter_seen=True),
        client.recommend_filtered(AD_IDS[-HISTORY - 2 :], filter_seen=True),
        client.recommend_in_context(["ad01"], timestamps=[4], events=["buy"]),
        client.similar_ads(["ad03"], k=1),
        client.similar_to_embedding(embedding),
        client.status(),
        client.metadata(),
        [code.sid for code in client.encode_ads([ad])],
    ]


def test_many_calls_at_once_over_several_connections(
    shared: ModelServer, client: RecommenderClient
) -> None:
    async def ask(other: AsyncRecommenderClient) -> list:
        return await asyncio.gather(*[other.recommend([ad]) for ad in AD_IDS * 5])

    answers = with_client(shared.port, ask, connections=3)
    assert answers == [client.recommend([ad]) for ad in AD_IDS * 5]
    with RecommenderClient(f"127.0.0.1:{shared.port}", connections=3) as pooled:
        assert [pooled.recommend([ad]) for ad in AD_IDS] == answers[: len(AD_IDS)]
    with pytest.raises(ValueError, match="connections is 0"):
        RecommenderClient("localhost:1", connections=0)


def test_errors_are_the_same(shared: ModelServer) -> None:
    async def unknown(other: AsyncRecommenderClient) -> object:
        return await other.recommend(["ad01"])

    async def too_long(other: AsyncRecommenderClient) -> object:
        return await other.similar_to_embedding(np.ones([50_000, DIM]))

    async def too_large(other: AsyncRecommenderClient) -> object:
        return await other.recommend(["ad01"], k=K + 1)

    with pytest.raises(ModelNotFoundError, match=r"Latest\(other\)"):
        with_client(shared.port, unknown, model_name="other")
    with pytest.raises((RequestTimeoutError, ServerUnavailableError)):
        with_client(shared.port, too_long, timeout=0.001)
    with pytest.raises(ValueError, match=f"the servable returns {K}"):
        with_client(shared.port, too_large)
    begin = time.monotonic()
    with pytest.raises(ServerUnavailableError):
        with_client(1, unknown, timeout=0.5)
    assert 0.3 < time.monotonic() - begin < 5


def test_a_label_picks_the_version(toys: dict[int, Path], tmp_path: Path) -> None:
    for version in (1, 2):
        shutil.copytree(toys[version], tmp_path / str(version))
    config = ModelConfig("sid_tfx", tmp_path, Latest(2), {"stable": 1, "canary": 2})
    settings = ServerSettings(labels_for_unavailable=True, settle_seconds=0)
    with Server([config], settings) as server:
        server.wait_until_available(30)
        target = f"127.0.0.1:{server.port}"
        for label, version in (("canary", 2), ("stable", 1)):
            with RecommenderClient(target, version_label=label) as client:
                client.wait_until_available(30)
                assert client.metadata().version == version
                assert client.recommend(["ad01"]).model_version == version

                async def ask(other: AsyncRecommenderClient) -> int:
                    return (await other.recommend(["ad01"])).model_version

                assert with_client(server.port, ask, version_label=label) == version
        with (
            RecommenderClient(target, version_label="none") as client,
            pytest.raises(InvalidRequestError, match="Unrecognized servable version label: none"),
        ):
            client.recommend(["ad01"])


def test_both_clients_speak_tls(toys: dict[int, Path]) -> None:
    ours = authority("ours")
    key, certificate = ours.issue("server")
    tls = TlsConfig(key, certificate, ours.pem, client_verify=True)
    credentials = grpc.ssl_channel_credentials(ours.pem, *ours.issue("client"))

    async def ask(other: AsyncRecommenderClient) -> int:
        return await other.wait_until_available(30)

    with ModelServer("sid_tfx", toys[1].parent, tls=tls, settle_seconds=0) as server:
        target = f"127.0.0.1:{server.port}"
        with RecommenderClient(target, credentials=credentials) as client:
            assert client.wait_until_available(30) == 3
        assert with_client(server.port, ask, credentials=credentials) == 3
        with (
            RecommenderClient(target, timeout=1) as plain,
            pytest.raises((ServerUnavailableError, RequestTimeoutError)),
        ):
            plain.recommend(["ad01"])
