"""IndexBuilder on generated catalogues: what it writes, blesses and refuses."""

import json
import os

import numpy as np
import pytest
from tfx.dsl.components.base import base_executor
from tfx.types import channel_utils

from components.artifacts import IndexBlessing, SidIndex, get_summary
from components.artifacts import SidCatalog as SidCatalogArtifact
from components.index_builder import IndexBuilder
from components.index_builder.executor import Executor
from components.refusal import Refused
from components.verdict import read_verdict
from sid_tfx.catalog import SidCatalog
from sid_tfx.retrieval import BruteForce, load_index

pytestmark = pytest.mark.unit


def _catalog(path, ads: int) -> SidCatalog:
    rng = np.random.default_rng(0)
    catalog = SidCatalog.build(
        [f"ad-{ad:05d}" for ad in range(ads)],
        rng.integers(0, 8, (ads, 3)),
        rng.normal(size=(ads, 16)),
        codebook_size=8,
    )
    catalog.save(path)
    return catalog


def _run(tmp_path, ads: int = 600, **settings):
    """Runs the executor; returns the catalogue, the index artifact and the blessing."""
    catalog = _catalog(tmp_path / "catalog", ads)
    source, index, blessing = SidCatalogArtifact(), SidIndex(), IndexBlessing()
    source.uri, index.uri = str(tmp_path / "catalog"), str(tmp_path / "index")
    blessing.uri = str(tmp_path / "blessing")
    settings = {"kind": "auto", "k": 10, "max_k": 20, "min_recall": 0.95, "seed": 0, **settings}
    context = base_executor.BaseExecutor.Context(tmp_dir=str(tmp_path), unique_id="1")
    Executor(context).Do(
        {"catalog": [source]}, {"index": [index], "blessing": [blessing]}, settings
    )
    return catalog, index, blessing


def _manifest(index) -> dict:
    with open(os.path.join(index.uri, "manifest.json")) as file:
        return json.load(file)


def test_the_manifest_holds_both_measurements_and_the_generation(tmp_path):
    catalog, index, blessing = _run(tmp_path)
    manifest = _manifest(index)
    assert manifest["fingerprints"] == {"catalog": catalog.fingerprint}
    assert manifest["brute_force"]["recall@10"] == 1.0
    assert manifest["scann"]["recall@10"] >= 0.95
    assert manifest["brute_force"]["median_ms"] > 0
    assert manifest["scann"]["median_ms"] > 0
    assert manifest["scann"]["parameters"]["num_leaves"] > 1
    assert manifest["kind"] == index.get_string_custom_property("kind")
    assert get_summary(index) == manifest["reason"]
    verdict = read_verdict(blessing.uri)
    assert verdict.blessed
    assert blessing.get_int_custom_property("blessed") == 1
    assert verdict.checks[0].value == pytest.approx(manifest["scann"]["recall@10"])


def test_scann_is_carried_even_where_brute_force_is_faster(tmp_path):
    catalog, index, _ = _run(tmp_path)
    manifest = _manifest(index)
    assert manifest["scann"]["carried"]
    scann = load_index(os.path.join(index.uri, "scann"))
    exact = BruteForce(similarity="cosine").index(catalog.embeddings)
    queries = catalog.embeddings[:50]
    # One column more than the most that a request may ask for: an ad finds itself.
    found, true = scann(queries, 21)[0], exact(queries, 21)[0]
    assert np.mean(found.numpy() >= true.numpy()[:, -1:] - 1e-5) > 0.9


def test_a_tiny_catalogue_is_served_by_brute_force_and_blessed(tmp_path):
    _, index, blessing = _run(tmp_path, ads=3)
    manifest = _manifest(index)
    assert manifest["kind"] == "brute_force"
    assert manifest["scann"] is None
    assert "3" in manifest["reason"]
    assert not os.path.exists(os.path.join(index.uri, "scann"))
    assert read_verdict(blessing.uri).blessed


def test_asking_for_scann_on_a_tiny_catalogue_is_refused_with_the_numbers(tmp_path):
    with pytest.raises(Refused, match=r"at least 32 candidates.* got 3"):
        _run(tmp_path, ads=3, kind="scann")


def test_asking_for_brute_force_carries_no_scann(tmp_path):
    _, index, blessing = _run(tmp_path, kind="brute_force")
    assert not _manifest(index)["scann"]["carried"]
    assert not os.path.exists(os.path.join(index.uri, "scann"))
    assert read_verdict(blessing.uri).checks[0].value == 1.0


def test_scann_below_its_target_is_not_blessed(tmp_path, monkeypatch):
    monkeypatch.setattr("sid_tfx.retrieval.selection._LEAF_SHARES", (0.01,))
    _, index, blessing = _run(tmp_path, kind="scann", min_recall=0.999)
    assert blessing.get_int_custom_property("blessed") == 0
    verdict = read_verdict(blessing.uri)
    assert f"{verdict.checks[0].value:.3f}" in verdict.refusal()
    assert "0.999" in verdict.refusal()
    assert "NOT blessed" in get_summary(index)


def test_the_component_wires_its_artifacts():
    component = IndexBuilder(channel_utils.as_channel([SidCatalogArtifact()]), min_recall=0.9)
    assert component.outputs["index"].type is SidIndex
    assert component.outputs["blessing"].type is IndexBlessing
    assert component.exec_properties["min_recall"] == 0.9
