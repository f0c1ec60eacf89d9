"""Runs one cell in a process of its own, within a bound of memory."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline.config import ConfigError

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = "pipeline.comparison.train"
_POLL_SECONDS = 0.5
_LAST_LINES = 8
# Of Linux: the signal that a process gets when the thread that started it ends.
_PR_SET_PDEATHSIG = 1
# Tells a process which one `run_job`s it.
_PARENT = "SID_TFX_CELL_PARENT"


class CellFailed(Exception):
    """A cell's process did not finish; the message holds its last lines and where the rest is."""


def core_shares(jobs: int) -> list[list[int]]:
    """Shares the cores of this process out evenly among cells that train at once.

    Args:
        jobs: Cells at once.

    Raises:
        ConfigError: There are not as many cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise ConfigError(f"--jobs must be in [1, {len(cores)}], a core a cell, got {jobs}")
    share = len(cores) // jobs
    return [cores[job * share : (job + 1) * share] for job in range(jobs)]


def end_with_parent() -> None:
    """Makes this process end when the one that `run_job`s it is killed; for modules it runs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that was killed while this process imported its modules sends no signal any more.
    if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit("the command that started this training is gone")


def run_job(
    job: Mapping[str, Any],
    log: Path,
    memory_limit_mb: float,
    cores: Sequence[int],
    module: str = _MODULE,
    backend: str = "tensorflow",
) -> None:
    """Trains a cell and waits for it.

    Args:
        job: What the module reads.
        log: Gets everything that the process prints.
        memory_limit_mb: The process is ended when it holds more.
        cores: The cores that it may use; TensorFlow starts a thread for each.
        module: Runs as `python -m MODULE JOB.json`.
        backend: Keras' in that process, whatever this one runs on.

    Raises:
        CellFailed: The process failed, or was ended over its memory.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",
        "KERAS_BACKEND": backend,
        _PARENT: str(os.getpid()),
    }
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder, log.open("w") as output:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(dict(job)))
        process = psutil.Popen(
            [sys.executable, "-m", module, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        process.cpu_affinity(list(cores))
        try:
            over = _wait(process, memory_limit_mb)
        finally:
            # Ctrl-C must not leave a training behind.
            if process.poll() is None:
                process.kill()
                process.wait()
    if over:
        raise CellFailed(
            f"ended at {over:,.0f} MB, the limit is {memory_limit_mb:,.0f} MB "
            f"(--memory-limit-gb); log: {log}"
        )
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise CellFailed(
            "\n".join([f"exit code {process.returncode}; log: {log}", *(f"  {x}" for x in lines)])
        )


def _wait(process: psutil.Popen, memory_limit_mb: float) -> float:
    """Waits for the end; returns the MB that the process held if it was over the limit, else 0."""
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return 0.0
        except psutil.TimeoutExpired:
            try:
                held = process.memory_info().rss / 1024**2
            except psutil.NoSuchProcess:
                continue
            if held > memory_limit_mb:
                return held
