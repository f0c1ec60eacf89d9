"""The models one server holds, by name, and the list of them that can be replaced at run time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import grpc
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.errors import ServingError, invalid_argument, servable_not_found, shutting_down
from serving.model_config import ModelConfig, check_names
from serving.servable import Runnable
from serving.versions import ModelVersions

_DRAIN_SECONDS = 10.0
# How soon a reload that waits notices that the server ends.
_ENDING_SECONDS = 0.1


@dataclass(frozen=True)
class _Table:
    """What requests are looked up in; replaced as a whole, so that none sees half a reload.

    Attributes:
        models: the served models by name.
        labels: by model, the version of each label.
    """

    models: Mapping[str, ModelVersions] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


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
        self._table = _Table()
        self._reload_lock = threading.Lock()
        self._ending = threading.Event()
        # Of reloads that the end has cut short.
        self._given_up: list[ModelVersions] = []

    def __iter__(self) -> Iterator[ModelVersions]:
        return iter(tuple(self._table.models.values()))

    def start(self, configs: Iterable[ModelConfig]) -> None:
        """Begins to load these models and returns at once.

        Raises:
            ServingError: a name is listed twice or empty, or a label names a version although
                none serves yet.
        """
        checked = check_names(configs)
        for config in checked:
            self._check_labels(config, [])
        self._table = _Table(
            {config.name: self._make(config) for config in checked}, _labels(checked)
        )
        for model in self:
            model.start()

    def reload(self, configs: Iterable[ModelConfig], timeout: float = 300.0) -> None:
        """Makes the served models exactly these and waits until they serve.

        A model whose config is unchanged is untouched. One whose folder changes serves from the
        old folder until the new one has a version that serves. Labels move when the versions they
        name are loaded and before those they leave are retired.

        Raises:
            ServingError: INVALID_ARGUMENT for a bad list; UNKNOWN when a model does not become
                available, which leaves the others served; FAILED_PRECONDITION for a label of a
                version that does not serve; UNAVAILABLE when the server ends meanwhile.
        """
        wanted = {config.name: config for config in check_names(configs)}
        with self._reload_lock:
            if self._ending.is_set():
                raise shutting_down()
            before = self._table.models
            kept = {
                name: model
                for name, model in before.items()
                if name in wanted and model.base_path == wanted[name].base_path
            }
            added = {
                name: self._make(config) for name, config in wanted.items() if name not in kept
            }
            for model in added.values():
                model.start()
            for name, model in kept.items():
                model.apply(wanted[name].policy, partial(self._move_labels, wanted[name], model))
            self._wait(added.values(), timeout)
            failed = [model for model in added.values() if model.available is None]
            # A new folder without a version must not end what the old one serves.
            replaced = {model.name for model in failed} & set(before)
            dropped = [added.pop(name) for name in replaced]
            served = {**kept, **added, **{name: before[name] for name in replaced}}
            dropped += [model for model in before.values() if model not in served.values()]
            problem = _failure(failed) or self._label_problem(wanted.values(), served)
            labels = {name: found for name, found in self._table.labels.items() if name in wanted}
            self._table = _Table(served, labels if problem else _labels(wanted.values()))
            self._on_change()
            for model in dropped:
                model.stop(_DRAIN_SECONDS)
            if problem:
                raise problem

    def end_reloads(self) -> None:
        """Lets a reload that waits for its models give up, and refuses further ones."""
        self._ending.set()

    def get(self, name: str) -> ModelVersions | None:
        """The model of this name."""
        return self._table.models.get(name)

    def version_of(self, spec: ModelSpec) -> int | None:
        """The version number a model spec asks for; None for the newest.

        Raises:
            ServingError: INVALID_ARGUMENT for a label that is not assigned.
        """
        return _version_of(spec, self._table)

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Runnable]:
        """The servable a request's model spec names, held for the length of the block.

        Raises:
            ServingError: INVALID_ARGUMENT for a bad spec, NOT_FOUND when nothing serves it.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        with ExitStack() as stack:
            yield self._enter(spec, stack)

    def _enter(self, spec: ModelSpec, stack: ExitStack) -> Runnable:
        while True:
            table = self._table
            version, model = _version_of(spec, table), table.models.get(spec.name)
            if model is None:
                raise servable_not_found(spec.name, version)
            try:
                return stack.enter_context(model.use(version))
            except ServingError:
                # What was looked up a moment ago may have been replaced and retired since.
                if table is self._table:
                    raise

    def stop(self, wait_seconds: float | None = None) -> bool:
        """Stops watching and unloads every model.

        Args:
            wait_seconds: how long loads that are under way are waited for; None for their end.

        Returns:
            Whether all is over; False while a thread still loads, see `ModelVersions.stop`.
        """
        deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
        self._ending.set()
        # All at once, or one would begin a load while another is waited for.
        for model in self:
            model.begin_stop()
        over = self._reload_lock.acquire(timeout=-1 if deadline is None else _left(deadline))
        if over:
            self._reload_lock.release()
        for model in (*self, *self._given_up):
            over &= model.stop(wait_seconds=None if deadline is None else _left(deadline))
        return over

    def _wait(self, models: Iterable[ModelVersions], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for model in models:
            while (left := deadline - time.monotonic()) > 0 and not self._ending.is_set():
                if model.wait_until_settled(min(left, _ENDING_SECONDS)):
                    break
        if self._ending.is_set():
            for model in models:
                model.begin_stop()
                self._given_up.append(model)
            raise shutting_down()

    def _move_labels(self, config: ModelConfig, model: ModelVersions) -> None:
        if self._label_problem([config], {config.name: model}) is None:
            labels = {**self._table.labels, config.name: dict(config.labels)}
            self._table = replace(self._table, labels=labels)

    def _label_problem(
        self, configs: Iterable[ModelConfig], models: Mapping[str, ModelVersions]
    ) -> ServingError | None:
        try:
            for config in configs:
                self._check_labels(config, models[config.name].all_available)
        except ServingError as error:
            return error
        return None

    def _check_labels(self, config: ModelConfig, available: list[int]) -> None:
        assigned = self._table.labels.get(config.name, {})
        for label, version in config.labels.items():
            if version in available or assigned.get(label) == version:
                continue
            if not (self._labels_for_unavailable and label not in assigned):
                raise ServingError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference",
                )


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _labels(configs: Iterable[ModelConfig]) -> dict[str, Mapping[str, int]]:
    return {config.name: dict(config.labels) for config in configs}


def _version_of(spec: ModelSpec, table: _Table) -> int | None:
    if spec.WhichOneof("version_choice") == "version_label":
        version = table.labels.get(spec.name, {}).get(spec.version_label)
        if version is None:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return version
    return int(spec.version.value) if spec.HasField("version") else None


def _failure(failed: list[ModelVersions]) -> ServingError | None:
    if not failed:
        return None
    reasons = "; ".join(reason for model in failed for reason in _reasons(model))
    return ServingError(
        grpc.StatusCode.UNKNOWN,
        f"{len(failed)} servable(s) did not become available: {reasons}",
    )


def _reasons(model: ModelVersions) -> list[str]:
    return [
        f"{{name: {model.name} version: {status.version}}} due to error: {status.error}"
        for status in model.statuses()
        if status.error is not None
    ] or [f"{model.name}: no version under {model.base_path}"]
