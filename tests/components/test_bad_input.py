"""Bad input: what is valid goes on, what is not is named with its place and its cure."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from components.artifacts import get_summary
from components.example_gen.spec import YEAR_2100, IngestSpec
from components.refusal import Refused
from tests.components.ingest import (
    ADS_SPEC,
    EVENTS_SPEC,
    ad,
    build_interactions,
    event,
    ingest,
    ingest_file,
    quarantined,
    read_split,
    write,
)

pytestmark = pytest.mark.unit

FORMATS = ["parquet", "jsonl", "jsonl.gz", "csv", "csv.gz", "tfrecord", "tfrecord.gz"]
# Formats whose columns have one type each can't hold a value of the wrong one in some rows only.
FREE_FORMATS = ["jsonl", "csv", "tfrecord.gz"]


def strict(spec: IngestSpec, **changes: float) -> IngestSpec:
    return IngestSpec(**{**json.loads(spec.to_json()), "max_rejected_share": 0.01, **changes})


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_mandatory_column(tmp_path, suffix):
    path = write(tmp_path / f"events.{suffix}", [{"user_id": "u", "item": "a", "timestamp": 5}])
    with pytest.raises(AssertionError, match=re.escape(
        f"{path} has no column 'ad_id', which events need as 'ad_id'; it has "
    )) as raised:  # fmt: skip
        ingest_file(path, EVENTS_SPEC)
    assert "data.events.columns.ad_id=" in str(raised.value)


def test_missing_mandatory_column_stops_the_stage(tmp_path):
    write(tmp_path / "events-0.csv", [event("u", "a", 5)])
    write(tmp_path / "events-1.csv", [{"user_id": "u", "item": "a", "timestamp": 5}])
    with pytest.raises(Refused, match=r"events-1\.csv has no column 'ad_id'"):
        ingest(tmp_path / "events-*", EVENTS_SPEC, tmp_path / "out")


@pytest.mark.parametrize("suffix", FREE_FORMATS)
def test_wrong_types_are_named(tmp_path, suffix):
    rows = [
        event("u1", "a", 5),
        event("u2", "b", "yesterday"),
        event("u3", "c", 6, weight="heavy"),
        event("u4", "d", 7, weight=-1.0),
    ]
    examples, rejected = ingest_file(write(tmp_path / f"events.{suffix}", rows), EVENTS_SPEC)
    assert [row["user_id"] for row in examples] == [[b"u1"]]
    assert [row["field"] for row in rejected] == ["timestamp", "weight", "weight"]
    assert "yesterday" in rejected[0]["reason"]
    assert "heavy" in rejected[1]["reason"]
    assert "-1.0 is negative" in rejected[2]["reason"].replace("'", "")
    header = 1 if suffix == "csv" else 0
    assert [row["row"] - header for row in rejected] == [2, 3, 4]


def test_json_of_the_wrong_type(tmp_path):
    rows = [
        ad(1, ad_id={"id": 1}), ad(2, ad_id=2.5), ad(3, ad_id=True), ad(4, title=["a", "b"]),
        ad(5, price="cheap"), ad(6, price=[1, 2]), ad(7, image_embedding="none"),
        ad(8, image_embedding={"x": 1}), ad(9, category_path={"a": 1}), ad(10, ad_id="fine"),
        ad(11, title=17), ad(12, advertiser=True), ad(13, category_path=[["a"]]),
        ad(14, image_embedding=["a", "b", "c"]), ad(15, price=1e300),
    ]  # fmt: skip
    examples, rejected = ingest_file(write(tmp_path / "ads.jsonl", rows), ADS_SPEC)
    assert {row["ad_id"][0] for row in examples} == {b"fine", b"ad11"}
    assert [(row["row"], row["field"]) for row in rejected] == [
        (1, "ad_id"), (2, "ad_id"), (3, "ad_id"), (4, "title"), (5, "price"), (6, "price"),
        (7, "image_embedding"), (8, "image_embedding"), (9, "category_path"),
        (12, "advertiser"), (13, "category_path"), (14, "image_embedding"), (15, "price"),
    ]  # fmt: skip
    assert all(re.search(r"[a-z]", row["reason"]) for row in rejected)


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_and_empty_ids(tmp_path, suffix):
    rows = [ad(1), ad(2, ad_id=None), ad(3, ad_id=""), ad(4, ad_id="  "), ad(5, ad_id="x" * 600)]
    rows.append(ad(6, ad_id="two\nlines"))
    examples, rejected = ingest_file(write(tmp_path / f"ads.{suffix}", rows), ADS_SPEC)
    assert [row["ad_id"] for row in examples] == [[b"ad1"]]
    assert [row["field"] for row in rejected] == ["ad_id"] * 5
    assert rejected[0]["reason"].endswith("is empty; every row needs an id")
    assert rejected[3]["reason"].endswith("is 600 bytes long, the limit is 512; use a shorter id")
    assert rejected[4]["reason"].endswith("has a line break; write the id in one line")


def test_duplicate_ads_keep_the_first_row_of_the_first_file(tmp_path):
    write(tmp_path / "b.jsonl", [ad(1, title="late"), ad(2)])
    write(tmp_path / "a.csv", [ad(3), ad(1, title="first"), ad(1, title="second")])
    artifact = ingest(tmp_path / "*.*", ADS_SPEC, tmp_path / "out")
    titles = {row["ad_id"][0]: row["title"][0] for row in read_split(artifact)}
    assert sorted(titles) == [b"ad1", b"ad2", b"ad3"]
    assert titles[b"ad1"] == b"first"
    rejected = quarantined(artifact.uri + "/quarantine")
    assert [(Path(r["source"]).name, r["row"], r["field"]) for r in rejected] == [
        ("a.csv", 4, "ad_id"),
        ("b.jsonl", 1, "ad_id"),
    ]
    assert "'ad1' is the ad of" in rejected[0]["reason"]
    assert "a.csv row 3 too" in rejected[0]["reason"]
    assert get_summary(artifact) == "3 ads, 2 rejected"


@pytest.mark.parametrize("name", ["ads.parquet", "ads.csv.gz", "ads.jsonl", "ads.tfrecord"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(Refused, match=rf"{name} is empty: 0 ads in it, at least 1 is needed"):
        ingest(tmp_path / name, ADS_SPEC, tmp_path / "out")


def test_files_with_a_header_and_no_rows(tmp_path):
    (tmp_path / "ads.csv").write_text("ad_id,title\n")
    pq.write_table(pa.table({"ad_id": pa.array([], pa.string())}), tmp_path / "ads.parquet")
    with pytest.raises(Refused, match="is empty: 0 ads in it"):
        ingest(tmp_path / "ads.*", ADS_SPEC, tmp_path / "out")


def test_no_file(tmp_path):
    with pytest.raises(Refused, match=r"No file matches .*gone.*; set data\.ads\.path"):
        ingest(tmp_path / "gone*.csv", ADS_SPEC, tmp_path / "out")


def test_no_valid_row(tmp_path):
    path = write(tmp_path / "ads.jsonl", [ad(1, ad_id=""), ad(2, ad_id="")])
    with pytest.raises(Refused, match="None of the 2 ads is valid, at least 1 is needed"):
        ingest(path, ADS_SPEC, tmp_path / "out")


def test_rejections_past_the_share_stop_the_stage_and_stay_readable(tmp_path):
    rows = [ad(i) for i in range(98)] + [ad(98, price="cheap"), ad(99, price="dear")]
    path = write(tmp_path / "ads.jsonl", rows)
    with pytest.raises(Refused) as raised:
        ingest(path, strict(ADS_SPEC), tmp_path / "out")
    message = str(raised.value)
    assert "2 of 100 ads rejected (2.0%, limit 1.0% by data.ads.max_rejected_share)" in message
    assert "ads.jsonl row 99: price 'cheap' is not a number" in message
    kept = Path(message.rsplit(": ", 1)[1])
    # TFX deletes the folder of a failed stage's output; the reasons lie outside it.
    assert not kept.is_relative_to(tmp_path / "out/ads/1")
    assert [row["row"] for row in quarantined(str(kept.parent))] == [99, 100]
    artifact = ingest(path, strict(ADS_SPEC, max_rejected_share=0.02), tmp_path / "again")
    assert get_summary(artifact) == "98 ads, 2 rejected"


@pytest.mark.parametrize("suffix", FORMATS)
def test_absurd_timestamps(tmp_path, suffix):
    times = [1_400_000_000_000, -5, YEAR_2100 + 1, 1_400_000_000_000_000, 0, 7, 3, YEAR_2100]
    path = write(tmp_path / f"events.{suffix}", [event("u", "a", time) for time in times])
    examples, rejected = ingest_file(path, EVENTS_SPEC)
    assert [row["timestamp"] for row in examples] == [[0], [3], [YEAR_2100], [7]]
    reasons = [row["reason"] for row in rejected]
    assert "1400000000000 looks like milliseconds, divide by 1000" in reasons[0].replace("'", "")
    assert "-5 is negative" in reasons[1].replace("'", "")
    assert "4102444801" in reasons[2]
    assert reasons[3].endswith("looks like microseconds, divide by 1000000")


def test_timestamps_out_of_order_are_no_fault(tmp_path):
    path = write(tmp_path / "events.csv", [event("u", f"a{i}", 100 - i) for i in range(5)])
    examples, rejected = ingest_file(path, EVENTS_SPEC)
    assert (len(examples), rejected) == (5, [])


@pytest.mark.parametrize("suffix", FORMATS)
def test_bad_vectors(tmp_path, suffix):
    vectors = [[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0], [1.0, 2.0], [float("inf"), 0.0, 0.0],
               [0.0, 0.0, 1e300], [1.0, 2.0, 3.0, 4.0], None]  # fmt: skip
    if suffix.startswith("tfrecord"):
        vectors[4] = [0.0, 0.0, float("-inf")]
    rows = [ad(i, image_embedding=vector) for i, vector in enumerate(vectors)]
    examples, rejected = ingest_file(write(tmp_path / f"ads.{suffix}", rows), ADS_SPEC)
    assert [row["ad_id"] for row in examples] == [[b"ad0"], [b"ad6"]]
    assert "image_embedding" not in examples[1]
    assert [row["field"] for row in rejected] == ["image_embedding"] * 5
    reasons = [row["reason"] for row in rejected]
    assert reasons[0] == "has nan at position 1; leave the vector out"
    assert reasons[1] == "has 2 numbers, the column has 3"
    assert reasons[2] == "has inf at position 0; leave the vector out"
    assert "at position 2" in reasons[3]
    assert reasons[4] == "has 4 numbers, the column has 3"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_megabyte_of_title_is_trimmed_and_the_ad_kept(tmp_path, suffix):
    rows = [ad(1, title="ä" * (1 << 19)), ad(2)]
    spec = IngestSpec(**{**json.loads(ADS_SPEC.to_json()), "max_text_bytes": 1001})
    examples, rejected = ingest_file(write(tmp_path / f"ads.{suffix}", rows), spec)
    assert rejected == []
    assert examples[0]["title"][0].decode() == "ä" * 500


def test_trimmed_titles_are_counted(tmp_path):
    path = write(tmp_path / "ads.parquet", [ad(1, title="a" * (1 << 20)), ad(2)])
    artifact = ingest(path, strict(ADS_SPEC), tmp_path / "out")
    assert get_summary(artifact) == "2 ads, 0 rejected, 1 with text trimmed"


def test_undecodable_lines(tmp_path):
    good = json.dumps(ad(1)).encode()
    lines = [b"{oops", good, b"", b"[1, 2]", b'{"ad_id": "\xff"}', b'"text"', b"[" * 100_000,
             b'{"ad_id": "\\ud800"}', good.replace(b"ad1", b"ad9")]  # fmt: skip
    (tmp_path / "ads.jsonl").write_bytes(b"\n".join(lines))
    examples, rejected = ingest_file(tmp_path / "ads.jsonl", ADS_SPEC)
    assert [row["ad_id"] for row in examples] == [[b"ad1"], [b"ad9"]]
    assert [row["row"] for row in rejected] == [1, 4, 5, 6, 7, 8]
    artifact = ingest(tmp_path / "ads.jsonl", ADS_SPEC, tmp_path / "out")
    assert len(quarantined(artifact.uri + "/quarantine")) == 6


def test_broken_csv_rows(tmp_path):
    (tmp_path / "ads.csv").write_bytes(
        b'ad_id,title\n1,a\n2,b,c\n3\n4,\xff\n5,nul\x00\n\n6,"two\nlines"\n7,end\n'
    )
    examples, rejected = ingest_file(tmp_path / "ads.csv", ADS_SPEC)
    assert [row["ad_id"][0] for row in examples] == [b"1", b"6", b"7"]
    assert [row["row"] for row in rejected] == [3, 4, 5, 6]
    assert rejected[0]["reason"] == "has 3 fields, the header has 2"
    assert "save the file as UTF-8" in rejected[2]["reason"]


def test_parquet_strings_that_are_not_utf8(tmp_path):
    loose = pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    ids = pa.array([b"a", b"\xff", b"c", b"d"]).cast(options=loose)
    titles = pa.array([b"fine", b"x", b"\xfe", b"y"]).cast(options=loose)
    paths = pa.ListArray.from_arrays(
        pa.array([0, 1, 2, 3, 4], pa.int32()),
        pa.array([b"a", b"b", b"c", b"\xfd"]).cast(options=loose),
    )
    table = pa.table({"ad_id": ids, "title": titles, "category_path": paths})
    pq.write_table(table, tmp_path / "ads.parquet")
    examples, rejected = ingest_file(tmp_path / "ads.parquet", ADS_SPEC)
    assert [row["ad_id"] for row in examples] == [[b"a"]]
    assert [(row["row"], row["field"]) for row in rejected] == [
        (2, "ad_id"), (3, "title"), (4, "category_path")
    ]  # fmt: skip


def test_records_that_are_no_example(tmp_path):
    path = write(tmp_path / "ads.tfrecord", [ad(1)])
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff\xff")
        example = tf.train.Example()
        example.features.feature["ad_id"].bytes_list.value.append(b"a")
        writer.write(example.SerializeToString())
    examples, rejected = ingest_file(path, ADS_SPEC)
    assert [row["ad_id"] for row in examples] == [[b"a"]]
    assert [row["row"] for row in rejected] == [1]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz", "tfrecord", "tfrecord.gz"])
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    rows = [ad(i, title=str(np.random.default_rng(i).bytes(40))) for i in range(50)]
    path = write(tmp_path / f"ads.{suffix}", rows)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(AssertionError, match=rf"ads\.{suffix} can't be read past row"):
        ingest_file(path, ADS_SPEC)


def test_a_gzip_that_is_none_is_refused_by_the_stage(tmp_path):
    (tmp_path / "ads.csv.gz").write_text("ad_id,title\n1,a\n")
    with pytest.raises(Refused, match=r"ads\.csv\.gz can't be read past row 0.*leave it out"):
        ingest(tmp_path / "ads.csv.gz", ADS_SPEC, tmp_path / "out")


def test_all_files_that_fail_are_named_and_the_rejected_rows_kept(tmp_path):
    write(tmp_path / "a.jsonl", [ad(1), ad(2, price="cheap")])
    for name in "bcdefgh":
        (tmp_path / f"{name}.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(Refused, match=r"(?s)b.csv.gz.*f.csv.gz.*2 more files fail") as refusal:
        ingest(tmp_path / "*.*", ADS_SPEC, tmp_path / "out")
    kept = Path(str(refusal.value).rsplit(" ", 1)[1])
    assert "cheap" in (kept / "rejected.jsonl").read_text()


def test_several_gzip_members_are_one_file(tmp_path):
    parts = [gzip.compress(json.dumps(ad(i)).encode() + b"\n") for i in range(2)]
    (tmp_path / "ads.jsonl.gz").write_bytes(b"".join(parts))
    assert len(ingest_file(tmp_path / "ads.jsonl.gz", ADS_SPEC)[0]) == 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_category_anywhere(tmp_path, suffix):
    rows = [ad(1, category_path=None), ad(2, category_path=None)]
    for row in rows:
        del row["price"]
    examples, rejected = ingest_file(write(tmp_path / f"ads.{suffix}", rows), ADS_SPEC)
    assert rejected == []
    assert [sorted(row) for row in examples] == [
        ["ad_id", "advertiser", "image_embedding", "title"]
    ] * 2


def test_events_that_name_unknown_ads(tmp_path):
    ads = ingest(write(tmp_path / "ads.jsonl", [ad(1), ad(2)]), ADS_SPEC, tmp_path / "ads")
    rows = [event(f"u{i}", f"ad{1 + i % 2}", i) for i in range(99)] + [event("u7", "ghost", 1000)]
    events = ingest(write(tmp_path / "events.csv", rows), EVENTS_SPEC, tmp_path / "events")
    sequences, _ = build_interactions(events, ads, tmp_path / "out")
    assert get_summary(sequences).startswith("99 users, 99 events")
    assert "1 rejected" in get_summary(sequences)
    (rejected,) = quarantined(sequences.uri + "/quarantine")
    assert rejected["field"] == "ad_id"
    assert rejected["reason"] == (
        "'ghost' (user 'u7' at 1000) is not among the ads; add the ad or drop its events"
    )
    with pytest.raises(Refused, match=r"1 of 100 events rejected \(1\.0%, limit 0\.5% by data"):
        build_interactions(events, ads, tmp_path / "strict", max_rejected_share=0.005)
    assert list((tmp_path / "strict/sequences/1-refused").glob("rejected.jsonl"))


def test_no_event_names_a_known_ad(tmp_path):
    ads = ingest(write(tmp_path / "ads.jsonl", [ad(1)]), ADS_SPEC, tmp_path / "ads")
    events = ingest(
        write(tmp_path / "events.csv", [event("u", "ghost", 1)]), EVENTS_SPEC, tmp_path / "events"
    )
    with pytest.raises(Refused, match="None of the 1 events names a known ad"):
        build_interactions(events, ads, tmp_path / "out", max_rejected_share=1.0)


def test_three_ads_and_a_user_with_one_event(tmp_path):
    ads = ingest(
        write(tmp_path / "ads.csv", [ad(1), ad(2), ad(3)]), strict(ADS_SPEC), tmp_path / "ads"
    )
    rows = [
        event("once", "ad1", 5),
        event("u", "ad1", 1),
        event("u", "ad2", 2),
        event("u", "ad3", 3),
    ]
    events = ingest(
        write(tmp_path / "events.jsonl", rows), strict(EVENTS_SPEC), tmp_path / "events"
    )
    sequences, pairs = build_interactions(events, ads, tmp_path / "out")
    assert [row["history"] for row in read_split(sequences, "train")] == [[b"ad1"], [b"ad1"]]
    assert [row["target"] for row in read_split(sequences, "test")] == [[b"ad3"]]
    assert read_split(pairs, "train") == []
    assert get_summary(pairs) == "0 Swing pairs"
