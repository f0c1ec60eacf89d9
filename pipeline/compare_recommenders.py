"""Every method on the same data and protocol, over seeds and splits: cells, then tables."""

from __future__ import annotations

import functools
import operator
import queue
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.columns import recommender_problem, tokenizer_problem
from pipeline.comparison import records
from pipeline.comparison.cells import data_fingerprint, why_stale
from pipeline.comparison.data import read_files
from pipeline.comparison.process import CellFailed, core_shares, run_job
from pipeline.comparison.records import FinishedCell, Record, UnreadableCell
from pipeline.config import Config, ConfigError
from pipeline.recommender_cells import report
from pipeline.recommender_cells.methods import GENERATIVE, MODES, Cell, make_cells
from sid_tfx.context import EventContext
from sid_tfx.presets import PRESETS

RESULTS = Path("benchmarks/results/recommenders")
REFERENCE = "item_level hybrid"
"""The row that is compared with every other, where nobody says which."""

_CELLS = "cells"
_MODULE = "pipeline.recommender_cells.train"


def compare(
    config: Config,
    console: Console,
    *,
    methods: Sequence[str],
    splits: Sequence[str],
    seeds: int,
    reference: str = REFERENCE,
    results: Path | None = None,
    jobs: int = 1,
    memory_limit_gb: float = 6.0,
) -> tuple[list[Record], list[str]]:
    """Trains what has no record yet, each cell in a process of its own, and makes the tables.

    Tokenizer and recommender are those of the configuration, trained anew for each seed and split
    on its training events. What is finished is not trained again.

    Args:
        config: With the input files; their columns have the canonical names.
        console: Gets a line per cell, the tables and the paths.
        methods: Of `METHODS`.
        splits: Of `SPLITS`.
        seeds: Seeds per method, from 0 on.
        reference: The row that is compared with every other.
        results: Folder of records and tables.
        jobs: Cells that train at once, each on its share of the cores.
        memory_limit_gb: A cell that holds more is ended.

    Returns:
        Flat records, one per cell, mode, filter and level, then one per paired difference; and the
        names of cells that failed.

    Raises:
        ConfigError: A method, a split, a setting or an input file that can't be used, or a
            reference that is no row.
    """
    ads, events = (config.canonical_file(name) for name in ("ads", "events"))
    if unread := unread_keys(config):
        _print(console, f"not read here, and at its default: {', '.join(unread)}", "yellow")
    name = ads.parent.name
    folder = results or RESULTS / name
    cells = make_cells(config, data_fingerprint(ads, events), methods, splits, seeds)
    _check_reference(reference, cells)
    pending = [cell for cell in cells if _kept(folder / _CELLS / cell.stem, cell)[0] is None]
    _check_trainable(config, pending, ads, events)
    job = {"dataset": name, "ads": str(ads.absolute()), "events": str(events.absolute())}
    finished, failed = _train_all(cells, folder / _CELLS, console, job, jobs, memory_limit_gb)
    found = report.flat_records(finished)
    if not found:
        return [], failed
    rows = report.summarize(found)
    compared = report.differences(finished, reference)
    title = f"Recommenders on {name}"
    report.print_tables(console, title, rows, compared)
    path = folder / "recommenders.md"
    path.write_text(report.page(title, rows, compared, _notes(finished, found, seeds)))
    records.write_records([*found, *compared], path.with_suffix(".json"))
    _print(console, str(path))
    return [*found, *compared], failed


def unread_keys(config: Config) -> list[str]:
    """Lists what the configuration changes of the pipeline's models that cells don't follow.

    Cells read files with `load_ads`, which chooses columns and vocabularies by itself.
    """
    given, default = config.model_dump(), Config().model_dump()
    keys = [f"features.{name}" for name in default["features"]]
    keys += ["pairs.max_ads_per_user", "catalog.alternatives", "servable.max_history"]
    keys += ["tokenizer.stop_on_collapse", "data.max_text_bytes", "data.ads.category_separator"]
    return [key for key in keys if _value(given, key) != _value(default, key)]


def _value(settings: Mapping[str, Any], key: str) -> Any:
    return functools.reduce(operator.getitem, key.split("."), settings)


def _check_reference(reference: str, cells: Sequence[Cell]) -> None:
    rows = []
    for method in dict.fromkeys(cell.spec["method"] for cell in cells):
        modes = [f"{method} {mode}" for mode in MODES] if method in GENERATIVE else []
        rows += [method, *modes]
    if reference not in [*rows, REFERENCE]:
        raise ConfigError(
            f"--reference {reference!r} is no row of the table; it has {', '.join(rows)}"
        )


