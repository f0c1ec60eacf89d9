"""Composer on a small generation made the pipeline's way: what it builds and what it refuses."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata
from tfx.dsl.components.base import base_executor
from tfx.types import artifact, channel_utils, standard_artifacts
from tfx_bsl.public import tfxio

from components.artifacts import IndexBlessing, SidIndex, get_summary
from components.artifacts import SidCatalog as SidCatalogArtifact
from components.composer import Composer, dense_candidates
from components.composer.executor import Executor
from components.composer.generation import check_generation
from components.index_builder.executor import Executor as IndexBuilderExecutor
from components.refusal import Refused
from components.verdict import Check, write_verdict
from pipeline import preprocessing
from pipeline.schemas import derive
from sid_tfx.bundle import save_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets import fields
from sid_tfx.datasets.ads import AdTable, load_ads
from sid_tfx.datasets.market import make_market
from sid_tfx.datasets.preprocessor import AdPreprocessor
from sid_tfx.export import SERVABLE_SET_FILE, custom_ops, read_manifest, write_servable_set
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import build_index
from sid_tfx.tokenizer import SidTokenizer
from tests import fresh_process

pytestmark = pytest.mark.unit

ADS = 90
VOCABULARIES = fields.VocabularyLimits(text=200, text_min_count=1)
LIMITS = {"max_history": 5, "max_k": 4, "max_exclude": 3, "beam_size": 30}
DEFAULTS = {
    "default_mode": "generative",
    "dense_index": "auto",
    "dense_min_recall": 0.9,
    "seed": 0,
}
HISTORY = (0, 7, 7, 3)


class Generation:
    """Tokenizer, catalogue, index, recommender and sequences, as the stages leave them.

    Args:
        folder: Where they are.
        ad_ids: Of the ads, in place of the market's own.
        embedding_dim: Of the tokenizer.
        **recommender: Further arguments of the recommender.
    """

    def __init__(
        self,
        folder: Path,
        ad_ids: list[str] | None = None,
        embedding_dim: int = 16,
        **recommender: Any,
    ) -> None:
        self.folder = folder
        frame = make_market(ads=ADS, users=30).ads
        self.ads: AdTable = load_ads(frame if ad_ids is None else frame.assign(ad_id=ad_ids))
        preprocessor = AdPreprocessor(self.ads.schema, VOCABULARIES).adapt(self.ads)
        features = preprocessor.transform(self.ads)
        self.tokenizer = SidTokenizer.from_preset(
            "joint",
            self.ads.schema,
            preprocessor.sizes,
            codebook_size=8,
            encoder={"embedding_dim": embedding_dim, "detail_dim": 8, "dim": 16},
        )
        encoded = self.tokenizer.encode(features)
        self.encoded = encoded
        tokenizer = save_bundle(self.tokenizer, self.uri("tokenizer", "Format-Serving"), {})
        self.catalog = SidCatalog.build(
            self.ads.ad_ids,
            encoded["codes"],
            encoded["embedding"],
            codebook_size=8,
            max_dedup=ADS,
            fingerprints={"tokenizer": tokenizer["fingerprint"]},
        )
        self.catalog.save(self.uri("catalog"))
        model = SidRecommender.for_catalog(
            self.catalog, hidden_size=16, num_heads=2, mlp_size=32, head_size=16, **recommender
        )
        save_bundle(
            model,
            self.uri("recommender", "Format-Serving"),
            {"fingerprints": {"catalog": self.catalog.fingerprint}},
        )
        self.inputs = {
            "tokenizer": [_at(standard_artifacts.Model(), self.uri("tokenizer"))],
            "transform_graph": [_at(standard_artifacts.TransformGraph(), self.uri("transform"))],
            "recommender": [_at(standard_artifacts.Model(), self.uri("recommender"))],
            "catalog": [_at(SidCatalogArtifact(), self.uri("catalog"))],
            "index": [_at(SidIndex(), self.uri("index"))],
            "index_blessing": [_at(IndexBlessing(), self.uri("blessing"))],
            "sequences": [_at(standard_artifacts.Examples(), self.uri("sequences"))],
        }
        self.inputs["sequences"][0].split_names = '["train"]'
        self._build_index()
        self._write_sequences()
        self._write_transform()

    def uri(self, *parts: str) -> str:
        return str(self.folder.joinpath(*parts))

    def raw_examples(self) -> list[bytes]:
        return [_example(row) for row in self.ads.frame.to_dict("records")]

    def _build_index(self) -> None:
        outputs = {"index": self.inputs["index"], "blessing": self.inputs["index_blessing"]}
        inputs = {key: self.inputs[key] for key in ("catalog", "tokenizer")}
        # What is fastest over so few ads depends on the machine; ScaNN's ops are to be seen.
        settings = {"kind": "scann", "k": 5, "max_k": 4, "min_recall": 0.7, "seed": 0}
        _run(IndexBuilderExecutor, inputs, outputs, settings)

    def _write_sequences(self) -> None:
        histories = [[*self.catalog.ad_ids[list(HISTORY)], "gone"], [self.catalog.ad_ids[7]]]
        self.write_sequences(self.folder / "sequences", histories)

    def write_sequences(self, folder: Path, histories: list[list[str]]) -> None:
        split = folder / "Split-train"
        split.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(split / "data.gz"), "GZIP") as writer:
            for user, history in enumerate(histories):
                writer.write(_example({"user_id": f"u{user}", "history": history}))

    def _write_transform(self) -> None:
        schema = derive.derive_schema(derive.read_curated("ads"), self.ads.schema)
        path = self.uri("ads.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for record in self.raw_examples():
                writer.write(record)
        config = preprocessing.make_custom_config(self.ads.schema, VOCABULARIES)
        source = tfxio.TFExampleRecord(path, schema=schema, telemetry_descriptors=["test"])
        with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=self.uri("temporary")):
            raw = pipeline | source.BeamSource(batch_size=64)
            graph = (raw, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
                lambda inputs: preprocessing.preprocessing_fn(inputs, config)
            )
            graph | tft_beam.WriteTransformFn(self.uri("transform"))
            # The Transform component writes the raw ads' metadata too.
            dataset_metadata.DatasetMetadata(schema) | tft_beam.WriteMetadata(
                self.uri("transform", "metadata"), pipeline
            )


def _at(instance: artifact.Artifact, uri: str) -> artifact.Artifact:
    instance.uri = uri
    return instance


def _example(row: dict) -> bytes:
    """A raw tf.Example: missing values are absent features."""
    example = tf.train.Example()
    for name, value in row.items():
        values: list[Any] = [value] if np.isscalar(value) else list(value)
        feature = example.features.feature[name]
        if all(isinstance(value, str) for value in values):
            feature.bytes_list.value.extend(value.encode() for value in values)
        elif np.isfinite(values).all():
            feature.float_list.value.extend(values)
        else:
            del example.features.feature[name]
    return example.SerializeToString()


def _run(executor, inputs, outputs, settings) -> None:
    context = base_executor.BaseExecutor.Context(tmp_dir="unused", unique_id="1")
    executor(context).Do(inputs, outputs, settings)


@pytest.fixture(scope="module")
def generation(tmp_path_factory) -> Generation:
    return Generation(tmp_path_factory.mktemp("generation"))


def _compose(generation: Generation, folder: Path, settings=None, **changes):
    outputs = {
        flavour: [_at(standard_artifacts.Model(), str(folder / flavour))]
        for flavour in ("portable", "scann")
    }
    settings = {**LIMITS, **DEFAULTS, **(settings or {})}
    _run(Executor, {**generation.inputs, **changes}, outputs, settings)
    return {flavour: models[0] for flavour, models in outputs.items()}


@pytest.fixture(scope="module")
def composed(generation, tmp_path_factory):
    return _compose(generation, tmp_path_factory.mktemp("composed"))


def _model(composed, flavour: str) -> str:
    return os.path.join(composed[flavour].uri, "Format-Serving")


@pytest.mark.parametrize("flavour", ["portable", "scann"])
def test_raw_ads_get_the_codes_that_the_tokenizer_gave_them(generation, composed, flavour):
    examples = np.array(generation.raw_examples(), dtype=object)
    [answer] = fresh_process.run(
        _model(composed, flavour),
        [("encode_ads", {"examples": examples})],
        loader="session",
        scann=flavour == "scann",
    )
    np.testing.assert_allclose(
        answer["embedding"], generation.encoded["embedding"], rtol=1e-3, atol=1e-4
    )
    same = (answer["sids"] == generation.encoded["codes"]).all(axis=1)
    assert same.mean() > 0.95


def test_the_flavours_differ_in_their_ops(composed):
    assert custom_ops(_model(composed, "portable")) == []
    assert custom_ops(_model(composed, "scann"))
    assert "ScaNN" not in get_summary(composed["portable"])
    assert "ScaNN" in get_summary(composed["scann"])


def test_similar_ads_are_served_by_both_spaces(generation, composed):
    model = tf.saved_model.load(_model(composed, "portable"))
    ad_ids = tf.constant(list(generation.catalog.ad_ids[:3]))
    for signature in ("similar_ads", "similar_ads_by_sid"):
        answer = model.signatures[signature](ad_ids=ad_ids)
        np.testing.assert_array_equal(answer["count"], [LIMITS["max_k"]] * 3)
        for ad, row in zip(ad_ids.numpy(), answer["ad_ids"].numpy(), strict=True):
            assert ad not in row
    manifest = read_manifest(_model(composed, "scann"))
    assert (manifest["index"], manifest["sid_index"]) == ("scann", "scann")


def test_popularity_comes_from_the_train_split(generation, composed):
    model = tf.saved_model.load(_model(composed, "portable"))
    history = tf.fill([1, LIMITS["max_history"]], "")
    answer = model.signatures["recommend"](history=history)
    counts = Counter([*HISTORY, 7])
    ranked = sorted(range(ADS), key=lambda row: (-counts[row], row))[: LIMITS["max_k"]]
    assert [ad.decode() for ad in answer["ad_ids"].numpy()[0]] == [
        generation.catalog.ad_ids[row] for row in ranked
    ]


def test_the_manifest_names_all_four_parts(generation, composed):
    for flavour in ("portable", "scann"):
        fingerprints = read_manifest(_model(composed, flavour))["fingerprints"]
        assert set(fingerprints) == {"tokenizer", "catalog", "index", "recommender"}
        assert fingerprints["catalog"] == generation.catalog.fingerprint


def _everything(*args, **kwargs):
    """The indices that tuning chose, made to search all there is: then their answers are exact."""
    selection = build_index(*args, **kwargs)

    def full(choice):
        if choice.index.kind == "scann":
            return choice.index.retuned(choice.index.get_config()["num_leaves"], ADS)
        return choice.index.retuned(choice.index.partitions)

    choices = {
        flavour: dataclasses.replace(choice, index=full(choice))
        for flavour, choice in selection.choices.items()
    }
    return dataclasses.replace(selection, choices=choices)


@pytest.fixture(scope="module")
def indexed(generation, tmp_path_factory):
    return compose_indexed(generation, tmp_path_factory.mktemp("indexed"))


def compose_indexed(generation: Generation, folder: Path):
    """The servables with an index; it takes more users to tune one than the generation has."""
    rng = np.random.default_rng(0)
    histories = [list(generation.catalog.ad_ids[rng.integers(0, ADS, 4)]) for _ in range(80)]
    generation.write_sequences(folder / "sequences", histories)
    sequences = _at(standard_artifacts.Examples(), str(folder / "sequences"))
    sequences.split_names = '["train"]'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_candidates, "build_index", _everything)
        return _compose(generation, folder, {"dense_index": "index"}, sequences=[sequences])


def _ask_hybrid(generation, model: str, scann: bool = False) -> dict[str, np.ndarray]:
    """What a fresh process answers in hybrid mode, with and without exclusions and filter."""
    ids = generation.catalog.ad_ids
    history = np.array([[*ids[[4, 8, 15, 16]], ""]] * 3 + [[*ids[[1]], *[""] * 4]], object)
    exclude = np.array([[""] * 3, list(ids[[23, 42, 7]]), list(ids[[1, 2, 3]]), [""] * 3], object)
    request = {
        "history": history,
        "exclude_ad_ids": exclude,
        "filter_seen": np.array([False, True, True, False]),
        "mode": np.array(["hybrid"] * 4, object),
    }
    [answer] = fresh_process.run(model, [("recommend_filtered", request)], "session", scann)
    assert (answer["count"] == LIMITS["max_k"]).all()
    for row in range(4):
        banned = {*exclude[row], *(history[row] if request["filter_seen"][row] else [])}
        assert not {ad.decode() for ad in answer["ad_ids"][row]} & banned
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["portable", "scann"])
def test_an_index_over_all_ads_answers_as_all_ads_scored(generation, composed, indexed, flavour):
    """In a fresh process, from a servable that holds the vectors in an index and nowhere else."""
    exact = _ask_hybrid(generation, _model(composed, "portable"))
    found = _ask_hybrid(generation, _model(indexed, flavour), scann=flavour == "scann")
    np.testing.assert_array_equal(found["ad_ids"], exact["ad_ids"])
    # One number a request is between the scores: what the softmax of the dense side sums over.
    shift = found["scores"] - exact["scores"]
    np.testing.assert_allclose(shift, np.repeat(shift[:, :1], LIMITS["max_k"], axis=1), atol=1e-4)
    kind = {"portable": "partitioned", "scann": "scann"}[flavour]
    for models, has_index in ((indexed, True), (composed, False)):
        names = [
            name
            for name, _ in tf.train.list_variables(
                os.path.join(_model(models, flavour), "variables", "variables")
            )
        ]
        assert any(name.startswith("decoder/index/") for name in names) == has_index
        assert any(name.startswith("decoder/item_vectors/") for name in names) != has_index
        record = read_manifest(_model(models, flavour))["dense_candidates"]
        assert record["kind"] == (kind if has_index else "brute_force")
        assert record["asked"] == ("index" if has_index else "auto")
    assert read_manifest(_model(indexed, flavour))["dense_candidates"]["recall@50"] >= 0.9
    name = {"portable": "partitions", "scann": "ScaNN"}[flavour]
    assert f"dense candidates by {name}, recall@50" in get_summary(indexed[flavour])
    assert "dense candidates by brute force" in get_summary(composed[flavour])


def test_a_portable_servable_with_an_index_has_core_ops_only(indexed):
    assert custom_ops(_model(indexed, "portable")) == []
    assert custom_ops(_model(indexed, "scann"))


def test_an_index_returns_no_ad_that_is_switched_off(generation, indexed, tmp_path):
    shown = _ask_hybrid(generation, _model(indexed, "portable"))["ad_ids"]
    live = np.ones(ADS, bool)
    live[generation.catalog.rows(np.char.decode(shown.astype(bytes)))] = False
    # Most of the others are off too: the index looks past them.
    live[np.flatnonzero(live)[20:]] = False
    published = tmp_path / "published"
    shutil.copytree(_model(indexed, "portable"), published)
    fingerprint = generation.catalog.fingerprint
    write_servable_set(str(published / SERVABLE_SET_FILE), live, fingerprint)
    answer = _ask_hybrid(generation, str(published))
    assert live[generation.catalog.rows(np.char.decode(answer["ad_ids"].astype(bytes)))].all()


def test_an_unblessed_index_is_refused(generation, tmp_path):
    check = Check("recall@10", 0.5, 0.9, False, "ScaNN finds 0.500, the limit is at least 0.9")
    write_verdict(str(tmp_path / "verdict"), "IndexBuilder", [check])
    blessing = _at(IndexBlessing(), str(tmp_path / "verdict"))
    with pytest.raises(Refused, match=r"ScaNN finds 0\.500"):
        _compose(generation, tmp_path, index_blessing=[blessing])


def test_an_index_of_another_catalogue_is_refused(generation, tmp_path):
    with open(os.path.join(generation.uri("index"), "manifest.json")) as file:
        manifest = json.load(file)
    manifest["fingerprints"]["catalog"] = "another"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="the index was made from catalog another"):
        _compose(generation, tmp_path, index=[_at(SidIndex(), str(tmp_path))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_k": 9}, "max_k is 9, but the index was built for at most 4"),
        ({"beam_size": 2}, "beam_size=2 must be at least max_k=4"),
        ({"default_mode": "both"}, "default_mode must be one of"),
        ({"dense_index": "both"}, "dense_index must be one of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(generation, tmp_path, settings, message):
    with pytest.raises(Refused, match=message):
        _compose(generation, tmp_path, settings)


TOKENIZER, CATALOG = {"fingerprint": "t1"}, {"tokenizer": "t1", "catalog": "c1"}
MADE_FROM_CATALOG = {"fingerprints": {"catalog": "c1"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": {"fingerprint": "t2"}}, "the catalogue was made from tokenizer t1"),
        ({"catalog": {"tokenizer": "t1", "catalog": "c2"}}, "the index was made from catalog c1"),
        ({"recommender": {"fingerprints": {"catalog": "c0"}}}, "the recommender was made from"),
        ({"recommender": {}}, "the recommender does not name the catalog"),
        ({"tokenizer": {}}, "the catalogue does not name the tokenizer"),
    ],
)
def test_a_mix_of_generations_is_refused(changes, message):
    parts: dict[str, Any] = {
        "tokenizer": TOKENIZER,
        "catalog": CATALOG,
        "index": MADE_FROM_CATALOG,
        "recommender": MADE_FROM_CATALOG,
    }
    check_generation(**parts)
    with pytest.raises(Refused, match=message):
        check_generation(**{**parts, **changes})


def test_the_component_wires_its_artifacts(generation):
    channels = {name: channel_utils.as_channel(value) for name, value in generation.inputs.items()}
    component = Composer(**channels, max_k=7, dense_index="index")
    assert component.outputs["portable"].type is standard_artifacts.Model
    assert component.outputs["scann"].type is standard_artifacts.Model
    assert component.exec_properties["max_k"] == 7
    assert component.exec_properties["dense_index"] == "index"
    assert component.exec_properties["dense_min_recall"] == 0.95
