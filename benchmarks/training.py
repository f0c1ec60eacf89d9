"""Training throughput of the recommender: packed histories against one target per example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import keras
import numpy as np
from rich.console import Console

from benchmarks import common, generated
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.batches import SequenceBatches, TargetBatches
from sid_tfx.datasets.sequences import Sequences
from sid_tfx.recommender import SidRecommender

_MOST_HISTORY = 50


class Subject(NamedTuple):
    """An architecture, trained on batches of one of the two kinds."""

    architecture: str
    examples: str

    @property
    def name(self) -> str:
        """As in the records."""
        return f"{self.architecture}, {self.examples}"


PACKED, ONE_TARGET = "packed", "one target per example"
SUBJECTS = (
    Subject("item_level", PACKED),
    Subject("flat", PACKED),
    Subject("item_level", ONE_TARGET),
    Subject("tiger", ONE_TARGET),
)
LOOP = SUBJECTS[-1]
"""The yardstick: TIGER's way of training."""


def log(users: int, ads: int, mean_length: float, seed: int) -> Sequences:
    """Histories of geometric lengths, at least 2, of uniformly drawn ads."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(1 + rng.geometric(1 / (mean_length - 1), users), _MOST_HISTORY)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = rng.integers(0, ads, offsets[-1]).astype(np.int32)
    return Sequences(offsets, rows, np.arange(len(rows)))


class Contender:
    """A model and its batches; a call trains one epoch.

    Args:
        subject: Which.
        catalog: The ads.
        train: Their histories.
        positions: Positions per batch, padding included.
        arguments: Of `SidRecommender`.
        seed: Of weights and order.
    """

    def __init__(
        self,
        subject: Subject,
        catalog: SidCatalog,
        train: Sequences,
        positions: int,
        arguments: dict[str, Any],
        seed: int,
    ) -> None:
        self.model = SidRecommender.for_catalog(
            catalog,
            architecture=subject.architecture,
            max_history=_MOST_HISTORY,
            seed=seed,
            **arguments,
        )
        # XLA on a CPU hardly uses a second core.
        self.model.compile(keras.optimizers.AdamW(1e-3), jit_compile=False)
        kind = SequenceBatches if subject.examples == PACKED else TargetBatches
        self.batches = kind(train, _MOST_HISTORY, positions, seed)

    def __call__(self) -> None:
        """Trains on every target once."""
        self.model.fit(self.batches, epochs=1, shuffle=False, verbose=0)

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return int(sum(np.prod(variable.shape) for variable in self.model.trainable_variables))


def measure(
    contenders: dict[Subject, Contender], targets: int, repeats: int
) -> list[common.Record]:
    """A record per subject; epochs alternate, so that other work falls on all alike."""
    calls: dict[Subject, Callable[[], None]] = dict(contenders)
    timings = common.alternate(calls, repeats, warm_up=1)
    seconds = {subject: float(np.median(found)) / 1e3 for subject, found in timings.items()}
    return [
        {
            "subject": subject.name,
            "architecture": subject.architecture,
            "examples": subject.examples,
            "positions_per_second": round(targets / seconds[subject], 1),
            "ratio_to_tiger": round(seconds[LOOP] / seconds[subject], 3),
            "epoch_seconds": round(seconds[subject], 4),
            "steps": len(contender.batches),
            "targets": targets,
            "parameters": contender.parameters,
        }
        for subject, contender in contenders.items()
    ]


@click.command(context_settings={"show_default": True})
@click.option("--ads", default=10_000, type=click.IntRange(min=2), help="Generated ads.")
@click.option("--users", default=1000, type=click.IntRange(min=1), help="Generated histories.")
@click.option("--mean-length", default=8.0, type=click.FloatRange(min=2.0, min_open=True),
              help="Ads of a history, on average.")  # fmt: skip
@click.option("--batch-positions", default=2048, type=click.IntRange(min=_MOST_HISTORY),
              help="Positions per batch, padding included.")  # fmt: skip
@click.option("--hidden-size", default=128, type=click.IntRange(min=4), help="Of all models.")
@click.option("--num-layers", default=2, type=click.IntRange(min=1), help="Transformer blocks.")
@click.option("--levels", default=3, type=click.IntRange(min=1), help="Codes of a semantic ID.")
@click.option("--codebook-size", default=256, type=click.IntRange(min=2), help="Codes per level.")
@click.option("--repeats", default=3, type=click.IntRange(min=1), help="Timed epochs.")
@click.option("--seed", default=0, help="Draws codes, weights and histories.")
@common.json_option
def main(
    ads: int, users: int, mean_length: float, batch_positions: int, hidden_size: int,
    num_layers: int, levels: int, codebook_size: int, repeats: int, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Targets trained on per second by `fit`, and how often that is TIGER's way.

    A history of n ads has n - 1 targets. Packed, one pass takes the loss at all of them; one target
    per example reads the ads before each target anew.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    catalog = generated.catalog(ads, levels, codebook_size, seed=seed)
    train = log(users, ads, mean_length, seed)
    arguments = {"hidden_size": hidden_size, "num_layers": num_layers}
    contenders = {
        subject: Contender(subject, catalog, train, batch_positions, arguments, seed)
        for subject in SUBJECTS
    }
    targets = int((train.lengths - 1).sum())
    with console.status("training"):
        records = measure(contenders, targets, repeats)
    shape = {
        "ads": ads, "users": users, "mean_length": round(float(train.lengths.mean()), 2),
        "batch_positions": batch_positions, **arguments, "levels": levels,
        "codebook_size": codebook_size,
    }  # fmt: skip
    records = [{**record, **shape} for record in records]
    _print(console, records)
    common.write_records(records, found, json_path)


def _print(console: Console, records: list[common.Record]) -> None:
    columns = ["architecture", "examples", "positions_per_second", "ratio_to_tiger"]
    columns += ["epoch_seconds", "steps", "parameters"]
    targets = records[0]["targets"]
    title = f"Training on {targets:,} targets, {records[0]['mean_length']} ads a history"
    common.print_table(console, title, records, columns)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.training")
