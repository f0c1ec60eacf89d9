"""`evaluate recommender` on a pushed servable: gRPC, this process and TFMA say the same."""

import itertools
import json

import numpy as np
import pytest

from sid_tfx.datasets.ads import event_columns, load_ads, load_events
from sid_tfx.datasets.records import read_sequences
from sid_tfx.datasets.sequences import global_time, leave_one_out
from sid_tfx.metrics.slices import SLICES
from tests.e2e.conftest import Run, changed_run, pipeline

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FIGURES = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr", "coverage@10")
SPLITS = {"leave_one_out": leave_one_out, "global_time": global_time}


@pytest.fixture(scope="module", params=SPLITS)
def split(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def run(split, small_run, tmp_path_factory) -> Run:
    """The small run, or another on the same files that splits by time and reads fewer ads."""
    if split == "leave_one_out":
        return small_run
    overrides = ("data.split=global_time", "servable.max_history=5", "tokenizer.epochs=2")
    return changed_run(small_run, tmp_path_factory.mktemp(split), *overrides)


@pytest.fixture(scope="module")
def records(run, tmp_path_factory):
    """Flat records by way of asking."""
    found = {}
    for through in ("process", "grpc"):
        path = tmp_path_factory.mktemp("evaluate") / f"{through}.json"
        asked = ("--through", through, "--json", str(path))
        pipeline("evaluate", "recommender", *run.options, *asked)
        found[through] = json.loads(path.read_text())
    return found


def measured(records):
    return {(r["method"], r["mode"], r["filtered"], r["level"]): r for r in records if "level" in r}


def test_the_users_are_those_of_the_library(run, split):
    ads = load_ads(run.options[1])
    events = load_events(run.options[3], ads)
    rows = np.searchsorted(ads.ad_ids, events["ad_id"].to_numpy(dtype=str))
    log = events["user_id"].to_numpy(dtype=str), rows, events["timestamp"].to_numpy()
    splits = SPLITS[split](*log, **event_columns(events))
    uri = run.summary["artifacts"]["InteractionBuilder.sequences"]
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        found = read_sequences(f"{uri}/Split-{name}/*")
        assert found.user_ids.tolist() == part.users.tolist()
        assert found.targets.tolist() == ads.ad_ids[part.targets].tolist()
        for here, there in (
            (found.histories, ads.ad_ids[part.inputs.rows]),
            (found.timestamps, part.inputs.timestamps),
            (found.weights, part.inputs.weights),
        ):
            np.testing.assert_array_equal(np.concatenate(here), there)
    assert run.summary["metrics"]["example_count"] == len(splits.test)


def test_every_method_mode_filter_and_level_is_there(records, run, split):
    users = run.summary["metrics"]["example_count"]
    keys = {
        (method, mode, filtered, level)
        for method, modes in {
            "popularity": [""],
            "item_knn": [""],
            "servable": ["generative", "hybrid"],
        }.items()
        for mode in modes
        for filtered in (False, True)
        for level in ("item", "sid")
    }
    for found in records.values():
        assert set(measured(found)) == keys
        for record in measured(found).values():
            assert (record["users"], record["seed"], record["split"]) == (users, 17, split)
            assert record["train_seconds"] >= 0
            assert record["ndcg@10_low"] <= record["ndcg@10"] <= record["ndcg@10_high"]


def test_grpc_gives_the_figures_of_the_model_in_process(records):
    grpc, process = (measured(records[through]) for through in ("grpc", "process"))
    for key, record in process.items():
        assert {name: grpc[key][name] for name in FIGURES} == pytest.approx(
            {name: record[name] for name in FIGURES}, abs=1e-6
        ), key


def test_tfma_gives_the_same_figures(records, run):
    found = measured(records["grpc"])
    metrics = run.summary["metrics"]
    for filtered, level in itertools.product((False, True), ("item", "sid")):
        record = found["servable", "generative", filtered, level]
        prefix = ("filtered_" if filtered else "") + ("sid_" if level == "sid" else "")
        for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr"):
            assert metrics[prefix + name] == pytest.approx(record[name], abs=1e-6), prefix + name
    record = found["servable", "generative", False, "item"]
    wanted = {f"ndcg@10 {name}": f"{name}/ndcg@10" for name in SLICES}
    wanted["recall@10 target:cold"] = "target:cold/recall@10"
    for name, of_slice in wanted.items():
        if record[f"{of_slice.split('/')[0]}/users"]:
            assert metrics[name] == pytest.approx(record[of_slice], abs=1e-6), name
        else:
            assert name not in metrics


def test_differences_have_intervals(records):
    rows = [record for record in records["grpc"] if "first" in record]
    assert {(row["first"], row["second"], row["filtered"]) for row in rows} == {
        (f"servable {mode}", second, filtered)
        for mode in ("generative", "hybrid")
        for second in ("popularity", "item_knn")
        for filtered in (False, True)
    }
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows)
    [latency] = [record for record in records["grpc"] if "median_ms" in record]
    assert 0 < latency["median_ms"] <= latency["p95_ms"]
