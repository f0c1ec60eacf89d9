"""The indices of `sid_tfx.retrieval`: `python -m benchmarks.indices.own FOLDER SUBJECT`.

They are timed as they serve: exported, then loaded and called as the model server does. A direct
call of a `tf.function` adds about 0.3 ms of Python, which no request pays.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from scann.scann_ops.py import scann_ops

from benchmarks.indices import harness
from benchmarks.indices.loaded import SIGNATURE, load
from sid_tfx.retrieval import BruteForce, ScaNN, TopK


class Served:
    """An index behind a signature, in a session of its own."""

    def __init__(self, index: TopK, k: int, width: int, threads: int) -> None:
        module = tf.Module()
        module.index = index
        search = tf.function(lambda queries: {"rows": index(queries, k)[1]})
        signature = search.get_concrete_function(tf.TensorSpec([None, width], name="queries"))
        self._folder = tempfile.TemporaryDirectory()
        tf.saved_model.save(module, self._folder.name, signatures={SIGNATURE: signature})
        self._servable = load(self.path, threads)

    @property
    def path(self) -> Path:
        """The SavedModel, until `close`."""
        return Path(self._folder.name)

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        return self._servable.run(SIGNATURE, {"queries": queries}, ["rows"])[0]

    def close(self) -> None:
        self._servable.close()
        self._folder.cleanup()


class OwnSubject(harness.Subject):
    """What our indices share: built in TensorFlow, searched through `Served`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._index: TopK | None = None
        self._served: Served | None = None
        self._settled: tuple[int, int] | None = None
        self._bytes = 0

    def make(self, effort: int) -> TopK:
        """The index, built for searches at this effort."""
        raise NotImplementedError

    def build(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self._index = self.make(self.efforts[0])
        self._bytes = _bytes(self._index)

    def settle(self, effort: int, k: int) -> None:
        if self._settled == (effort, k):
            return
        if self._served is not None:
            self._served.close()
        self._index = self.make(effort)
        self._served = Served(self._index, k, self._vectors.shape[1], self._threads)
        self._settled = (effort, k)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        if self._settled == (effort, k) and self._served is not None:
            return self._served(queries)
        return self.trial(queries, k, effort)

    def trial(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        """A search at an effort that is not settled on, however slow."""
        assert self._index is not None
        return self._index(tf.constant(queries), k)[1].numpy()

    def serving_mb(self, before: float) -> float:
        # Built ScaNN searchers stay in the process for good, so a fresh one loads the index alone,
        # after a tiny one that pays for what TensorFlow and ScaNN take at their first use.
        assert self._served is not None
        tiny = type(self)(self._threads)
        vectors = np.eye(64, self._vectors.shape[1], dtype=np.float32) + np.float32(0.01)
        tiny.build(vectors)
        tiny.settle(tiny.efforts[-1], 1)
        assert tiny._served is not None
        paths = [str(tiny._served.path), str(self._served.path)]
        command = [sys.executable, "-m", "benchmarks.indices.loaded", str(self._threads), *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        tiny._served.close()
        return float(done.stdout)

    def index_bytes(self) -> int:
        return self._bytes


class OwnBruteForce(OwnSubject):
    """Exact search, in core TensorFlow ops: what the portable servable holds."""

    name = "brute_force"

    def make(self, effort: int) -> TopK:
        return self._index or BruteForce().index(self._vectors)


class OwnScaNN(OwnSubject):
    """ScaNN with the defaults of `sid_tfx.retrieval`; the effort is the partitions read."""

    name = "scann"

    def build(self, vectors: np.ndarray) -> None:
        leaves = max(2, math.isqrt(len(vectors)))
        self.efforts = harness.geometric(leaves)
        super().build(vectors)

    def make(self, effort: int) -> TopK:
        return ScaNN(num_leaves_to_search=effort).index(self._vectors)

    def trial(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        # An index is built for one effort; only the op below it takes another.
        assert isinstance(self._index, ScaNN)
        assert self._index.layer is not None
        searcher = scann_ops.searcher_from_module(self._index.layer._serialized_searcher)
        found = searcher.search_batched(tf.constant(queries), k, leaves_to_search=effort)
        return tf.where(tf.math.is_nan(found.distances), -1, found.indices).numpy()


SUBJECTS: dict[str, type[OwnSubject]] = {
    subject.name: subject for subject in (OwnBruteForce, OwnScaNN)
}


def _bytes(index: TopK) -> int:
    return sum(
        tensor.dtype.size * int(tf.size(tensor))
        for tensor in index.state().values()
        if tensor.dtype != tf.string
    )


def main(folder: str, name: str) -> None:
    """Measures one index in this process."""
    threads = harness.Job.load(Path(folder)).threads
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    harness.main(folder, SUBJECTS[name](threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
