"""faiss-cpu's indices: `python -m benchmarks.indices.faiss_peers FOLDER SUBJECT`."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import faiss
import numpy as np

from benchmarks.indices import harness

_RESULTS = 10
_REORDERED_PER_RESULT = (5, 10, 20, 50, 100)
# Scanning the code of a vector costs about this share of scoring it exactly.
_SCAN_SHARE = 1 / 16


class FaissHnsw(harness.Subject):
    """A navigable graph of 32 links over the vectors; the effort is `efSearch`."""

    name = "faiss_hnsw"
    efforts = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def build(self, vectors: np.ndarray) -> None:
        self._index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = 200
        self._index.add(vectors)
        faiss.omp_set_num_threads(self._threads)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._index.hnsw.efSearch = effort
        return self._index.search(queries, k)[1]

    def index_bytes(self) -> int:
        return len(faiss.serialize_index(self._index))


class FaissIvfPq(harness.Subject):
    """Partitions, 4-bit codes of 2 dimensions each scanned in registers, then exact reordering.

    The same plan as ScaNN's. The effort is a pair of `nprobe` and the candidates reordered for each
    result, those that scan and reorder least first: with few reordered it is fast, but stops short
    of a high recall over many vectors.
    """

    name = "faiss_ivf_pq"

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def build(self, vectors: np.ndarray) -> None:
        rows, width = vectors.shape
        # faiss asks for 39 training vectors a partition.
        lists = max(1, min(4 * math.isqrt(rows), rows // 39))
        blocks = width // 2 if width % 2 == 0 else width
        self._index = faiss.index_factory(
            width, f"IVF{lists},PQ{blocks}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT
        )
        self._index.train(vectors)
        self._index.add(vectors)
        self._inverted = faiss.downcast_index(self._index.base_index)

        def cost(pair: tuple[int, int]) -> float:
            return pair[0] * rows / lists * _SCAN_SHARE + pair[1] * _RESULTS

        pairs = itertools.product(harness.geometric(lists), _REORDERED_PER_RESULT)
        self._pairs = sorted(pairs, key=cost)
        self.efforts = range(len(self._pairs))
        faiss.omp_set_num_threads(self._threads)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._inverted.nprobe, self._index.k_factor = self._pairs[effort]
        return self._index.search(queries, k)[1]

    def index_bytes(self) -> int:
        return len(faiss.serialize_index(self._index))


SUBJECTS = {subject.name: subject for subject in (FaissHnsw, FaissIvfPq)}

if __name__ == "__main__":
    folder, subject = sys.argv[1:]
    harness.main(folder, SUBJECTS[subject](harness.Job.load(Path(folder)).threads))
