"""A decoder as it is served: exported, loaded into a session, and called with other histories."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import generated
from serving.batch_parameters import BatchingParameters
from serving.batch_scheduler import BatchScheduler
from serving.batching import BatchingServable
from serving.caller import Caller, answer_of
from serving.servable import Runnable, Servable
from sid_tfx.decoder import SidDecoder

REQUESTS = 16
"""Different batches of histories that the calls of a setting take in turn."""

Call = Callable[[], np.ndarray]
"""A call of `recommend`."""


def export(
    decoder: SidDecoder, folder: Path, settings: Sequence[tuple[int, int]], history_length: int,
    k: int, mode: str = "generative",
) -> None:  # fmt: skip
    """Writes a SavedModel that answers `recommend` at these beams and numbers of users."""

    def signature(beam: int, batch: int) -> tf.types.experimental.GenericFunction:
        @tf.function(
            input_signature=[tf.TensorSpec([None, history_length], tf.int32, "rows")],
            autograph=False,
        )
        def recommend(rows: tf.Tensor) -> dict[str, tf.Tensor]:
            # Read when the graph is made: one decoder does for all beams.
            decoder.beam_size = beam
            return {"rows": decoder.recommend(rows, k, mode).rows}

        return recommend

    signatures = {_name(*setting): signature(*setting) for setting in settings}
    tf.saved_model.save(decoder, str(folder), signatures=signatures)


def call(servable: Runnable, beam: int, batch: int, histories: np.ndarray) -> Call:
    """Calls one beam and number of users as the model server does.

    In a session a request runs in its caller's thread. A `tf.function` called from Python hands its
    operations to a pool of threads: that is slower.

    Args:
        servable: What `export` wrote.
        beam: One of its beams.
        batch: One of its numbers of users.
        histories: int32 `[batch * n, T]`; the calls take `batch` of them in turn.
    """
    turns = itertools.cycle(np.split(histories.astype(np.int32), len(histories) // batch))
    name = _name(beam, batch)

    def recommend() -> np.ndarray:
        inputs = {"rows": next(turns)}
        [rows] = answer_of(
            lambda done: servable.submit(name, inputs, ["rows"], Caller(), done), None
        )
        return rows

    return recommend


def in_pieces(servable: Servable, batch: int, threads: int) -> Runnable:
    """A servable that runs a call of `batch` users in as many pieces at once as it has threads.

    It is the model server's batching with `enable_large_batch_splitting`.
    """
    if min(batch, threads) == 1:
        return servable
    parameters = BatchingParameters(
        max_batch_size=batch,
        num_batch_threads=threads,
        enable_large_batch_splitting=True,
        max_execution_batch_size=-(-batch // threads),
    )
    return BatchingServable(servable, BatchScheduler(parameters), parameters)


def served(
    decoder: SidDecoder, settings: Sequence[tuple[int, int]], history_length: int, k: int,
    seed: int, mode: str = "generative",
) -> Mapping[tuple[int, int], Call]:  # fmt: skip
    """A call of `recommend` for each beam and number of users, exported and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        export(decoder, Path(folder), settings, history_length, k, mode)
        servable = Servable(Path(folder), "decoder", 1)
    ads = decoder.trie.num_leaves
    return {
        (beam, batch): call(
            servable, beam, batch, generated.histories(ads, batch * REQUESTS, history_length, seed)
        )
        for beam, batch in settings
    }


def _name(beam: int, batch: int) -> str:
    return f"beam_{beam}_batch_{batch}"
