"""`collaborative-vectors`: the column is the comparison's, and only training events make it."""

import shlex

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipeline import collaborative
from pipeline.collaborative import add_vectors, training_pairs
from pipeline.columns import resolve
from pipeline.comparison import train
from pipeline.comparison.budget import Budget
from pipeline.comparison.cells import Variant, make_cell, shared_spec
from pipeline.config import PairsConfig, load_config
from sid_tfx.datasets.market import make_market
from sid_tfx.datasets.sequences import leave_one_out
from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def market():
    """Ads in no order, the last one met by nobody, and their events."""
    made = make_market(ads=60, users=80)
    alone = made.ads.iloc[:1].assign(ad_id="zz")
    ads = pd.concat([made.ads, alone]).sample(frac=1.0, random_state=0)
    vectors = np.random.default_rng(0).normal(size=(61, 4)).astype("float32")
    return ads.assign(text_embedding=list(vectors)), made.events


@pytest.fixture
def written(market, tmp_path):
    """Writes both tables; returns their configuration."""

    def write(*overrides, ads=market[0], events=market[1]):
        ads.to_parquet(tmp_path / "ads.parquet")
        events.to_parquet(tmp_path / "events.parquet")
        paths = {
            f"data.{name}.path": str(tmp_path / f"{name}.parquet") for name in ("ads", "events")
        }
        return load_config(None, [f"run.root={tmp_path}", *overrides], paths)

    return write


def column(path):
    """Vectors by ad id."""
    frame = pd.read_parquet(path)
    return dict(zip(frame["ad_id"], frame[COLLABORATIVE].map(np.asarray), strict=True))


def test_the_column_is_what_the_comparison_quantizes(written, tmp_path, monkeypatch):
    config = written("seed=0")
    added = add_vectors(config, tmp_path / "out" / "ads.parquet")
    seen = []

    def spy(*given):
        seen.append(collaborative.ad_vectors(*given))
        return seen[0]

    monkeypatch.setattr(train, "_cached", lambda function: function)
    monkeypatch.setattr(train, "ad_vectors", spy)
    data = train.load_data(config.data.ads.path, config.data.events.path)
    shared = shared_spec("data", Budget(), 2, 4)
    train.tokenize(make_cell(Variant("rq_kmeans_collaborative"), 0, shared).spec, data)
    made = column(tmp_path / "out" / "ads.parquet")
    np.testing.assert_array_equal([made[ad] for ad in data.ads.ad_ids], seen[0])
    assert added.pairs == len(data.pairs.score)
    assert (added.ads, added.preset) == (61, "rq_kmeans_joined_balanced")
    without = [ad for ad, vector in made.items() if not vector.any()]
    assert "zz" in without
    assert added.without == len(without)


def test_what_the_file_has_stays_as_it_is(written, tmp_path):
    config = written()
    add_vectors(config, tmp_path / "out.parquet")
    before, after = pq.read_table(config.data.ads.path), pq.read_table(tmp_path / "out.parquet")
    kept = [name for name in before.column_names if not name.startswith("__index")]
    assert after.column_names == [*kept, COLLABORATIVE]
    assert after.select(kept).equals(before.select(kept))
    assert after.schema.field(COLLABORATIVE).type == pa.list_(pa.float32())
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.parquet"]


def test_events_held_out_leave_no_trace(written, market, tmp_path):
    _, events = market
    rank = events.groupby("user_id")["timestamp"].rank(method="first", ascending=False)
    other = events.assign(ad_id=events["ad_id"].where(rank > 1, events["ad_id"].iloc[0]))
    made = {}
    for split in ("leave_one_out", "all"):
        for name, log in (("as it was", events), ("another end", other)):
            add_vectors(written(f"data.split={split}", events=log), tmp_path / "out.parquet")
            made[split, name] = np.stack(list(column(tmp_path / "out.parquet").values()))
    np.testing.assert_array_equal(
        made["leave_one_out", "as it was"], made["leave_one_out", "another end"]
    )
    assert (made["all", "as it was"] != made["all", "another end"]).any()
    assert (made["all", "as it was"] != made["leave_one_out", "as it was"]).any()
    add_vectors(written("data.split=global_time"), tmp_path / "out.parquet")
    by_time = np.stack(list(column(tmp_path / "out.parquet").values()))
    assert (by_time != made["leave_one_out", "as it was"]).any()


