"""The pipeline end to end on a small simulated market."""

import json
from pathlib import Path

import pytest

from pipeline.showcase import model_server
from serving.client import RecommenderClient
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.records import read_sequences
from tests.e2e.conftest import pipeline

pytestmark = pytest.mark.e2e

STAGES = {
    "AdsGen", "EventsGen", "AdsStatistics", "EventsStatistics", "AdsSchema", "EventsSchema",
    "AdsValidator", "EventsValidator", "Transform", "InteractionBuilder", "TokenizerTrainer",
    "SidAssigner", "SidEvaluator", "IndexBuilder", "RecommenderTrainer", "Composer", "Evaluator",
    "ServingValidator", "PortablePusher", "ScannPusher",
}  # fmt: skip


def test_every_stage_ran_and_says_what_it_made(small_run):
    stages = {stage["stage"]: stage for stage in small_run.summary["stages"]}
    assert set(stages) == STAGES
    for name, stage in stages.items():
        assert stage["made"], f"{name} has no stage line"
        assert not stage["cached"]
        assert name in small_run.output
    assert "300 ads, 0 rejected" in small_run.output


def test_both_flavours_are_pushed_with_a_warmup_file(small_run):
    assert set(small_run.summary["servables"]) == {"portable", "scann"}
    for path in map(Path, small_run.summary["servables"].values()):
        assert (path / "saved_model.pb").is_file()
        assert (path / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0


def test_metrics_are_plausible(small_run):
    metrics = small_run.summary["metrics"]
    assert metrics["example_count"] == 500
    for prefix in ("", "sid_", "filtered_", "filtered_sid_"):
        recall = metrics[f"{prefix}recall@10"]
        assert 0 <= metrics[f"{prefix}recall@5"] <= recall <= 1
        assert metrics[f"{prefix}ndcg@10"] <= recall
    # Ads that share their codes share a place.
    for name in ("recall@10", "ndcg@10", "mrr"):
        assert metrics[name] <= metrics[f"sid_{name}"]
        assert metrics[f"filtered_{name}"] <= metrics[f"filtered_sid_{name}"]


def test_second_run_takes_every_stage_from_the_cache(small_run, tmp_path):
    pipeline("run", *small_run.options, "--json", str(tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_text())
    assert [s["stage"] for s in again["stages"] if not s["cached"]] == []
    assert again["servables"] == small_run.summary["servables"]
    assert again["metrics"] == small_run.summary["metrics"]


@pytest.fixture(scope="module", params=["portable", "scann"])
def client(request, small_run, tmp_path_factory):
    base = Path(small_run.summary["servables"][request.param]).parent
    log = tmp_path_factory.mktemp("server") / "server.log"
    with model_server(base, log) as target, RecommenderClient(target) as client:
        yield client


@pytest.fixture(scope="module")
def catalog(small_run):
    [path] = small_run.home.glob("artifacts/SidAssigner/catalog/*")
    return SidCatalog.load(path)


@pytest.fixture(scope="module")
def histories(small_run):
    uri = small_run.summary["artifacts"]["InteractionBuilder.sequences"]
    return [list(h) for h in read_sequences(f"{uri}/Split-test/*").histories[:20]]


def test_recommendations_are_catalogue_ads_with_their_sids(client, catalog, histories):
    for answer in client.recommend(histories, k=10):
        assert len(answer) == 10
        assert len(set(answer.ad_ids)) == 10
        assert answer.scores == sorted(answer.scores, reverse=True)
        rows = catalog.rows(answer.ad_ids)
        assert (rows >= 0).all()
        assert [ad.sid for ad in answer.ads] == [tuple(codes) for codes in catalog.codes[rows]]


def test_filters_hold_in_both_modes(client, histories):
    for mode in ("generative", "hybrid"):
        banned = client.recommend(histories[0], k=3).ad_ids
        answer = client.recommend_filtered(
            histories[0], k=10, exclude=banned, filter_seen=True, mode=mode
        )
        assert len(answer) == 10
        assert not set(answer.ad_ids) & {*banned, *histories[0]}


def test_unknown_and_empty_histories_fall_back_to_popularity(client):
    empty, unknown = client.recommend([[], ["no-such-ad"]], k=5)
    assert empty.ad_ids == unknown.ad_ids
    assert len(empty) == 5


def test_a_served_ad_gets_its_catalogue_code_from_raw_columns(client, catalog, small_run):
    import pandas as pd

    ads = pd.read_parquet(small_run.options[1]).head(16)
    encoded = client.encode_ads(
        [
            {
                **{c: row[c] for c in ("ad_id", "title", "description", "advertiser")},
                "category_path": list(row["category_path"]),
                "price": float(row["price"]),
            }
            for row in ads.to_dict("records")
        ]
    )
    rows = catalog.rows(ads["ad_id"].to_numpy())
    assert [ad.sid for ad in encoded] == [tuple(codes) for codes in catalog.codes[rows]]


@pytest.mark.parametrize("by", ["embedding", "sid"])
def test_similar_ads_never_name_the_ad_itself(client, histories, by):
    ad = histories[0][-1]
    [answer] = client.similar_ads([ad], k=5, by=by)
    assert len(answer) == 5
    assert ad not in answer.ad_ids


def test_an_unreachable_gate_refuses_with_number_and_limit(small_run):
    result = pipeline(
        "run", *small_run.options, "--set", "sid_gate.max_collision_share=0.0", check=False
    )
    assert result.returncode == 3
    last = result.stdout.strip().splitlines()[-1]
    assert "Refused" in last
    assert "limit is at most 0" in last


def test_wrong_option_names_the_allowed_ones(small_run):
    result = pipeline("run", *small_run.options, "--set", "tokenizer.level=4", check=False)
    assert result.returncode == 2
    assert "'levels'" in result.stderr