def _check_trainable(config: Config, cells: Sequence[Cell], ads: Path, events: Path) -> None:
    """Refuses what cells would fail on, some only after a tokenizer was trained.

    Raises:
        ConfigError: A file, a split of the log, the tokenizer or the recommender can't be used.
    """
    settings = config.recommender
    generative = [cell.spec for cell in cells if cell.spec["method"] in GENERATIVE]
    for split in dict.fromkeys(cell.spec["split"] for cell in cells):
        shares = (config.data.validation_share, config.data.test_share)
        files = read_files(ads, events, split, shares)
        try:
            EventContext.of(files.splits.train, settings.context if generative else ())
        except ValueError as error:
            raise ConfigError(f"recommender.context = {settings.context}: {error}") from error
    if not generative:
        return
    # Imported here: it takes TensorFlow.
    from pipeline.comparison.train import with_collaborative

    schema = files.ads.schema
    if PRESETS[config.tokenizer.preset].collaborative:
        schema = with_collaborative(schema)
    arguments = config.tokenizer.build_arguments()
    if problem := tokenizer_problem(config.tokenizer.preset, schema, arguments):
        raise ConfigError(f"tokenizer: {problem}")
    for architecture in dict.fromkeys(spec["method"] for spec in generative):
        arguments = settings.model_arguments() | {"architecture": architecture}
        if problem := recommender_problem({"max_history": settings.max_history, **arguments}):
            raise ConfigError(f"recommender: {problem}")


def _train_all(
    cells: Sequence[Cell],
    folder: Path,
    console: Console,
    job: dict[str, str],
    jobs: int,
    memory_limit_gb: float,
) -> tuple[list[FinishedCell], list[str]]:
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for share in core_shares(jobs):
        free.put(share)

    def finish(number: int, cell: Cell) -> FinishedCell | None:
        base = folder / cell.stem
        head = f"[{number}/{len(cells)}] {cell.label}"
        found, reason = _kept(base, cell)
        if found is not None:
            _print(console, f"{head}: kept; {_figures(found)}")
            return found
        cores = free.get()
        _print(console, f"{head}: {reason} ...")
        begin = time.monotonic()
        try:
            run_job(
                {**job, "key": cell.key, "spec": cell.spec, "out": str(base.absolute())},
                base.with_name(f"{base.name}.log"),
                1024 * memory_limit_gb,
                cores,
                module=_MODULE,
                backend=cell.spec.get("backend", "tensorflow"),
            )
            found, reason = _kept(base, cell)
            if found is None:
                raise CellFailed(f"no record was left ({reason})")
        except CellFailed as error:
            _print(console, f"{head}: FAILED, {error}", "red")
            return None
        finally:
            free.put(cores)
        _print(console, f"{head}: {time.monotonic() - begin:.0f} s; {_figures(found)}")
        return found

    with futures.ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(finish, range(1, len(cells) + 1), cells))
    failed = [cell.stem for cell, found in zip(cells, done, strict=True) if found is None]
    return [found for found in done if found is not None], failed


def _kept(base: Path, cell: Cell) -> tuple[FinishedCell | None, str]:
    """The finished cell, or why it has to be trained."""
    try:
        found = records.load_cell(base, names=None)
    except UnreadableCell as error:
        return None, f"{error}, training again"
    if found is None:
        return None, "training"
    if found.key == cell.key:
        return found, ""
    return None, why_stale(found.spec, cell.spec)


def _figures(cell: FinishedCell) -> str:
    return "; ".join(
        f"{(record['mode'] + ' ').lstrip()}{'filtered' if record['filtered'] else 'plain'} "
        f"N@10 {record['ndcg@10']:.4f}"
        for record in cell.record["records"]
        if record["level"] == "item"
    )


def _notes(cells: Sequence[FinishedCell], found: Sequence[Record], seeds: int) -> list[str]:
    cores = {record["cores"] for record in found}
    load = max(record["load_average"] for record in found)
    splits = ",".join(dict.fromkeys(record["split"] for record in found))
    notes = [
        f"Mean ± standard deviation over {seeds} seed(s); item level, every ad ranked. Filtered: "
        "the ads of the history are left out. `train_seconds` are the recommender's, without the "
        f"tokenizer's, on {', '.join(map(str, sorted(cores)))} core(s), load average at most "
        f"{load:g}. Coverage and popularity bias: see `sid_tfx.evaluation.list_figures`.",
        "Intervals: a user's metric is averaged over the seeds, then users are resampled.",
        f"Made by `python pipeline.py evaluate recommender --seeds {seeds} --splits {splits}`.",
    ]
    sources = {cell.source for cell in cells}
    if len(sources) > 1:
        notes.append(f"The cells were trained by {len(sources)} versions of the library's source.")
    return notes


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(escape(text), style=style, soft_wrap=True, highlight=False)