def test_pairs_are_mined_by_the_configuration():
    # The newest two distinct ads of user 0 are 3 and 1, of user 1 they are 2 and 3.
    users, rows = np.array([0] * 5 + [1] * 2), np.array([0, 1, 2, 3, 1, 2, 3])
    history = leave_one_out(users, rows, np.arange(7), min_events=10).train
    found = training_pairs(history, PairsConfig(max_ads_per_user=2))
    assert set(zip(found.trigger.tolist(), found.target.tolist(), strict=True)) == {
        (1, 3), (3, 1), (2, 3), (3, 2),
    }  # fmt: skip
    assert len(training_pairs(history, PairsConfig()).score) == 12
    assert len(training_pairs(history, PairsConfig(single_users=False)).score) == 2


def test_the_command_names_the_run_that_follows(cli, written, tmp_path):
    config = written()
    files = ["--ads", config.data.ads.path, "--events", config.data.events.path]
    out = tmp_path / "out.parquet"
    options = ["--set", "pairs.top_k=5", "--set", "tokenizer.preset=joint"]
    done = CliRunner().invoke(cli, ["collaborative-vectors", *files, "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    first, following = done.output.strip().splitlines()
    assert f"61 ads, {COLLABORATIVE} of {COLLABORATIVE_DIM} dimensions from " in first
    assert "without a pair have zeros" in first
    _, arguments = following.split("pipeline.py run ")
    assert shlex.split(arguments) == [
        "--ads", str(out), "--events", config.data.events.path,
        "--set", "pairs.top_k=5", "--set", "tokenizer.preset=rq_kmeans_joined_balanced",
    ]  # fmt: skip
    # What it names is a run that can begin.
    paths = {"data.ads.path": str(out), "data.events.path": config.data.events.path}
    preset = "tokenizer.preset=rq_kmeans_joined_balanced"
    schema = resolve(load_config(None, [preset, f"run.root={tmp_path}"], paths)).schema
    assert schema.dense == {COLLABORATIVE: COLLABORATIVE_DIM, "text_embedding": 4}


@pytest.mark.parametrize(
    ("out", "overrides", "words"),
    [
        ("ads.parquet", [], ["ads.parquet is ", "name another file"]),
        ("events.parquet", [], ["events.parquet is ", "name another file"]),
        ("out.csv", [], ["out.csv must end in .parquet"]),
        ("out.parquet", ["data.ads.columns={title: headline}"], ["headline", "canonical names"]),
        ("out.parquet", ["data.ads.path=ads-*.parquet"], ["ads-*.parquet", "not one file"]),
        ("out.parquet", ["data.events.path=ads.parquet"], ["events: no column", "timestamp"]),
        (".", [], ["--out"]),
    ],
)
def test_what_cannot_be_done_is_refused(cli, written, tmp_path, monkeypatch, out, overrides, words):
    monkeypatch.chdir(tmp_path)
    written()
    command = ["collaborative-vectors", "--ads", "ads.parquet", "--events", "events.parquet"]
    command += ["--out", out, *(part for each in overrides for part in ("--set", each))]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2, done.output
    assert all(word in " ".join(done.output.split()) for word in words), done.output
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_a_column_that_is_there_is_not_made_twice(cli, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_vectors(written(), tmp_path / "out.parquet")
    command = ["collaborative-vectors", "--ads", "out.parquet", "--events", "events.parquet"]
    done = CliRunner().invoke(cli, [*command, "--out", "again.parquet"])
    assert done.exit_code == 2
    assert f"out.parquet has a column '{COLLABORATIVE}' already" in done.output


def test_a_log_without_pairs_is_refused(cli, written, market, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events = market[1].drop_duplicates("user_id")
    written(events=events)
    command = ["collaborative-vectors", "--ads", "ads.parquet", "--events", "events.parquet"]
    done = CliRunner().invoke(cli, [*command, "--out", "out.parquet"])
    assert done.exit_code == 3
    assert "Refused: 0 pairs of ads in the 80 training events" in done.output
    assert not (tmp_path / "out.parquet").exists()
