from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from serving.client import RecommenderClient
from serving.server import ModelServer
from serving.tensors import fill
from tests.serving.stubs import Stubs
from tests.serving.toy_servable import save_toy


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Servables by version number: version v adds 100 * v to every score."""
    root = tmp_path_factory.mktemp("toys")
    return {
        version: save_toy(root / str(version), root / f"scratch{version}", 100.0 * version)
        for version in (1, 2, 3)
    }


@pytest.fixture
def publish(toys: dict[int, Path], tmp_path: Path) -> Callable[[int], Path]:
    """Copies a toy into the base path as the pipeline's Pusher does: `saved_model.pb` last."""

    def copy(version: int, source: int | None = None) -> Path:
        toy, target = toys[source or version], tmp_path / "models" / str(version)
        shutil.copytree(toy, target, ignore=shutil.ignore_patterns("saved_model.pb"))
        shutil.copy(toy / "saved_model.pb", target / "saved_model.pb")
        return target

    return copy


@pytest.fixture(scope="module")
def shared(
    toys: dict[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    """A server of both APIs on version 1 for tests that do not change it."""
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(toys[1], base / "1")
    with ModelServer("sid_tfx", base, rest_port=0, settle_seconds=0) as server:
        assert server.wait_until_available(30) == 1
        yield server


@pytest.fixture
def client(shared: ModelServer) -> Iterator[RecommenderClient]:
    with RecommenderClient(f"localhost:{shared.port}") as connected:
        yield connected


@pytest.fixture
def stubs(shared: ModelServer) -> Iterator[Stubs]:
    made = Stubs(shared.port)
    with made.channel:
        yield made


@pytest.fixture
def request_for() -> Callable[..., predict_pb2.PredictRequest]:
    def make(
        signature: str = "", name: str = "sid_tfx", **inputs: np.ndarray
    ) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        for alias, value in inputs.items():
            fill(request.inputs[alias], value)
        return request

    return make


@pytest.fixture
def history() -> np.ndarray:
    return np.array([[b"ad01", b"ad02", b"", b"", b""]], dtype=object)
