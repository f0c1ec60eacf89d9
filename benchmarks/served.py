"""A decoder as it is served: exported, loaded into a session, and called with other histories."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import generated
from serving.servable import Servable
from sid_tfx.decoder import SidDecoder

REQUESTS = 16
"""Different batches of histories that the calls of a setting take in turn."""

Calls = Mapping[tuple[int, int], Callable[[], np.ndarray]]
"""A call of `recommend` for each beam and number of users."""


def served(
    decoder: SidDecoder, settings: Sequence[tuple[int, int]], history_length: int, k: int,
    seed: int, mode: str = "generative",
) -> Calls:  # fmt: skip
    """Calls of `recommend` at these beams and batches, as the model server makes them.

    The decoder is exported and loaded into a session, where a request runs in its caller's thread.
    A `tf.function` called from Python hands its operations to a pool of threads: that is slower.
    """

    def signature(beam: int, batch: int) -> tf.types.experimental.GenericFunction:
        @tf.function(
            input_signature=[tf.TensorSpec([batch, history_length], tf.int32, "rows")],
            autograph=False,
        )
        def recommend(rows: tf.Tensor) -> dict[str, tf.Tensor]:
            # Read when the graph is made: one decoder does for all beams.
            decoder.beam_size = beam
            return {"rows": decoder.recommend(rows, k, mode).rows}

        return recommend

    with tempfile.TemporaryDirectory() as folder:
        signatures = {_name(*setting): signature(*setting) for setting in settings}
        tf.saved_model.save(decoder, folder, signatures=signatures)
        servable = Servable(Path(folder), "decoder", 1)

    def call(beam: int, batch: int) -> Callable[[], np.ndarray]:
        ads = decoder.trie.num_leaves
        rows = generated.histories(ads, batch * REQUESTS, history_length, seed)
        turns = itertools.cycle(np.split(rows.astype(np.int32), REQUESTS))
        return lambda: servable.run(_name(beam, batch), {"rows": next(turns)}, ["rows"])[0]

    return {setting: call(*setting) for setting in settings}


def _name(beam: int, batch: int) -> str:
    return f"beam_{beam}_batch_{batch}"
