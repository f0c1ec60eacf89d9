"""The built-in sample on disk: written once, found again by every later run."""

import dataclasses
from pathlib import Path

from sid_tfx.datasets.market import write_sample


@dataclasses.dataclass(frozen=True)
class SampleFiles:
    """Where the simulated market lies.

    Attributes:
        ads: The ads, Parquet.
        events: The event log, Parquet.
    """

    ads: Path
    events: Path


def sample_files(directory: Path) -> SampleFiles:
    """Writes the simulated market unless it is there.

    The files are left alone on later runs: TFX's cache keys hold the inputs' modification times.
    """
    files = SampleFiles(directory / "ads.parquet", directory / "events.parquet")
    if not (files.ads.exists() and files.events.exists()):
        write_sample(directory)
    return files
