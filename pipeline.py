"""The command line.

run, refresh, compile, collaborative-vectors, serve, servable-set, query, evaluate, sample, config.

Exit codes: 0 done; 1 something broke; 2 the command or the configuration is wrong; 3 a stage or a
gate refused, and the last lines say why.
"""

from __future__ import annotations

from pathlib import Path

import click

import sid_tfx  # noqa: F401 - sets TF_USE_LEGACY_KERAS, which TFX's imports would miss
from pipeline.cli.evaluating import evaluate
from pipeline.cli.preparing import collaborative_vectors
from pipeline.cli.running import compile, refresh, run
from pipeline.cli.serving import query, servable_set, serve
from pipeline.cli.shared import Cli, console


@click.group(cls=Cli, context_settings={"show_default": True, "max_content_width": 100})
def cli() -> None:
    """Semantic IDs for ads: one pipeline from raw ads and events to TF Serving."""


for command in (
    run, refresh, compile, collaborative_vectors, serve, servable_set, query, evaluate
):  # fmt: skip
    cli.add_command(command)


@cli.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/sample")
)
def sample(out: Path) -> None:
    """Writes the built-in sample: a simulated ad market."""
    from pipeline.sample import sample_files

    files = sample_files(out)
    console.print(f"{files.ads}\n{files.events}", soft_wrap=True)


@cli.command("config")
def config_reference() -> None:
    """Prints every configuration key with its default and meaning, as YAML."""
    from pipeline.config_reference import reference

    click.echo(reference(), nl=False)


if __name__ == "__main__":
    cli(prog_name="python pipeline.py")
