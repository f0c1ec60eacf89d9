"""The models one server holds, by name, and the list of them that can be replaced at run time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import grpc
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.errors import ServingError, invalid_argument, servable_not_found
from serving.model_config import ModelConfig, check_names
from serving.servable import Runnable
from serving.versions import ModelVersions

_DRAIN_SECONDS = 10.0


class Models:
    """Served models by name, and the labels of their versions. Thread-safe.

    Args:
        make: makes the not yet started `ModelVersions` of a config.
        labels_for_unavailable: whether a new label may name a version that does not serve (yet),
            TF Serving's `--allow_version_labels_for_unavailable_models`.
        on_change: called after the list of models has changed.
    """

    def __init__(
        self,
        make: Callable[[ModelConfig], ModelVersions],
        labels_for_unavailable: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._labels_for_unavailable, self._on_change = labels_for_unavailable, on_change
        self._models: dict[str, ModelVersions] = {}
        self._labels: dict[str, Mapping[str, int]] = {}
        self._reload_lock = threading.Lock()

    def __iter__(self) -> Iterator[ModelVersions]:
        return iter(tuple(self._models.values()))

    def start(self, configs: Iterable[ModelConfig]) -> None:
        """Begins to load these models and returns at once.

        Raises:
            ServingError: a name is listed twice or empty, or a label names a version although
                none serves yet.
        """
        checked = check_names(configs)
        for config in checked:
            self._check_labels(config, [])
        self._models = {config.name: self._make(config) for config in checked}
        self._labels = {config.name: dict(config.labels) for config in checked}
        for model in self:
            model.start()

    def reload(self, configs: Iterable[ModelConfig], timeout: float = 300.0) -> None:
        """Makes the served models exactly these and waits until they serve.

        A model whose config is unchanged is untouched. One whose folder changes serves from the
        old folder until the new one has a version that serves.

        Raises:
            ServingError: INVALID_ARGUMENT for a bad list; UNKNOWN when a model does not become
                available, which leaves the others served; FAILED_PRECONDITION for a label of a
                version that does not serve.
        """
        wanted = {config.name: config for config in check_names(configs)}
        with self._reload_lock:
            kept = {
                name: model
                for name, model in self._models.items()
                if name in wanted and model.base_path == wanted[name].base_path
            }
            added = {
                name: self._make(config) for name, config in wanted.items() if name not in kept
            }
            for model in added.values():
                model.start()
            for name, model in kept.items():
                model.apply(wanted[name].policy)
            deadline = time.monotonic() + timeout
            for model in added.values():
                model.wait_until_settled(max(0.0, deadline - time.monotonic()))
            failed = [model for model in added.values() if model.available is None]
            # A new folder without a version must not end what the old one serves.
            replaced = {model.name for model in failed} & set(self._models)
            dropped = [added.pop(name) for name in replaced]
            served = {**kept, **added, **{name: self._models[name] for name in replaced}}
            dropped += [model for model in self._models.values() if model not in served.values()]
            self._models = served
            self._on_change()
            self._labels = {name: labels for name, labels in self._labels.items() if name in wanted}
            reasons = [reason for model in failed for reason in _reasons(model)]
            for model in dropped:
                model.stop(_DRAIN_SECONDS)
            if failed:
                raise ServingError(
                    grpc.StatusCode.UNKNOWN,
                    f"{len(failed)} servable(s) did not become available: " + "; ".join(reasons),
                )
            for config in wanted.values():
                self._check_labels(config, served[config.name].all_available)
            self._labels = {name: dict(config.labels) for name, config in wanted.items()}

    def get(self, name: str) -> ModelVersions | None:
        """The model of this name."""
        return self._models.get(name)

    def version_of(self, spec: ModelSpec) -> int | None:
        """The version number a model spec asks for; None for the newest.

        Raises:
            ServingError: INVALID_ARGUMENT for a label that is not assigned.
        """
        if spec.WhichOneof("version_choice") == "version_label":
            version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return version
        return int(spec.version.value) if spec.HasField("version") else None

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Runnable]:
        """The servable a request's model spec names, held for the length of the block.

        Raises:
            ServingError: INVALID_ARGUMENT for a bad spec, NOT_FOUND when nothing serves it.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        version = self.version_of(spec)
        model = self.get(spec.name)
        if model is None:
            raise servable_not_found(spec.name, version)
        with model.use(version) as servable:
            yield servable

    def stop(self) -> None:
        """Stops watching and unloads every model."""
        for model in self:
            model.stop()

    def _check_labels(self, config: ModelConfig, available: list[int]) -> None:
        assigned = self._labels.get(config.name, {})
        for label, version in config.labels.items():
            if version in available or assigned.get(label) == version:
                continue
            if not (self._labels_for_unavailable and label not in assigned):
                raise ServingError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference",
                )


def _reasons(model: ModelVersions) -> list[str]:
    return [
        f"{{name: {model.name} version: {status.version}}} due to error: {status.error}"
        for status in model.statuses()
        if status.error is not None
    ] or [f"{model.name}: no version under {model.base_path}"]
