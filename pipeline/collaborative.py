"""Collaborative vectors for the ads of a run: a column that some presets quantize."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.refusal import Refused
from pipeline.config import Config, ConfigError, PairsConfig
from sid_tfx.datasets.ads import AdTable, load_ads, load_events, read_table
from sid_tfx.datasets.collaborative import collaborative_vectors
from sid_tfx.datasets.sequences import Sequences, global_time, leave_one_out
from sid_tfx.datasets.swing import SwingPairs, swing_pairs
from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM
from sid_tfx.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Added:
    """What was written.

    Attributes:
        ads: Rows of the file.
        pairs: Pairs of ads that the vectors were made from.
        without: Ads that no pair says anything of; their vectors are all zeros.
        preset: One that quantizes these vectors: the configured one where it does.
    """

    ads: int
    pairs: int
    without: int
    preset: str


def add_vectors(config: Config, out: Path) -> Added:
    """Writes the ads of a configuration with the column `collaborative_embedding` added.

    Rows and columns stay as they are in the file. Pairs come from the training events of
    `data.split`, so that a run with the same split does not see its own answers.

    Args:
        config: With one file of ads and one of events; their columns have the canonical names.
        out: The Parquet file to write.

    Raises:
        ConfigError: A file that can't be read or written, or ads that have the column already.
        Refused: The training events say nothing of which ads go together.
    """
    ads_path, events_path = (config.canonical_file(name) for name in ("ads", "events"))
    if out.suffix != ".parquet":
        raise ConfigError(f"--out {out} must end in .parquet, the format it is written in")
    for path in (ads_path, events_path):
        if out.exists() and out.samefile(path):
            raise ConfigError(f"--out {out} is {path}, which is read; name another file")
    frame, ads, train = _read(config, ads_path, events_path)
    pairs = training_pairs(train, config.pairs)
    vectors = ad_vectors(pairs, len(ads), config.seed)
    if not vectors.any():
        raise Refused(
            f"{len(pairs.score):,} pairs of ads in the {len(train.rows):,} training events of "
            f"data.split={config.data.split} say nothing of which ads go together; give a longer "
            "event log, or pairs.single_users=true"
        )
    rows = np.searchsorted(ads.ad_ids, frame["ad_id"].astype(str).to_numpy(dtype=str))
    _write(frame, vectors[rows], out)
    configured = config.tokenizer.preset
    usable = "rq_kmeans_joined_balanced" if ads.schema.dense else "rq_kmeans_collaborative"
    return Added(
        ads=len(ads),
        pairs=len(pairs.score),
        without=int((~vectors.any(axis=1)).sum()),
        preset=configured if PRESETS[configured].collaborative else usable,
    )


def _read(
    config: Config, ads_path: Path, events_path: Path
) -> tuple[pd.DataFrame, AdTable, Sequences]:
    """The file of ads as it is, the ads in the order of their rows, and training histories."""
    try:
        frame = read_table(ads_path, ("ad_id",), "ads")
        ads = load_ads(frame)
        train = training_histories(config, ads, events_path)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    if COLLABORATIVE in frame:
        raise ConfigError(
            f"{ads_path} has a column {COLLABORATIVE!r} already; run with it as it is, or drop it "
            "to have it made anew"
        )
    return frame, ads, train


def training_histories(config: Config, ads: AdTable, events_path: Path) -> Sequences:
    """The training part of an event log, by `data.split`.

    Args:
        config: Says how events are held out.
        ads: Rows of the histories are rows of theirs.
        events_path: The event log.

    Raises:
        ValueError: The log can't be read or split.
    """
    events = load_events(events_path, ads)
    rows = np.searchsorted(ads.ad_ids, events["ad_id"].to_numpy(dtype=str))
    log = events["user_id"].to_numpy(), rows, events["timestamp"].to_numpy()
    data = config.data
    if data.split == "global_time":
        return global_time(*log, data.validation_share, data.test_share).train
    if data.split == "all":
        # A user of too few events is wholly trained on, and nobody has more than all of them.
        return leave_one_out(*log, min_events=len(rows) + 3).train
    return leave_one_out(*log).train


def training_pairs(train: Sequences, settings: PairsConfig) -> SwingPairs:
    """Mines Swing pairs as the pipeline does.

    Args:
        train: Training histories.
        settings: `pairs` of the configuration.
    """
    users, rows = _newest(train, settings.max_ads_per_user)
    return swing_pairs(
        users,
        rows,
        alpha=settings.alpha,
        top_k=settings.top_k,
        max_users_per_item=settings.max_users_per_ad,
        single_users=settings.single_users,
    )


def ad_vectors(pairs: SwingPairs, ads: int, seed: int) -> np.ndarray:
    """Vectors of all ads, float32 `[ads, COLLABORATIVE_DIM]`; zeros where an ad has no pair.

    Args:
        pairs: Of training events.
        ads: Rows of the catalogue.
        seed: Of the solver's start.
    """
    rows = np.stack([pairs.trigger, pairs.target], axis=1)
    return collaborative_vectors(rows, pairs.score, ads, dim=COLLABORATIVE_DIM, seed=seed)


def _newest(train: Sequences, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """User and row of each user's newest distinct ads, at most `limit` of a user."""
    users = np.repeat(np.arange(len(train)), train.lengths)
    met = np.stack([users, train.rows], axis=1)[::-1]
    _, first = np.unique(met, axis=0, return_index=True)
    met = met[np.sort(first)]
    starts = np.flatnonzero(np.diff(met[:, 0], prepend=-1))
    rank = np.arange(len(met)) - np.repeat(starts, np.diff(starts, append=len(met)))
    kept = met[rank < limit]
    return kept[:, 0], kept[:, 1]


def _write(frame: pd.DataFrame, vectors: np.ndarray, out: Path) -> None:
    part = out.with_name(f"{out.name}.part")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        column = pa.array(list(vectors), pa.list_(pa.float32()))
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.append_column(COLLABORATIVE, column), part)
        part.replace(out)
    except (pa.ArrowException, OSError) as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{out} can't be written: {error}") from error
