"""Encoding catalogues of any size: batch by batch, in memory that does not grow with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from keras import ops

from sid_tfx.tokenizer import SidTokenizer

BATCH_ROWS = 512
"""Rows of a batch where nothing else is asked for."""


class BatchEncoder:
    """Encodes batches of ads, each padded to one number of rows, several batches at once.

    A matrix product may round differently at another batch size, and a rounding can flip a nearest
    code. With one shape that is left to the place in the batch: on CPUs with AVX-512 TensorFlow's
    matrix product rounds its last rows, and those at a thread's edge, another way in the last bit.
    One shape is also one traced graph, and outputs that nobody asked for are not computed.

    The products of a batch are too small for many threads, so the batches of a call are encoded
    side by side. A process that only encodes is fastest with one thread for an operation
    (`TF_NUM_INTRAOP_THREADS=1`). The codes do not depend on how many batches run at once.

    Args:
        tokenizer: A trained tokenizer.
        batch_rows: Rows that every batch is padded to.
        outputs: Which outputs of the tokenizer to compute.
        alternatives: Next-best code tuples per ad to give as the output `alternatives`, best first
            and without the ad's own codes (`Quantizer.ranked_codes`); 0 for none.
        threads: Batches at once; None for as many as there are cores. On JAX always 1: Keras keeps
            what a batch returns in the model there.

    Raises:
        ValueError: `batch_rows` or `threads` is below 1, `alternatives` is negative or not below
            the number of code tuples there are, or the tokenizer has no such output.

    Example:

    >>> encoder = BatchEncoder(tokenizer)
    >>> encoder(features)["codes"].shape
    (700, 3)
    """

    def __init__(
        self,
        tokenizer: SidTokenizer,
        batch_rows: int = BATCH_ROWS,
        outputs: Sequence[str] = ("codes", "embedding"),
        alternatives: int = 0,
        threads: int | None = None,
    ) -> None:
        threads = _cores() if threads is None else threads
        for name, value in {"batch_rows": batch_rows, "threads": threads}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if alternatives < 0:
            raise ValueError(f"alternatives must not be negative, got {alternatives}.")
        others = tokenizer.codebook_size**tokenizer.levels - 1
        if alternatives > others:
            raise ValueError(
                f"alternatives must be at most {others}: {tokenizer.levels} codes of "
                f"{tokenizer.codebook_size} values have no more others, got {alternatives}."
            )
        known = ("codes", "embedding", "sid_embedding", "z")
        unknown = sorted(set(outputs) - set(known))
        if unknown or not outputs:
            raise ValueError(f"outputs must be some of {list(known)}, got {list(outputs)}.")
        self.batch_rows = batch_rows
        self._names = tuple(tokenizer.schema.input_features())
        self._model = SelectedOutputs(tokenizer, outputs, alternatives)
        self._threads = threads if keras.backend.backend() == "tensorflow" else 1
        self._traced = False

    def __call__(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encodes ads.

        Args:
            features: Feature name -> array `[N, ...]`, N at least 1; others than the schema's are
                ignored.

        Returns:
            Output name -> array `[N, ...]`, see `SidTokenizer.call`; `alternatives` int32
            `[N, alternatives, L]`.

        Raises:
            ValueError: A feature is missing, or there are no rows.
        """
        missing = [name for name in self._names if name not in features]
        if missing:
            raise ValueError(f"The tokenizer needs the features {missing}, got {sorted(features)}.")
        inputs = {name: np.asarray(features[name]) for name in self._names}
        rows = len(inputs[self._names[0]])
        if not rows:
            raise ValueError("features hold no ad; leave empty batches out.")
        batches = [
            {name: v[start : start + self.batch_rows] for name, v in inputs.items()}
            for start in range(0, rows, self.batch_rows)
        ]
        parts = []
        if not self._traced:
            parts.append(self._batch(batches.pop(0)))
            self._traced = True
        if min(self._threads, len(batches)) > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                parts += pool.map(self._batch, batches)
        else:
            parts += map(self._batch, batches)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs[self._names[0]])
        padded = {
            name: np.concatenate([v, np.repeat(v[:1], self.batch_rows - rows, axis=0)])
            if rows < self.batch_rows
            else v
            for name, v in inputs.items()
        }
        encoded = self._model.predict_on_batch(padded)
        return {name: ops.convert_to_numpy(v)[:rows] for name, v in encoded.items()}


