"""IndexBuilder on generated catalogues: what it writes, blesses and refuses."""

import io
import json
import os

import matplotlib.image
import numpy as np
import pytest
from tfx.dsl.components.base import base_executor
from tfx.types import channel_utils, standard_artifacts

from components.artifacts import IndexBlessing, SidIndex, get_summary
from components.artifacts import SidCatalog as SidCatalogArtifact
from components.index_builder import IndexBuilder
from components.index_builder.curve import draw
from components.index_builder.executor import Executor
from components.refusal import Refused
from components.verdict import read_verdict
from sid_tfx import retrieval
from sid_tfx.bundle import save_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.retrieval import BruteForce, load_index
from sid_tfx.retrieval.sid_vectors import sid_embeddings
from sid_tfx.tokenizer import SidTokenizer

pytestmark = pytest.mark.unit

SPACES, FLAVOURS = ("embedding", "sid_embedding"), ("portable", "scann")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """An untrained tokenizer as TokenizerTrainer leaves it, and its fingerprint."""
    made = SidTokenizer.from_preset(
        "rq_vae",
        AdSchema(dense={"text_embedding": 12}),
        FeatureSizes(text=2, categorical={}, category=2),
        levels=3,
        codebook_size=8,
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    metadata = save_bundle(made, str(folder / "Format-Serving"), {})
    return made, str(folder), metadata["fingerprint"]


def _run(tmp_path, tokenizer, ads: int = 600, made_by: str | None = None, **settings):
    """Runs the executor; returns the catalogue, the index artifact and the blessing."""
    rng = np.random.default_rng(0)
    catalog = SidCatalog.build(
        [f"ad-{ad:05d}" for ad in range(ads)],
        rng.integers(0, 8, (ads, 3)),
        rng.normal(size=(ads, 16)),
        codebook_size=8,
        fingerprints={"tokenizer": made_by or tokenizer[2]},
    )
    catalog.save(tmp_path / "catalog")
    source, model = SidCatalogArtifact(), standard_artifacts.Model()
    index, blessing = SidIndex(), IndexBlessing()
    source.uri, index.uri = str(tmp_path / "catalog"), str(tmp_path / "index")
    model.uri, blessing.uri = tokenizer[1], str(tmp_path / "blessing")
    settings = {"kind": "auto", "k": 10, "max_k": 20, "min_recall": 0.95, "seed": 0, **settings}
    context = base_executor.BaseExecutor.Context(tmp_dir=str(tmp_path), unique_id="1")
    Executor(context).Do(
        {"catalog": [source], "tokenizer": [model]},
        {"index": [index], "blessing": [blessing]},
        settings,
    )
    return catalog, index, blessing


def _manifest(index) -> dict:
    with open(os.path.join(index.uri, "manifest.json")) as file:
        return json.load(file)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tokenizer):
    return _run(tmp_path_factory.mktemp("built"), tokenizer, kind="scann")


def test_the_manifest_holds_choices_measurements_and_the_generation(built, tokenizer):
    catalog, index, blessing = built
    manifest = _manifest(index)
    assert manifest["fingerprints"] == {"catalog": catalog.fingerprint, "tokenizer": tokenizer[2]}
    assert manifest["max_k"] == 20
    verdict = read_verdict(blessing.uri)
    checks = {check.name: check for check in verdict.checks}
    assert len(checks) == 4
    for space in SPACES:
        found = manifest["spaces"][space]
        assert {trial["kind"] for trial in found["trials"]} == {
            "brute_force", "partitioned", "scann",
        }  # fmt: skip
        for flavour in FLAVOURS:
            chosen = found["flavours"][flavour]
            assert chosen["milliseconds"] > 0
            check = checks[f"{space}_{flavour}_recall@10"]
            assert check.value == pytest.approx(chosen["recall@10"], abs=1e-4)
            assert f"{chosen['milliseconds']:.4f} ms" in check.sentence
        assert found["flavours"]["scann"]["parameters"]["num_leaves"] > 1
        assert found["flavours"]["portable"]["kind"] != "scann"
    assert verdict.blessed
    assert blessing.get_int_custom_property("blessed") == 1
    assert index.get_string_custom_property("kind") == "scann"
    assert get_summary(index) == manifest["spaces"]["embedding"]["flavours"]["scann"]["reason"]


