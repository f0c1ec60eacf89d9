"""Every architecture that is not the default one goes from raw data to a server that answers."""

from pathlib import Path

import pytest

from pipeline.showcase import model_server
from serving.client import RecommenderClient
from sid_tfx.architectures import ARCHITECTURES
from sid_tfx.bundle import load_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.records import read_sequences
from sid_tfx.export import WireLimits
from sid_tfx.recommender import SidRecommender
from tests.e2e.conftest import Run, changed_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module", params=sorted(set(ARCHITECTURES) - {"item_level"}))
def run(request, small_run, tmp_path_factory) -> Run:
    """The small run with another architecture; what does not depend on it is not made again."""
    overrides = (f"recommender.architecture={request.param}", "recommender.epochs=1")
    run = changed_run(small_run, tmp_path_factory.mktemp(request.param), *overrides)
    summary = run.summary
    made = {stage["stage"] for stage in summary["stages"] if not stage["cached"]}
    assert {"RecommenderTrainer", "Composer", "Evaluator", "PortablePusher"} <= made
    trained = load_bundle(f"{summary['artifacts']['RecommenderTrainer.model']}/Format-Serving")[0]
    assert isinstance(trained, SidRecommender)
    assert isinstance(trained.architecture, ARCHITECTURES[request.param])
    return run


def test_the_pushed_servable_answers(run, tmp_path):
    assert set(run.summary["servables"]) == {"portable", "scann"}
    assert run.summary["metrics"]["example_count"] == 500
    catalog = SidCatalog.load(run.summary["artifacts"]["SidAssigner.catalog"])
    uri = run.summary["artifacts"]["InteractionBuilder.sequences"]
    histories = [list(h) for h in read_sequences(f"{uri}/Split-test/*").histories[:20]]
    base = Path(run.summary["servables"]["portable"]).parent
    with (
        model_server(base, tmp_path / "server.log") as target,
        RecommenderClient(target) as client,
    ):
        answers = client.recommend(histories, k=10)
        unseen = client.recommend_filtered(histories, k=10, filter_seen=True, mode="hybrid")
    # What is recommended depends on who asks.
    assert len({tuple(answer.ad_ids) for answer in answers}) > 1
    for answer, filtered, history in zip(answers, unseen, histories, strict=True):
        assert len(set(answer.ad_ids)) == 10
        rows = catalog.rows(answer.ad_ids)
        assert (rows >= 0).all()
        assert [ad.sid for ad in answer.ads] == [tuple(codes) for codes in catalog.codes[rows]]
        assert len(filtered) == 10
        # A request holds the newest ads only.
        assert not set(filtered.ad_ids) & set(history[-WireLimits().max_history :])
