"""What the terminal shows at the end of a run."""

import io

import pytest
from rich.console import Console

from pipeline.console import metrics_table, print_outcome
from pipeline.run import Summary
from sid_tfx.retrieval import FLAVOURS

pytestmark = pytest.mark.unit


def test_an_interval_stands_in_the_row_of_its_metric():
    metrics = {"recall@10": 0.25, "recall@10_low": 0.2, "recall@10_high": 0.3, "ads": 12}
    output = io.StringIO()
    Console(file=output, width=80).print(metrics_table(metrics))
    lines = output.getvalue().splitlines()
    assert sum("recall@10" in line for line in lines) == 1
    assert any("0.25" in line and "0.2 to 0.3" in line for line in lines)
    assert any("ads" in line and "12" in line for line in lines)


@pytest.mark.parametrize("refusals", [[], ["recall is below the limit"]])
def test_the_curve_of_the_indices_is_named_whether_they_were_pushed_or_refused(refusals):
    summary = Summary(
        stages=[],
        total_seconds=1.0,
        peak_rss_mb=1.0,
        metrics={},
        refusals=refusals,
        servables={flavour: f"serving/{flavour}" for flavour in FLAVOURS},
        home="runs/x",
        artifacts={"IndexBuilder.index": "runs/x/index/7"},
    )
    output = io.StringIO()
    print_outcome(Console(file=output, width=200), summary, "--config x.yaml")
    assert "runs/x/index/7/curve.png" in output.getvalue()
    assert ("serving/portable" in output.getvalue()) == (not refusals)
