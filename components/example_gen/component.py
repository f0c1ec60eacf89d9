"""AdsGen and EventsGen: the stock FileBasedExampleGen with the ingest executor."""

import os
import re

from google.protobuf import wrappers_pb2
from tensorflow.io import gfile
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from components.example_gen.executor import SPLIT, Executor
from components.example_gen.spec import IngestSpec

_SPECIAL = re.compile(r"[*?\[]")


def ads_gen(path: str, spec: IngestSpec) -> FileBasedExampleGen:
    """The component that ingests ads.

    Args:
        path: A file, a glob, or a folder of files; Parquet, JSON Lines, CSV or TFRecord of
            tf.Example, compressed or not.
        spec: Its columns and limits.

    Returns:
        A component with the id `AdsGen` and the output `examples`, split `all`.
    """
    return _example_gen("AdsGen", "ads", path, spec)


def events_gen(path: str, spec: IngestSpec) -> FileBasedExampleGen:
    """The component that ingests events: as `ads_gen`, with the id `EventsGen`."""
    return _example_gen("EventsGen", "events", path, spec)


def _example_gen(name: str, role: str, path: str, spec: IngestSpec) -> FileBasedExampleGen:
    if spec.role != role:
        raise ValueError(f"{name} needs an IngestSpec of role '{role}', got '{spec.role}'.")
    base, pattern = split_pattern(path)
    custom_config = example_gen_pb2.CustomConfig()
    custom_config.custom_config.Pack(wrappers_pb2.StringValue(value=spec.to_json()))
    split = example_gen_pb2.SplitConfig.Split(name=SPLIT, hash_buckets=1)
    return FileBasedExampleGen(
        input_base=base,
        input_config=example_gen_pb2.Input(
            splits=[example_gen_pb2.Input.Split(name=SPLIT, pattern=pattern)]
        ),
        output_config=example_gen_pb2.Output(
            split_config=example_gen_pb2.SplitConfig(splits=[split])
        ),
        custom_config=custom_config,
        custom_executor_spec=executor_spec.BeamExecutorSpec(Executor),
    ).with_id(name)


def split_pattern(path: str) -> tuple[str, str]:
    """Splits a path into the folder without glob characters and the pattern below it.

    Raises:
        ValueError: The path is empty.

    Example:

    >>> split_pattern("/data/2024-*/ads.parquet")
    ('/data', '2024-*/ads.parquet')
    """
    if not path:
        raise ValueError("path is empty; name a file, a glob or a folder.")
    if not _SPECIAL.search(path) and gfile.isdir(path):
        return path.rstrip("/"), "*"
    special = _SPECIAL.search(path)
    fixed = path[: special.start()] if special else path
    base, _ = os.path.split(fixed)
    return base or ".", path[len(base) :].lstrip("/")