def _cores() -> int:
    """Cores that this process may use, or that there are where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SelectedOutputs(keras.Model):
    """Some of a tokenizer's outputs, so that the backend leaves out what the others need."""

    def __init__(
        self, tokenizer: SidTokenizer, outputs: Sequence[str], alternatives: int = 0
    ) -> None:
        super().__init__(name="selected_outputs")
        self.tokenizer = tokenizer
        self.selected = tuple(outputs)
        self.alternatives = alternatives
        # As the tokenizer itself, see its `compile`.
        self.jit_compile = keras.backend.backend() == "jax"
        self.built = True

    def call(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the selected outputs of a batch."""
        encoded = self.tokenizer(features, training=False)
        selected = {name: encoded[name] for name in self.selected}
        if self.alternatives:
            ranked = self.tokenizer.quantizer.ranked_codes(encoded["z"], self.alternatives + 1)
            selected["alternatives"] = ranked[:, 1:]
        return selected


def encode_stream(
    tokenizer: SidTokenizer,
    batches: Iterable[Mapping[str, np.ndarray]],
    batch_rows: int = BATCH_ROWS,
    outputs: Sequence[str] = ("codes", "embedding"),
    threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Encodes batches as they come, one result per batch.

    Args:
        tokenizer: A trained tokenizer.
        batches: Feature name -> array `[N, ...]`, N free; best a multiple of `batch_rows`.
        batch_rows: Rows encoded at a time, see `BatchEncoder`.
        outputs: Which outputs of the tokenizer to compute.
        threads: Of what `batches` gives, so many `batch_rows` are encoded at once, see
            `BatchEncoder`.

    Yields:
        Output name -> array `[N, ...]`.

    Raises:
        ValueError: As `BatchEncoder`.

    Example:

    >>> for encoded in encode_stream(tokenizer, batches):
    ...     print(encoded["codes"].shape)
    """
    encoder = BatchEncoder(tokenizer, batch_rows, outputs, threads=threads)
    for batch in batches:
        yield encoder(batch)


def encode_to_parquet(
    tokenizer: SidTokenizer,
    batches: Iterable[Mapping[str, Any]],
    folder: str | os.PathLike[str],
    batch_rows: int = BATCH_ROWS,
    rows_per_shard: int = 250_000,
    threads: int | None = None,
) -> list[Path]:
    """Encodes batches as they come into Parquet files `part-00000.parquet` and so on.

    The columns are `ad_id`, `codes` (L int32) and `embedding` (D float32), one row group per
    batch. A file has its name once it is whole.

    Args:
        tokenizer: A trained tokenizer.
        batches: As for `encode_stream`, with `ad_id`, str `[N]`, among the features.
        folder: Where to; made if it is absent.
        batch_rows: Rows encoded at a time, see `BatchEncoder`.
        rows_per_shard: Rows after which a new file begins; a batch is never split.
        threads: As for `encode_stream`.

    Returns:
        The files, in the order of the ads.

    Raises:
        ValueError: A batch has no `ad_id`, `rows_per_shard` is below 1, `folder` holds such files
            already, or as `BatchEncoder`.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}.")
    folder = Path(folder)
    if next(folder.glob("part-*.parquet"), None):
        raise ValueError(f"folder {folder} holds part-*.parquet already; name an empty one.")
    folder.mkdir(parents=True, exist_ok=True)
    encoder = BatchEncoder(tokenizer, batch_rows, threads=threads)
    files: list[Path] = []
    writer: pq.ParquetWriter | None = None
    unfinished, written = folder / "unfinished", 0
    try:
        for batch in batches:
            if "ad_id" not in batch:
                raise ValueError(f"A batch needs 'ad_id', got {sorted(batch)}.")
            table = encoded_table(batch["ad_id"], encoder(batch))
            if writer is None:
                writer, written = pq.ParquetWriter(unfinished, table.schema), 0
            writer.write_table(table)
            written += len(table)
            if written >= rows_per_shard:
                _finish(writer, unfinished, files)
                writer = None
        if writer is not None:
            _finish(writer, unfinished, files)
            writer = None
    finally:
        if writer is not None:
            writer.close()
            unfinished.unlink()
    return files


def _finish(writer: pq.ParquetWriter, unfinished: Path, files: list[Path]) -> None:
    writer.close()
    files.append(unfinished.replace(unfinished.with_name(f"part-{len(files):05d}.parquet")))


def encoded_table(ad_ids: Sequence[str], encoded: Mapping[str, np.ndarray]) -> pa.Table:
    """Returns `ad_id` and outputs as columns, an ad's values as a list of fixed size.

    Args:
        ad_ids: str `[N]`.
        encoded: Column name -> array `[N, ...]`, which is laid flat.
    """
    columns: dict[str, pa.Array] = {"ad_id": pa.array([str(ad_id) for ad_id in ad_ids])}
    for name, values in encoded.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values[0].size)
    return pa.table(columns)
