"""`evaluate recommender` on what a run left: records, levels, differences."""

import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import portpicker
import pytest
import tensorflow as tf
from rich.console import Console

from components.interaction_builder.sequences import split_user
from pipeline import evaluate as evaluation
from pipeline.config import ConfigError, load_config
from pipeline.evaluate import evaluate_servable, newest_columns
from pipeline.run import SUMMARY_FILE, Summary
from pipeline.showcase import query_server
from serving.results import AdList, ModelMetadata, ScoredAd
from sid_tfx.baselines import ItemKnn
from sid_tfx.bundle import load_bundle, save_bundle
from sid_tfx.datasets.sequences import Sequences, leave_one_out
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender
from sid_tfx.metrics.ranking import ranking_metrics, target_ranks
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog

pytestmark = pytest.mark.unit

# Longer than the 20 ads that are read by default.
USERS, LENGTH = 30, 30
KINDS = (b"view", b"buy")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of an untrained recommender, and its events."""
    root = tmp_path_factory.mktemp("run")
    config = load_config(None, [f"run.root={root}", "name=small", "servable.max_k=15"])
    catalog = make_catalog()
    names = ("SidAssigner.catalog", "InteractionBuilder.sequences", "RecommenderTrainer.model")
    artifacts = {name: str(config.home / name) for name in names}
    catalog.save(artifacts["SidAssigner.catalog"])
    rows = np.random.default_rng(0).integers(0, ADS, (USERS, LENGTH))
    written = {}
    for user, ads in enumerate(rows):
        events = [
            (time, catalog.ad_ids[ad].encode(), KINDS[ad % 2], 0.0) for time, ad in enumerate(ads)
        ]
        for name, sequence in split_user(f"u{user:02d}".encode(), events, "leave_one_out").items():
            written.setdefault(name, []).append(sequence.to_example())
    for name, examples in written.items():
        folder = f"{artifacts['InteractionBuilder.sequences']}/Split-{name}"
        tf.io.gfile.makedirs(folder)
        with tf.io.TFRecordWriter(f"{folder}/data.gz", "GZIP") as writer:
            for example in examples:
                writer.write(example)
    save_bundle(
        SidRecommender.for_catalog(catalog, **SMALL, context={"events": ["buy", "view"]}),
        f"{artifacts['RecommenderTrainer.model']}/Format-Serving",
        {"train_seconds": 12.5},
    )
    empty = {field.name: {} for field in dataclasses.fields(Summary)}
    summary = Summary(**{**empty, "artifacts": artifacts})
    summary.save(config.home / SUMMARY_FILE)
    return config, rows


@pytest.fixture(scope="module")
def records(run):
    return evaluate_servable(run[0], Console(), through="process")


def test_a_record_for_every_method_mode_filter_and_level(records):
    measured = [record for record in records if "method" in record]
    assert len(measured) == 4 * 2 * 2
    for record in measured:
        assert (record["users"], record["seed"], record["split"]) == (USERS, 17, "leave_one_out")
        assert record["ndcg@10_low"] <= record["ndcg@10"] <= record["ndcg@10_high"]
        assert record["through"] == "process"
    trained = {r["mode"]: r["train_seconds"] for r in measured if r["method"] == "servable"}
    assert trained == {"generative": 12.5, "hybrid": 12.5}


def test_figures_are_those_of_the_method(run, records):
    _, rows = run
    users = np.repeat(np.arange(USERS), LENGTH)
    splits = leave_one_out(users, rows.ravel(), np.tile(np.arange(LENGTH), USERS))
    for filtered in (False, True):
        knn = ItemKnn(splits.train, ADS).recommend(splits.test.histories(), 15, filtered)
        want = ranking_metrics(target_ranks(knn, splits.test.targets))
        [record] = [
            r
            for r in records
            if (r.get("method"), r.get("filtered"), r.get("level"))
            == ("item_knn", filtered, "item")
        ]
        assert {name: record[name] for name in want} == pytest.approx(want)


def test_the_recommender_is_asked_in_the_context_of_its_users(run, records):
    config, rows = run
    users = np.repeat(np.arange(USERS), LENGTH)
    kinds = np.array([kind.decode() for kind in KINDS])[rows.ravel() % 2]
    times = np.tile(np.arange(LENGTH), USERS)
    test = leave_one_out(users, rows.ravel(), times, events=kinds).test
    model, _ = load_bundle(str(config.home / "RecommenderTrainer.model" / "Format-Serving"))
    ranked = GenerativeRecommender(SidDecoder(model, config.servable.beam_size))
    asked = {
        name: ranking_metrics(target_ranks(ranked.recommend(histories, 15), test.targets))
        for name, histories in (
            ("alone", test.histories()),
            ("in context", test.in_context(model.context).histories()),
        )
    }
    [record] = [
        record
        for record in records
        if (record.get("method"), record.get("mode"), record.get("filtered"), record.get("level"))
        == ("servable", "generative", False, "item")
    ]
    want = asked["in context"]
    assert {name: record[name] for name in want} == pytest.approx(want)
    assert asked["alone"] != pytest.approx(want)


def with_history(config, max_history):
    """The same run's configuration with another T."""
    servable = config.servable.model_copy(update={"max_history": max_history})
    return config.model_copy(update={"servable": servable})


