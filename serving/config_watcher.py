"""Reloads a `--model_config_file` whenever it changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from serving.errors import ServingError
from serving.model_config import ModelConfig, read_model_configs

log = logging.getLogger(__name__)

# Whoever writes the file may be amid it: two reads this far apart must agree.
_SETTLE_SECONDS = 0.05


class ConfigWatcher:
    """Looks at the file again and again; a bad one is logged and changes nothing.

    One that cannot be in force yet, because a version it names does not serve, is tried again at
    every look. One that is being written is left until it is whole: half of it would end models.

    Args:
        path: the file.
        reload: told the new list of models.
        seconds: time between looks.
    """

    def __init__(
        self, path: Path, reload: Callable[[Sequence[ModelConfig]], None], seconds: float
    ) -> None:
        self._path, self._reload, self._seconds = path, reload, seconds
        self._seen = self._content()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model-config", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends looking, after a reload that is under way."""
        self._stopped.set()
        self._thread.join()

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds):
            content = self._content()
            if content is None or content == self._seen:
                continue
            if self._stopped.wait(_SETTLE_SECONDS) or self._content() != content:
                continue
            if self._apply(content):
                self._seen = content

    def _apply(self, content: bytes) -> bool:
        """Whether to be done with this content."""
        try:
            self._reload(read_model_configs(self._path, content))
        except ValueError as error:
            log.error("%s has changed, but: %s", self._path, error)
            return True
        except ServingError as error:
            log.error("%s has changed, but: %s", self._path, error)
            return error.code == grpc.StatusCode.INVALID_ARGUMENT
        except Exception:
            # The watcher must outlive a surprise: without it no change is ever seen.
            log.exception("%s has changed, but could not be put in force", self._path)
            return True
        log.info("%s has changed and is in force", self._path)
        return True
