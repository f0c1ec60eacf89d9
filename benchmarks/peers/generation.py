"""What the sides of the decoding benchmark agree on: the model sizes and the requests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

_FILE = "job.json"


@dataclasses.dataclass(frozen=True)
class Request:
    """One call: `batch` users, `beam` beams, the `k` best."""

    beam: int
    batch: int
    k: int

    def to_task(self) -> str:
        """As a line for the peer's process."""
        return f"{self.beam} {self.batch} {self.k}"

    @classmethod
    def from_task(cls, task: str) -> Request:
        """The inverse of `to_task`."""
        return cls(*map(int, task.split()))


@dataclasses.dataclass(frozen=True)
class T5Size:
    """The widths of a T5, by the names of `transformers.T5Config`."""

    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int

    def parameters(self, tokens: int) -> int:
        """Parameters of the T5 with tied embeddings; `num_layers` in encoder and decoder each."""
        attention = 4 * self.d_model * self.num_heads * self.d_kv
        feed_forward = 2 * self.d_model * self.d_ff
        norms = self.d_model
        encoder = attention + feed_forward + 2 * norms
        decoder = 2 * attention + feed_forward + 3 * norms
        positions = 2 * _BUCKETS * self.num_heads
        return tokens * self.d_model + self.num_layers * (encoder + decoder) + positions + 2 * norms


_BUCKETS = 32

# Section 4 of the paper (arXiv 2305.05065).
TIGER = T5Size(d_model=128, d_kv=64, d_ff=1024, num_heads=6, num_layers=4)


def of_parameters(parameters: int, tokens: int) -> T5Size:
    """A T5 of width 128 and the recommender's depth, its feed-forward as wide as the count allows.

    Raises:
        ValueError: Embeddings and attention alone have more parameters.
    """
    narrow = T5Size(d_model=128, d_kv=32, d_ff=0, num_heads=4, num_layers=2)
    step = T5Size(128, 32, 1, 4, 2).parameters(tokens) - narrow.parameters(tokens)
    d_ff = round((parameters - narrow.parameters(tokens)) / step)
    if d_ff < 1:
        raise ValueError(
            f"no T5 of width 128 with {tokens} tokens has only {parameters} parameters; take a "
            "larger recommender or fewer codes."
        )
    return dataclasses.replace(narrow, d_ff=d_ff)


@dataclasses.dataclass(frozen=True)
class Job:
    """A model to decode with.

    Attributes:
        folder: holds `histories.npy`, int32 [U, T] of row + 1; for a T5 `codes.npy`, int32
            [N, levels], of every ad; for a recommender of ours its SavedModel `servable`.
        level_sizes: codes of each level.
        size: of a T5; None for a recommender of ours.
        parameters: that the recommender of ours has.
        threads: of the library.
        seed: of the weights.
    """

    folder: Path
    level_sizes: tuple[int, ...]
    size: T5Size | None
    parameters: int
    threads: int
    seed: int

    @property
    def tokens(self) -> int:
        """Tokens of the vocabulary: padding, then the codes of each level."""
        return 1 + sum(self.level_sizes)

    def save(self) -> None:
        """Writes the job beside its arrays."""
        fields = {**dataclasses.asdict(self), "folder": str(self.folder)}
        (self.folder / _FILE).write_text(json.dumps(fields))

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Reads what `save` wrote."""
        fields = json.loads((folder / _FILE).read_text())
        changed = {
            "folder": folder,
            "level_sizes": tuple(fields["level_sizes"]),
            "size": fields["size"] and T5Size(**fields["size"]),
        }
        return cls(**{**fields, **changed})

    def item_tokens(self) -> np.ndarray:
        """int64 [N, levels]: every ad's semantic ID as tokens."""
        offsets = 1 + np.cumsum([0, *self.level_sizes[:-1]])
        return np.load(self.folder / "codes.npy").astype(np.int64) + offsets