@pytest.mark.parametrize("max_history", [4, 26])
def test_a_history_is_cut_to_what_the_servable_reads(run, max_history, monkeypatch):
    config, rows = run
    monkeypatch.setattr(evaluation, "MODES", ("generative",))
    records = evaluate_servable(with_history(config, max_history), Console(), through="process")
    users = np.repeat(np.arange(USERS), LENGTH)
    kinds = np.array([kind.decode() for kind in KINDS])[rows.ravel() % 2]
    splits = leave_one_out(users, rows.ravel(), np.tile(np.arange(LENGTH), USERS), events=kinds)
    model, _ = load_bundle(str(config.home / "RecommenderTrainer.model" / "Format-Serving"))
    decoder = SidDecoder(model, config.servable.beam_size)
    alone, in_context = splits.test, splits.test.in_context(model.context)
    for name, mode, method, test in (
        ("servable", "generative", GenerativeRecommender(decoder), in_context),
        ("item_knn", "", ItemKnn(splits.train, ADS), alone),
    ):
        # Filtered: how much is left out depends on the length too.
        want, otherwise = (
            ranking_metrics(
                target_ranks(method.recommend(test.histories(length), 15, True), test.targets)
            )
            for length in (max_history, 20)
        )
        [record] = [
            record
            for record in records
            if tuple(map(record.get, ("method", "mode", "filtered", "level")))
            == (name, mode, True, "item")
        ]
        assert {metric: record[metric] for metric in want} == pytest.approx(want), name
        assert want != pytest.approx(otherwise), name


def test_what_a_server_is_sent_are_the_newest_known_events():
    inputs = Sequences(
        np.array([0, 4, 5]),
        np.array([3, 1, -1, 2, 0], np.int32),
        np.array([10, 20, 30, 40, 50]),
        weights=np.array([0.5, 1.0, 2.0, 3.0, 0.0], np.float32),
    )
    columns = newest_columns(inputs, 3)
    assert {name: [list(user) for user in users] for name, users in columns.items()} == {
        "timestamps": [[20, 40], [50]],
        "weights": [[1.0, 3.0], [0.0]],
    }


def test_the_servable_is_compared_with_every_baseline(records):
    rows = [record for record in records if "first" in record]
    assert len(rows) == 2 * 2 * 2 * 2
    for row in rows:
        assert row["low"] <= row["difference"] <= row["high"]
        assert (row["first"].split()[0], row["second"] != "servable") == ("servable", True)


def test_without_a_run_it_says_what_to_do(tmp_path):
    config = load_config(None, [f"run.root={tmp_path}"])
    with pytest.raises(ConfigError, match=r"pipeline\.py run"):
        evaluate_servable(config, Console(), through="process")


class FakeClient:
    """A server of version 7 that answers every history with the same ads."""

    lengths: set[int] = set()

    def __init__(self, target, timeout=0.0):
        self.lengths.clear()
        self.answer = AdList(tuple(ScoredAd(f"ad{n:03d}", 0.0) for n in range(15)), 7)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def metadata(self):
        return ModelMetadata(7, {})

    def recommend(self, history):
        self.lengths.add(len(history))
        return self.answer

    def recommend_filtered(self, histories, **rules):
        self.lengths.update(map(len, histories))
        return [self.answer] * len(histories)


@pytest.fixture
def pushed(run, tmp_path, monkeypatch):
    """The same run, pushed: its configuration, summary and, to be written, the served manifest."""
    monkeypatch.setattr(evaluation, "model_server", lambda base, log: nullcontext(str(base)))
    monkeypatch.setattr(evaluation, "RecommenderClient", FakeClient)
    config = load_config(None, [f"run.root={tmp_path}", "name=small", "servable.max_k=15"])
    paths = {
        flavour: str(config.push_directory / flavour / "sid_tfx" / "7")
        for flavour in ("portable", "scann")
    }
    summary = dataclasses.replace(Summary.load(run[0].home), servables=paths, refusals=[])
    manifest = Path(paths["portable"]) / "assets.extra" / "sid_tfx.json"
    manifest.parent.mkdir(parents=True)
    return config, summary, manifest


@pytest.mark.parametrize("max_history", [4, 20, 26])
def test_what_the_run_pushed_is_measured_through_a_server(pushed, max_history):
    config, summary, manifest = pushed
    manifest.write_text(json.dumps({"fingerprints": {"catalog": make_catalog().fingerprint}}))
    summary.save(config.home / SUMMARY_FILE)
    records = evaluate_servable(with_history(config, max_history), Console(), through="grpc")
    assert FakeClient.lengths == {max_history}
    assert {r["through"] for r in records if r.get("method") == "servable"} == {"grpc"}


def test_a_served_version_of_another_run_is_not_measured(pushed):
    config, summary, manifest = pushed
    manifest.write_text(json.dumps({"fingerprints": {"catalog": "another"}}))
    summary.save(config.home / SUMMARY_FILE)
    with pytest.raises(ConfigError, match=r"sid_tfx/7 is .* catalogue another; .*pipeline\.py run"):
        evaluate_servable(config, Console(), through="grpc")


def test_without_a_version_there_is_nothing_to_ask(pushed):
    config, summary, manifest = pushed
    shutil.rmtree(manifest.parents[2] / "7")
    summary.save(config.home / SUMMARY_FILE)
    with pytest.raises(ConfigError, match=r"sid_tfx has no version; .*pipeline\.py run"):
        evaluate_servable(config, Console(), through="grpc")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refusals": ["recall is below the limit"]}, "pushed nothing: recall is below the limit"),
        ({"servables": {}}, "pushed nothing; push with"),
    ],
)
def test_a_run_that_was_refused_is_not_measured_by_what_an_earlier_one_pushed(pushed, change, said):
    config, summary, _ = pushed
    dataclasses.replace(summary, **change).save(config.home / SUMMARY_FILE)
    with pytest.raises(ConfigError, match=said):
        evaluate_servable(config, Console(), through="grpc")


def test_a_query_without_a_server_says_how_to_start_one(run):
    target = f"localhost:{portpicker.pick_unused_port()}"
    with pytest.raises(ConfigError, match=r"pipeline\.py serve"):
        query_server(run[0], Console(), target, history=["ad001"], user=0, k=3)
