"""`python -m benchmarks`: every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks import common

# With what each runs among all of them. At the sizes that the scripts have by themselves, up to 10M
# ads and 200,000 requests, a run of all would take hours.
BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("--vectors", "10000", "--vectors", "100000"),
    "decoding": (
        "--catalogue-size", "10000", "--catalogue-size", "1000000",
        "--repeats", "5", "--peer-repeats", "5",
    ),
    "dense_candidates": ("--ads", "10000", "--ads", "100000", "--repeats", "20"),
    "serving": (),
    "serving_switches": ("--requests", "20000", "--switches", "5"),
    "serving_image": (),
    "servable_set": ("--ads", "100000"),
    "tokenizers": ("--rounds", "3", "--encode-rows", "50000", "--encode-rows", "200000"),
    "repulsion": (),
    "training": (),
}  # fmt: skip


@click.command()
@click.option(
    "--only",
    "chosen",
    multiple=True,
    type=click.Choice(list(BENCHMARKS)),
    help="Run this one, at its own sizes; repeat for several. By default all, at smaller ones.",
)
@click.option(
    "--json",
    "json_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each benchmark's flat records to NAME.json in this folder.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(chosen: tuple[str, ...], json_folder: Path | None, arguments: tuple[str, ...]) -> None:
    """Runs the benchmarks, each in a process of its own.

    All together run at smaller sizes; one that --only names runs at its own.
    ARGUMENTS after `--` go to the one benchmark that --only names:
    `python -m benchmarks --only retrieval -- --vectors 1000000`.
    """
    if arguments and len(chosen) != 1:
        raise click.UsageError(
            f"{' '.join(arguments)!r} is for one benchmark: name it with --only, one of "
            f"{', '.join(BENCHMARKS)}."
        )
    failed = []
    for name in chosen or BENCHMARKS:
        click.echo(f"\n== {name}")
        given = arguments if chosen else BENCHMARKS[name]
        command = [sys.executable, "-m", f"benchmarks.{name}", *given]
        if json_folder:
            command += ["--json", str(json_folder / f"{name}.json")]
        if subprocess.run(command).returncode not in (0, common.SKIPPED):
            failed.append(name)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
