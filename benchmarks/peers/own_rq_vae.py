"""Ours, the preset `rq_vae`: `python -m benchmarks.peers.own_rq_vae FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.peers import harness
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.encoding import BatchEncoder
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.tokenizer import SidTokenizer

_COLUMN = "text_embedding"


class OwnRqVae(harness.Subject):
    """`fit` and `BatchEncoder` as a user calls them.

    With revival of dead codes, health figures and clipped gradients, none of which the peer has.
    """

    def __init__(self, job: harness.Job) -> None:
        self._job = job
        self._features = {_COLUMN: job.vectors()}
        schema = AdSchema(dense={_COLUMN: self._features[_COLUMN].shape[1]})
        self._model = SidTokenizer.from_preset(
            "rq_vae",
            schema,
            FeatureSizes(),
            levels=job.levels,
            codebook_size=job.codebook_size,
            encoder={"hidden": job.hidden, "code_dim": job.code_dim},
            decoder_units=job.hidden[::-1],
            learning_rate=job.learning_rate,
            weight_decay=job.weight_decay,
            seed=job.seed,
        )
        self._model.initialize(self._features)
        pairs = np.zeros((0, 2), np.int64)
        self._encoder = BatchEncoder(self._model, job.batch_rows, threads=job.threads)
        self._batches = PairBatches(self._features, pairs, batch_size=job.batch_rows // 2)
        self.version = f"{tf.__version__}, keras {keras.__version__}"
        self.parameters = sum(int(np.prod(w.shape)) for w in self._model.trainable_weights)

    def train(self) -> float:
        return self._model.fit(self._batches, epochs=self._job.epochs, verbose=0).history["loss"][
            -1
        ]

    def encode(self) -> np.ndarray:
        return self._encoder(self._features)["codes"]


if __name__ == "__main__":
    harness.serve(OwnRqVae(harness.Job.load(Path(sys.argv[1]))))