def test_the_indices_that_it_names_find_neighbours_in_their_own_space(built, tokenizer):
    catalog, index, _ = built
    spaces = {
        "embedding": catalog.embeddings,
        "sid_embedding": sid_embeddings(tokenizer[0], catalog.codes),
    }
    for space, vectors in spaces.items():
        exact = BruteForce(similarity="cosine").index(vectors)
        # One column more than the most that a request may ask for: an ad finds itself.
        true = exact(vectors[:50], 21)[0].numpy()
        for flavour in FLAVOURS:
            path = _manifest(index)["spaces"][space]["flavours"][flavour]["path"]
            found = load_index(os.path.join(index.uri, path))(vectors[:50], 21)[0].numpy()
            assert np.mean(found >= true[:, -1:] - 1e-4) > 0.9


def test_sid_embeddings_are_what_the_tokenizer_reconstructs_from_its_codes(tokenizer):
    features = {"text_embedding": np.random.default_rng(3).normal(size=(30, 12)).astype("float32")}
    encoded = tokenizer[0].encode(features)
    np.testing.assert_allclose(
        sid_embeddings(tokenizer[0], encoded["codes"]), encoded["sid_embedding"], atol=1e-5
    )
    with pytest.raises(ValueError, match=r"codes must be \[N, 3\]"):
        sid_embeddings(tokenizer[0], np.zeros((4, 2), np.int32))


def test_the_curve_is_a_picture_of_both_spaces(built):
    with open(os.path.join(built[1].uri, "curve.png"), "rb") as file:
        image = matplotlib.image.imread(io.BytesIO(file.read()))
    assert image.shape[1] > 2 * image.shape[0]
    spaces = _manifest(built[1])["spaces"]
    alone = matplotlib.image.imread(io.BytesIO(draw({"embedding": spaces["embedding"]}, 10, 0.95)))
    assert alone.shape[1] < image.shape[1]


def test_a_tiny_catalogue_is_served_by_brute_force_and_blessed(tmp_path, tokenizer):
    _, index, blessing = _run(tmp_path, tokenizer, ads=3)
    for found in _manifest(index)["spaces"].values():
        assert [chosen["kind"] for chosen in found["flavours"].values()] == ["brute_force"] * 2
        assert [trial["kind"] for trial in found["trials"]] == ["brute_force"]
    assert "too small" in get_summary(index)
    assert sorted(os.listdir(os.path.join(index.uri, "embedding"))) == ["brute_force"]
    assert read_verdict(blessing.uri).blessed


def test_asking_for_scann_on_a_tiny_catalogue_is_refused_with_the_numbers(tmp_path, tokenizer):
    with pytest.raises(Refused, match=r"at least 32 candidates.* got 3"):
        _run(tmp_path, tokenizer, ads=3, kind="scann")


def test_a_catalogue_of_another_tokenizer_is_refused(tmp_path, tokenizer):
    with pytest.raises(Refused, match="the catalogue was made by tokenizer another"):
        _run(tmp_path, tokenizer, ads=3, made_by="another")


def test_asking_for_brute_force_builds_nothing_else(tmp_path, tokenizer):
    _, index, blessing = _run(tmp_path, tokenizer, kind="brute_force")
    assert all(len(found["trials"]) == 1 for found in _manifest(index)["spaces"].values())
    assert {check.value for check in read_verdict(blessing.uri).checks} == {1.0}


def test_an_index_below_its_target_is_not_blessed(tmp_path, tokenizer, monkeypatch):
    poor = retrieval.Recall(0.5, 0.01)
    monkeypatch.setattr("sid_tfx.retrieval.selection.recall", lambda index, queries: poor)
    _, index, blessing = _run(tmp_path, tokenizer, kind="brute_force")
    assert blessing.get_int_custom_property("blessed") == 0
    refusal = read_verdict(blessing.uri).refusal()
    assert "brute force over SID embeddings (portable) finds 0.500" in refusal
    assert "0.95" in refusal
    assert "NOT blessed" in get_summary(index)


def test_the_component_wires_its_artifacts():
    component = IndexBuilder(
        channel_utils.as_channel([SidCatalogArtifact()]),
        channel_utils.as_channel([standard_artifacts.Model()]),
        min_recall=0.9,
    )
    assert component.outputs["index"].type is SidIndex
    assert component.outputs["blessing"].type is IndexBlessing
    assert component.exec_properties["min_recall"] == 0.9
