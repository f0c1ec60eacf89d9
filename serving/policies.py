"""Which of the versions on disk a model serves: TF Serving's `model_version_policy`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class VersionPolicy(Protocol):
    """Picks candidates among the versions on disk."""

    def candidates(self, on_disk: Iterable[int]) -> list[int]:
        """Versions that may be served, the most wanted first."""
        ...

    @property
    def limit(self) -> int | None:
        """How many of the candidates to serve; None for all."""
        ...


@dataclass(frozen=True)
class Latest:
    """The newest versions that load.

    Args:
        count: how many.
    """

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"latest.num_versions is {self.count}: serve at least 1 version")

    def candidates(self, on_disk: Iterable[int]) -> list[int]:
        """All of them, newest first: one that fails makes way for the next."""
        return sorted(on_disk, reverse=True)

    @property
    def limit(self) -> int | None:
        """The number of versions."""
        return self.count


@dataclass(frozen=True)
class All:
    """Every version on disk."""

    def candidates(self, on_disk: Iterable[int]) -> list[int]:
        """All of them."""
        return sorted(on_disk, reverse=True)

    @property
    def limit(self) -> int | None:
        """No limit."""
        return None


@dataclass(frozen=True)
class Specific:
    """These versions and no other.

    Args:
        versions: their numbers.
    """

    versions: frozenset[int]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("specific.versions is empty: name at least 1 version")

    def candidates(self, on_disk: Iterable[int]) -> list[int]:
        """Those of them that are on disk."""
        return sorted(self.versions.intersection(on_disk), reverse=True)

    @property
    def limit(self) -> int | None:
        """No limit."""
        return None
