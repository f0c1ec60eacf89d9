"""Reads, checks and canonicalizes the input files in Beam."""

import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from google.protobuf import wrappers_pb2
from tfx import types
from tfx.components.example_gen import base_example_gen_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import quarantine
from components.artifacts import set_summary
from components.example_gen.columns import Column, convert
from components.example_gen.encode import encode_examples
from components.example_gen.readers import Chunk, UnreadableError, list_files, read_chunks
from components.example_gen.spec import MANDATORY, IngestSpec
from components.quarantine import Rejection
from components.refusal import Refused

SPLIT = "all"
_SHOWN_FAILURES = 5


class IngestFile(beam.DoFn):
    """One file to tf.Examples.

    Main output: serialized tf.Examples of events, or `(ad_id, (file, row, tf.Example))` of ads,
    whose duplicates are still to be found. Tagged: `rejected`, `tally`, `failures`.
    """

    def __init__(self, spec: IngestSpec) -> None:
        self._spec = spec

    def process(self, path: str) -> Iterator[Any]:
        """Reads, converts and serializes chunk by chunk."""
        spec = self._spec
        wanted = [spec.source(column) for column in spec.kept()]
        try:
            for chunk in read_chunks(path, wanted, spec.format):
                lacking = lacking_columns(spec, chunk, path)
                if lacking:
                    yield beam.pvalue.TaggedOutput("failures", lacking)
                    return
                yield from self._chunk(path, chunk)
        except UnreadableError as error:
            yield beam.pvalue.TaggedOutput("failures", str(error))

    def _chunk(self, path: str, chunk: Chunk) -> Iterator[Any]:
        spec = self._spec
        count = len(chunk.rows)
        columns: dict[str, Column] = {}
        refused: dict[int, Rejection] = {}
        trimmed = np.zeros(count, bool)
        for name in spec.kept():
            given = chunk.columns.get(spec.source(name))
            if given is None:
                continue
            columns[name] = column = convert(name, given, spec)
            trimmed[column.trimmed] = True
            for row, reason in column.bad.items():
                refused.setdefault(row, Rejection(path, int(chunk.rows[row]), name, reason))
        for row, reason in chunk.undecodable:
            yield beam.pvalue.TaggedOutput("rejected", Rejection(path, row, "", reason))
        for rejection in refused.values():
            yield beam.pvalue.TaggedOutput("rejected", rejection)
        good = np.ones(count, bool)
        good[list(refused)] = False
        yield beam.pvalue.TaggedOutput("tally", ("read", count + len(chunk.undecodable)))
        yield beam.pvalue.TaggedOutput("tally", ("trimmed", int((trimmed & good).sum())))
        rows = np.flatnonzero(good)
        arrays = {name: column.array for name, column in columns.items()}
        examples = encode_examples(arrays, rows)
        if spec.role == "events":
            yield from examples
            return
        for row, example in zip(rows.tolist(), examples, strict=True):
            key = arrays["ad_id"][row].as_py()
            yield key, (path, int(chunk.rows[row]), example)


def lacking_columns(spec: IngestSpec, chunk: Chunk, path: str) -> str:
    """A sentence on the mandatory columns that a chunk lacks; empty if it has them all."""
    if not len(chunk.rows) and not chunk.columns:
        return ""
    for column in MANDATORY[spec.role]:
        source = spec.source(column)
        if source not in chunk.columns:
            return (
                f"{path} has no column '{source}', which {spec.role} need as '{column}'; it has "
                f"{sorted(chunk.columns)}. Name the file's own column with "
                f"data.{spec.role}.columns.{column}=..."
            )
    return ""


def keep_first(element: tuple[bytes, Any]) -> Iterator[Any]:
    """Of the rows with one ad id keeps the first by file and row, and rejects the others."""
    ad_id, rows = element
    ordered = sorted(rows)
    path, number, example = ordered[0]
    yield example
    for other_path, other_number, _ in ordered[1:]:
        reason = f"{ad_id.decode()!r} is the ad of {path} row {number} too; give each ad one row"
        yield beam.pvalue.TaggedOutput(
            "rejected", Rejection(other_path, other_number, "ad_id", reason)
        )


