"""The files of a comparison as every cell reads them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import ConfigError
from sid_tfx.datasets.ads import AdTable, event_columns, load_ads, load_events, read_table
from sid_tfx.datasets.sequences import SequenceSplits, global_time, leave_one_out
from sid_tfx.features import COLLABORATIVE


class Files(NamedTuple):
    """Ads, and their event log split."""

    ads: AdTable
    splits: SequenceSplits


def read_files(
    ads_path: str | Path,
    events_path: str | Path,
    split: str = "leave_one_out",
    shares: tuple[float, float] = (0.1, 0.1),
) -> Files:
    """Reads ads and events and splits the events.

    Collaborative vectors that the ads have (`pipeline.py collaborative-vectors`) are left out:
    they say what the training events of one split say, and those of another may hold this one's
    targets. A cell whose tokenizer reads such vectors makes them from its own training events.

    Args:
        ads_path: The ads.
        events_path: The event log.
        split: `leave_one_out` or `global_time`.
        shares: Of events in the windows of `global_time` that validate and test.

    Raises:
        ConfigError: A file can't be read, or nobody is held out to choose or to test on.
    """
    try:
        frame = read_table(ads_path, ("ad_id",), "ads")
        ads = load_ads(frame.drop(columns=COLLABORATIVE, errors="ignore"))
        events = load_events(events_path, ads)
        rows = np.searchsorted(ads.ad_ids, events["ad_id"].to_numpy(dtype=str))
        log = events["user_id"].to_numpy(), rows, events["timestamp"].to_numpy()
        beside = event_columns(events)
        if split == "leave_one_out":
            splits = leave_one_out(*log, **beside)
        else:
            splits = global_time(*log, *shares, **beside)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    for what, held_out in (("choose", splits.validation), ("test", splits.test)):
        if not len(held_out):
            raise ConfigError(
                f"{events_path}: {split} leaves nobody to {what} on; {_cure(split, shares)}"
            )
    return Files(ads, splits)


def _cure(split: str, shares: tuple[float, float]) -> str:
    if split == "leave_one_out":
        return "give a log in which some users have three events of known ads"
    validation, test = shares
    return (
        f"give a longer log, one with finer timestamps, or larger shares than "
        f"data.validation_share={validation:g} and data.test_share={test:g}"
    )
