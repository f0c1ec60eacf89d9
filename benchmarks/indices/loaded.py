"""An exported index as the model server holds it, and the memory that takes.

`python -m benchmarks.indices.loaded THREADS FIRST SECOND` prints by how many megabytes the process
grows when it loads the index SECOND beside FIRST, and searches it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.indices import harness
from serving.servable import Servable

SIGNATURE = "search"


def load(path: Path, threads: int) -> Servable:
    """The index in a session of its own."""
    return Servable(path, "index", 1, intra_op_threads=threads)


def search_once(servable: Servable) -> None:
    """A search makes what is only made on demand, ScaNN's tables for one."""
    shape = servable.signatures[SIGNATURE].inputs["queries"].shape
    assert shape is not None
    servable.run(SIGNATURE, {"queries": np.ones([1, shape[1]], np.float32)}, ["rows"])


def main(threads: str, first: str, second: str) -> None:
    """Prints the growth."""
    yardstick = load(Path(first), int(threads))
    search_once(yardstick)
    before = harness.resident_mb()
    measured = load(Path(second), int(threads))
    search_once(measured)
    print(harness.resident_mb() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