class Executor(base_example_gen_executor.BaseExampleGenExecutor):
    """FileBasedExampleGen executor for Parquet, JSON Lines, CSV and TFRecord of tf.Example.

    `custom_config` holds the `IngestSpec` as JSON in a `StringValue`. Writes raw tf.Examples
    under the canonical names to the split `all`, and the rejected rows to `quarantine/`.
    """

    _uri: str

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:
        """Not used: several outputs a file need `GenerateExamplesByBeam`."""
        raise NotImplementedError("the pipeline is built in GenerateExamplesByBeam")

    def GenerateExamplesByBeam(
        self, pipeline: beam.Pipeline, exec_properties: dict[str, Any]
    ) -> dict[str, beam.PCollection]:
        """Builds the pipeline; the base class writes the returned split."""
        spec = read_spec(exec_properties)
        files = list_files(input_pattern(exec_properties))
        if not files:
            raise Refused(
                f"No file matches {input_pattern(exec_properties)}; "
                f"set data.{spec.role}.path to the {spec.role} file, or a glob."
            )
        read = (
            pipeline
            | "Files" >> beam.Create(files)
            | "Spread" >> beam.Reshuffle()
            | "Ingest"
            >> beam.ParDo(IngestFile(spec)).with_outputs(
                "rejected", "tally", "failures", main="rows"
            )
        )
        examples, rejected = read.rows, read.rejected
        if spec.role == "ads":
            unique = (
                read.rows
                | "ByAd" >> beam.GroupByKey()
                | "KeepFirst" >> beam.FlatMap(keep_first).with_outputs("rejected", main="examples")
            )
            examples = unique.examples
            rejected = (read.rejected, unique.rejected) | "Rejected" >> beam.Flatten()
        _ = {
            "rejected": rejected,
            "tally": read.tally,
            "failures": read.failures,
        } | "Quarantine" >> quarantine.WriteQuarantine(self._uri)
        return {SPLIT: examples}

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Ingests the files, then decides whether what came in is good enough.

        Raises:
            Refused: A file can't be read or lacks a mandatory column, no valid row came in, or
                too many rows were rejected.
        """
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        self._uri = examples.uri
        super().Do(input_dict, output_dict, exec_properties)
        spec = read_spec(exec_properties)
        counts = quarantine.read_counts(examples.uri)
        rows = counts.read - counts.rejected
        if counts.failures:
            kept = quarantine.keep_quarantine(examples.uri)
            shown = counts.failures[:_SHOWN_FAILURES]
            more = len(counts.failures) - len(shown)
            shown += [f"{more} more files fail."] if more else []
            raise Refused("\n".join([*shown, f"All of it, and the rows rejected: {kept}"]))
        if not counts.read:
            raise Refused(
                f"{input_pattern(exec_properties)} is empty: 0 {spec.role} in it, at least 1 is "
                "needed."
            )
        limit_key = f"data.{spec.role}.max_rejected_share"
        quarantine.check_share(examples.uri, counts, spec.role, spec.max_rejected_share, limit_key)
        if not rows:
            kept = quarantine.keep_quarantine(examples.uri)
            raise Refused(
                f"None of the {counts.read:,} {spec.role} is valid, at least 1 is needed; "
                f"the reasons: {kept}"
            )
        trimmed = counts.tally.get("trimmed", 0)
        examples.set_int_custom_property("rows", rows)
        examples.set_int_custom_property("rejected", counts.rejected)
        examples.set_int_custom_property("trimmed", trimmed)
        shortened = f", {trimmed:,} with text trimmed" if trimmed else ""
        set_summary(examples, f"{rows:,} {spec.role}, {counts.rejected:,} rejected{shortened}")


def read_spec(exec_properties: dict[str, Any]) -> IngestSpec:
    """The `IngestSpec` in a component's execution properties."""
    config = example_gen_pb2.CustomConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], config)
    value = wrappers_pb2.StringValue()
    config.custom_config.Unpack(value)
    return IngestSpec.from_json(value.value)


def input_pattern(exec_properties: dict[str, Any]) -> str:
    """The glob that the component reads."""
    config = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config)
    return os.path.join(
        exec_properties[standard_component_specs.INPUT_BASE_KEY], config.splits[0].pattern
    )
