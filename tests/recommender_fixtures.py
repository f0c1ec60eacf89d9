"""A small catalogue, and users who mostly go from an ad to the one that follows it."""

import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.sequences import Sequences, leave_one_out
from sid_tfx.datasets.successors import SuccessorTable

ADS = 60
SMALL = {
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_size": 64,
    "head_size": 32,
    "max_history": 12,
    "dropout": 0.0,
    "item_dropout": 0.0,
}


def make_catalog():
    rng = np.random.default_rng(0)
    ids = [f"ad{i:03d}" for i in range(ADS)]
    return SidCatalog.build(
        ids, rng.integers(0, 6, (ADS, 2)), rng.normal(size=(ADS, 8)), 6, max_dedup=8
    )


def random_successors(ads):
    """What followed which ad in a made-up log."""
    rows = np.random.default_rng(7).integers(0, ads, 4 * ads).astype(np.int32)
    log = Sequences(np.arange(0, len(rows) + 1, 4), rows, np.arange(len(rows)))
    return SuccessorTable.count(log, ads, most=3)


def walks(users=400, length=9, seed=0):
    """Every ad has one successor, followed nine times out of ten: something plain to learn."""
    rng = np.random.default_rng(seed)
    after = np.random.default_rng(99).permutation(ADS)
    rows = np.empty((users, length), int)
    rows[:, 0] = rng.integers(0, ADS, users)
    for t in range(1, length):
        jump = rng.random(users) < 0.1
        rows[:, t] = np.where(jump, rng.integers(0, ADS, users), after[rows[:, t - 1]])
    user = np.repeat([f"u{i:04d}" for i in range(users)], length)
    return leave_one_out(user, rows.ravel(), np.tile(np.arange(length), users)), after
