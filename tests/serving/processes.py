"""`python -m serving` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "serving", "--host", "127.0.0.1", "--port=0", "--poll=0.1"]


class Process:
    """A running `python -m serving`, its port and its log."""

    def __init__(self, base_path: Path, *flags: str) -> None:
        self.popen = subprocess.Popen(
            [*COMMAND, "--model_base_path", str(base_path), *flags],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        self.log.extend(iter(self.popen.stderr.readline, ""))

    def port(self, seconds: float = 60.0) -> int:
        """The gRPC port, once it listens."""
        return self._found(r"listening on 127\.0\.0\.1:(\d+)", seconds)

    def rest_port(self, seconds: float = 60.0) -> int:
        """The HTTP port, once it listens."""
        return self._found(r"HTTP on 127\.0\.0\.1:(\d+)", seconds)

    def _found(self, pattern: str, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.popen.poll() is None:
            found = re.search(pattern, "".join(self.log))
            if found:
                return int(found[1])
            time.sleep(0.05)
        raise AssertionError("the server did not start:\n" + "".join(self.log))

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(5)
