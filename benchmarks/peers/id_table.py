"""Memory of the tables that turn ad ids into rows and back.

`python -m benchmarks.peers.id_table N` prints it for N ads, from a process of its own: a Python
process does not give back all that it has used.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tensorflow as tf

from benchmarks.indices.harness import resident_mb
from sid_tfx.export.id_table import IdTable


def ids(ads: int) -> np.ndarray:
    """Ids of ten characters."""
    return np.char.add("ad", np.char.zfill(np.arange(ads).astype(str), 8))


def main(ads: int) -> None:
    """Prints bytes an ad, in memory and as the asset file."""
    warm = IdTable(ids(8))
    warm.rows(tf.constant(["ad00000003"]))
    names = ids(ads)
    before = resident_mb()
    table = IdTable(names)
    table.rows(tf.constant(["ad00000003"]))
    grown = resident_mb() - before
    size = tf.io.gfile.stat(table.asset.asset_path.numpy().decode()).length
    print(json.dumps({"memory": 1e6 * grown / ads, "file": size / ads}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
