"""Small tables in every format, and executors run without a pipeline."""

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from apache_beam.pvalue import TaggedOutput
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import channel_utils, standard_artifacts

from components.example_gen.component import ads_gen, events_gen
from components.example_gen.executor import Executor as IngestExecutor
from components.example_gen.executor import IngestFile
from components.example_gen.spec import IngestSpec
from components.interaction_builder.component import InteractionBuilder
from components.interaction_builder.executor import Executor as InteractionExecutor

ADS_SPEC = IngestSpec(
    "ads",
    text=("title",),
    categorical=("advertiser",),
    category_path=True,
    numeric=("price",),
    dense={"image_embedding": 3},
    max_rejected_share=1.0,
)
EVENTS_SPEC = IngestSpec("events", max_rejected_share=1.0)

Row = dict[str, Any]


def ad(number: int, **fields: Any) -> Row:
    """An ad with every column set."""
    return {
        "ad_id": f"ad{number}",
        "title": f"Überraschend gut {number}",
        "advertiser": f"brand{number % 2}",
        "category_path": ["Home", "Kitchen"][: 1 + number % 2],
        "price": 1.5 * number,
        "image_embedding": [float(number), 0.5, -1.0],
        **fields,
    }


def event(user: str, ad_id: str, timestamp: Any, **fields: Any) -> Row:
    return {"user_id": user, "ad_id": ad_id, "timestamp": timestamp, **fields}


def write(path: Path, rows: list[Row]) -> Path:
    """Writes rows in the format that the file's name says."""
    suffixes = [s for s in path.suffixes if s in _WRITERS]
    _WRITERS[suffixes[-1]](path, rows)
    return path


def _parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def _open(path: Path) -> Any:
    return gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb")


def _jsonl(path: Path, rows: list[Row]) -> None:
    with _open(path) as file:
        for row in rows:
            present = {name: value for name, value in row.items() if value is not None}
            file.write(json.dumps(present).encode() + b"\n")


def _csv(path: Path, rows: list[Row]) -> None:
    def cell(value: Any) -> Any:
        if isinstance(value, list):
            texts = value and isinstance(value[0], str)
            return " > ".join(value) if texts else json.dumps(value)
        return value

    text = pd.DataFrame(
        [{name: cell(value) for name, value in row.items()} for row in rows]
    ).to_csv(index=False, quoting=csv.QUOTE_MINIMAL, sep="\t" if ".tsv" in path.name else ",")
    with _open(path) as file:
        file.write(text.encode())


def _tfrecord(path: Path, rows: list[Row]) -> None:
    options = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in rows:
            example = tf.train.Example()
            for name, value in row.items():
                values = value if isinstance(value, list) else [] if value is None else [value]
                feature = example.features.feature[name]
                for item in values:
                    if isinstance(item, str):
                        feature.bytes_list.value.append(item.encode())
                    elif isinstance(item, int):
                        feature.int64_list.value.append(item)
                    else:
                        feature.float_list.value.append(item)
            writer.write(example.SerializeToString())


_WRITERS = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".tfrecord": _tfrecord,
}


def examples_artifact(uri: Path, splits: str = "") -> standard_artifacts.Examples:
    artifact = standard_artifacts.Examples()
    artifact.uri = str(uri)
    if splits:
        artifact.split_names = splits
    return artifact


def _context(folder: Path) -> BaseBeamExecutor.Context:
    return BaseBeamExecutor.Context(tmp_dir=str(folder / "tmp"), unique_id="1")


def ingest(pattern: Path, spec: IngestSpec, out: Path) -> standard_artifacts.Examples:
    """Runs AdsGen's or EventsGen's executor as the pipeline would."""
    make = ads_gen if spec.role == "ads" else events_gen
    component = make(str(pattern), spec)
    artifact = examples_artifact(out / spec.role / "1")
    IngestExecutor(_context(out)).Do({}, {"examples": [artifact]}, dict(component.exec_properties))
    return artifact


def ingest_file(path: Path, spec: IngestSpec) -> tuple[list[Row], list[Row]]:
    """Reads one file without Beam; returns the examples, sorted, and the rejected rows.

    Duplicate ads are all returned: telling them apart takes the whole input.

    Raises:
        AssertionError: The file could not be read.
    """
    examples, rejected = [], []
    for output in IngestFile(spec).process(str(path)):
        if not isinstance(output, TaggedOutput):
            examples.append(output[1][2] if isinstance(output, tuple) else output)
        elif output.tag == "rejected":
            rejected.append(output.value._asdict())
        else:
            assert output.tag == "tally", output.value
    return decoded(examples), sorted(rejected, key=lambda r: r["row"])


def build_interactions(
    events: standard_artifacts.Examples,
    ads: standard_artifacts.Examples,
    out: Path,
    **arguments: Any,
) -> tuple[standard_artifacts.Examples, standard_artifacts.Examples]:
    """Runs InteractionBuilder's executor; returns `sequences` and `pairs`."""
    component = InteractionBuilder(
        channel_utils.as_channel([events]), channel_utils.as_channel([ads]), **arguments
    )
    sequences = examples_artifact(out / "sequences" / "1")
    pairs = examples_artifact(out / "pairs" / "1")
    InteractionExecutor(_context(out)).Do(
        {"events": [events], "ads": [ads]},
        {"sequences": [sequences], "pairs": [pairs]},
        dict(component.exec_properties),
    )
    return sequences, pairs


def read_split(artifact: standard_artifacts.Examples, split: str = "all") -> list[Row]:
    """Every example of a split as feature -> list of values, sorted."""
    files = tf.io.gfile.glob(f"{artifact.uri}/Split-{split}/*")
    return decoded(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def decoded(records: Iterable[bytes]) -> list[Row]:
    """Serialized tf.Examples as feature -> list of values, sorted."""
    rows = []
    for record in records:
        features = tf.train.Example.FromString(record).features.feature
        rows.append(
            {
                name: list(getattr(feature, feature.WhichOneof("kind")).value)
                for name, feature in sorted(features.items())
            }
        )
    return sorted(rows, key=repr)


def quarantined(folder: str) -> list[Row]:
    """The rejected rows of a quarantine folder, by source and row."""
    lines = (Path(folder) / "rejected.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda r: (r["source"], r["row"], r["reason"]))
