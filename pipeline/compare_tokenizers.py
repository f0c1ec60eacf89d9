"""Every preset on the same data with the same recommender: cells, then tables and a picture."""

from __future__ import annotations

import collections
import dataclasses
import queue
import time
from collections.abc import Iterable, Sequence
from concurrent import futures
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pipeline.columns import recommender_problem, tokenizer_problem
from pipeline.comparison import records, report, tables
from pipeline.comparison.budget import Budget
from pipeline.comparison.cells import (
    FORMAT,
    Cell,
    Variant,
    choose_variants,
    data_fingerprint,
    make_cell,
    shared_spec,
    table_of,
    why_stale,
)
from pipeline.comparison.data import read_files
from pipeline.comparison.process import CellFailed, core_shares, run_job
from pipeline.comparison.records import FinishedCell, Record, UnreadableCell
from pipeline.config import ConfigError
from pipeline.sample import sample_files
from sid_tfx.presets import PRESETS

RESULTS = Path("benchmarks/results/tokenizers")
_CELLS = "cells"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to compare, on what, and where the results go.

    Args:
        name: What the data is called in the tables.
        results: Folder of this data set's results; cells are kept under `cells`.
        levels: L.
        codebook_size: K.
        reference: Label of the row that is compared with every other.
    """

    name: str
    results: Path
    levels: int = 3
    codebook_size: int = 256
    reference: str = "joint"

    def check_reference(self, variants: Iterable[Variant]) -> None:
        """Refuses a reference that is no row.

        Args:
            variants: The rows.

        Raises:
            ConfigError: There is no such row, and it is not the one that is taken unasked.
        """
        labels = [variant.label for variant in variants]
        if self.reference not in [*labels, Comparison.reference]:
            raise ConfigError(
                f"--reference {self.reference!r} is no row of the table; it has {', '.join(labels)}"
            )

    @property
    def size(self) -> str:
        """L and K as they stand in file names."""
        return f"L{self.levels}-K{self.codebook_size}"

    def base(self, stem: str) -> Path:
        """Where a cell lies, without suffix."""
        return self.results / _CELLS / stem


def compare(
    console: Console,
    *,
    ads: Path | None,
    events: Path | None,
    presets: Sequence[str],
    seeds: int,
    levels: int,
    codebook_size: int,
    ablate: bool,
    with_repulsion: Sequence[str],
    reference: str,
    budget_settings: Sequence[str],
    name: str,
    results: Path | None,
    memory_limit_gb: float,
    jobs: int,
    only_report: bool,
) -> tuple[list[Record], list[str]]:
    """Does what `evaluate tokenizers` asks for; its options are the arguments.

    Returns:
        The records in the tables, and the names of cells that failed.

    Raises:
        ConfigError: An option can't be used.
    """
    if (ads is None) != (events is None):
        raise ConfigError("ads and events belong together: give both --ads and --events")
    name = name or (ads.absolute().parent.name if ads else "sample")
    comparison = Comparison(name, results or RESULTS / name, levels, codebook_size, reference)
    if only_report:
        return report_cells(comparison, console), []
    if ads is None or events is None:
        sample = sample_files(Path("runs/sample"))
        ads, events = sample.ads, sample.events
    budget = Budget().override(budget_settings)
    if problem := recommender_problem(budget.recommender_arguments()):
        raise ConfigError(f"--budget: {problem}")
    variants = choose_variants(presets, ablate, with_repulsion)
    comparison.check_reference(variants)
    shared = shared_spec(data_fingerprint(ads, events), budget, levels, codebook_size)
    cells = [make_cell(variant, seed, shared) for seed in range(seeds) for variant in variants]
    failed = train_cells(comparison, console, cells, ads, events, memory_limit_gb, jobs)
    if len(failed) == len(cells):
        return [], failed
    return report_cells(comparison, console, table_of(shared)), failed


def train_cells(
    comparison: Comparison,
    console: Console,
    cells: Sequence[Cell],
    ads: Path,
    events: Path,
    memory_limit_gb: float,
    jobs: int = 1,
) -> list[str]:
    """Trains every cell that has no record yet, each in a process of its own.

    Args:
        comparison: Where and how.
        console: Gets a line per cell.
        cells: In this order; seed by seed, a table of all rows grows, not row after row.
        ads: The ads.
        events: The event log.
        memory_limit_gb: A cell that holds more is ended.
        jobs: Cells that train at once, each on its share of the cores.

    Returns:
        Names of the cells that failed.

    Raises:
        ConfigError: A row's tokenizer can't be made for these ads.
    """
    reasons = {cell.stem: _why_train(comparison, cell) for cell in cells}
    pending = [cell for cell in cells if reasons[cell.stem]]
    variants = list(dict.fromkeys(cell.variant for cell in pending))
    check_presets(ads, events, variants, comparison)
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for share in core_shares(jobs):
        free.put(share)

    def finish(number: int, cell: Cell) -> bool:
        """Trains a cell where that is to be done; returns whether there is a record."""
        head = f"[{number}/{len(cells)}] {cell.variant.label} seed {cell.seed}"
        reason = reasons[cell.stem]
        if reason is None:
            finished = records.load_cell(comparison.base(cell.stem))
            assert finished is not None
            _print(console, f"{head}: kept; {_figures(finished.record)}")
            return True
        cores = free.get()
        _print(console, f"{head}: {reason} ...")
        begin = time.monotonic()
        try:
            record = _train(comparison, cell, ads, events, memory_limit_gb, cores)
        except CellFailed as error:
            _print(console, f"{head}: FAILED, {error}", "red")
            return False
        finally:
            free.put(cores)
        _print(console, f"{head}: {time.monotonic() - begin:.0f} s; {_figures(record)}")
        return True

    with futures.ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(finish, range(1, len(cells) + 1), cells))
    return [cell.stem for cell, ok in zip(cells, done, strict=True) if not ok]


def check_presets(
    ads: Path, events: Path, variants: Sequence[Variant], comparison: Comparison
) -> None:
    """Makes a small tokenizer of every row, so that a wrong one is known before hours of training.

    Args:
        ads: The ads; their columns say what a tokenizer can read.
        events: The event log.
        variants: The rows.
        comparison: Its L and K.

    Raises:
        ConfigError: A file can't be used, or some rows can't be trained on these columns; the
            message names each.
    """
    if not variants:
        return
    # Imported here: reading the other commands' help must not take TensorFlow.
    from pipeline.comparison.train import with_collaborative

    schema = read_files(ads, events).ads.schema
    problems = []
    for variant in variants:
        collaborative = PRESETS[variant.preset].collaborative
        problem = tokenizer_problem(
            variant.preset,
            with_collaborative(schema) if collaborative else schema,
            {
                "levels": comparison.levels,
                "codebook_size": comparison.codebook_size,
                **variant.overrides(),
            },
        )
        if problem:
            problems.append(f"{variant.label}: {problem}")
    if problems:
        raise ConfigError(
            f"{ads} can't be compared on these rows; leave them out or add what is missing:\n"
            + "\n".join(problems)
        )


def report_cells(
    comparison: Comparison, console: Console, shared_table: str | None = None
) -> list[Record]:
    """Makes the tables and the picture from the records.

    Args:
        comparison: Which records, and where the tables go.
        console: Gets the tables and the paths.
        shared_table: `table_of` the cells to show; None for that of most cells.

    Returns:
        The records in the tables, flat, in the order of the rows.

    Raises:
        ConfigError: There is no record of this L and K.
    """
    found, problems = records.load_cells(comparison.results / _CELLS)
    wanted = (comparison.levels, comparison.codebook_size)
    found = [c for c in found if (c.spec["levels"], c.spec["codebook_size"]) == wanted]
    current = [cell for cell in found if _is_current(cell)]
    problems += [f"{_name(cell)} is stale" for cell in found if not _is_current(cell)]
    if shared_table is None and current:
        shared_table = collections.Counter(table_of(c.spec) for c in current).most_common(1)[0][0]
    shown = [cell for cell in current if table_of(cell.spec) == shared_table]
    problems += [
        f"{_name(cell)} has other data or another budget"
        for cell in current
        if table_of(cell.spec) != shared_table
    ]
    for problem in problems:
        _print(console, f"left out: {problem}", "yellow")
    if not shown:
        raise ConfigError(
            f"{comparison.results / _CELLS} has no finished cell of L = {comparison.levels}, "
            f"K = {comparison.codebook_size} to report; run without --only-report first"
        )
    _write_report(comparison, console, shown)
    return [cell.record for cells in report.by_variant(shown).values() for cell in cells]


def _write_report(comparison: Comparison, console: Console, cells: Sequence[FinishedCell]) -> None:
    from pipeline.comparison.picture import draw

    groups = report.by_variant(cells)
    comparison.check_reference(groups)
    rows = report.summarize(groups)
    compared = report.differences(groups, comparison.reference)
    title = (
        f"Semantic IDs on {comparison.name}, "
        f"L = {comparison.levels}, K = {comparison.codebook_size}"
    )
    base = comparison.results / f"tokenizers-{comparison.size}"
    tables.print_tables(console, title, rows, compared)
    paths = tables.write_tables(base, title, rows, compared, _notes(cells, compared))
    picture = base.with_name(f"{base.name}.png")
    draw(rows, title, picture)
    for path in [*paths, picture]:
        _print(console, str(path))


def _notes(cells: Sequence[FinishedCell], compared: Sequence[report.Row]) -> list[str]:
    budget = ", ".join(f"{name} {value}" for name, value in cells[0].spec["budget"].items())
    users = cells[0].record["users"]
    cores = " or ".join(str(cores) for cores in sorted({c.record["cores"] for c in cells}))
    notes = [
        "Mean ± standard deviation over seeds. Codes before de-dup; leave-one-out, every ad "
        f"ranked, plain, {users:,} test users. Item level unless a column says SID. "
        f"Peak memory is the whole cell's, seconds are on {cores} core(s).",
        f"Made by `python pipeline.py evaluate tokenizers`; the budget of all: {budget}.",
    ]
    if compared:
        notes.insert(
            1,
            "Intervals: every user's metric is averaged over the seeds, then users are resampled. "
            "They hold for these trainings; the spread over seeds is in the first table.",
        )
    sources = {cell.source for cell in cells}
    if len(sources) > 1:
        notes.append(f"The cells were trained by {len(sources)} versions of the library's source.")
    return notes


def _why_train(comparison: Comparison, cell: Cell) -> str | None:
    """Why a cell has to be trained; None where its record holds."""
    try:
        finished = records.load_cell(comparison.base(cell.stem))
    except UnreadableCell as error:
        return f"{error}, training again"
    if finished is None:
        return "training"
    if finished.key == cell.key:
        return None
    return why_stale(finished.spec, cell.spec)


def _train(
    comparison: Comparison,
    cell: Cell,
    ads: Path,
    events: Path,
    memory_limit_gb: float,
    cores: Sequence[int],
) -> Record:
    base = comparison.base(cell.stem)
    job = {
        "key": cell.key,
        "spec": cell.spec,
        "dataset": comparison.name,
        "ads": str(ads.absolute()),
        "events": str(events.absolute()),
        "out": str(base.absolute()),
    }
    log = base.with_name(f"{base.name}.log")
    run_job(job, log, 1024 * memory_limit_gb, cores)
    try:
        finished = records.load_cell(base)
    except UnreadableCell as error:
        raise CellFailed(f"{error}; log: {log}") from error
    if finished is None or finished.key != cell.key:
        raise CellFailed(f"no record was left; log: {log}")
    return finished.record


def _is_current(cell: FinishedCell) -> bool:
    """Whether today's presets have the same settings, and its figures today's meaning."""
    variant = Variant(cell.record["preset"], cell.record["ablation"])
    if variant.preset not in PRESETS:
        return False
    shared = {name: cell.spec.get(name) for name in shared_spec("", Budget(), 1, 1)}
    shared["format"] = FORMAT
    return make_cell(variant, cell.record["seed"], shared).key == cell.key


def _name(cell: FinishedCell) -> str:
    return f"{cell.record['preset']}{cell.record['ablation']} seed {cell.record['seed']}"


def _figures(record: Record) -> str:
    return (
        f"collisions {record['collision_share']:.2%}, entropy {record['entropy_nats']:.4f}, "
        f"N@10 {record['ndcg@10']:.4f}, tokenizer {record['train_seconds']:.0f} s, "
        f"peak {record['peak_rss_mb']:,.0f} MB"
    )


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(escape(text), style=style, soft_wrap=True, highlight=False)
