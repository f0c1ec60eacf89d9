"""Generated ads, encoded to Parquet: `python -m benchmarks.peers.stream ROWS FOLDER THREADS`.

A process of its own, so that its peak memory is that of the encoding.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sid_tfx.encoding import encode_to_parquet
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.tokenizer import SidTokenizer

_COLUMN = "text_embedding"
_DIMENSIONS = 384
_BATCH_ROWS = 2048


def batches(rows: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Ads made when they are asked for."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, _BATCH_ROWS):
        count = min(_BATCH_ROWS, rows - start)
        yield {
            "ad_id": np.char.add("ad", np.arange(start, start + count).astype(str)),
            _COLUMN: rng.random((count, _DIMENSIONS), dtype=np.float32) - 0.5,
        }


def main(rows: int, folder: Path, threads: int) -> None:
    """Encodes `rows` ads and says how fast, and how much memory the process took at most."""
    schema = AdSchema(dense={_COLUMN: _DIMENSIONS})
    tokenizer = SidTokenizer.from_preset("rq_vae", schema, FeatureSizes())
    tokenizer.initialize(next(batches(_BATCH_ROWS, seed=1)))
    begin = time.perf_counter()
    files = encode_to_parquet(tokenizer, batches(rows, seed=0), folder, threads=threads)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"seconds": seconds, "peak_rss_mb": round(peak, 1), "files": len(files)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
