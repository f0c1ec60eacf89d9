"""A simulated ad market: the built-in sample.

SIMULATED DATA. No user, advertiser or ad in it exists; it is for trying the product and for tests,
and figures measured on it say nothing about real traffic. Every file says so in its metadata.

Example:

>>> market = make_market(seed=17, ads=100, users=50)
>>> sorted(market.events.columns)
['ad_id', 'event', 'timestamp', 'user_id', 'weight']
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sid_tfx.datasets.market.ads import make_ads, read_tree
from sid_tfx.datasets.market.users import simulate

SEED = 17
ADS = 2_000
USERS = 5_000

_START = 1_735_689_600
_EVENTS = np.array(["click", "conversion"])
_WEIGHTS = np.array([1.0, 5.0], np.float32)

_ADS_SCHEMA = pa.schema(
    {
        "ad_id": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "summary": pa.string(),
        "advertiser": pa.string(),
        "category_path": pa.list_(pa.string()),
        "price": pa.float32(),
    }
)
_EVENTS_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "ad_id": pa.string(),
        "timestamp": pa.int64(),
        "event": pa.string(),
        "weight": pa.float32(),
    }
)


@dataclasses.dataclass(frozen=True)
class Market:
    """A simulated market.

    Args:
        ads: `ad_id`, `title`, `description`, `summary`, `advertiser`, `category_path` (root
            first), `price`; sorted by `ad_id`.
        events: `user_id`, `ad_id`, `timestamp` (Unix seconds), `event` (`click` or `conversion`),
            `weight`; sorted by time.
        oracle_rank: Aligned with `events`: the rank that a recommender would give the ad which
            knew the simulated user's mind; the headroom over any real method.
    """

    ads: pd.DataFrame
    events: pd.DataFrame
    oracle_rank: np.ndarray


def make_market(seed: int = SEED, ads: int = ADS, users: int = USERS) -> Market:
    """Simulates a market; the same arguments give the same market.

    Args:
        seed: Any non-negative integer.
        ads: Number of ads, at least 20.
        users: Number of users, at least 1.

    Raises:
        ValueError: An argument is too small, or there are more ads than names for advertisers.
    """
    if ads < 20 or users < 1:
        raise ValueError(f"A market needs at least 20 ads and 1 user, got {ads} and {users}.")
    rng = np.random.default_rng(seed)
    tree = read_tree(rng)
    supply = make_ads(tree, ads, rng)
    log = simulate(tree, supply, users, rng)

    ad_ids = supply.table["ad_id"].to_numpy()
    names = np.array([f"user_{n:05d}" for n in rng.permutation(users)])
    events = pd.DataFrame(
        {
            "user_id": names[log.user],
            "ad_id": ad_ids[log.ad],
            "timestamp": log.time + _START,
            "event": _EVENTS[log.kind],
            "weight": _WEIGHTS[log.kind],
        }
    )
    order = np.lexsort((events["user_id"], events["timestamp"]))
    table = supply.table.sort_values("ad_id", ignore_index=True)
    return Market(
        ads=table[_ADS_SCHEMA.names],
        events=events.iloc[order].reset_index(drop=True),
        oracle_rank=log.oracle_rank[order],
    )


def write_sample(
    directory: str | Path, seed: int = SEED, ads: int = ADS, users: int = USERS
) -> tuple[Path, Path]:
    """Writes the simulated market as Parquet; the same arguments give the same bytes.

    Args:
        directory: Made if absent.
        seed: See `make_market`.
        ads: See `make_market`.
        users: See `make_market`.

    Returns:
        The paths of `ads.parquet` and `events.parquet`.
    """
    market = make_market(seed, ads, users)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    note = {"simulated": True, "generator": __name__, "seed": seed, "ads": ads, "users": users}
    paths = directory / "ads.parquet", directory / "events.parquet"
    tables = (market.ads, _ADS_SCHEMA), (market.events, _EVENTS_SCHEMA)
    for path, (frame, schema) in zip(paths, tables, strict=True):
        marked = schema.with_metadata({"sid_tfx": json.dumps(note, sort_keys=True)})
        pq.write_table(pa.Table.from_pandas(frame, marked, preserve_index=False), path)
    return paths
