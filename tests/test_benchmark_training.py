"""The training benchmark on a few histories: every subject, the same targets."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import training

pytestmark = pytest.mark.slow


def test_training(tmp_path):
    file = tmp_path / "t.json"
    sizes = ("--ads", 50, "--users", 20, "--mean-length", 5, "--repeats", 1)
    shape = ("--hidden-size", 8, "--num-layers", 1, "--codebook-size", 8)
    asked = [str(argument) for argument in (*sizes, *shape, "--json", file)]
    done = CliRunner().invoke(training.main, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert "Training on" in done.output
    records = json.loads(file.read_text())
    assert [record["subject"] for record in records] == [s.name for s in training.SUBJECTS]
    assert records[-1]["ratio_to_tiger"] == 1
    for record in records:
        assert record["positions_per_second"] == pytest.approx(
            record["targets"] / record["epoch_seconds"], rel=0.01
        )
    # One target per example takes as many examples as there are targets, each a history.
    batches = training.TargetBatches(training.log(20, 50, 5, 0), 50, 2048)
    assert sum(len(batches[i][1]) for i in range(len(batches))) == records[0]["targets"]
