"""The versions of one model: watched on disk, loaded, swapped and unloaded.

The newest version that loads is served. A newer one replaces it only after it is loaded and warm;
the old one is unloaded after its last request. A version that fails keeps its reason in the status
and is tried again only when its files change, so a push caught half-way heals by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.errors import ServingError, from_exception
from serving.memory import release
from serving.servable import Servable
from serving.version_dirs import Fingerprint, fingerprint, list_versions, recently_written

log = logging.getLogger(__name__)

Loader = Callable[[Path, str, int], Servable]
# Ended versions remembered for GetModelStatus; a server that runs for years forgets the oldest.
_REMEMBERED = 100


@dataclass
class VersionStatus:
    """What GetModelStatus says of one version: a `ModelVersionStatus.State` and its reason."""

    version: int
    state: int
    error: ServingError | None = None


@dataclass
class _Live:
    servable: Servable
    in_flight: int = 0


class ModelVersions:
    """Watches a base path and holds the version that serves.

    Args:
        name: the model's name.
        base_path: folder of numbered version directories; it may appear later.
        load: makes a warm `Servable` of `(path, name, version)` or raises.
        poll_seconds: time between looks at the base path; 0 looks once.
        settle_seconds: how long a version's files must be untouched before it is loaded.
        on_change: called after every change of a state.
    """

    def __init__(
        self,
        name: str,
        base_path: Path,
        load: Loader,
        *,
        poll_seconds: float = 1.0,
        settle_seconds: float = 0.5,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.base_path = name, base_path
        self._load, self._on_change = load, on_change
        self._poll_seconds, self._settle_seconds = poll_seconds, settle_seconds
        self._changed = threading.Condition()
        self._live: _Live | None = None
        self._retired: list[_Live] = []
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, Fingerprint] = {}
        self._polls = 0
        self._poll_lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"versions-{name}", daemon=True)

    def start(self) -> None:
        """Begins to watch; the first load happens in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stops watching and unloads. Requests must have been drained."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            if self._live is not None:
                self._retire(self._live)
                self._live = None
        self._unload_idle(wait_seconds=0.0)

    @contextmanager
    def use(self, version: int | None = None) -> Iterator[Servable]:
        """The servable for one request; it stays loaded until the block ends.

        Raises:
            ServingError: NOT_FOUND when that version, or any, is not loaded.
        """
        with self._changed:
            live = self._live
            if live is None or version not in (None, live.servable.version):
                asked = (
                    f"Latest({self.name})"
                    if version is None
                    else f"Specific({self.name}, {version})"
                )
                raise ServingError(
                    grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}"
                )
            live.in_flight += 1
        try:
            yield live.servable
        finally:
            with self._changed:
                live.in_flight -= 1
                if live is not self._live:
                    self._changed.notify_all()

    @property
    def available(self) -> int | None:
        """The version that serves."""
        live = self._live
        return None if live is None else live.servable.version

    def statuses(self) -> list[VersionStatus]:
        """Every version known, newest first."""
        with self._changed:
            return sorted(self._statuses.values(), key=lambda status: -status.version)

    def wait_until_settled(self, timeout: float) -> None:
        """Waits until a version serves or every version on disk was tried and failed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._live is not None or (self._polls > 0 and bool(self._failed)), timeout
            )

    def poll(self) -> None:
        """One look at the disk: loads the newest version that is not serving and not known bad."""
        with self._poll_lock:
            on_disk = list_versions(self.base_path)
            for version in sorted(on_disk, reverse=True):
                if version == self.available or self._try(version, on_disk[version]):
                    break
            for version in set(self._failed) - set(on_disk):
                del self._failed[version]
            with self._changed:
                self._polls += 1
                self._changed.notify_all()
            self._unload_idle(wait_seconds=min(self._poll_seconds, 1.0))

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                self.poll()
            except Exception:
                # The watcher must outlive a surprise: without it no version is ever picked up.
                log.exception("%s: looking for versions failed", self.name)
            if self._poll_seconds == 0:
                return
            self._stopped.wait(self._poll_seconds)

    def _try(self, version: int, path: Path) -> bool:
        before = fingerprint(path)
        if self._failed.get(version) == before:
            return False
        if recently_written(before, self._settle_seconds):
            self._stopped.wait(self._settle_seconds)
            if fingerprint(path) != before:
                return False
        self._set(version, ModelVersionStatus.START)
        self._set(version, ModelVersionStatus.LOADING)
        try:
            servable = self._load(path, self.name, version)
        except Exception as error:
            cause = from_exception(error)
            log.error("%s version %d does not load: %s", self.name, version, cause.message)
            self._failed[version] = before
            self._set(version, ModelVersionStatus.END, cause)
            return False
        if fingerprint(path) != before:
            servable.close()
            self._set(
                version,
                ModelVersionStatus.END,
                ServingError(
                    grpc.StatusCode.ABORTED, f"{path} was written while it loaded; trying again"
                ),
            )
            return False
        self._swap(servable)
        return True

    def _swap(self, servable: Servable) -> None:
        self._failed.pop(servable.version, None)
        with self._changed:
            old, self._live = self._live, _Live(servable)
            self._statuses[servable.version] = VersionStatus(
                servable.version, ModelVersionStatus.AVAILABLE
            )
            if old is not None:
                self._retire(old)
            self._changed.notify_all()
        log.info("%s version %d is available", self.name, servable.version)
        self._on_change()

    def _retire(self, live: _Live) -> None:
        self._retired.append(live)
        version = live.servable.version
        self._statuses[version] = VersionStatus(version, ModelVersionStatus.UNLOADING)

    def _unload_idle(self, wait_seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: all(live.in_flight == 0 for live in self._retired), wait_seconds
            )
            idle = [live for live in self._retired if live.in_flight == 0]
            self._retired = [live for live in self._retired if live.in_flight]
        if idle:
            while idle:
                self._unload(idle.pop())
            release()

    def _unload(self, live: _Live) -> None:
        version = live.servable.version
        live.servable.close()
        # After a roll-back the same version may already serve again.
        if version != self.available:
            self._set(version, ModelVersionStatus.END)
        log.info("%s version %d is unloaded", self.name, version)

    def _set(self, version: int, state: int, error: ServingError | None = None) -> None:
        with self._changed:
            self._statuses[version] = VersionStatus(version, state, error)
            ended = sorted(
                number
                for number, status in self._statuses.items()
                if status.state == ModelVersionStatus.END
            )
            for number in ended[: max(0, len(ended) - _REMEMBERED)]:
                del self._statuses[number]
            self._changed.notify_all()
        self._on_change()
