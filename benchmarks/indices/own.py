"""The indices of `sid_tfx.retrieval`: `python -m benchmarks.indices.own FOLDER SUBJECT`.

They are timed as they serve: exported, then loaded and called as the model server does. A direct
call of a `tf.function` adds about 0.3 ms of Python, which no request pays.
"""

from __future__ import annotations

import abc
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.indices import harness
from benchmarks.indices.loaded import SIGNATURE, load
from sid_tfx.retrieval import BruteForce, Partitioned, Queries, ScaNN, TopK
from sid_tfx.retrieval.tuning import TUNERS

Search = Callable[[tf.Tensor], Any]
_TUNING_QUERIES = 512


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


class OwnSubject(harness.Subject, abc.ABC):
    """What our indices share: built once, searched with any effort, timed through `Served`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._index: TopK | None = None
        self._served: Served | None = None
        self._settled: tuple[int, int] | None = None
        self._trial: tuple[int, Search] | None = None

    @abc.abstractmethod
    def make(self, vectors: np.ndarray) -> TopK:
        """Builds the index and sets `efforts`."""

    @abc.abstractmethod
    def at(self, effort: int) -> TopK:
        """The index, searched with this effort."""

    def build(self, vectors: np.ndarray) -> None:
        self._dimensions = vectors.shape[1]
        self._trial = self._settled = None
        self._index = self.make(vectors)

    def settle(self, effort: int, k: int) -> None:
        if self._settled == (effort, k):
            return
        if self._served is not None:
            self._served.close()
        self._served = Served(self.at(effort), k, self._dimensions, self._threads)
        self._settled = (effort, k)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        if self._settled == (effort, k) and self._served is not None:
            return self._served(queries)
        if self._trial is None or self._trial[0] != effort:
            index = self.at(effort)
            self._trial = effort, tf.function(lambda vectors: index(vectors, k)[1])
        return self._trial[1](tf.constant(queries)).numpy()

    def serving_mb(self, before: float) -> float:
        # Built ScaNN searchers stay in the process for good, so a fresh one loads the index alone,
        # after a tiny one that pays for what TensorFlow and ScaNN take at their first use.
        assert self._served is not None
        tiny = type(self)(self._threads)
        tiny.build(np.eye(64, self._dimensions, dtype=np.float32) + np.float32(0.01))
        tiny.settle(tiny.efforts[-1], 1)
        assert tiny._served is not None
        paths = [str(tiny._served.path), str(self._served.path)]
        command = [sys.executable, "-m", "benchmarks.indices.loaded", str(self._threads), *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        tiny._served.close()
        return float(done.stdout)

    def index_bytes(self) -> int:
        assert self._index is not None
        return sum(
            tensor.dtype.size * int(tf.size(tensor))
            for tensor in self._index.state().values()
            if tensor.dtype != tf.string
        )


class OwnBruteForce(OwnSubject):
    """Exact search, in core TensorFlow ops."""

    name = "brute_force"

    def make(self, vectors: np.ndarray) -> BruteForce:
        index = BruteForce()
        index.index(vectors)
        return index

    def at(self, effort: int) -> TopK:
        assert self._index is not None
        return self._index


class OwnTuned(OwnSubject, abc.ABC):
    """An approximate index as the pipeline tunes it, for each recall.

    The queries of the tuning are held out of the vectors: those of the benchmark it never sees.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._plans: dict[float, dict[str, Any]] = {}
        self._config: dict[str, Any] = {"k": 1, "max_k": 2}

    def tune(self, vectors: np.ndarray, k: int, targets: Sequence[float]) -> None:
        order = np.random.default_rng(0).permutation(len(vectors))
        count = min(_TUNING_QUERIES, len(vectors) // 10)
        searched = vectors[np.sort(order[count:])]
        exact = BruteForce(k)
        exact.index(searched)
        queries = Queries.of_vectors(exact, vectors[order[:count]], k)
        tuner = TUNERS[self.name](searched, queries, 2 * k, "dot_product")
        self._plans = {target: tuner.tuned(target).best.index.get_config() for target in targets}

    def plan(self, target: float) -> Hashable:
        self._config = self._plans[target]
        return tuple(self._config.items())


class OwnPartitioned(OwnTuned):
    """The portable index in core TensorFlow ops; the effort is the partitions read."""

    name = "partitioned"

    def make(self, vectors: np.ndarray) -> Partitioned:
        index = Partitioned(**self._config)
        index.index(vectors)
        steps = harness.geometric(index.partitions)
        self.efforts = [step for step in steps if step >= index.least_read]
        return index

    def at(self, effort: int) -> TopK:
        assert isinstance(self._index, Partitioned)
        return self._index.retuned(effort)


class OwnScaNN(OwnTuned):
    """ScaNN; the effort is the partitions read."""

    name = "scann"

    def make(self, vectors: np.ndarray) -> ScaNN:
        index = ScaNN(**self._config)
        index.index(vectors)
        self.efforts = harness.geometric(index.get_config()["num_leaves"])
        return index

    def at(self, effort: int) -> TopK:
        assert isinstance(self._index, ScaNN)
        return self._index.retuned(effort, self._index.get_config()["num_reordering_candidates"])


SUBJECTS: dict[str, type[OwnSubject]] = {
    subject.name: subject for subject in (OwnBruteForce, OwnPartitioned, OwnScaNN)
}


def main(folder: str, name: str) -> None:
    """Measures one index in this process."""
    threads = harness.Job.load(Path(folder)).threads
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    harness.main(folder, SUBJECTS[name](threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
