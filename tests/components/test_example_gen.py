"""Every file format in, the same canonical tf.Examples out."""

import bz2
import json
import lzma
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import zstandard

from components.artifacts import get_summary
from components.example_gen.columns import convert
from components.example_gen.component import ads_gen, events_gen, split_pattern
from components.example_gen.encode import encode_examples
from components.example_gen.executor import read_spec
from components.example_gen.sniff import sniff_columns
from components.example_gen.spec import IngestSpec
from components.refusal import Refused
from sid_tfx.features import AdSchema
from tests.components.ingest import (
    ADS_SPEC,
    EVENTS_SPEC,
    ad,
    event,
    ingest,
    ingest_file,
    read_split,
    write,
)

pytestmark = pytest.mark.unit

FORMATS = [
    "parquet", "jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "tfrecord", "tfrecord.gz",
]  # fmt: skip
ADS = [
    ad(1),
    ad(2, title=None, price=None, image_embedding=None),
    ad(3, category_path=None, advertiser=None),
    ad(4, title='Comma, "quote" and 日本語'),
]
CANONICAL_ADS = [
    {
        "ad_id": [b"ad1"],
        "advertiser": [b"brand1"],
        "category_path": [b"Home", b"Kitchen"],
        "image_embedding": [1.0, 0.5, -1.0],
        "price": [1.5],
        "title": ["Überraschend gut 1".encode()],
    },
    {"ad_id": [b"ad2"], "advertiser": [b"brand0"], "category_path": [b"Home"]},
    {
        "ad_id": [b"ad3"],
        "image_embedding": [3.0, 0.5, -1.0],
        "price": [4.5],
        "title": ["Überraschend gut 3".encode()],
    },
    {
        "ad_id": [b"ad4"],
        "advertiser": [b"brand0"],
        "category_path": [b"Home"],
        "image_embedding": [4.0, 0.5, -1.0],
        "price": [6.0],
        "title": ['Comma, "quote" and 日本語'.encode()],
    },
]
EVENTS = [event("u1", "ad1", 1_400_000_000, weight=2.0), event("u2", "ad2", 1_300_000_000)]
CANONICAL_EVENTS = [
    {"ad_id": [b"ad1"], "timestamp": [1_400_000_000], "user_id": [b"u1"], "weight": [2.0]},
    {"ad_id": [b"ad2"], "timestamp": [1_300_000_000], "user_id": [b"u2"]},
]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    ads = ingest_file(write(tmp_path / f"ads.{suffix}", ADS), ADS_SPEC)
    assert ads == (CANONICAL_ADS, [])
    events = ingest_file(write(tmp_path / f"events.{suffix}", EVENTS), EVENTS_SPEC)
    assert events == (CANONICAL_EVENTS, [])


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".bz2", bz2.compress), (".zst", zstandard.compress), (".xz", lzma.compress)],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_compressions(tmp_path, kind, suffix, compress):
    plain = write(tmp_path / f"plain.{kind}", ADS)
    path = tmp_path / f"ads.{kind}{suffix}"
    path.write_bytes(compress(plain.read_bytes()))
    assert ingest_file(path, ADS_SPEC) == (CANONICAL_ADS, [])


def test_glob_reads_every_file_whatever_its_format(tmp_path):
    write(tmp_path / "part-0.parquet", ADS[:1])
    write(tmp_path / "part-1.jsonl.gz", ADS[1:2])
    write(tmp_path / "part-2.csv", ADS[2:])
    (tmp_path / "part-3.csv").touch()
    ads = ingest(tmp_path / "part-*", ADS_SPEC, tmp_path / "out")
    assert read_split(ads) == CANONICAL_ADS
    assert get_summary(ads) == "4 ads, 0 rejected"
    assert ads.splits == ["all"]
    assert ads.get_int_custom_property("rows") == 4
    assert ads.get_int_custom_property("rejected") == 0
    counts = json.loads((tmp_path / "out/ads/1/quarantine/counts.json").read_text())
    assert counts == {
        "tally": {"read": 4, "trimmed": 0}, "rejected": 0, "first": [], "failures": []
    }  # fmt: skip


def test_a_folder_is_its_files_without_markers(tmp_path):
    folder = tmp_path / "ads.parquet"
    folder.mkdir()
    write(folder / "part-0.parquet", ADS[:2])
    write(folder / "part-1.parquet", ADS[2:])
    (folder / "_SUCCESS").touch()
    assert read_split(ingest(folder, ADS_SPEC, tmp_path / "out")) == CANONICAL_ADS


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "tfrecord"])
def test_the_format_is_told_by_content_where_the_name_says_nothing(tmp_path, kind):
    path = write(tmp_path / f"ads.{kind}", ADS).rename(tmp_path / "part-00000-of-00001")
    assert ingest_file(path, ADS_SPEC) == (CANONICAL_ADS, [])


