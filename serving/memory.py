"""Keeps a server that loads version after version from growing."""

from __future__ import annotations

import ctypes
import gc

LARGE_BYTES = 1024 * 1024
"""What a request of more bytes leaves behind is worth the milliseconds that `trim` takes."""


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
    trim()


def trim() -> None:
    """Gives freed memory back to the system, where the C library can.

    glibc keeps it, per thread: a few requests of megabytes, each met by another thread, would else
    make a server larger for good.
    """
    call = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if call is not None:
        call(0)
