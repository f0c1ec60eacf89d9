"""Applies a saved TransformGraph with Beam."""

import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils
from tfx_bsl.coders import example_coder
from tfx_bsl.public import tfxio

from components.artifacts import set_summary
from components.example_gen.executor import SPLIT


class EncodeExamples(beam.DoFn):
    """Record batches of transformed ads -> serialized tf.Examples.

    Args:
        schema: Of the transformed features.
    """

    def __init__(self, schema: schema_pb2.Schema):
        super().__init__()
        self._schema = schema

    def setup(self) -> None:
        """Makes the coder, which cannot be pickled."""
        self._coder = example_coder.RecordBatchToExamplesEncoder(self._schema)

    def process(self, batch: tuple[pa.RecordBatch, dict[str, pa.Array]]) -> Iterator[bytes]:
        """Encodes one batch."""
        yield from self._coder.encode(batch[0])


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads raw ads, transforms them, writes them in the format of stock Transform."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the Beam pass."""
        self._log_startup(input_dict, output_dict, exec_properties)
        graph_uri = artifact_utils.get_single_uri(input_dict["transform_graph"])
        transformed = artifact_utils.get_single_instance(output_dict["transformed_examples"])
        transformed.split_names = artifact_utils.encode_split_names([SPLIT])
        examples_utils.set_payload_format(transformed, example_gen_pb2.FORMAT_TF_EXAMPLE)
        examples_utils.set_file_format(transformed, "tfrecords_gzip")
        graph = tft.TFTransformOutput(graph_uri)
        source = tfxio.TFExampleRecord(
            io_utils.all_files_pattern(artifact_utils.get_split_uri(input_dict["examples"], SPLIT)),
            schema=graph.raw_metadata.schema,
            telemetry_descriptors=["AdTransformer"],
        )
        with self._make_beam_pipeline() as pipeline, tft_beam.Context(temp_dir=self._get_tmp_dir()):
            transform_fn = pipeline | "ReadGraph" >> tft_beam.ReadTransformFn(graph_uri)
            raw = pipeline | "ReadAds" >> source.BeamSource()
            batches, _ = (
                (raw, source.TensorAdapterConfig()),
                transform_fn,
            ) | "Transform" >> tft_beam.TransformDataset(output_record_batches=True)
            _ = (
                batches
                | "Encode" >> beam.ParDo(EncodeExamples(graph.transformed_metadata.schema))
                | "Write"
                >> beam.io.WriteToTFRecord(
                    os.path.join(artifact_utils.get_split_uri([transformed], SPLIT), "transformed"),
                    file_name_suffix=".gz",
                )
            )
        set_summary(transformed, "the last push's graph, its vocabularies as they were")
