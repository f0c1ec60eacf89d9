"""What the commands share: the console, exit codes, and the options that name a configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from components.refusal import Refused
from pipeline.config import Config, ConfigError, load_config

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = 3
# A pipe or a log has no width of its own; a table must not wrap there.
console = Console(width=None if sys.stdout.isatty() else 120)


class Cli(click.Group):
    """Turns the two expected kinds of trouble into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except Refused as error:
            console.print(f"[red]Refused[/red]: {escape(str(error))}", soft_wrap=True)
            sys.exit(REFUSED)


def configured(command: Callable) -> Callable:
    """Adds the options that name a configuration and hands the command a `Config`."""
    for option in reversed(
        [
            click.option("--config", "config_path", type=click.Path(dir_okay=False),
                         help="A YAML file such as configs/sample.yaml."),
            click.option("--ads", default="", help="Ads: a file or a glob. Default: the sample."),
            click.option("--events", default="", help="Events: a file or a glob."),
            click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                         help="Override one key, e.g. --set tokenizer.levels=4."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def read_config(
    config_path: str | None,
    ads: str,
    events: str,
    overrides: tuple[str, ...],
    *,
    reads_input: bool = True,
) -> Config:
    """Reads the configuration; without input files it is the simulated sample's.

    Args:
        config_path: `--config`.
        ads: `--ads`.
        events: `--events`.
        overrides: `--set`, as often as given.
        reads_input: Whether the command opens the input files. One that doesn't needs none, and
            simulates nothing.
    """
    paths = {f"data.{name}.path": path for name, path in (("ads", ads), ("events", events)) if path}
    config = load_config(config_path, overrides, paths)
    if not reads_input:
        return config
    given = [bool(config.data.ads.path), bool(config.data.events.path)]
    if given == [False, False]:
        from pipeline.sample import sample_files

        sample = sample_files(Path(config.run.root).absolute() / "sample")
        found = {"data.ads.path": str(sample.ads), "data.events.path": str(sample.events)}
        config = load_config(config_path, overrides, found)
    elif not all(given):
        raise ConfigError("ads and events belong together: give both --ads and --events")
    return config
