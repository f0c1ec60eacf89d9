"""Commands around what was pushed: serve, servable-set, query."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pipeline.servable_set as sets
import pipeline.servable_set_ids as ids
from pipeline.cli.shared import configured, console, read_config
from pipeline.config import ConfigError
from pipeline.logs import log_to_file

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command()
@configured
@click.option("--flavour", type=click.Choice(["portable", "scann"]), default="portable")
@click.option("--port", default=8500, help="gRPC port.")
@click.option("--rest-port", type=int, help="HTTP port. Default: no HTTP.")
@click.argument("server_flags", nargs=-1, type=click.UNPROCESSED)
def serve(
    flavour: str, port: int, rest_port: int | None, server_flags: tuple[str, ...], **options: Any
) -> None:
    """Serves what the last run pushed, until interrupted.

    Flags of `python -m serving` go after `--`: serve -- --enable_batching=true
    """
    config = read_config(**options, reads_input=False)
    base = config.push_directory / flavour / "sid_tfx"
    if not base.is_dir():
        raise ConfigError(f"{base} has no pushed version; run `python pipeline.py run` first")
    console.print(f"serving {base} on port {port}; stop with Ctrl-C", soft_wrap=True)
    command = [sys.executable, "-m", "serving", "--model_base_path", str(base), "--port", str(port)]
    command += [f"--rest_api_port={rest_port}"] if rest_port is not None else []
    os.execv(command[0], [*command, *server_flags])


@click.command("servable-set")
@configured
@click.option(
    "--off",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of ad ids, one a line: paused, out of budget, out of flight. All others are live.",
)
@click.option(
    "--only",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of ad ids, one a line: these are live and no other.",
)
@click.option("--all-live", is_flag=True, help="Every ad of the catalogue.")
@click.option(
    "--flavour", "flavours", multiple=True, type=click.Choice(["portable", "scann"]),
    help="Of what was pushed; repeat for both. Default: all that was pushed.",
)  # fmt: skip
@click.option(
    "--allow-unknown", is_flag=True,
    help="Leave out ids that the catalogue does not have; without it they are an error.",
)  # fmt: skip
@click.option(
    "--keep", default=sets.KEEP, type=click.IntRange(min=1),
    help="Versions of earlier sets that stay; a push and the newest set of each always do.",
)  # fmt: skip
def servable_set(
    off: Path | None,
    only: Path | None,
    all_live: bool,
    flavours: tuple[str, ...],
    allow_unknown: bool,
    keep: int,
    **options: Any,
) -> None:
    """Says which ads may be returned, until the next such command or push.

    Publishes a version that hard-links the last whole one and replaces one small file, for all
    flavours or, where something is wrong, for none. Servers take it within seconds; a refused or
    damaged one leaves the last in place.
    """
    if [off is not None, only is not None, all_live].count(True) != 1:
        raise ConfigError("give one of --off FILE, --only FILE and --all-live")
    config = read_config(**options, reads_input=False)
    folders = {name: config.push_directory / name / "sid_tfx" for name in ("portable", "scann")}
    pushed = flavours or [name for name, folder in folders.items() if folder.is_dir()]
    if not pushed:
        raise ConfigError(
            f"{config.push_directory} has no version; push one with `python pipeline.py run`"
        )
    try:
        named = ids.read_ids(file) if (file := off or only) else []
        made = sets.publish_servable_sets(
            {name: folders[name] for name in dict.fromkeys(pushed)},
            ids.only(named) if only else ids.switch_off(named),
            allow_unknown=allow_unknown,
            keep=keep,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"nothing was published: {error}") from error
    for flavour, published in made.items():
        for version, reason in published.skipped.items():
            console.print(
                f"{flavour}: built on version {published.source}, for {version} is not whole: "
                f"{reason}",
                style="yellow", soft_wrap=True, highlight=False, markup=False,
            )  # fmt: skip
        console.print(
            f"{flavour}: version {published.version}, {published.live:,} of {published.ads:,} ads "
            f"live, {published.changed:,} changed"
            + (f", {published.unknown:,} ids not in the catalogue" if published.unknown else "")
            + (f", {len(published.pruned)} old sets removed" if published.pruned else ""),
            soft_wrap=True,
            highlight=False,
        )


@click.command()
@configured
@click.option("--target", default="localhost:8500", help="host:port of a model server.")
@click.option("--history", default="", help="Ad ids, oldest first, separated by commas.")
@click.option("--user", default=0, help="Without --history: the n-th test user of the last run.")
@click.option("--k", default=5)
@click.option("--mode", type=click.Choice(["generative", "hybrid"]), default="generative")
@click.option("--filter-seen", is_flag=True, help="Leave out ads of the history.")
@click.option("--history-timestamps", default="", help="Unix seconds of the ads of --history.")
@click.option("--history-events", default="", help="Their event types, separated by commas.")
@click.option("--history-weights", default="", help="Their weights.")
def query(
    target: str,
    history: str,
    user: int,
    k: int,
    mode: str,
    filter_seen: bool,
    history_timestamps: str,
    history_events: str,
    history_weights: str,
    **options: Any,
) -> None:
    """Asks a running server for recommendations and prints them with titles."""
    context = {
        "timestamps": _numbers("--history-timestamps", history_timestamps, int),
        "events": history_events.split(",") if history_events else [],
        "weights": _numbers("--history-weights", history_weights, float),
    }
    known = {name: values for name, values in context.items() if values}
    if known and not history:
        raise ConfigError(f"{', '.join(known)} of a history belong to --history; give it too")
    config = read_config(**options, reads_input=False)
    log_to_file(config.home / "query.log")
    from pipeline.showcase import query_server

    query_server(
        config,
        console,
        target,
        history=[ad for ad in history.split(",") if ad],
        user=user,
        k=k,
        mode=mode,
        filter_seen=filter_seen,
        context=known,
    )


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Numbers separated by commas; an empty one is 0, which is unknown."""
    try:
        return [kind(part or "0") for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"{option} = {text!r}: give numbers, separated by commas") from None
