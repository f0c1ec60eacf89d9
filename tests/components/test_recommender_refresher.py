"""RecommenderRefresher: what it writes and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from tfx.dsl.components.base import base_executor
from tfx.types import standard_artifacts

from components.artifacts import SidBlessing, get_summary
from components.artifacts import SidCatalog as SidCatalogArtifact
from components.recommender_refresher.component import Executor
from components.refusal import Refused
from components.verdict import Check, write_verdict
from sid_tfx.bundle import load_bundle, save_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.recommender import SidRecommender

pytestmark = pytest.mark.unit

PREVIOUS = SidCatalog.build(
    ["a", "c", "d"], [[0, 1], [1, 1], [1, 1]], np.eye(3), 2, fingerprints={"tokenizer": "t"}
)
GROWN = PREVIOUS.keep(["a", "c"]).extend(["b"], [[1, 1]], np.ones((1, 3)))


def _at(artifact, folder):
    artifact.uri = str(folder)
    return artifact


def _write_log(folder, histories):
    split = folder / "Split-train"
    split.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split / "data.gz"), "GZIP") as writer:
        for user, history in enumerate(histories):
            example = tf.train.Example()
            for name, values in {"user_id": [f"u{user}"], "history": history}.items():
                ids = [value.encode() for value in values]
                example.features.feature[name].bytes_list.value.extend(ids)
            writer.write(example.SerializeToString())


def _refresh(
    folder, made_from=PREVIOUS.fingerprint, collisions_ok=True, successors=32, memory=True
):
    PREVIOUS.save(folder / "previous")
    GROWN.save(folder / "catalog")
    table = None
    if memory:
        table = SuccessorTable(np.array([0, 1, 1, 1]), np.array([1], np.int32), np.ones(1))
    recommender = SidRecommender.for_catalog(
        PREVIOUS, table, hidden_size=8, num_heads=2, head_size=8
    )
    written = save_bundle(
        recommender,
        str(folder / "recommender" / "Format-Serving"),
        {"fingerprints": {"catalog": made_from}},
    )
    check = Check("collision_share", 0.5, 0.4, collisions_ok, "collisions are 0.5")
    write_verdict(str(folder / "blessing"), "SidEvaluator", [check])
    _write_log(folder / "sequences", [["a", "d", "b"], ["c", "b"]])
    examples = _at(standard_artifacts.Examples(), folder / "sequences")
    examples.split_names = '["train"]'
    model = _at(standard_artifacts.Model(), folder / "model")
    Executor(base_executor.BaseExecutor.Context(tmp_dir="unused", unique_id="1")).Do(
        {
            "recommender": [_at(standard_artifacts.Model(), folder / "recommender")],
            "previous": [_at(SidCatalogArtifact(), folder / "previous")],
            "catalog": [_at(SidCatalogArtifact(), folder / "catalog")],
            "examples": [examples],
            "sid_blessing": [_at(SidBlessing(), folder / "blessing")],
        },
        {"model": [model]},
        {"successors": successors},
    )
    return model, written["fingerprint"]


def test_it_writes_the_recommender_of_the_new_catalogue(tmp_path):
    model, trained = _refresh(tmp_path)
    refreshed, metadata = load_bundle(f"{model.uri}/Format-Serving")
    np.testing.assert_array_equal(np.asarray(refreshed.ad_codes)[1:], GROWN.full_codes)
    assert metadata["fingerprints"] == {"catalog": GROWN.fingerprint, "recommender": trained}
    assert get_summary(model) == (
        "3 ads: 1 new, 1 gone; weights as they were, 2 pairs of successors"
    )


def test_it_knows_what_a_new_ad_followed(tmp_path):
    model, _ = _refresh(tmp_path)
    memory = load_bundle(f"{model.uri}/Format-Serving")[0].successors
    a, b, c = GROWN.rows(np.array(["a", "b", "c"]))
    scores = np.asarray(memory.all_scores(memory.followers(np.array([[a + 1], [c + 1]]))))
    # Ad d is gone, and b is the second after a.
    wanted = np.zeros((2, 3))
    wanted[:, b] = np.log1p(1)
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)


def test_it_remembers_nothing_where_that_is_configured(tmp_path):
    model, _ = _refresh(tmp_path, successors=0)
    assert load_bundle(f"{model.uri}/Format-Serving")[0].successors is None


def test_a_model_without_a_memory_gets_none(tmp_path):
    model, _ = _refresh(tmp_path, memory=False)
    assert load_bundle(f"{model.uri}/Format-Serving")[0].successors is None


def test_a_recommender_of_another_catalogue_is_refused(tmp_path):
    with pytest.raises(Refused, match="was made from catalogue another, but the last push has"):
        _refresh(tmp_path, made_from="another")


def test_an_unblessed_catalogue_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"collisions are 0\.5"):
        _refresh(tmp_path, collisions_ok=False)
