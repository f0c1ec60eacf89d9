"""`python -m benchmarks`: every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from benchmarks import common

BENCHMARKS = ("retrieval", "decoding", "serving", "tokenizers", "repulsion", "training")


@click.command()
@click.option(
    "--only",
    "chosen",
    multiple=True,
    type=click.Choice(BENCHMARKS),
    help="Run this one; repeat for several. All of them by default.",
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
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
        if json_folder:
            command += ["--json", str(json_folder / f"{name}.json")]
        if subprocess.run(command).returncode not in (0, common.SKIPPED):
            failed.append(name)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
