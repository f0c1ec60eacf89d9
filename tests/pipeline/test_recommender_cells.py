"""`evaluate recommender --seeds`: cells, their keys, what is kept, and the tables."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from pipeline import compare_recommenders
from pipeline.cli.evaluating import evaluate
from pipeline.comparison.data import read_files
from pipeline.comparison.process import CellFailed
from pipeline.comparison.records import FinishedCell, load_cell, save_cell
from pipeline.config import Config, ConfigError, load_config
from pipeline.recommender_cells import report, train
from pipeline.recommender_cells.methods import METHODS, codes_key, make_cells
from sid_tfx.baselines import ItemKnn
from sid_tfx.datasets.ads import load_ads, load_events
from sid_tfx.datasets.market import make_market
from sid_tfx.datasets.sequences import leave_one_out
from sid_tfx.evaluation import bootstrap_mean
from sid_tfx.features import COLLABORATIVE
from sid_tfx.metrics.ranking import ndcg_at, target_ranks
from sid_tfx.presets import PRESETS

KEYS = {
    "method", "mode", "filtered", "level", "seed", "users", "recall@5", "recall@10", "ndcg@5",
    "ndcg@10", "mrr", "train_seconds", "split", "target:cold/ndcg@10", "coverage@10",
    "popularity_bias@10", "ndcg@10_low", "validation_ndcg@10",
}  # fmt: skip
SMALL = [
    "tokenizer.preset=rq_kmeans",
    "tokenizer.codebook_size=8",
    "recommender.epochs=1",
    "recommender.arguments={hidden_size: 16, num_heads: 2, head_size: 16, mlp_size: 16}",
]


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    made = make_market(ads=60, users=80)
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    made.ads.assign(text_embedding=list(vectors)).to_parquet(folder / "ads.parquet")
    made.events.to_parquet(folder / "events.parquet")
    return folder


def configured(folder, *more):
    paths = [f"data.{name}.path={folder / name}.parquet" for name in ("ads", "events")]
    return load_config(None, [*paths, *SMALL, *more])


@pytest.mark.unit
def test_keys_that_cells_do_not_follow_are_named():
    overrides = ["features.text_vocabulary=50", "pairs.top_k=5", "tokenizer.stop_on_collapse=true"]
    assert compare_recommenders.unread_keys(load_config(None, overrides)) == [
        "features.text_vocabulary", "tokenizer.stop_on_collapse"
    ]  # fmt: skip
    overrides = ["data.ads.category_separator=/", "data.max_text_bytes=99"]
    assert set(compare_recommenders.unread_keys(load_config(None, overrides))) == {
        "data.ads.category_separator", "data.max_text_bytes"
    }  # fmt: skip
    assert compare_recommenders.unread_keys(Config()) == []


@pytest.mark.unit
def test_keys_change_with_what_a_cell_depends_on(monkeypatch):
    def keys(*overrides, **arguments):
        asked = {"methods": METHODS, "splits": ["leave_one_out"], "seeds": 1, **arguments}
        config = load_config(None, overrides)
        return {cell.spec["method"]: cell for cell in make_cells(config, "data", **asked)}

    plain = keys()
    assert list(plain) == list(METHODS)
    deeper = keys("recommender.arguments={num_layers: 3}")
    longer = keys("recommender.epochs=7")
    coarser = keys("tokenizer.levels=2")
    later = keys("data.test_share=0.2")
    forgetful = keys("recommender.successors=0", "recommender.dense_weight=1")
    watched = keys("tokenizer.stop_on_collapse=true")
    chosen = keys("recommender.validation_users=9")
    preset = dataclasses.replace(PRESETS["joint"], epochs=1)
    with monkeypatch.context() as patch:
        patch.setitem(PRESETS, "joint", preset)
        retuned = keys()
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        on_jax = keys()
    changed = {
        "deeper": {name for name in METHODS if plain[name].key != deeper[name].key},
        "longer": {name for name in METHODS if plain[name].key != longer[name].key},
        "coarser": {name for name in METHODS if plain[name].key != coarser[name].key},
        "later": {name for name in METHODS if plain[name].key != later[name].key},
        "forgetful": {name for name in METHODS if plain[name].key != forgetful[name].key},
        "watched": {name for name in METHODS if plain[name].key != watched[name].key},
        "chosen": {name for name in METHODS if plain[name].key != chosen[name].key},
        "retuned": {name for name in METHODS if plain[name].key != retuned[name].key},
        "on_jax": {name for name in METHODS if plain[name].key != on_jax[name].key},
    }
    generative = {"item_level", "flat", "tiger"}
    assert changed == {
        "deeper": generative,
        "longer": {*generative, "sasrec"},
        "coarser": generative,
        "later": set(),
        "forgetful": generative,
        "watched": set(),
        # Every method's validation figures are of these users.
        "chosen": set(METHODS),
        "retuned": generative,
        "on_jax": generative,
    }
    # One tokenizer serves every architecture, but not another split.
    assert codes_key(plain["flat"].spec) == codes_key(deeper["tiger"].spec)
    by_time = keys(splits=["global_time"])
    for other in (by_time, retuned, on_jax):
        assert codes_key(plain["flat"].spec) != codes_key(other["flat"].spec)


@pytest.mark.unit
def test_methods_without_chance_have_one_seed():
    cells = make_cells(load_config(None), "data", METHODS, ["global_time"], seeds=2)
    stems = [cell.stem for cell in cells]
    assert len(stems) == len(set(stems)) == 10
    assert "popularity-global_time-seed1" not in stems
    assert "sasrec-global_time-seed1" in stems
    for methods, splits in (
        (["knn"], ["leave_one_out"]), (["tiger"], ["random"]), ([], ["leave_one_out"])
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"'knn'|'random'|--methods names none"):
            make_cells(load_config(None), "data", methods, splits, 1)


@pytest.fixture
def here(monkeypatch):
    """Cells train in this process; the names of those that did."""
    trained = []

    def run(job, log, memory_limit_mb, cores, module, backend):
        assert (module, backend) == (train.__name__, "tensorflow")
        log.parent.mkdir(parents=True, exist_ok=True)
        path = log.with_suffix(".job")
        path.write_text(json.dumps(job))
        trained.append(job["spec"]["method"])
        if job["spec"]["method"] == "sasrec":
            raise CellFailed("no luck")
        train.main(str(path))

    monkeypatch.setattr(compare_recommenders, "run_job", run)
    # Deterministic kernels are for a process of its own: the setting can't be taken back.
    monkeypatch.setattr(train, "make_deterministic", lambda seed: None)
    return trained


def compare(folder, results, methods, *more):
    console = Console(record=True, width=250)
    records, failed = compare_recommenders.compare(
        configured(folder, *more), console, methods=methods, splits=["leave_one_out"], seeds=1,
        results=results, reference="item_knn" if "item_knn" in methods else "item_level hybrid",
    )  # fmt: skip
    return records, failed, console.export_text()


@pytest.mark.unit
def test_semantic_id_methods_train_on_the_backend_that_was_asked_for(market, tmp_path, monkeypatch):
    backends = {}

    def run(job, log, memory_limit_mb, cores, module, backend):
        backends[job["spec"]["method"]] = backend
        raise CellFailed("seen enough")

    monkeypatch.setattr(compare_recommenders, "run_job", run)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    compare(market, tmp_path, ["sasrec", "item_level"])
    # SASRec's cell is the same in the tables of both backends.
    assert backends == {"sasrec": "tensorflow", "item_level": "jax"}


@pytest.mark.unit
def test_baselines_end_in_records_and_tables(market, here, tmp_path):
    methods = ["popularity", "item_knn", "sasrec"]
    records, failed, shown = compare(market, tmp_path, methods)
    assert failed == ["sasrec-leave_one_out-seed0"]
    assert "no luck" in shown
    measured = [record for record in records if "method" in record]
    assert [(r["method"], r["filtered"]) for r in measured] == [
        ("popularity", False), ("popularity", True), ("item_knn", False), ("item_knn", True)
    ]  # fmt: skip
    assert all(set(record) >= KEYS for record in measured)

    # The figures are those of the method itself on this split.
    ads = load_ads(market / "ads.parquet")
    events = load_events(market / "events.parquet", ads)
    rows = np.searchsorted(ads.ad_ids, events["ad_id"].to_numpy(dtype=str))
    splits = leave_one_out(events["user_id"].to_numpy(), rows, events["timestamp"].to_numpy())
    knn = ItemKnn(splits.train, len(ads)).recommend(splits.test.histories(), 50, True)
    ranks = target_ranks(knn, splits.test.targets)
    assert measured[3]["ndcg@10"] == pytest.approx(ndcg_at(ranks, 10).mean())
    kept = load_cell(tmp_path / "cells" / "item_knn-leave_one_out-seed0", names=None)
    np.testing.assert_array_equal(kept.ranks["-filtered"], ranks)

    # What is finished is kept, what failed is tried again.
    assert here == methods
    _, _, again = compare(market, tmp_path, methods)
    assert here == [*methods, "sasrec"]
    assert again.count("kept") == 2
    page = (tmp_path / "recommenders.md").read_text()
    assert "| leave_one_out | item_knn | popularity | yes | ndcg@10 |" in page
    assert json.loads((tmp_path / "recommenders.json").read_text()) == records


@pytest.mark.slow
def test_a_generative_method_end_to_end(market, here, tmp_path):
    found, failed, _ = compare(market, tmp_path, ["item_level"])
    assert failed == []
    records = [record for record in found if "method" in record]
    assert {(r["mode"], r["filtered"], r["level"]) for r in records} == {
        (mode, filtered, level)
        for mode in ("generative", "hybrid")
        for filtered in (False, True)
        for level in ("item", "sid")
    }
    assert all(set(record) >= {*KEYS, "dense_weight", "successor_weight"} for record in records)
    by_level = {r["level"]: r["recall@10"] for r in records if r["mode"] == "generative"}
    assert by_level["sid"] >= by_level["item"]
    [codes] = (tmp_path / "cells").glob("codes-*.npz")
    with np.load(codes) as arrays:
        assert arrays["codes"].shape == (60, 3)


@pytest.mark.unit
def test_differences_average_the_seeds_of_each_user():
    def cell(method, ranks):
        arrays = {"-plain": np.array(ranks, np.uint8)}
        return FinishedCell("", {"method": method, "split": "leave_one_out"}, "", {}, arrays)

    cells = [cell("sasrec", [1, 0, 3]), cell("sasrec", [2, 2, 0]), cell("popularity", [0, 0, 1])]
    [_, row] = report.differences(cells, "sasrec")
    mean = (ndcg_at(np.array([1, 0, 3]), 10) + ndcg_at(np.array([2, 2, 0]), 10)) / 2
    want = bootstrap_mean(mean - ndcg_at(np.array([0, 0, 1]), 10))
    assert {name: row[name] for name in want} == want
    assert (row["first"], row["second"], row["metric"]) == ("sasrec", "popularity", "ndcg@10")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.ads.path=nowhere.parquet", "nowhere.parquet"),
        ("data.ads.columns={title: t}", "title"),
    ],
)
def test_files_that_cannot_be_read_are_named(market, tmp_path, override, message):
    config = configured(market, override)
    with pytest.raises(ConfigError, match=message):
        compare_recommenders.compare(
            config, Console(), methods=["popularity"], splits=["leave_one_out"], seeds=1
        )


@pytest.mark.unit
def test_what_cells_would_fail_on_is_refused_before_any_is_trained(market, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_recommenders, "run_job", lambda *_, **__: pytest.fail("trained"))

    def refused(words, *overrides, reference="item_level hybrid"):
        with pytest.raises(ConfigError) as caught:
            compare_recommenders.compare(
                configured(market, *overrides), Console(), methods=["item_level"],
                splits=["leave_one_out"], seeds=1, reference=reference, results=tmp_path,
            )  # fmt: skip
        assert all(word in str(caught.value) for word in words), caught.value

    refused(["recommender: ", "num_heads=5"], "recommender.arguments={num_heads: 5}")
    plain = tmp_path / "plain.parquet"
    kept = ["user_id", "ad_id", "timestamp"]
    pd.read_parquet(market / "events.parquet")[kept].to_parquet(plain)
    context = ["recommender.context=[weight]", f"data.events.path={plain}"]
    refused(["recommender.context", "'weight'"], *context)
    refused(["tokenizer: ", "depth"], "tokenizer.encoder={depth: 3}")
    refused(["'flat hybrid' is no row", "item_level generative"], reference="flat hybrid")
    short = tmp_path / "events.parquet"
    pd.read_parquet(market / "events.parquet").groupby("user_id").head(2).to_parquet(short)
    refused(["leaves nobody to choose on", "three events"], f"data.events.path={short}")
    nameless = tmp_path / "ads.parquet"
    pd.read_parquet(market / "ads.parquet").drop(columns="ad_id").to_parquet(nameless)
    refused(["ads: no column ['ad_id']"], f"data.ads.path={nameless}")


@pytest.mark.unit
def test_vectors_made_from_another_splits_events_are_not_read(market, tmp_path):
    """They may know this split's targets."""
    frame = pd.read_parquet(market / "ads.parquet")
    path = tmp_path / "ads.parquet"
    frame.assign(**{COLLABORATIVE: list(np.zeros((len(frame), 64)))}).to_parquet(path)
    assert COLLABORATIVE in load_ads(path).schema.dense
    for split in ("leave_one_out", "global_time"):
        files = read_files(path, market / "events.parquet", split)
        assert set(files.ads.schema.dense) == {"text_embedding"}


