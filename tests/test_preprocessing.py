"""TF Transform's half of the features, and the data schemas, run as the pipeline runs them."""

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.public import tfxio

from pipeline import preprocessing
from pipeline.schemas import derive
from sid_tfx.datasets import fields
from sid_tfx.datasets.ads import AdTable, load_ads
from sid_tfx.datasets.market import make_market
from sid_tfx.datasets.preprocessor import AdPreprocessor
from sid_tfx.export import inventory
from sid_tfx.features import AdSchema

pytestmark = pytest.mark.unit

VECTOR = 4
LIMITS = fields.VocabularyLimits(text=300, text_min_count=3, categorical=12)


@pytest.fixture(scope="module")
def market():
    return make_market(ads=250, users=60)


@pytest.fixture(scope="module")
def ads(market) -> AdTable:
    """The sample with vectors, and with the rows that are hard to get right."""
    frame = market.ads.copy()
    rng = np.random.default_rng(0)
    frame["image_embedding"] = list(rng.normal(size=(len(frame), VECTOR)).astype(np.float32))
    frame.loc[::7, "image_embedding"] = None
    frame.loc[3, "title"] = "Line\nbreak \x1f control, CAF\u00c9 \u4fdd\u6e7f 13.5"
    frame.loc[4, ["title", "description", "summary", "advertiser", "price"]] = None
    frame.at[4, "category_path"] = []
    frame.at[5, "category_path"] = ["Home", " ", "Kitchen\n"]
    return load_ads(frame)


def as_example(row: dict) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        values = value if isinstance(value, (list, np.ndarray)) else [value]
        values = [v for v in values if v is not None and v == v]
        feature = example.features.feature
        if values and isinstance(values[0], (str, bytes)):
            feature[name].bytes_list.value.extend(tf.compat.as_bytes(v) for v in values)
        elif values:
            feature[name].float_list.value.extend(values)
    return example.SerializeToString()


class Transformed:
    """What a Transform run leaves: features of the ads, and the graph on disk."""

    def __init__(self, ads: AdTable, folder: str, seed: int = 0) -> None:
        self.raw = derive.derive_schema(derive.read_curated("ads"), ads.schema)
        records = [as_example(row) for row in ads.frame.to_dict("records")]
        path = f"{folder}/ads.tfrecord"
        with tf.io.TFRecordWriter(path) as writer:
            # Not in the order of ids, and in other batches than AdPreprocessor's.
            for row in np.random.default_rng(seed).permutation(len(records)):
                writer.write(records[row])
        config = preprocessing.make_custom_config(ads.schema, LIMITS)
        source = tfxio.TFExampleRecord(path, schema=self.raw, telemetry_descriptors=["test"])
        with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=f"{folder}/temporary"):
            examples = pipeline | source.BeamSource(batch_size=64)
            graph = (examples, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
                lambda inputs: preprocessing.preprocessing_fn(inputs, config)
            )
            graph | tft_beam.WriteTransformFn(f"{folder}/transform")
        self.graph = f"{folder}/transform/transform_fn"
        self.output = tft.TFTransformOutput(f"{folder}/transform")
        self.features = self(records)

    def __call__(self, serialized: list[bytes]) -> dict[str, np.ndarray]:
        """Applies the graph to serialized raw examples, as the servable does."""
        spec = schema_utils.schema_as_feature_spec(self.raw).feature_spec
        parsed = tf.io.parse_example(tf.constant(serialized), spec)
        layer = self.output.transform_features_layer()
        return {name: tensor.numpy() for name, tensor in layer(parsed).items()}


@pytest.fixture(scope="module")
def transformed(ads, tmp_path_factory) -> Transformed:
    return Transformed(ads, str(tmp_path_factory.mktemp("transform")))


def test_output_keeps_the_contract(ads, transformed):
    spec = transformed.output.transformed_feature_spec()
    declared = {"ad_id": ("string", ()), **ads.schema.features()}
    assert set(spec) == set(declared)
    for name, (dtype, shape) in declared.items():
        assert (spec[name].dtype.name, tuple(spec[name].shape)) == (dtype, shape), name
    np.testing.assert_array_equal(transformed.features["ad_id"].astype(str), ads.ad_ids)


def test_research_path_makes_the_same_arrays(ads, transformed):
    preprocessor = AdPreprocessor(ads.schema, LIMITS).adapt(ads)
    assert preprocessor.sizes == preprocessing.feature_sizes(transformed.output, ads.schema)
    expected = preprocessor.transform(ads)
    for name, (dtype, _) in ads.schema.features().items():
        if dtype == "int64":
            np.testing.assert_array_equal(transformed.features[name], expected[name], name)
        else:
            np.testing.assert_allclose(transformed.features[name], expected[name], atol=1e-5)


