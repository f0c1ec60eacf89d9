"""Keeps a server that loads version after version from growing."""

from __future__ import annotations

import ctypes
import gc


def settle() -> None:
    """Takes everything imported so far out of garbage collection, for a process that only serves.

    TensorFlow alone is about a million objects: every full collection would stop all requests for
    as long as it takes to walk them.
    """
    gc.collect()
    gc.freeze()


def release() -> None:
    """Gives the memory of closed servables back to the system.

    A closed session's graph is held by reference cycles, tens of megabytes that Python's own
    schedule may keep for many versions, and glibc keeps what is freed.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
