"""The ads that a servable set names: read from a file, found in a catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Selection:
    """Which ads of a catalogue are live.

    Args:
        ids: the ads that are named.
        live: whether those are live and no other, or all others are.
    """

    ids: tuple[str, ...]
    live: bool

    def flags(self, ads: list[str]) -> tuple[np.ndarray, list[str]]:
        """Whether each ad of a catalogue is live, bool `(N,)`, and the ids that it does not have.

        An id is taken as it is written where the catalogue has it, else without space around it.
        """
        rows = dict(zip(ads, range(len(ads)), strict=True))
        flags, unknown = np.full(len(ads), not self.live), dict[str, None]()
        for written in self.ids:
            row = rows.get(written)
            row = rows.get(_trimmed(written)) if row is None else row
            if row is None:
                unknown[_trimmed(written)] = None
            else:
                flags[row] = self.live
        return flags, list(unknown)


def switch_off(ids: Iterable[str]) -> Selection:
    """All ads but these."""
    return Selection(tuple(ids), live=False)


def only(ids: Iterable[str]) -> Selection:
    """These ads and no other."""
    return Selection(tuple(ids), live=True)


def read_ids(path: Path) -> list[str]:
    """Ids from a file, one a line, UTF-8; empty lines and a byte order mark are no ids.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    # No id has one of these line ends in it. `str.splitlines` knows others that an id may have.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if _trimmed(line)]


def _trimmed(line: str) -> str:
    # Files that were joined have byte order marks in the middle.
    return line.strip().strip(_BYTE_ORDER_MARK).strip()
