"""RecommenderRefresher: what it writes and what it refuses."""

import numpy as np
import pytest
from tfx.dsl.components.base import base_executor
from tfx.types import standard_artifacts

from components.artifacts import SidBlessing, get_summary
from components.artifacts import SidCatalog as SidCatalogArtifact
from components.recommender_refresher.component import Executor
from components.refusal import Refused
from components.verdict import Check, write_verdict
from sid_tfx.bundle import load_bundle, save_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.recommender import SidRecommender

pytestmark = pytest.mark.unit

PREVIOUS = SidCatalog.build(
    ["a", "c", "d"], [[0, 1], [1, 1], [1, 1]], np.eye(3), 2, fingerprints={"tokenizer": "t"}
)
GROWN = PREVIOUS.keep(["a", "c"]).extend(["b"], [[1, 1]], np.ones((1, 3)))


def _at(artifact, folder):
    artifact.uri = str(folder)
    return artifact


def _refresh(folder, made_from=PREVIOUS.fingerprint, collisions_ok=True):
    PREVIOUS.save(folder / "previous")
    GROWN.save(folder / "catalog")
    recommender = SidRecommender.for_catalog(PREVIOUS, hidden_size=8, num_heads=2, head_size=8)
    written = save_bundle(
        recommender,
        str(folder / "recommender" / "Format-Serving"),
        {"fingerprints": {"catalog": made_from}},
    )
    check = Check("collision_share", 0.5, 0.4, collisions_ok, "collisions are 0.5")
    write_verdict(str(folder / "blessing"), "SidEvaluator", [check])
    model = _at(standard_artifacts.Model(), folder / "model")
    Executor(base_executor.BaseExecutor.Context(tmp_dir="unused", unique_id="1")).Do(
        {
            "recommender": [_at(standard_artifacts.Model(), folder / "recommender")],
            "previous": [_at(SidCatalogArtifact(), folder / "previous")],
            "catalog": [_at(SidCatalogArtifact(), folder / "catalog")],
            "sid_blessing": [_at(SidBlessing(), folder / "blessing")],
        },
        {"model": [model]},
        {},
    )
    return model, written["fingerprint"]


def test_it_writes_the_recommender_of_the_new_catalogue(tmp_path):
    model, trained = _refresh(tmp_path)
    refreshed, metadata = load_bundle(f"{model.uri}/Format-Serving")
    np.testing.assert_array_equal(np.asarray(refreshed.ad_codes)[1:], GROWN.full_codes)
    assert metadata["fingerprints"] == {"catalog": GROWN.fingerprint, "recommender": trained}
    assert get_summary(model) == "3 ads: 1 new, 1 gone; weights as they were"


def test_a_recommender_of_another_catalogue_is_refused(tmp_path):
    with pytest.raises(Refused, match="was made from catalogue another, but the last push has"):
        _refresh(tmp_path, made_from="another")


def test_an_unblessed_catalogue_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"collisions are 0\.5"):
        _refresh(tmp_path, collisions_ok=False)
