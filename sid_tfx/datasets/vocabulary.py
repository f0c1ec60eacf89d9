"""Strings to ids, in the order that TF Transform gives them."""

from collections import Counter

import numpy as np
import pandas as pd

from sid_tfx.features import MISSING, UNKNOWN

_FIRST_KNOWN = UNKNOWN + 1


class Vocabulary:
    """The most frequent strings and their ids: 0 missing or padding, 1 unknown, 2.. known.

    Ids go by falling frequency, then by falling bytes: the order of `tft.vocabulary`, so that a
    model trained in a notebook and one from the pipeline agree on every id.

    Args:
        max_size: Strings kept at most.
        min_count: Strings seen less often are unknown.

    Example:

    >>> vocabulary = Vocabulary(max_size=10)
    >>> vocabulary.count(np.array([b"red", b"blue", b"red", b""]))
    >>> vocabulary.freeze().lookup(np.array([b"red", b"green", b""])).tolist()
    [2, 1, 0]
    """

    def __init__(self, max_size: int, min_count: int = 1) -> None:
        self.max_size = max_size
        self.min_count = min_count
        self._counts: Counter[bytes] = Counter()
        self._index: pd.Index | None = None

    def count(self, strings: np.ndarray) -> None:
        """Counts strings.

        Args:
            strings: Array of bytes, any shape; `b""` is not counted.
        """
        self._counts.update(strings.ravel().tolist())

    def freeze(self) -> "Vocabulary":
        """Gives the strings their ids, and forgets the counts."""
        del self._counts[b""]
        kept = [(n, string) for string, n in self._counts.items() if n >= self.min_count]
        ranked = [string for _, string in sorted(kept, reverse=True)[: self.max_size]]
        self._index = pd.Index(ranked, dtype=object)
        self._counts.clear()
        return self

    @property
    def strings(self) -> list[bytes]:
        """The known strings; `strings[i]` has id `i + 2`."""
        return self._frozen().tolist()

    @property
    def size(self) -> int:
        """Number of ids, those for missing and unknown included."""
        return len(self._frozen()) + _FIRST_KNOWN

    def lookup(self, strings: np.ndarray) -> np.ndarray:
        """Returns the ids of an array of bytes: int64, same shape."""
        flat = strings.ravel()
        ids = self._frozen().get_indexer(flat).astype(np.int64) + _FIRST_KNOWN
        ids[flat == b""] = MISSING
        return ids.reshape(strings.shape)

    def _frozen(self) -> pd.Index:
        if self._index is None:
            raise ValueError("The vocabulary has no ids yet; call count() and then freeze().")
        return self._index
