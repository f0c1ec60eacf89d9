"""Every method on the same data and protocol, over seeds and splits: cells, then tables."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pipeline.comparison import records
from pipeline.comparison.cells import data_fingerprint
from pipeline.comparison.process import CellFailed, core_shares, run_job
from pipeline.comparison.records import FinishedCell, Record, UnreadableCell
from pipeline.config import Config
from pipeline.recommender_cells import report
from pipeline.recommender_cells.methods import Cell, make_cells

RESULTS = Path("benchmarks/results/recommenders")
_CELLS = "cells"
_MODULE = "pipeline.recommender_cells.train"


def compare(
    config: Config,
    console: Console,
    *,
    methods: Sequence[str],
    splits: Sequence[str],
    seeds: int,
    reference: str = "item_level hybrid",
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
        ConfigError: A method, a split or an input file that can't be used.
    """
    ads, events = (config.canonical_file(name) for name in ("ads", "events"))
    if unread := unread_keys(config):
        _print(console, f"not read here, and at its default: {', '.join(unread)}", "yellow")
    name = ads.parent.name
    folder = results or RESULTS / name
    cells = make_cells(config, data_fingerprint(ads, events), methods, splits, seeds)
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
    path.write_text(report.page(title, rows, compared, _notes(found, seeds)))
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
    keys += ["tokenizer.stop_on_collapse"]
    pairs = [(key, *key.split(".")) for key in keys]
    return [key for key, part, name in pairs if given[part][name] != default[part][name]]


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
    changed = [name for name, value in cell.spec.items() if found.spec.get(name) != value]
    return None, f"stale ({', '.join(changed)} changed), training again"


def _figures(cell: FinishedCell) -> str:
    return "; ".join(
        f"{(record['mode'] + ' ').lstrip()}{'filtered' if record['filtered'] else 'plain'} "
        f"N@10 {record['ndcg@10']:.4f}"
        for record in cell.record["records"]
        if record["level"] == "item"
    )


def _notes(found: Sequence[Record], seeds: int) -> list[str]:
    cores = {record["cores"] for record in found}
    load = max(record["load_average"] for record in found)
    return [
        f"Mean ± standard deviation over {seeds} seed(s); item level, every ad ranked. Filtered: "
        "the ads of the history are left out. `train_seconds` are the recommender's, without the "
        f"tokenizer's, on {', '.join(map(str, sorted(cores)))} core(s), load average at most "
        f"{load:g}. Coverage and popularity bias: see `sid_tfx.evaluation.list_figures`.",
        "Intervals: a user's metric is averaged over the seeds, then users are resampled.",
        f"Made by `python pipeline.py evaluate recommender --seeds {seeds}`.",
    ]


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(escape(text), style=style, soft_wrap=True, highlight=False)
