import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sid_tfx.datasets.market import make_market, write_sample

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def market():
    return make_market()


def histories(events: pd.DataFrame, ads: pd.DataFrame) -> list[np.ndarray]:
    rows = pd.Index(np.sort(ads["ad_id"].to_numpy())).get_indexer(events["ad_id"])
    order = np.lexsort((events["timestamp"], events["user_id"]))
    users = events["user_id"].to_numpy()[order]
    return np.split(rows[order], np.flatnonzero(users[1:] != users[:-1]) + 1)


def recall_at_10(scores: np.ndarray, targets: np.ndarray) -> float:
    own = scores[np.arange(len(targets)), targets]
    return float(((scores > own[:, None]).sum(axis=1) < 10).mean())


def test_sizes_and_columns(market):
    ads, events = market.ads, market.events
    assert len(ads) == 2_000
    assert ads["ad_id"].is_unique
    assert events["user_id"].nunique() == 5_000
    assert 40_000 < len(events) < 70_000
    assert events.groupby("user_id").size().between(5, 40).all()
    assert events["ad_id"].isin(ads["ad_id"]).all()
    days = (events["timestamp"].max() - events["timestamp"].min()) / 86_400
    assert 55 < days < 70
    assert set(events["event"]) == {"click", "conversion"}
    assert (events.loc[events["event"] == "click", "weight"] == 1).all()


def test_a_users_timestamps_strictly_increase_and_no_ad_comes_twice(market):
    events = market.events.sort_values(["user_id", "timestamp"], kind="stable")
    gaps = events.groupby("user_id")["timestamp"].diff().dropna()
    assert (gaps > 0).all()
    assert not events.duplicated(["user_id", "ad_id"]).any()


def test_ads_have_a_tree_specialised_advertisers_and_few_equal_texts(market):
    ads = market.ads
    assert set(ads["category_path"].map(len)) == {3, 4}
    assert ads["category_path"].map(lambda path: path[0]).nunique() >= 8
    middle = ads["category_path"].map(lambda path: path[1])
    assert (middle.groupby(ads["advertiser"]).nunique() == 1).all()
    assert ads["title"].duplicated().mean() < 0.05
    assert ads["title"].str.split().str.len().between(2, 25).all()
    assert 0 < ads["description"].isna().mean() < 0.1
    assert (ads["price"].dropna() > 0).all()
    assert not ads["title"].str.contains(r"[{}]", regex=True).any()


def test_popularity_is_heavy_tailed_and_new_ads_come_late(market):
    counts = market.events["ad_id"].value_counts().to_numpy()
    assert counts[: len(counts) // 10].sum() / counts.sum() > 0.3
    first_seen = market.events.groupby("ad_id")["timestamp"].min()
    late = first_seen > market.events["timestamp"].min() + 30 * 86_400
    assert 0.03 < late.mean() < 0.25


def test_item_knn_beats_popularity_and_leaves_headroom(market):
    """Item kNN by its definition: counts within 3 positions, decay .5 over the newest 5."""
    sequences = histories(market.events, market.ads)
    ads = len(market.ads)
    counts, popularity = np.zeros((ads, ads)), np.zeros(ads)
    for sequence in sequences:
        train = sequence[:-2]
        np.add.at(popularity, train, 1)
        for distance in (1, 2, 3):
            np.add.at(counts, (train[:-distance], train[distance:]), 1)
    targets = np.array([sequence[-1] for sequence in sequences])
    tie_break = 1e-6 * popularity / popularity.max()
    knn = np.stack(
        [
            sum(0.5**age * counts[ad] for age, ad in enumerate(sequence[-2:-7:-1])) + tie_break
            for sequence in sequences
        ]
    )
    most_popular = recall_at_10(np.broadcast_to(popularity, knn.shape), targets)
    neighbours = recall_at_10(knn, targets)
    last = ~market.events.duplicated("user_id", keep="last")
    oracle = float((market.oracle_rank[last.to_numpy()] <= 10).mean())
    assert neighbours > 3 * most_popular
    assert oracle > 1.4 * neighbours
    assert oracle < 0.8


def test_content_tells_what_comes_next(market):
    """Next ads share the advertiser far more often than chance: content must be worth reading."""
    events = market.events.sort_values(["user_id", "timestamp"], kind="stable")
    advertiser = events["ad_id"].map(market.ads.set_index("ad_id")["advertiser"]).to_numpy()
    same_user = events["user_id"].to_numpy()[1:] == events["user_id"].to_numpy()[:-1]
    same = (advertiser[1:] == advertiser[:-1])[same_user].mean()
    chance = (pd.Series(advertiser).value_counts(normalize=True) ** 2).sum()
    assert same > 5 * chance


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    arguments = {"ads": 60, "users": 40}
    one = write_sample(tmp_path / "one", seed=3, **arguments)
    two = write_sample(tmp_path / "two", seed=3, **arguments)
    other = write_sample(tmp_path / "other", seed=4, **arguments)
    for first, second, third in zip(one, two, other, strict=True):
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes() != third.read_bytes()


def test_the_command_writes_files_that_say_they_are_simulated(tmp_path):
    command = [sys.executable, "-m", "sid_tfx.datasets.market", "--out", str(tmp_path)]
    subprocess.run([*command, "--ads", "30", "--users", "20"], check=True, capture_output=True)
    for name in ("ads.parquet", "events.parquet"):
        note = json.loads(pq.read_schema(tmp_path / name).metadata[b"sid_tfx"])
        assert note["simulated"] is True
        assert note["seed"] == 17
    assert pq.read_table(tmp_path / "ads.parquet").num_rows == 30


def test_too_small_a_market_is_refused():
    with pytest.raises(ValueError, match="at least 20 ads and 1 user, got 3 and 5"):
        make_market(ads=3, users=5)


def test_the_smallest_market_works():
    market = make_market(ads=20, users=1)
    assert len(market.ads) == 20
    assert len(market.events) >= 5
