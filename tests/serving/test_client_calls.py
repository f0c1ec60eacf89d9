"""What one call of either client is made of: its time, and the shapes and bounds that it learnt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.async_client import AsyncRecommenderClient
from serving.client import RecommenderClient
from serving.client_errors import RequestTimeoutError
from tests.serving.scripted import HISTORY, Scripted

pytestmark = pytest.mark.unit

# Calls a method of a client by its name.
Ask = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as made:
        yield made


@pytest.fixture(params=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest, server: Scripted) -> Iterator[Callable[[float], Ask]]:
    """Makes a client of a timeout."""
    ends: list[Callable[[], object]] = []

    def blocking(timeout: float) -> Ask:
        made = RecommenderClient(f"127.0.0.1:{server.port}", timeout=timeout)
        ends.append(made.close)
        return lambda name, *given, **named: getattr(made, name)(*given, **named)

    def by_asyncio(timeout: float) -> Ask:
        loop = asyncio.new_event_loop()

        async def make() -> AsyncRecommenderClient:
            return AsyncRecommenderClient(f"127.0.0.1:{server.port}", timeout=timeout)

        made = loop.run_until_complete(make())
        ends.extend((lambda: loop.run_until_complete(made.close()), loop.close))
        return lambda name, *given, **named: loop.run_until_complete(
            getattr(made, name)(*given, **named)
        )

    yield blocking if request.param == "blocking" else by_asyncio
    for end in ends:
        end()


def test_the_timeout_is_of_all_that_a_call_needs(
    server: Scripted, client: Callable[[float], Ask]
) -> None:
    server.seconds = 0.6
    ask = client(1.0)
    begin = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        ask("recommend", ["a"])
    # A server that is slow, or a machine that is, makes it no longer.
    assert time.monotonic() - begin < 3
    # The shapes are known by now.
    assert ask("recommend", ["a"]).ad_ids == ["ad0", "ad1", "ad2", "ad3"]
    assert server.calls == ["metadata", "predict", "predict"]


def test_the_timeout_is_of_a_call_that_a_new_version_makes_ask_again(
    server: Scripted, client: Callable[[float], Ask]
) -> None:
    ask = client(1.5)
    ask("recommend", ["a"])
    server.width, server.version, server.seconds = HISTORY + 1, 2, 0.6
    with pytest.raises(RequestTimeoutError):
        ask("recommend", ["a"])
    server.seconds = 0.0
    assert ask("recommend", ["a"]).model_version == 2


def test_bounds_that_a_new_version_has_raised_are_learnt(
    server: Scripted, client: Callable[[float], Ask]
) -> None:
    ask = client(20.0)
    assert len(ask("recommend", ["a"])) == 4
    server.k, server.exclude, server.version = 8, 5, 2
    assert len(ask("recommend", ["a"], k=8)) == 8
    server.k, server.exclude, server.version = 9, 6, 3
    assert len(ask("recommend_filtered", ["a"], exclude=["b"] * 6)) == 9
    server.exclude, server.version = 7, 4
    history = [f"h{place}" for place in range(HISTORY + 7)]
    assert len(ask("recommend_filtered", history, filter_seen=True)) == 9


def test_what_no_version_takes_is_refused_after_one_look(
    server: Scripted, client: Callable[[float], Ask]
) -> None:
    ask = client(20.0)
    # Just read: no reason to read again.
    with pytest.raises(ValueError, match="k is 9, the servable returns 4"):
        ask("recommend", ["a"], k=9)
    assert server.calls == ["metadata"]
    with pytest.raises(ValueError, match="k is 9, the servable returns 4"):
        ask("recommend", ["a"], k=9)
    assert server.calls == ["metadata"] * 2
    server.k, server.version = 8, 2
    with pytest.raises(ValueError, match="k is 9, the servable returns 8"):
        ask("recommend", ["a"], k=9)
    assert server.calls == ["metadata"] * 3