def test_an_unknown_format_is_refused_by_name(tmp_path):
    (tmp_path / "ads.xlsx").write_bytes(b"nothing we know of")
    with pytest.raises(Refused, match=r"ads\.xlsx is neither Parquet, JSON Lines, CSV nor"):
        ingest(tmp_path / "ads.xlsx", ADS_SPEC, tmp_path / "out")


def test_own_column_names_and_separator(tmp_path):
    path = tmp_path / "ads.csv"
    path.write_text("sku,headline,path\n7,Shoes,Fashion | Shoes |Running\n")
    spec = IngestSpec(
        "ads",
        columns={"ad_id": "sku", "title": "headline", "category_path": "path"},
        text=("title",),
        category_path=True,
        category_separator="|",
    )
    assert ingest_file(path, spec)[0] == [
        {
            "ad_id": [b"7"],
            "category_path": [b"Fashion", b"Shoes", b"Running"],
            "title": [b"Shoes"],
        }
    ]


def test_parquet_dictionaries_timestamps_and_whole_float_ids(tmp_path):
    table = pa.table(
        {
            "user_id": pa.array([12.0, 13.0]),
            "ad_id": pa.array(["a", "b"]).dictionary_encode(),
            "timestamp": pa.array([1_400_000_000_123, 5], pa.timestamp("ms", tz="Europe/Berlin")),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    events, _ = ingest_file(tmp_path / "events.parquet", EVENTS_SPEC)
    assert events == [
        {"ad_id": [b"a"], "timestamp": [1_400_000_000], "user_id": [b"12"]},
        {"ad_id": [b"b"], "timestamp": [0], "user_id": [b"13"]},
    ]


@pytest.mark.parametrize("size", [-1, 3])
@pytest.mark.parametrize("item", [pa.float64(), pa.float32(), pa.int16()])
def test_lists_and_fixed_size_lists_of_any_number(size, item):
    vectors = pa.array([[1, 2, 3], None, [4, 5, 6], [7, 8, 9]], pa.list_(item, size))
    column = convert("image_embedding", vectors[1:], ADS_SPEC)
    assert column.array.to_pylist() == [None, [4, 5, 6], [7, 8, 9]]
    assert column.array.type == pa.large_list(pa.float32())
    assert not column.bad


def test_rows_are_numbered_through_the_chunks_of_a_file(tmp_path):
    rows = [event("u", "a", i) for i in range(20_000)]
    rows[19_990]["timestamp"] = -1
    for suffix, number in (("parquet", 19_991), ("csv", 19_992), ("jsonl", 19_991)):
        path = write(tmp_path / f"events.{suffix}", rows)
        examples, rejected = ingest_file(path, EVENTS_SPEC)
        assert [row["row"] for row in rejected] == [number]
        assert len(examples) == 19_999


def test_sniffing_names_roles_and_sizes(tmp_path):
    rows = [ad(i, brand_text="words " * 9, color=["red", "blue"][i % 2], link=f"x{i}", on=True)
            for i in range(1, 9)]  # fmt: skip
    rows[0]["image_embedding"] = [1.0, 2.0]
    for suffix in ("parquet", "jsonl.gz", "csv"):
        sniffed = sniff_columns(str(write(tmp_path / f"ads.{suffix}", rows)), "ads")
        assert sniffed.names("text") == ("title", "brand_text")
        assert sniffed.names("categorical")[:2] == ("advertiser", "color")
        assert sniffed.names("numeric") == ("price",)
        assert sniffed.dense == {"image_embedding": 3}
        assert sniffed.category_depth == 2
        assert sniffed.columns["link"].role == "unused"
        schema = AdSchema(
            text=dict.fromkeys(sniffed.names("text"), 8),
            dense=sniffed.dense,
            category_depth=sniffed.category_depth,
        )
        spec = IngestSpec.for_ads(schema, also_text=("title",))
        assert spec.kept() == ["ad_id", "brand_text", "title", "category_path", "image_embedding"]


def test_sniffing_says_how_to_name_a_missing_column(tmp_path):
    path = write(tmp_path / "ads.csv", [{"sku": "1", "title": "a"}])
    with pytest.raises(
        Refused, match=r"no column 'ad_id'.* it has 'sku', 'title'.*data\.ads\.columns\.ad_id="
    ):
        sniff_columns(str(path), "ads")
    assert sniff_columns(str(path), "ads", {"ad_id": "sku"}).names("id") == ("ad_id",)
    with pytest.raises(Refused, match=r"no column 'headline'.*data\.ads\.columns\.title="):
        sniff_columns(str(path), "ads", {"ad_id": "sku", "title": "headline"})
    with pytest.raises(Refused, match=r"No file matches .*nowhere.*data\.ads\.path"):
        sniff_columns(str(tmp_path / "nowhere*"), "ads")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(Refused, match=r"empty\.csv is empty: no rows"):
        sniff_columns(str(tmp_path / "empty.csv"), "ads")


def test_components_carry_their_spec():
    component = ads_gen("/data/2024-*/ads.parquet", ADS_SPEC)
    assert component.id == "AdsGen"
    assert component.exec_properties["input_base"] == "/data"
    assert read_spec(component.exec_properties) == ADS_SPEC
    assert events_gen("e.csv", EVENTS_SPEC).id == "EventsGen"
    with pytest.raises(ValueError, match="AdsGen needs an IngestSpec of role 'ads', got 'events'"):
        ads_gen("ads.csv", EVENTS_SPEC)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b.csv", ("/a", "b.csv")),
        ("b.csv", (".", "b.csv")),
        ("/a/x*/b.csv", ("/a", "x*/b.csv")),
        ("gs://bucket/day-*/b.csv", ("gs://bucket", "day-*/b.csv")),
    ],
)
def test_split_pattern(path, expected):
    assert split_pattern(path) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"role": "clicks"}, "role must be one of"),
        ({"max_rejected_share": 1.5}, r"max_rejected_share must lie in \[0, 1\], got 1.5"),
        ({"dense": {"v": 0}}, r"dense\['v'\] must be at least 1, got 0"),
        ({"text": ("title",), "categorical": ("title",)}, r"\['title'\] are named for two uses"),
        ({"format": "xml"}, "format must be parquet"),
        ({"min_timestamp": 5, "max_timestamp": 5}, "min_timestamp 5 must lie before"),
    ],
)
def test_a_wrong_spec_names_itself(arguments, message):
    with pytest.raises(ValueError, match=message):
        IngestSpec(**{"role": "ads", **arguments})


