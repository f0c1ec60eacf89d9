"""New ads and events into a pushed generation, by the command line."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.showcase import model_server
from serving.client import RecommenderClient
from sid_tfx.catalog import SidCatalog
from tests.e2e.conftest import options, pipeline

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NEW = [f"new_{n:02d}" for n in range(20)]


@dataclasses.dataclass(frozen=True)
class Refresh:
    """A finished refresh and what it was given."""

    summary: dict
    output: str
    old: SidCatalog
    new: SidCatalog
    ads: pd.DataFrame
    dropped: str


@pytest.fixture(scope="module")
def refreshed(small_run, tmp_path_factory) -> Refresh:
    root = tmp_path_factory.mktemp("refresh")
    ads, events = (pd.read_parquet(small_run.options[position]) for position in (1, 3))
    dropped = str(events["ad_id"].value_counts().index[-1])
    fresh = ads.iloc[10:30].assign(
        ad_id=NEW,
        # Titles of one ad over descriptions of another, and a word that nobody has seen.
        title=[f"{title} zyzzyva" for title in ads["title"].iloc[40:60]],
        price=ads["price"].iloc[70:90].to_numpy(),
    )
    ads = pd.concat([ads[ads["ad_id"] != dropped], fresh], ignore_index=True)
    users = events["user_id"].unique()[:60].reshape(20, 3)
    clicks = pd.DataFrame(
        {
            "user_id": users.ravel(),
            "ad_id": np.repeat(NEW, 3),
            "timestamp": events["timestamp"].max() + 1 + np.arange(60),
            "event": "click",
            "weight": np.float32(1),
        }
    )
    events = pd.concat([events[events["ad_id"] != dropped], clicks], ignore_index=True)
    ads.to_parquet(root / "ads.parquet")
    events.to_parquet(root / "events.parquet")
    # On a copy of the metadata and of what is served, so that the shared run stays as it is.
    home = root / "runs" / "small"
    home.mkdir(parents=True)
    shutil.copy(small_run.home / "metadata.sqlite", home)
    shutil.copytree(small_run.home / "serving", home / "serving")
    result = pipeline(
        "refresh",
        *options(root / "runs", root / "ads.parquet", root / "events.parquet"),
        "--json",
        str(root / "summary.json"),
    )
    summary = json.loads((root / "summary.json").read_text())
    return Refresh(
        summary=summary,
        output=result.stdout,
        old=SidCatalog.load(small_run.summary["artifacts"]["SidAssigner.catalog"]),
        new=SidCatalog.load(summary["artifacts"]["SidAssigner.catalog"]),
        ads=ads,
        dropped=dropped,
    )


@pytest.fixture(scope="module")
def client(refreshed, tmp_path_factory):
    base = Path(refreshed.summary["servables"]["portable"]).parent
    log = tmp_path_factory.mktemp("server") / "server.log"
    with model_server(base, log) as target, RecommenderClient(target) as client:
        yield client


def test_nothing_is_trained_and_every_stage_says_what_it_made(refreshed):
    made = {stage["stage"]: stage["made"] for stage in refreshed.summary["stages"]}
    assert {"LastGeneration", "AdTransformer", "RecommenderRefresher"} <= set(made)
    assert not {"Transform", "TokenizerTrainer", "RecommenderTrainer"} & set(made)
    assert all(made.values()), made
    said = made["RecommenderRefresher"]
    assert said.startswith("319 ads: 20 new, 1 gone; weights as they were, ")
    assert not said.endswith(", 0 pairs of successors")


def test_known_ads_keep_codes_token_and_embedding(refreshed):
    rows = refreshed.old.rows(refreshed.new.ad_ids)
    known = rows >= 0
    assert known.sum() == 299
    np.testing.assert_array_equal(
        refreshed.new.full_codes[known], refreshed.old.full_codes[rows[known]]
    )
    np.testing.assert_array_equal(
        refreshed.new.embeddings[known], refreshed.old.embeddings[rows[known]]
    )
    assert sorted(refreshed.new.ad_ids[~known]) == NEW
    assert refreshed.dropped not in refreshed.new.ad_ids


def test_a_new_version_stands_beside_the_old_one(refreshed, small_run):
    for flavour, path in refreshed.summary["servables"].items():
        versions = sorted(int(p.name) for p in Path(path).parent.iterdir())
        old = int(Path(small_run.summary["servables"][flavour]).name)
        assert versions == [old, int(Path(path).name)]


def test_the_server_knows_the_new_ads(refreshed, client):
    rows = refreshed.new.rows(NEW)
    for answer in client.similar_ads(NEW, k=5):
        assert len(answer) == 5
    [unknown] = client.similar_ads([refreshed.dropped], k=5)
    assert len(unknown) == 0
    encoded = client.encode_ads(
        [
            {
                **{c: row[c] for c in ("ad_id", "title", "description", "advertiser")},
                "category_path": list(row["category_path"]),
                "price": float(row["price"]),
            }
            for row in refreshed.ads.tail(20).to_dict("records")
        ]
    )
    assert [ad.sid for ad in encoded] == [tuple(codes) for codes in refreshed.new.codes[rows]]


def test_new_ads_are_recommended_and_read_in_histories(refreshed, client):
    answers = client.recommend([[ad] for ad in refreshed.new.ad_ids], k=20)
    found = {ad for answer in answers for ad in answer.ad_ids}
    assert found & set(NEW)
    assert found <= set(refreshed.new.ad_ids)
    [read, skipped] = client.recommend([[NEW[5]], ["no-such-ad"]], k=20)
    assert read.ad_ids != skipped.ad_ids


def test_without_a_push_there_is_nothing_to_refresh(small_run, tmp_path):
    result = pipeline("refresh", *small_run.options, "--set", f"run.root={tmp_path}", check=False)
    assert result.returncode == 3
    assert "Nothing was pushed yet" in result.stdout


def test_ads_without_a_trained_column_are_refused(small_run, tmp_path):
    path = str(tmp_path / "ads.parquet")
    pd.read_parquet(small_run.options[1]).drop(columns="advertiser").to_parquet(path)
    result = pipeline("refresh", *small_run.options, "--ads", path, check=False)
    assert result.returncode == 3
    assert "lacks advertiser, which the last push was trained on" in result.stdout
