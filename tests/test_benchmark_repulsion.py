"""The benchmark of HaMR at toy sizes: both forms are the same loss, and what it reports."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import repulsion

pytestmark = pytest.mark.unit


def test_both_forms_are_the_same_loss_on_the_batches_timed():
    shape = repulsion.Shape(64, 4, 3, 256, near_share=0.5, radius=1)
    for batch in repulsion.draw(shape, seed=1)[:2]:
        values = [float(repulsion.make(form, 1)(*batch)) for form in ("pairwise", "ours")]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
        assert values[0] > 0


def test_the_drawn_share_of_rows_has_a_near_one():
    shape = repulsion.Shape(512, 4, 3, 256, near_share=0.4, radius=1)
    codes = repulsion.draw(shape, seed=0)[0][1].numpy()
    differing = (codes[:, None] != codes[None]).sum(-1)
    np.fill_diagonal(differing, 3)
    assert (differing <= 1).any(1).mean() == pytest.approx(0.4, abs=0.03)


@pytest.mark.slow
def test_it_reports_loss_and_step_of_every_form(tmp_path):
    path = tmp_path / "repulsion.json"
    arguments = ["--rows", "16", "--dim", "4", "--codebook-size", "8", "--repeats", "1"]
    arguments += ["--near-share", "0.5", "--near-share", "1.0", "--json", str(path)]
    done = CliRunner().invoke(repulsion.main, arguments)
    assert done.exit_code == 0, done.output
    assert "times that without repulsion" in done.output
    records = json.loads(path.read_text())
    found = [(record["task"], record["subject"]) for record in records]
    assert found == 2 * [
        ("loss", "pairwise"), ("loss", "ours"), ("step", "none"), ("step", "pairwise"),
        ("step", "ours"),
    ]  # fmt: skip
    assert all(record["median_ms"] > 0 for record in records)
    assert records[3]["ratio_to_pairwise"] == records[2]["ratio_to_none"] == 1.0
