"""The benchmark of dense candidates at toy sizes: what it reports. Never how fast anything is."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import dense_candidates

pytestmark = pytest.mark.unit


def test_every_subject_is_timed_and_its_recall_known(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_candidates, "_QUERIES", 128)
    file = tmp_path / "d.json"
    arguments = ["--ads", 300, "--batch", 2, "--repeats", 1, "--recall", 0.8, "--beam", 8, "--k", 3]
    arguments += ["--exclusions", 4, "--successors", 2, "--json", file]
    done = CliRunner().invoke(dense_candidates.main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "300 ads, batch 2" in done.output
    records = {record["subject"]: record for record in json.loads(file.read_text())}
    assert list(records) == ["all_ads", "partitioned", "scann"]
    own = records["all_ads"]["median_ms"]
    assert records["all_ads"]["recall@50"] == 1
    for subject, record in records.items():
        assert (record["ads"], record["batch"]) == (300, 2)
        assert record["ratio_to_all_ads"] == pytest.approx(record["median_ms"] / own, rel=0.02)
        assert record["recall@50"] >= 0.75
        assert ("search_ms" in record) == ("tuning_seconds" in record) == (subject != "all_ads")


def test_queries_are_vectors_of_ads_that_are_left_out():
    recommender, queries = dense_candidates.generate(400, seed=1)
    vectors = keras.ops.convert_to_numpy(recommender.item_vectors())
    assert queries.shape[1] == vectors.shape[1]
    # Of one size and direction with the ads, and none of them.
    lengths = [np.linalg.norm(rows, axis=1).mean() for rows in (vectors, queries)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.1)
    distance = np.linalg.norm(queries[:50, None] - vectors[None], axis=2).min(axis=1)
    assert (distance > 1e-3).all()
    assert np.median(distance) < 0.7 * lengths[0]