def test_the_order_of_records_leaves_no_trace_in_any_feature(ads, transformed, tmp_path):
    again = Transformed(ads, str(tmp_path), seed=1)
    for name, values in transformed.features.items():
        np.testing.assert_array_equal(again.features[name], values, err_msg=name)


def test_vocabularies_agree_and_limits_bite(ads, transformed):
    preprocessor = AdPreprocessor(ads.schema, LIMITS).adapt(ads)
    pairs = {
        "words": preprocessor.words,
        "category": preprocessor.category,
        "categorical_advertiser": preprocessor.categorical["advertiser"],
    }
    for name, vocabulary in pairs.items():
        assert vocabulary is not None
        assert transformed.output.vocabulary_by_name(name) == vocabulary.strings
    assert preprocessor.sizes.text == LIMITS.text + 2
    assert preprocessor.sizes.categorical["advertiser"] == LIMITS.categorical + 2
    assert (transformed.features["advertiser"] == 1).any()


def test_equal_category_ids_mean_the_same_branch(ads, transformed):
    branches: dict[int, set[tuple[str, ...]]] = {}
    for path, ids in zip(ads.frame["category_path"], transformed.features["category"], strict=True):
        names = [name.strip() for name in path if name.strip()]
        assert (ids[len(names) :] == 0).all()
        for depth, branch in enumerate(ids[: len(names)], 1):
            branches.setdefault(int(branch), set()).add(tuple(names[:depth]))
    assert all(len(same) == 1 for same in branches.values())
    assert len(set().union(*branches.values())) == len(branches)


def test_a_served_ad_may_lack_every_optional_column(ads, transformed):
    features = transformed([b"", as_example({"ad_id": "new", "advertiser": "Nobody Ltd"})])
    assert features["ad_id"].tolist() == [b"", b"new"]
    assert features["advertiser"].tolist() == [0, 1]
    for name in ads.schema.features():
        assert not features[name][0].any(), name


def test_a_served_ad_with_broken_values_gives_finite_features(transformed):
    row = {
        "ad_id": ["a", "b"],
        "title": b"\xff" * 3 + b"word " * 300_000,
        "price": 1e38,
        "image_embedding": [1.0, float("inf")] + [1.0] * 7,
    }
    features = transformed([as_example(row)])
    assert all(np.isfinite(v).all() for v in features.values() if v.dtype != object)
    assert features["image_embedding"].tolist() == [[1, 0, 1, 1]]
    assert features["numeric"].item() == fields.MAX_Z_SCORE
    assert features["ad_id"].tolist() == [b"a"]


def test_the_graph_is_made_of_core_operations(transformed):
    assert inventory.custom_ops(transformed.graph) == []
    assert {"StringLower", "LookupTableFindV2"} <= inventory.ops(transformed.graph)


def test_three_ads_whose_columns_are_almost_all_empty(tmp_path):
    frame = pd.DataFrame(
        {
            "ad_id": ["a", "b", "c"],
            "title": ["Red shoe", None, "Red hat"],
            "advertiser": [None] * 3,
            "category_path": [[]] * 3,
            "price": [np.nan] * 3,
            "image_embedding": [None] * 3,
        }
    )
    schema = AdSchema(
        text={"title": 3},
        categorical=("advertiser",),
        category_depth=2,
        numeric=("price",),
        dense={"image_embedding": VECTOR},
        summary_tokens=2,
    )
    ads = load_ads(frame, schema)
    transformed = Transformed(ads, str(tmp_path))
    assert not any(
        transformed.features[name].any() for name in set(schema.features()) - {"title_tokens"}
    )
    assert preprocessing.feature_sizes(transformed.output, schema).category >= 2
    known = transformed([as_example({"price": 3.0, "category_path": ["x"]})])
    assert known["category"].tolist() == [[1, 0]]
    # Nothing to standardize by: the number stays as it is, on both paths, and bounded.
    assert known["numeric"].tolist() == [[3.0]]
    new = load_ads(pd.DataFrame({"ad_id": ["n"], "price": [3.0]}), AdSchema(numeric=("price",)))
    research = AdPreprocessor(new.schema).adapt(ads).transform(new)
    assert research["numeric"].tolist() == [[3.0]]


