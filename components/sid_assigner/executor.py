"""Encodes ads shard by shard with Beam, then resolves collisions over the codes alone."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.artifacts import set_summary
from components.refusal import Refused

if TYPE_CHECKING:
    from sid_tfx.catalog import SidCatalog

# Beam's batches; each is encoded at one padded size, which `BatchEncoder` explains.
BATCH_ROWS = 512


class EncodeAds(beam.DoFn):
    """Batches of serialized transformed ads -> Arrow tables of id, codes, embedding, alternatives.

    Args:
        model_dir: The tokenizer's `Format-Serving`.
        alternatives: Next-best code tuples per ad.
    """

    def __init__(self, model_dir: str, alternatives: int):
        super().__init__()
        self._model_dir = model_dir
        self._alternatives = alternatives

    def setup(self) -> None:
        """Loads the tokenizer once per worker."""
        # Imported in the worker: the driver program needs neither Keras nor TensorFlow for this.
        from sid_tfx.bundle import load_bundle
        from sid_tfx.encoding import BatchEncoder

        self._tokenizer, _ = load_bundle(self._model_dir)
        self._encoder = BatchEncoder(self._tokenizer, BATCH_ROWS, alternatives=self._alternatives)

    def process(self, records: list[bytes]) -> Iterator[pa.Table]:
        """Encodes one batch."""
        import tensorflow as tf

        from sid_tfx.encoding import encoded_table

        spec: dict[str, tf.io.FixedLenFeature] = {"ad_id": tf.io.FixedLenFeature([], tf.string)}
        for name, (dtype, shape) in self._tokenizer.schema.input_features().items():
            spec[name] = tf.io.FixedLenFeature(shape, dtype)
        features = tf.io.parse_example(tf.constant(records), spec)
        ad_ids = features.pop("ad_id").numpy()
        encoded = self._encoder({name: values.numpy() for name, values in features.items()})
        yield encoded_table([ad_id.decode() for ad_id in ad_ids], encoded)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Encodes every ad, resolves collisions, writes the SidCatalog."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the Beam pass and builds the catalogue."""
        from sid_tfx.bundle import read_metadata
        from sid_tfx.catalog import SidCatalog
        from sid_tfx.catalog_arrays import from_lists

        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        tokenizer_uri = artifact_utils.get_single_uri(input_dict["tokenizer"])
        catalog_artifact = artifact_utils.get_single_instance(output_dict["catalog"])
        model_dir = os.path.join(tokenizer_uri, "Format-Serving")
        metadata = read_metadata(model_dir)
        levels = metadata["levels"]
        # A small codebook has fewer code tuples than may be asked for.
        alternatives = min(exec_properties["alternatives"], metadata["codebook_size"] ** levels - 1)

        # Shards of raw codes are scratch, so they lie in the executor's own temporary folder.
        scratch = os.path.join(self._get_tmp_dir(), "encoded")
        fileio.makedirs(scratch)
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Read"
                >> beam.io.ReadFromTFRecord(
                    os.path.join(artifact_utils.get_split_uri([examples], "all"), "*")
                )
                | "Batch"
                >> beam.BatchElements(min_batch_size=BATCH_ROWS, max_batch_size=BATCH_ROWS)
                | "Encode" >> beam.ParDo(EncodeAds(model_dir, alternatives))
                | "Write"
                >> beam.io.parquetio.WriteToParquetBatched(
                    os.path.join(scratch, "part"),
                    schema=_schema(levels, metadata["embedding_dim"], alternatives),
                    file_name_suffix=".parquet",
                )
            )
        encoded = pa.concat_tables(
            pq.read_table(path) for path in sorted(fileio.glob(os.path.join(scratch, "part*")))
        )
        ads = {
            "ad_ids": np.array(encoded["ad_id"].to_pylist(), dtype=str),
            "codes": from_lists(encoded["codes"], levels, np.int32),
            "embeddings": from_lists(encoded["embedding"], metadata["embedding_dim"], np.float32),
            "alternatives": from_lists(
                encoded["alternatives"], levels * alternatives, np.int32
            ).reshape(-1, alternatives, levels),
        }
        if input_dict.get("previous"):
            previous = SidCatalog.load(artifact_utils.get_single_uri(input_dict["previous"]))
            catalog = extended(previous, ads, metadata["fingerprint"])
        else:
            catalog = SidCatalog.build(
                **ads,
                codebook_size=metadata["codebook_size"],
                max_dedup=exec_properties["max_dedup"],
                fingerprints={"tokenizer": metadata["fingerprint"]},
            )
        catalog.save(catalog_artifact.uri)
        io_utils.delete_dir(scratch)
        catalog_artifact.set_int_custom_property("ads", len(catalog.ad_ids))
        catalog_artifact.set_int_custom_property("levels", levels)
        catalog_artifact.set_int_custom_property("codebook_size", metadata["codebook_size"])
        set_summary(
            catalog_artifact,
            f"{len(catalog.ad_ids):,} ads, {catalog.quality['distinct_sids']:,} distinct SIDs, "
            f"{catalog.quality['collision_share']:.2%} in collision groups",
        )


def extended(previous: "SidCatalog", ads: dict[str, np.ndarray], tokenizer: str) -> "SidCatalog":
    """Returns the catalogue of `ads` in which the ads of `previous` are what they were.

    Args:
        previous: A catalogue.
        ads: Arguments of `SidCatalog.extend` for all ads, known ones included.
        tokenizer: Fingerprint of the tokenizer that encoded them.

    Raises:
        Refused: `previous` is of another tokenizer, or has none of the ads.
    """
    named = previous.fingerprints.get("tokenizer")
    if named != tokenizer:
        raise Refused(
            f"SidAssigner: the previous catalogue was made by tokenizer {named}, but the tokenizer "
            f"given is {tokenizer}; codes of two tokenizers mean different things."
        )
    new = previous.rows(ads["ad_ids"]) < 0
    if new.all():
        raise Refused(
            f"SidAssigner: none of the {len(new):,} ads is among the {len(previous):,} of the "
            "previous catalogue, at least 1 is needed; train with `python pipeline.py run`."
        )
    kept = previous.keep(ads["ad_ids"])
    return kept.extend(**{key: values[new] for key, values in ads.items()}) if new.any() else kept


def _schema(levels: int, embedding_dim: int, alternatives: int) -> pa.Schema:
    return pa.schema(
        {
            "ad_id": pa.string(),
            "codes": pa.list_(pa.int32(), levels),
            "embedding": pa.list_(pa.float32(), embedding_dim),
            "alternatives": pa.list_(pa.int32(), levels * alternatives),
        }
    )
