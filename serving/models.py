"""The models one server holds, by name, and the list of them that can be replaced at run time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.errors import ServingError, invalid_argument
from serving.servable import Servable
from serving.versions import ModelVersions


@dataclass(frozen=True)
class ModelConfig:
    """One served model: its name in requests and the folder of its numbered versions."""

    name: str
    base_path: Path


class Models:
    """Served models by name. Thread-safe.

    Args:
        make: makes the not yet started `ModelVersions` of a config.
    """

    def __init__(self, make: Callable[[ModelConfig], ModelVersions]) -> None:
        self._make = make
        self._models: dict[str, ModelVersions] = {}
        self._reload_lock = threading.Lock()

    def __iter__(self) -> Iterator[ModelVersions]:
        return iter(tuple(self._models.values()))

    def reload(self, configs: Iterable[ModelConfig]) -> list[ModelVersions]:
        """Makes the served models exactly these; a model whose config is unchanged is untouched.

        Returns:
            The models that were started.

        Raises:
            ServingError: INVALID_ARGUMENT when a name is listed twice or empty.
        """
        wanted: dict[str, ModelConfig] = {}
        for config in configs:
            if not config.name:
                raise invalid_argument("ModelConfig has no name specified.")
            if config.name in wanted:
                raise invalid_argument(
                    f"Illegal to list model {config.name} multiple times in config list"
                )
            wanted[config.name] = config
        with self._reload_lock:
            kept = {
                name: model
                for name, model in self._models.items()
                if name in wanted and model.base_path == wanted[name].base_path
            }
            started = {
                name: self._make(config) for name, config in wanted.items() if name not in kept
            }
            dropped = [model for name, model in self._models.items() if name not in kept]
            self._models = {**kept, **started}
            for model in started.values():
                model.start()
            for model in dropped:
                model.stop()
        return list(started.values())

    def get(self, name: str) -> ModelVersions | None:
        """The model of this name."""
        return self._models.get(name)

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Servable]:
        """The servable a request's model spec names, held for the length of the block.

        Raises:
            ServingError: INVALID_ARGUMENT for a bad spec, NOT_FOUND when nothing serves it.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.WhichOneof("version_choice") == "version_label":
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value if spec.HasField("version") else None
        model = self.get(spec.name)
        if model is None:
            asked = (
                f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            )
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}"
            )
        with model.use(version) as servable:
            yield servable

    def stop(self) -> None:
        """Stops watching and unloads every model."""
        for model in self:
            model.stop()
