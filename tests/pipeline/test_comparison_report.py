"""Tables of a comparison from hand-made cells, against a NumPy oracle."""

import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.comparison import report, tables
from pipeline.comparison.cells import Variant
from pipeline.comparison.picture import draw
from pipeline.comparison.records import FinishedCell
from sid_tfx.evaluation import bootstrap_mean
from sid_tfx.metrics.ranking import ndcg_at

pytestmark = pytest.mark.unit

USERS = 400
ROWS = [Variant("joint"), Variant("rq_vae"), Variant("rq_vae", "+hamr"), Variant("rq_kmeans")]


def cell(variant, seed, worst=30, levels=2):
    rng = np.random.default_rng([seed, worst])
    ranks = rng.integers(0, worst, USERS)
    ranks = np.where(ranks > 10, 0, ranks).astype(np.uint8)
    record = {
        "dataset": "market", "preset": variant.preset, "ablation": variant.ablation, "seed": seed,
        "levels": levels, "codebook_size": 8, "users": USERS, "cores": 2,
        **{name: float(rng.random()) for name in report.FIGURES},
        **{name: rng.random(levels).tolist() for name in report.PER_LEVEL},
        "ndcg@10": float(ndcg_at(ranks, 10).mean()),
    }  # fmt: skip
    names = ("test", "test_sid", "validation", "validation_sid")
    return FinishedCell("key", {"budget": {}}, "source", record, dict.fromkeys(names, ranks))


@pytest.fixture
def cells():
    return [
        cell(variant, seed, worst)
        for variant, worst in zip(ROWS, (12, 30, 20, 40), strict=True)
        for seed in (2, 0, 1)
    ]


def test_rows_hold_mean_and_deviation_over_seeds(cells):
    rows = report.summarize(report.by_variant(cells))
    assert [row["row"] for row in rows] == [
        variant.label for variant in report.in_order(reversed(ROWS))
    ]
    for row in rows:
        mine = [c.record for c in cells if c.record["preset"] + c.record["ablation"] == row["row"]]
        assert row["seeds"] == 3
        values = [record["ndcg@10"] for record in mine]
        assert row["ndcg@10_mean"] == pytest.approx(np.mean(values))
        assert row["ndcg@10_std"] == pytest.approx(np.std(values, ddof=1))
        second = [record["v_measure"][1] for record in mine]
        assert row["v_measure_2_mean"] == pytest.approx(np.mean(second))
        assert "v_measure_3_mean" not in row


def test_one_seed_has_no_deviation():
    (row,) = report.summarize(report.by_variant([cell(ROWS[0], 0)]))
    assert row["ndcg@10_std"] is None
    titles, ((*_, line),) = tables.cells_of([row])[0], [tables.cells_of([row])[1][0]]
    assert titles[:2] == ["preset", "seeds"]
    assert "±" not in line


def test_without_categories_there_is_no_v_measure():
    plain = cell(ROWS[0], 0)
    plain.record["v_measure"] = []
    (row,) = report.summarize(report.by_variant([plain]))
    assert not any("v_measure" in name for name in row)
    assert not any("V-measure" in title for title in tables.cells_of([row])[0])


def test_differences_average_seeds_then_resample_users(cells):
    groups = report.by_variant(cells)
    found = {(row["first"], row["second"]): row for row in report.differences(groups, "joint")}
    assert set(found) == {
        ("joint", "rq_vae"),
        ("joint", "rq_vae+hamr"),
        ("joint", "rq_kmeans"),
        ("rq_vae+hamr", "rq_vae"),
    }
    values = {
        variant: np.mean([ndcg_at(c.ranks["test"].astype(int), 10) for c in group], axis=0)
        for variant, group in groups.items()
    }
    difference = values[Variant("joint")] - values[Variant("rq_vae")]
    row = found["joint", "rq_vae"]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["relative"] == pytest.approx(difference.mean() / values[Variant("rq_vae")].mean())
    # Resampling users one by one gives the same interval, but for the luck of the draws.
    rng = np.random.default_rng(1)
    means = difference[rng.integers(0, USERS, (4000, USERS))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert row["low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert row["high"] == pytest.approx(high, abs=0.1 * (high - low))
    assert (row["first_seeds"], row["second_seeds"], row["users"]) == (3, 3, USERS)


def test_an_absent_reference_leaves_the_plug_in_rows(cells):
    rows = report.differences(report.by_variant(cells), "unisid")
    assert [(row["first"], row["second"]) for row in rows] == [("rq_vae+hamr", "rq_vae")]


def test_bootstrap_in_blocks_is_the_bootstrap_at_once(monkeypatch):
    differences = np.random.default_rng(0).normal(0.1, 1, 500)
    whole = bootstrap_mean(differences, resamples=200)
    monkeypatch.setattr("sid_tfx.evaluation.bootstrap._DRAWS", 3_000)
    assert bootstrap_mean(differences, resamples=200) == whole
    assert whole["low"] < whole["difference"] < whole["high"]


def test_files_say_what_the_rows_say(cells, tmp_path):
    groups = report.by_variant(cells)
    rows, compared = report.summarize(groups), report.differences(groups, "joint")
    paths = tables.write_tables(tmp_path / "t-L2-K8", "Market", rows, compared, ["A note."])
    assert sorted(path.name for path in paths) == [
        "t-L2-K8-differences.csv",
        "t-L2-K8-differences.json",
        "t-L2-K8.csv",
        "t-L2-K8.json",
        "t-L2-K8.md",
    ]
    assert json.loads((tmp_path / "t-L2-K8.json").read_text()) == rows
    frame = pd.read_csv(tmp_path / "t-L2-K8.csv")
    assert frame["ndcg@10_mean"].tolist() == pytest.approx([row["ndcg@10_mean"] for row in rows])
    page = (tmp_path / "t-L2-K8.md").read_text()
    assert page.startswith("# Market\n\n| preset | seeds | collisions |")
    assert page.endswith("A note.\n")
    first = rows[0]
    printed = f"{first['ndcg@10_mean']:.4f} ± {first['ndcg@10_std']:.4f}"
    assert f"| {printed} |" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows) + 2 + len(compared)
    assert len({line.count("|") for line in lines[: 2 + len(rows)]}) == 1


def test_terminal_shows_every_row(cells):
    groups = report.by_variant(cells)
    console = Console(width=240, record=True)
    tables.print_tables(console, "Market", report.summarize(groups), [])
    text = console.export_text()
    assert all(variant.label in text for variant in ROWS)


def test_picture_labels_do_not_overlap(cells, tmp_path):
    rows = report.summarize(report.by_variant(cells))
    for row in rows:
        row["collision_share_mean"] = 0.01
    draw(rows, "Market", tmp_path / "p.svg")
    svg = (tmp_path / "p.svg").read_text()
    assert all(f"<!-- {row['row']} -->" in svg for row in rows)