@pytest.mark.unit
def test_the_page_says_that_cells_come_from_several_sources(market, here, tmp_path):
    compare(market, tmp_path, ["popularity", "item_knn"])
    base = tmp_path / "cells" / "popularity-leave_one_out-seed0"
    save_cell(dataclasses.replace(load_cell(base, names=None), source="older"), base)
    compare(market, tmp_path, ["popularity", "item_knn"])
    assert "trained by 2 versions" in (tmp_path / "recommenders.md").read_text()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "tiger"], ["--methods", "only with --seeds"]),
        (["--seeds", "1", "--users", "9", "--through", "grpc"],
         ["--through, --users", "only without --seeds"]),
        (["--users", "-1"], ["--users", "-1"]),
    ],
)  # fmt: skip
def test_an_option_of_the_other_way_to_measure_is_refused(arguments, words):
    done = CliRunner().invoke(evaluate, ["recommender", *arguments])
    assert done.exit_code == 2
    assert all(word in done.output for word in words), done.output


@pytest.mark.e2e
@pytest.mark.slow
def test_the_command_line(market, tmp_path):
    command = [sys.executable, "pipeline.py", "evaluate", "recommender", "--seeds", "1"]
    command += ["--ads", market / "ads.parquet", "--events", market / "events.parquet"]
    command += ["--methods", "popularity,sasrec,flat,tiger", "--splits", "global_time"]
    command += [
        "--results",
        tmp_path,
        "--json",
        tmp_path / "out.json",
        "--reference",
        "flat hybrid",
    ]
    command += [part for override in SMALL for part in ("--set", override)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    records = json.loads((tmp_path / "out.json").read_text())
    measured = [record for record in records if "method" in record]
    assert {record["method"] for record in measured} == {"popularity", "sasrec", "flat", "tiger"}
    assert all(set(record) >= KEYS for record in measured)
    assert {record["split"] for record in measured} == {"global_time"}
    assert {r["first"] for r in records if "first" in r} == {"flat hybrid"}
