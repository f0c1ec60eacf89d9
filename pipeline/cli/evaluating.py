"""Commands that measure: evaluate recommender, evaluate tokenizers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.shared import configured, console, read_config
from pipeline.logs import log_to_file

_OF_SERVED = ("through", "users")
_OF_TRAINED = ("methods", "splits", "reference", "results", "memory_limit_gb", "jobs")


@click.group()
def evaluate() -> None:
    """Measures on held-out users; prints a table and writes flat records with --json."""


@evaluate.command("recommender")
@configured
@click.option(
    "--through",
    type=click.Choice(["grpc", "process"]),
    default="grpc",
    help="Without --seeds: ask the pushed servable over gRPC, or in this process.",
)
@click.option(
    "--users",
    type=click.IntRange(min=0),
    default=0,
    help="Without --seeds: test users, spread evenly; 0 takes all.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=0),
    default=0,
    help="0 measures what the last run pushed. Otherwise every method is trained from the files "
    "with this many seeds, from 0 on; what is finished is not trained again.",
)
@click.option(
    "--methods",
    default="popularity,item_knn,sasrec,item_level",
    help="With --seeds: of popularity, item_knn, sasrec, item_level, flat, tiger.",
)
@click.option("--splits", default="",
              help="With --seeds: leave_one_out, global_time. Default: data.split.")  # fmt: skip
@click.option("--reference", default="item_level hybrid",
              help="With --seeds: the row that is compared with every other.")  # fmt: skip
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --seeds: folder of records. Default: benchmarks/results/recommenders/FOLDER OF ADS.",
)
@click.option("--memory-limit-gb", type=float, default=6.0, help="A cell past it is ended.")
@click.option("--jobs", default=1, help="Cells that train at once, each on its share of the cores.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def evaluate_recommender(
    through: str,
    users: int,
    seeds: int,
    methods: str,
    splits: str,
    reference: str,
    results: Path | None,
    memory_limit_gb: float,
    jobs: int,
    json_path: Path | None,
    **options: Any,
) -> None:
    """The recommender beside baselines: one protocol, plain and filtered."""
    _check_used(trains=bool(seeds))
    config = read_config(**options, reads_input=bool(seeds))
    failed: list[str] = []
    if seeds:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from pipeline.compare_recommenders import compare
        from pipeline.comparison.records import write_records

        records, failed = compare(
            config,
            console,
            methods=_names(methods),
            splits=_names(splits) if splits else [config.data.split],
            seeds=seeds,
            reference=reference,
            results=results,
            jobs=jobs,
            memory_limit_gb=memory_limit_gb,
        )
    else:
        log_to_file(config.home / "evaluate.log")
        from pipeline.comparison.records import write_records
        from pipeline.evaluate import evaluate_servable

        records = evaluate_servable(config, console, through=through, users=users)
    if json_path:
        write_records(records, json_path)
    _fail_with(failed)


def _check_used(trains: bool) -> None:
    """Refuses options that would be ignored: each belongs to one of the two ways to measure."""
    context = click.get_current_context()
    given = [
        f"--{name.replace('_', '-')}"
        for name in (_OF_SERVED if trains else _OF_TRAINED)
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: only without --seeds, where the pushed servable is measured"
            if trains
            else f"{', '.join(given)}: only with --seeds, where every method is trained from files"
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _fail_with(failed: list[str]) -> None:
    if failed:
        console.print(f"[red]{len(failed)} cells failed[/red]: {', '.join(failed)}", soft_wrap=True)
        sys.exit(1)


@evaluate.command("tokenizers")
@click.option(
    "--ads",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Ads: Parquet, CSV or JSON Lines. Default: the sample.",
)
@click.option(
    "--events",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Events, likewise.",
)
@click.option("--presets", default="joint,quasid,rq_kmeans", help="Names, separated by commas.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Seeds per preset, from 0 on.")
@click.option("--levels", type=click.IntRange(min=1), default=3)
@click.option("--codebook-size", type=click.IntRange(min=2), default=256)
@click.option("--ablate", is_flag=True, help="Also joint and quasid without each of their terms.")
@click.option(
    "--with-repulsion",
    default="",
    metavar="PRESETS",
    help="Also these presets with HaMR plugged in, each against its plain self.",
)
@click.option("--reference", default="joint", help="The row that is compared with every other.")
@click.option(
    "--budget",
    "budget_settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the shared budget, e.g. --budget epochs=5.",
)
@click.option("--name", default="", help="Name of the data. Default: the folder of the ads.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of records and tables. Default: benchmarks/results/tokenizers/NAME.",
)
@click.option("--memory-limit-gb", type=float, default=6.0, help="A cell past it is ended.")
@click.option("--jobs", default=1, help="Cells that train at once, each on its share of the cores.")
@click.option("--only-report", is_flag=True, help="Train nothing: tables from the records.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def evaluate_tokenizers(json_path: Path | None, **options: Any) -> None:
    """Presets on the same data with the same recommender; what is finished is not trained again."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from pipeline.compare_tokenizers import compare
    from pipeline.comparison.records import write_records

    for several in ("presets", "with_repulsion"):
        options[several] = _names(options[several])
    records, failed = compare(console, **options)
    if json_path:
        write_records(records, json_path)
    _fail_with(failed)
