"""Cells: what belongs to a key, which rows there are, how records are kept and found again."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline import compare_tokenizers
from pipeline.compare_tokenizers import Comparison, compare, report_cells, train_cells
from pipeline.comparison import cells, process, records
from pipeline.comparison.budget import Budget
from pipeline.comparison.cells import Variant, choose_variants, make_cell, shared_spec, table_of
from pipeline.comparison.process import CellFailed, run_job
from pipeline.comparison.records import FinishedCell, UnreadableCell, load_cell, save_cell
from pipeline.comparison.report import FIGURES, PER_LEVEL
from pipeline.config import ConfigError
from sid_tfx.datasets.market import write_sample

pytestmark = pytest.mark.unit

SHARED = shared_spec("data", Budget(), 3, 256)


def finish(cell, seed_of_ranks=0):
    """What a trained cell would leave, without training."""
    rng = np.random.default_rng([seed_of_ranks, cell.seed])
    record = {
        "dataset": "market", "preset": cell.variant.preset, "ablation": cell.variant.ablation,
        "seed": cell.seed, "levels": 3, "codebook_size": 256, "users": 50, "cores": 2,
        **{name: float(rng.random()) for name in FIGURES},
        **{name: rng.random(3).tolist() for name in PER_LEVEL},
    }  # fmt: skip
    ranks = {name: rng.integers(0, 11, 50).astype(np.uint8) for name in records.RANKS}
    return FinishedCell(cell.key, cell.spec, "source", record, ranks)


def test_key_changes_with_whatever_the_figures_depend_on(monkeypatch):
    plain = make_cell(Variant("rq_vae"), 0, SHARED)
    others = [
        make_cell(Variant("rq_vae"), 1, SHARED),
        make_cell(Variant("rq_vae", "+hamr"), 0, SHARED),
        make_cell(Variant("rq_vae"), 0, shared_spec("other data", Budget(), 3, 256)),
        make_cell(Variant("rq_vae"), 0, shared_spec("data", Budget(epochs=3), 3, 256)),
        make_cell(Variant("rq_vae"), 0, shared_spec("data", Budget(), 4, 256)),
        make_cell(Variant("rq_vae"), 0, shared_spec("data", Budget(), 3, 128)),
    ]
    changed = dataclasses.replace(cells.PRESETS["rq_vae"], learning_rate=7e-4)
    monkeypatch.setitem(cells.PRESETS, "rq_vae", changed)
    others.append(make_cell(Variant("rq_vae"), 0, SHARED))
    assert len({cell.key for cell in [plain, *others]}) == 8
    monkeypatch.undo()
    assert make_cell(Variant("rq_vae"), 0, SHARED).key == plain.key
    assert plain.spec == json.loads(json.dumps(plain.spec))


def test_cells_of_one_table_differ_in_preset_and_seed_only():
    same = {table_of(make_cell(Variant(name), seed, SHARED).spec)
            for name in ("joint", "rq_vae") for seed in (0, 1)}  # fmt: skip
    other = table_of(make_cell(Variant("joint"), 0, shared_spec("else", Budget(), 3, 256)).spec)
    assert len(same) == 1
    assert other not in same


def test_ablations_take_away_what_the_preset_has():
    joint = [v.label for v in choose_variants(["joint"], ablate=True)]
    assert joint == [
        "joint", "joint-hamr", "joint-cvpm", "joint-dual_tower", "joint-multi_granularity",
        "joint-summary",
    ]  # fmt: skip
    quasid = [v.label for v in choose_variants(["rq_kmeans", "quasid"], ablate=True)]
    assert quasid == ["quasid", "quasid-hamr", "quasid-cvpm", "quasid-dual_tower", "rq_kmeans"]
    assert Variant("joint", "-hamr").overrides() == {"repulsion": False}
    assert Variant("joint", "-cvpm").overrides() == {"mask_conflicts": False}
    assert Variant("joint", "-summary").overrides() == {"loss_weights": {"summary": 0.0}}


def test_repulsion_comes_beside_the_plain_row():
    labels = [v.label for v in choose_variants(["joint"], with_repulsion=["rq_vae", "rq_opq"])]
    assert labels == ["joint", "rq_vae", "rq_vae+hamr", "rq_opq", "rq_opq+hamr"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"presets": ["rqvae"]}, ["rqvae", "rq_vae, "]),
        ({"presets": []}, ["--presets names none"]),
        ({"presets": [], "with_repulsion": ["rq_kmeans"]}, ["rq_kmeans", "gradients"]),
        ({"presets": [], "with_repulsion": ["quasid"]}, ["quasid has HaMR already"]),
        ({"presets": ["rq_vae"], "ablate": True}, ["--ablate", "joint, quasid"]),
    ],
)
def test_rows_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ConfigError) as caught:
        choose_variants(**arguments)
    assert all(word in str(caught.value) for word in words)


def test_budget_settings():
    budget = Budget().override(["epochs=2", "learning_rate=1e-3", "catalog_softmax=false"])
    assert (budget.epochs, budget.learning_rate) == (2, 1e-3)
    assert budget.recommender_arguments()["catalog_softmax"] is False
    arguments = budget.recommender_arguments()
    assert arguments["id_embedding"] is False
    assert arguments["dense_loss_weight"] == 0.0
    wrong = {"epoch=2": "'epoch'", "epochs=x": "'x'", "epochs=-1": "negative", "epochs=1.5": "int"}
    for setting, word in wrong.items():
        with pytest.raises(ConfigError, match=word):
            Budget().override([setting])


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=40))
def test_a_cell_comes_back_as_it_was_saved(tmp_path_factory, ranks):
    base = tmp_path_factory.mktemp("cells") / "rq_vae+hamr-L3-K256-seed0"
    cell = finish(make_cell(Variant("rq_vae", "+hamr"), 0, SHARED))
    cell.ranks["test"] = np.array(ranks, np.uint8)
    save_cell(cell, base)
    found = load_cell(base)
    assert (found.key, found.spec, found.record) == (cell.key, cell.spec, cell.record)
    assert {name: values.tolist() for name, values in found.ranks.items()} == {
        name: values.tolist() for name, values in cell.ranks.items()
    }
    assert found.ranks["test"].dtype == np.uint8
    assert sorted(path.suffix for path in base.parent.iterdir()) == [".json", ".npz"]


@pytest.mark.parametrize("damage", ["json cut", "npz cut", "npz gone", "key gone"])
def test_damage_is_seen(tmp_path, damage):
    base = tmp_path / "cell"
    assert load_cell(base) is None
    save_cell(finish(make_cell(Variant("joint"), 0, SHARED)), base)
    as_json, as_npz = tmp_path / "cell.json", tmp_path / "cell.npz"
    if damage == "json cut":
        as_json.write_text(as_json.read_text()[:50])
    elif damage == "npz cut":
        as_npz.write_bytes(as_npz.read_bytes()[:-3])
    elif damage == "npz gone":
        as_npz.unlink()
    else:
        as_json.write_text(json.dumps({"spec": {}}))
    with pytest.raises(UnreadableCell, match=r"cell\.(json|npz)"):
        load_cell(base)


class Trainer:
    """Stands in for the process of a cell: leaves a record at once, or fails."""

    def __init__(self, monkeypatch):
        self.trained = []
        self.cores = []
        self.fails = set()
        monkeypatch.setattr(compare_tokenizers, "run_job", self)
        monkeypatch.setattr(compare_tokenizers, "check_presets", lambda *_: None)

    def __call__(self, job, log, memory_limit_mb, cores):
        self.cores.append(cores)
        spec = job["spec"]
        cell = cells.Cell(Variant(spec["preset"], spec["ablation"]), spec["seed"], spec)
        self.trained.append(cell.stem)
        if cell.stem in self.fails:
            raise CellFailed(f"exit code 1; log: {log}\n  ValueError: no luck")
        save_cell(finish(cell), compare_tokenizers.Path(job["out"]))


@pytest.fixture
def trainer(monkeypatch):
    return Trainer(monkeypatch)


@pytest.fixture
def compared(trainer, tmp_path):
    """Trains rows of `rq_vae` and `rq_kmeans`, two seeds, and tells what was printed."""
    comparison = Comparison("market", tmp_path / "results", reference="rq_vae")

    def train(shared=SHARED, jobs=1):
        console = Console(record=True, width=200)
        todo = [make_cell(Variant(name), seed, shared)
                for seed in (0, 1) for name in ("rq_vae", "rq_kmeans")]  # fmt: skip
        trainer.trained = []
        paths = tmp_path / "ads.parquet", tmp_path / "events.parquet"
        failed = train_cells(comparison, console, todo, *paths, 6.0, jobs)
        return failed, console.export_text()

    train.comparison = comparison
    return train


def test_a_second_run_trains_nothing(compared, trainer):
    failed, text = compared()
    assert failed == []
    assert len(trainer.trained) == 4
    assert "[4/4] rq_kmeans seed 1" in text
    failed, text = compared()
    assert trainer.trained == []
    assert text.count("kept") == 4


def test_cells_that_train_at_once_have_cores_of_their_own(compared, trainer):
    cores = sorted(os.sched_getaffinity(0))
    failed, _ = compared(jobs=len(cores))
    assert failed == []
    assert sorted(trainer.trained) == sorted(set(trainer.trained))
    assert len(trainer.trained) == 4
    assert all(share in [[core] for core in cores] for share in trainer.cores)
    with pytest.raises(ConfigError, match=rf"--jobs must be in \[1, {len(cores)}\]"):
        compared(jobs=len(cores) + 1, shared={**SHARED, "levels": 4})


def test_damaged_and_stale_cells_are_trained_again(compared, trainer):
    compared()
    base = compared.comparison.base("rq_vae-L3-K256-seed1")
    base.with_name(base.name + ".npz").write_bytes(b"nothing")
    _, text = compared()
    assert trainer.trained == ["rq_vae-L3-K256-seed1"]
    assert "training again" in text
    _, text = compared(shared_spec("data", Budget(epochs=3), 3, 256))
    assert len(trainer.trained) == 4
    assert "stale (budget changed)" in text


def test_a_failed_cell_does_not_stop_the_others(compared, trainer):
    trainer.fails = {"rq_vae-L3-K256-seed0"}
    failed, text = compared()
    assert failed == ["rq_vae-L3-K256-seed0"]
    assert len(trainer.trained) == 4
    assert "no luck" in text
    trainer.fails = set()
    assert compared()[0] == []
    assert trainer.trained == ["rq_vae-L3-K256-seed0"]


def test_report_leaves_out_what_does_not_belong(compared, trainer, monkeypatch):
    compared()
    stranger = make_cell(Variant("joint"), 0, shared_spec("other", Budget(), 3, 256))
    save_cell(finish(stranger), compared.comparison.base(stranger.stem))
    changed = dataclasses.replace(cells.PRESETS["rq_kmeans"], batch_pairs=99)
    monkeypatch.setitem(cells.PRESETS, "rq_kmeans", changed)
    console = Console(record=True, width=200)
    shown = report_cells(compared.comparison, console)
    assert [(record["preset"], record["seed"]) for record in shown] == [
        ("rq_vae", 0),
        ("rq_vae", 1),
    ]
    text = console.export_text()
    assert "rq_kmeans seed 0 is stale" in text
    assert "joint seed 0 has other data or another budget" in text
    names = {path.name for path in compared.comparison.results.iterdir()}
    assert {"tokenizers-L3-K256.md", "tokenizers-L3-K256.png"} <= names


def test_a_record_whose_figures_mean_something_else_is_left_out(compared, monkeypatch):
    compared()
    monkeypatch.setattr(compare_tokenizers, "FORMAT", cells.FORMAT + 1)
    with pytest.raises(ConfigError, match="no finished cell"):
        report_cells(compared.comparison, Console())


def test_what_changed_is_named_where_a_setting_is_gone_too():
    assert cells.why_stale({"a": 1, "backend": "jax"}, {"a": 1}).startswith("stale (backend ")


def test_a_reference_that_is_no_row_is_refused(compared):
    compared()
    comparison = dataclasses.replace(compared.comparison, reference="rqvae")
    with pytest.raises(ConfigError, match="'rqvae' is no row of the table; it has rq_vae, rq_km"):
        report_cells(comparison, Console())


def test_the_footnote_names_the_cores_of_all_cells(compared):
    compared()
    base = compared.comparison.base("rq_vae-L3-K256-seed1")
    cell = load_cell(base)
    save_cell(dataclasses.replace(cell, record={**cell.record, "cores": 1}), base)
    report_cells(compared.comparison, Console(record=True, width=200))
    page = compared.comparison.results / "tokenizers-L3-K256.md"
    assert "seconds are on 1 or 2 core(s)." in page.read_text()


def test_report_without_records_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="without --only-report"):
        report_cells(Comparison("market", tmp_path), Console())


def test_a_process_that_fails_shows_its_last_lines(tmp_path):
    with pytest.raises(CellFailed, match=r"exit code 1; log: .*cell\.log\n  .*no.such.module"):
        run_job({}, tmp_path / "cell.log", 6000, [0], module="no.such.module")


def test_a_process_over_its_memory_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_POLL_SECONDS", 0.005)
    with pytest.raises(CellFailed, match="memory-limit-gb"):
        run_job({}, tmp_path / "cell.log", 0.001, [0], module="http.server")


def options(**given):
    return {
        "ads": None, "events": None, "presets": "joint", "seeds": 1, "levels": 3,
        "codebook_size": 16, "jobs": 1, "ablate": False, "with_repulsion": "", "reference": "joint",
        "budget_settings": (), "name": "", "results": None, "memory_limit_gb": 6.0,
        "only_report": False, **given,
    }  # fmt: skip


def test_what_cannot_be_trained_is_refused_before_training(tmp_path):
    ads, events = write_sample(tmp_path, ads=40, users=20)
    given = {"ads": ads, "events": events, "results": tmp_path / "results"}
    for change, words in (
        ({"events": None}, ["--ads", "--events"]),
        ({"presets": ["joint", "rqvae"]}, ["no preset 'rqvae'"]),
        ({"presets": ["joint"], "budget_settings": ["hidden_size=65"]}, ["--budget", "num_heads"]),
        ({"presets": ["joint"], "reference": "quasid"}, ["'quasid' is no row"]),
        # The market has no vectors for these to quantize; the joint one needs none.
        ({"presets": ["joint", "rq_vae", "quasid"]}, ["rq_vae: ", "quasid: ", "embedding"]),
    ):
        with pytest.raises(ConfigError) as caught:
            compare(Console(), **options(**{**given, **change}))
        assert all(word in str(caught.value) for word in words)
        assert "joint: " not in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent ended")
def test_a_killed_command_leaves_no_training_behind():
    child = (
        "import os, time; from pipeline.comparison.process import end_with_parent; "
        "end_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    training = psutil.Process(int(process.stdout.readline()))
    process.terminate()
    process.wait()
    training.wait(10)
    assert not training.is_running()


def test_a_training_whose_command_was_killed_before_it_began_does_not_begin():
    child = "from pipeline.comparison.process import end_with_parent; end_with_parent(); print(1)"
    environment = {**os.environ, "SID_TFX_CELL_PARENT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", child], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "is gone" in done.stderr
