"""The versions of one model: watched on disk, loaded, swapped and unloaded.

A version that is wanted anew replaces another only after it is loaded and warm; the old one is
unloaded after its last request. A version that fails keeps its reason in the status, the next best
one serves in its place, and it is tried again only when its files change, so a push caught
half-way heals by itself.
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

from serving.errors import ServingError, from_exception, servable_not_found, shutting_down
from serving.memory import release
from serving.policies import Latest, VersionPolicy
from serving.servable import Runnable
from serving.version_dirs import (
    Fingerprint,
    fingerprint,
    has_graph,
    list_versions,
    recently_written,
)

log = logging.getLogger(__name__)

Loader = Callable[[Path, str, int], Runnable]
# Ended versions remembered for GetModelStatus; a server that runs for years forgets the oldest.
_REMEMBERED = 100
# How often a retired version is looked after that a request still holds.
_SWEEP_SECONDS = 1.0


@dataclass
class VersionStatus:
    """What GetModelStatus says of one version: a `ModelVersionStatus.State` and its reason."""

    version: int
    state: int
    error: ServingError | None = None


@dataclass
class _Live:
    servable: Runnable
    in_flight: int = 0


class ModelVersions:
    """Watches a base path and holds the versions that serve.

    Args:
        name: the model's name.
        base_path: folder of numbered version directories; it may appear later.
        load: makes a warm servable of `(path, name, version)` or raises.
        policy: which versions to serve.
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
        policy: VersionPolicy | None = None,
        poll_seconds: float = 1.0,
        settle_seconds: float = 0.5,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.base_path = name, base_path
        self._policy = policy or Latest()
        self._load, self._on_change = load, on_change
        self._poll_seconds, self._settle_seconds = poll_seconds, settle_seconds
        self._changed = threading.Condition()
        self._live: dict[int, _Live] = {}
        self._retired: list[_Live] = []
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, Fingerprint] = {}
        self._none_loads = False
        self._poll_lock = threading.Lock()
        self._stopped = threading.Event()
        self._drain_seconds = 0.0
        self._thread = threading.Thread(target=self._watch, name=f"versions-{name}", daemon=True)

    def start(self) -> None:
        """Begins to watch; the first load happens in the background."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Begins no further load; what serves goes on."""
        self._stopped.set()

    def stop(self, drain_seconds: float = 0.0, wait_seconds: float | None = None) -> bool:
        """Stops watching and unloads.

        Args:
            drain_seconds: how long requests in flight have to end, whose version stays otherwise.
            wait_seconds: how long all of it is waited for; None for its end. A load cannot be cut
                short: one that takes longer goes on, is thrown away, and the rest unloaded then.

        Returns:
            Whether it is over.
        """
        self.begin_stop()
        self._drain_seconds = drain_seconds
        if not self._thread.is_alive():
            self._unload_all()
            return True
        self._thread.join(wait_seconds)
        if self._thread.is_alive():
            log.warning("%s: what still loads or unloads is not waited for", self.name)
            return False
        return True

    def apply(
        self, policy: VersionPolicy, before_retiring: Callable[[], None] = lambda: None
    ) -> None:
        """Changes the policy; returns when the versions it wants are loaded or have failed.

        Args:
            policy: which versions to serve.
            before_retiring: called when those are loaded and what they replace still serves.
        """
        with self._poll_lock:
            if policy != self._policy:
                self._policy = policy
                self._look(before_retiring)

    @contextmanager
    def use(self, version: int | None = None) -> Iterator[Runnable]:
        """The servable for one request; it stays loaded until the block ends.

        Args:
            version: its number; None for the newest that serves.

        Raises:
            ServingError: NOT_FOUND when that version, or any, is not loaded.
        """
        with self._changed:
            number = max(self._live, default=None) if version is None else version
            live = None if number is None else self._live.get(number)
            if live is None:
                raise servable_not_found(self.name, version)
            live.in_flight += 1
        try:
            yield live.servable
        finally:
            with self._changed:
                live.in_flight -= 1
                if live.in_flight == 0 and self._retired:
                    self._changed.notify_all()

    @property
    def available(self) -> int | None:
        """The newest version that serves."""
        with self._changed:
            return max(self._live, default=None)

    @property
    def all_available(self) -> list[int]:
        """Every version that serves, newest first."""
        with self._changed:
            return sorted(self._live, reverse=True)

    def statuses(self) -> list[VersionStatus]:
        """Every version known, newest first."""
        with self._changed:
            return sorted(self._statuses.values(), key=lambda status: -status.version)

    def wait_until_settled(self, timeout: float) -> bool:
        """Waits until a version serves or every version on disk was tried and failed.

        One without its graph has not failed yet: a push writes that last and may be under way.

        Returns:
            Whether it is so, and not just the time that is over.
        """
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._live) or self._none_loads, timeout)

    def poll(self) -> None:
        """One look at the disk: loads what the policy wants, then retires the rest."""
        with self._poll_lock:
            self._look()

    def _look(self, before_retiring: Callable[[], None] = lambda: None) -> None:
        on_disk = list_versions(self.base_path)
        policy, wanted = self._policy, set[int]()
        for version in policy.candidates(on_disk):
            if len(wanted) == policy.limit:
                break
            if version in self._live or self._try(version, on_disk[version]):
                wanted.add(version)
        before_retiring()
        # With nothing to take their place, a lost disk or a bad push would end the service.
        if wanted:
            self._retire(set(self._live) - wanted)
        for version in set(self._failed) - set(on_disk):
            del self._failed[version]
        with self._changed:
            self._none_loads = bool(self._failed) and not wanted and not self._half_pushed()
            self._changed.notify_all()
        self._unload_idle(wait_seconds=min(self._poll_seconds, _SWEEP_SECONDS))

    def _half_pushed(self) -> bool:
        return not all(has_graph(seen) for seen in self._failed.values())

    def _sweep(self) -> None:
        with self._poll_lock:
            self._unload_idle(wait_seconds=0.0)

    def _watch(self) -> None:
        look = self.poll
        while not self._stopped.is_set():
            try:
                look()
            except Exception:
                # The watcher must outlive a surprise: without it no version is ever picked up.
                log.exception("%s: looking for versions failed", self.name)
            if self._poll_seconds == 0:
                # The disk is read once; a policy that changes still leaves versions to unload.
                look = self._sweep
            self._stopped.wait(self._poll_seconds or _SWEEP_SECONDS)
        self._unload_all()

    def _unload_all(self) -> None:
        # After a load that is under way, which holds the lock.
        with self._poll_lock:
            self._retire(set(self._live))
            self._unload_idle(wait_seconds=self._drain_seconds)

    def _try(self, version: int, path: Path) -> bool:
        before = fingerprint(path)
        if self._failed.get(version) == before:
            return False
        if recently_written(before, self._settle_seconds):
            self._stopped.wait(self._settle_seconds)
            if fingerprint(path) != before:
                return False
        if self._stopped.is_set():
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
        refusal = None
        if self._stopped.is_set():
            refusal = shutting_down()
        elif fingerprint(path) != before:
            refusal = ServingError(
                grpc.StatusCode.ABORTED, f"{path} was written while it loaded; trying again"
            )
        if refusal is not None:
            servable.close()
            self._set(version, ModelVersionStatus.END, refusal)
            return False
        self._failed.pop(version, None)
        with self._changed:
            self._live[version] = _Live(servable)
        self._set(version, ModelVersionStatus.AVAILABLE)
        log.info("%s version %d is available", self.name, version)
        return True

    def _retire(self, versions: set[int]) -> None:
        if not versions:
            return
        with self._changed:
            for version in versions:
                self._retired.append(self._live.pop(version))
                self._statuses[version] = VersionStatus(version, ModelVersionStatus.UNLOADING)
            self._changed.notify_all()
        self._on_change()

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
        if version not in self._live:
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
