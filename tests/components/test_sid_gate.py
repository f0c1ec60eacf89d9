"""SidEvaluator: the number, the limit, fairness to small catalogues, and what it publishes."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.artifacts import SidBlessing
from components.artifacts import SidCatalog as CatalogArtifact
from components.sid_evaluator.component import Executor, checks
from sid_tfx.catalog import SidCatalog
from sid_tfx.features import AdSchema
from sid_tfx.metrics.hit_rate import embedding_hit_rate
from sid_tfx.metrics.sid_quality import prefix_purity, sid_quality

pytestmark = pytest.mark.unit

LIMITS = {
    "max_collision_share": 0.2,
    "max_largest_group": 4,
    "min_entropy_share": 0.9,
    "min_coverage": 0.5,
}


def _checks(codes, codebook_size):
    quality = sid_quality(codes, codebook_size)
    found = checks(quality, len(codes), codebook_size, LIMITS)
    return {check.name: check for check in found}


def test_distinct_codes_pass_every_check():
    codes = np.stack(np.unravel_index(np.arange(64), (8, 8)), axis=1)
    assert all(check.ok for check in _checks(codes, 8).values())


def test_a_collapsed_codebook_fails_every_check_and_says_the_numbers():
    found = _checks(np.zeros((64, 2), int), 8)
    assert not any(check.ok for check in found.values())
    assert "is 1, the limit is at most 0.2" in found["collision_share"].sentence
    assert "is 64, the limit is at most 4" in found["largest_group"].sentence
    assert "at least" in found["entropy_share"].sentence


def test_three_ads_are_not_blamed_for_unused_codes():
    found = _checks(np.array([[0, 1], [1, 2], [2, 0]]), 256)
    assert found["coverage"].ok
    assert found["coverage"].limit == pytest.approx(0.5 * 3 / 256)


def test_one_pair_in_collision_is_measured_exactly():
    codes = np.stack(np.unravel_index(np.arange(20), (8, 8)), axis=1)
    codes[1] = codes[0]
    found = _checks(codes, 8)
    assert found["collision_share"].value == pytest.approx(2 / 20)
    assert found["largest_group"].value == 2


def _records(folder, rows):
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "part-0.gz"), "GZIP") as writer:
        for row in rows:
            feature = {}
            for name, value in row.items():
                if isinstance(value, str):
                    kind = {"bytes_list": tf.train.BytesList(value=[value.encode()])}
                elif isinstance(value, float):
                    kind = {"float_list": tf.train.FloatList(value=[value])}
                else:
                    kind = {"int64_list": tf.train.Int64List(value=value)}
                feature[name] = tf.train.Feature(**kind)
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def _artifact(kind, path, split=None):
    artifact = kind()
    artifact.uri = str(path)
    if split:
        artifact.split_names = json.dumps([split])
    return [artifact]


def _catalog(path, ads, codes, embeddings):
    catalog = SidCatalog.build(ads, codes, embeddings, codebook_size=8)
    catalog.save(str(path))
    return catalog, _artifact(CatalogArtifact, path)


def _published(tmp_path, schema, **inputs):
    blessing = _artifact(SidBlessing, tmp_path / "blessing")
    properties = {**LIMITS, "schema": schema.to_json()}
    Executor(Executor.Context(tmp_dir=str(tmp_path), unique_id="1")).Do(
        inputs, {"blessing": blessing}, properties
    )
    return json.loads((tmp_path / "blessing" / "quality.json").read_text())


def test_it_publishes_what_its_inputs_allow(tmp_path):
    rng = np.random.default_rng(0)
    ads = [f"ad{row:02d}" for row in range(24)]
    codes, embeddings = rng.integers(0, 8, (24, 2)), rng.normal(size=(24, 3)).astype("float32")
    catalog, artifact = _catalog(tmp_path / "catalog", ads, codes, embeddings)
    before = codes.copy()
    before[:6, 1] = (before[:6, 1] + 1) % 8
    _, previous = _catalog(tmp_path / "previous", ads, before, embeddings)
    leaf = rng.integers(5, 9, 24)
    rows = [{"ad_id": ad, "category": [leaf[row] // 2, leaf[row]]} for row, ad in enumerate(ads)]
    _records(tmp_path / "examples" / "Split-all", rows)
    pairs = np.stack([rng.integers(0, 12, 30), rng.integers(12, 24, 30)], axis=1)
    rows = [{"trigger": ads[i], "target": ads[j], "score": 1.0} for i, j in pairs]
    rows.append({"trigger": "unknown", "target": ads[0], "score": 1.0})
    _records(tmp_path / "pairs" / "Split-train", rows)
    quality = _published(
        tmp_path,
        AdSchema(category_depth=2),
        catalog=artifact,
        examples=_artifact(standard_artifacts.Examples, tmp_path / "examples", "all"),
        pairs=_artifact(standard_artifacts.Examples, tmp_path / "pairs", "train"),
        previous=previous,
    )
    assert quality.items() >= sid_quality(catalog.codes, 8, leaf).items()
    assert [level[-1] for level in quality["v_measure_by_depth"]] == quality["v_measure"]
    assert quality["prefix_purity"] == prefix_purity(catalog.codes, leaf)
    expected = embedding_hit_rate(catalog.embeddings, pairs, 10)
    assert quality["embedding_hit_rate@10"] == pytest.approx(expected)
    assert quality["churn"]["churn"] == 0.25
    assert quality["churn"]["level_churn"] == [0.0, 0.25]


def test_a_catalogue_that_cannot_be_compared_is_no_failure(tmp_path):
    _, catalog = _catalog(tmp_path / "catalog", ["a", "b"], [[0, 1], [1, 0]], np.eye(2))
    _, previous = _catalog(tmp_path / "previous", ["a"], [[0]], np.eye(1))
    (tmp_path / "examples" / "Split-all").mkdir(parents=True)
    examples = _artifact(standard_artifacts.Examples, tmp_path / "examples", "all")
    schema = AdSchema(categorical=("advertiser",))
    quality = _published(tmp_path, schema, catalog=catalog, examples=examples, previous=previous)
    assert "one shape" in quality["churn_skipped"]
    assert not quality.keys() & {"churn", "v_measure", "prefix_purity", "embedding_hit_rate@10"}