def test_spec_survives_json():
    assert IngestSpec.from_json(ADS_SPEC.to_json()) == ADS_SPEC


def test_missing_values_are_absent_features():
    columns = {
        "a": pa.array([b"x", None], pa.large_binary()),
        "b": pa.array([[1.0, 0.0], None], pa.large_list(pa.float32())),
    }
    first, second = encode_examples(columns, np.array([0, 1]))
    assert sorted(tf.train.Example.FromString(first).features.feature) == ["a", "b"]
    assert sorted(tf.train.Example.FromString(second).features.feature) == []


# The array code and the code for single values must agree on every value and every refusal.
_TEXT = st.one_of(st.none(), st.text(max_size=12), st.just(" "), st.just("é" * 30))
_PARTS = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=4))
_FLOATS = st.one_of(st.none(), st.floats(width=64))
_INTS = st.one_of(st.none(), st.integers(-(10**13), 10**13))
_VECTORS = st.one_of(st.none(), st.lists(st.floats(width=32), max_size=4))
_SPEC = IngestSpec(
    "events",
    text=("title",),
    category_path=True,
    numeric=("price",),
    dense={"vector": 3},
    max_text_bytes=16,
    max_id_bytes=24,
)


@pytest.mark.parametrize(
    ("column", "strategy", "kind"),
    [
        ("ad_id", _TEXT, pa.string()),
        ("ad_id", _INTS, pa.int64()),
        ("title", _TEXT, pa.string()),
        ("timestamp", _INTS, pa.int64()),
        ("timestamp", _FLOATS, pa.float64()),
        ("price", _FLOATS, pa.float64()),
        ("weight", _INTS, pa.int64()),
        ("vector", _VECTORS, pa.list_(pa.float32())),
        ("vector", _VECTORS, pa.large_list(pa.float64())),
        ("category_path", _PARTS, pa.list_(pa.string())),
        ("category_path", st.sampled_from([None, "a > b", ">", " a>b >c"]), pa.string()),
    ],
)  # fmt: skip
def test_array_code_agrees_with_single_values(column, strategy, kind):
    @hypothesis.settings(deadline=None, max_examples=40)
    @hypothesis.given(st.lists(strategy, min_size=1, max_size=12))
    def check(values: list[Any]) -> None:
        whole = convert(column, pa.array(values, kind), _SPEC)
        # A value of another type keeps the list out of the array code.
        single = convert(column, [*values, {"not": "a value"}], _SPEC)
        assert single.bad.pop(len(values))
        assert whole.bad == single.bad
        assert whole.array.to_pylist() == single.array.to_pylist()[:-1]
        assert whole.trimmed.tolist() == single.trimmed.tolist()

    check()


def test_numbers_as_json_text_in_csv(tmp_path):
    (tmp_path / "ads.csv").write_text(
        'ad_id,price,image_embedding\na,12.50,"[1, 2, 3]"\nb,,1 2 3\nc,1e3,1;2;3\n'
    )
    ads, _ = ingest_file(tmp_path / "ads.csv", ADS_SPEC)
    assert [row["image_embedding"] for row in ads] == [[1, 2, 3]] * 3
    assert [row.get("price") for row in ads] == [[12.5], None, [1000.0]]