def test_a_schema_column_that_the_ads_lack_is_refused():
    config = preprocessing.make_custom_config(AdSchema(text={"title": 3}), LIMITS)
    with pytest.raises(ValueError, match=r"no column \['title'\]; they have \['ad_id'\]"):
        preprocessing.preprocessing_fn({"ad_id": tf.sparse.from_dense([["a"]])}, config)


KINDS = {"timestamp": pa.int64(), "price": pa.float32(), "weight": pa.float32(),
         "image_embedding": pa.float32()}  # fmt: skip


def anomalies(frame: pd.DataFrame, schema: schema_pb2.Schema) -> dict[str, str]:
    """Validates a table as StatisticsGen and ExampleValidator do: column -> what is wrong."""
    columns = {}
    for name in frame:
        kind = KINDS.get(str(name), pa.binary())
        rows = [list(np.atleast_1d(v)) if np.ndim(v) or pd.notna(v) else [] for v in frame[name]]
        if kind == pa.binary():
            rows = [[tf.compat.as_bytes(v) for v in row] for row in rows]
        columns[str(name)] = pa.array([row or None for row in rows], pa.list_(kind))
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    found = tfdv.validate_statistics(stats_impl.generate_statistics_in_memory(batch), schema)
    return {name: info.description for name, info in found.anomaly_info.items()}


@pytest.fixture(scope="module")
def ads_schema(ads) -> schema_pb2.Schema:
    return derive.derive_schema(derive.read_curated("ads"), ads.schema)


def test_normal_ads_and_events_have_no_anomaly(market, ads, ads_schema):
    assert anomalies(ads.frame, ads_schema) == {}
    assert anomalies(market.events, derive.read_curated("events")) == {}


def test_optional_columns_may_be_absent(market, ads, ads_schema):
    assert anomalies(ads.frame.drop(columns=["summary", "description"]), ads_schema) == {}
    few = market.events.drop(columns=["event", "weight"])
    assert anomalies(few, derive.read_curated("events")) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ad_id", None),
        ("price", -5.0),
        ("price", float("inf")),
        ("image_embedding", [1.0, 2.0]),
        ("image_embedding", [1.0, 2.0, 3.0, float("nan")]),
        ("category_path", ["x"] * 40),
        ("advertiser", ["one", "two"]),
        ("surprise", "a new column"),
    ],
)
def test_one_broken_ad_is_an_anomaly(ads, ads_schema, column, value):
    frame = ads.frame.copy()
    frame[column] = frame.get(column, pd.Series(None, frame.index, object)).astype(object)
    frame.at[9, column] = value
    assert list(anomalies(frame, ads_schema)) == [column]


def test_ads_mostly_without_a_title_are_an_anomaly(ads, ads_schema):
    frame = ads.frame.copy()
    frame.loc[: int(0.6 * len(frame)), "title"] = None
    assert list(anomalies(frame, ads_schema)) == ["title"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("timestamp", 1_735_689_600_000),
        ("timestamp", -1),
        ("weight", -1.0),
        ("user_id", None),
        ("ad_id", ["a", "b"]),
    ],
)
def test_one_broken_event_is_an_anomaly(market, column, value):
    frame = market.events.head(200).copy()
    frame[column] = frame[column].astype(object)
    frame.at[9, column] = value
    assert list(anomalies(frame, derive.read_curated("events"))) == [column]


def test_derived_schema_keeps_curated_rules_and_adds_the_rest():
    schema = AdSchema(
        text={"slogan": 8}, categorical=("country",), numeric=("price", "budget"), dense={"v": 3}
    )
    features = {f.name: f for f in derive.derive_schema(derive.read_curated("ads"), schema).feature}
    assert list(features) == ["ad_id", "budget", "country", "price", "slogan", "summary", "v"]
    assert features["price"].float_domain.HasField("min")
    assert not features["budget"].float_domain.HasField("min")
    assert features["budget"].float_domain.disallow_nan
    assert features["v"].value_count.min == features["v"].value_count.max == 3
    assert features["country"].type == schema_pb2.BYTES


def test_a_curated_column_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"'price' is to hold numbers .* is used as text"):
        derive.derive_schema(derive.read_curated("ads"), AdSchema(categorical=("price",)))


def test_an_unknown_curated_schema_is_refused():
    with pytest.raises(ValueError, match=r"no curated schema 'users'; there are \['ads', 'events'"):
        derive.read_curated("users")


def test_written_schema_reads_back(ads_schema, tmp_path):
    derive.write_schema(ads_schema, tmp_path / "new" / "ads.pbtxt")
    written = (tmp_path / "new" / "ads.pbtxt").read_text()
    assert text_format.Parse(written, schema_pb2.Schema()) == ads_schema
