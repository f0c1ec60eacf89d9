"""The command line: run, refresh, serve, servable-set, query, evaluate, compile, config, sample.

Exit codes: 0 done; 1 something broke; 2 the command or the configuration is wrong; 3 a stage or a
gate refused, and the last lines say why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

import sid_tfx  # noqa: F401 - sets TF_USE_LEGACY_KERAS, which TFX's imports would miss
from components.refusal import Refused
from pipeline.config import Config, ConfigError, load_config
from pipeline.logs import log_to_file

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
    config_path: str | None, ads: str, events: str, overrides: tuple[str, ...]
) -> Config:
    """Reads the configuration; without input files it is the simulated sample's."""
    paths = [
        f"data.{name}.path={path}" for name, path in (("ads", ads), ("events", events)) if path
    ]
    config = load_config(config_path, [*paths, *overrides])
    given = [bool(config.data.ads.path), bool(config.data.events.path)]
    if given == [False, False]:
        from pipeline.sample import sample_files

        sample = sample_files(Path(config.run.root).absolute() / "sample")
        config = load_config(
            config_path,
            [*overrides, f"data.ads.path={sample.ads}", f"data.events.path={sample.events}"],
        )
    elif not all(given):
        raise ConfigError("ads and events belong together: give both --ads and --events")
    return config


@click.group(cls=Cli, context_settings={"show_default": True, "max_content_width": 100})
def cli() -> None:
    """Semantic IDs for ads: one pipeline from raw ads and events to TF Serving."""


def runnable(command: Callable) -> Callable:
    """Adds the options of the two commands that run a pipeline."""
    for option in reversed(
        [
            click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
                         help="Write the run's summary here."),
            click.option("--then-query", is_flag=True,
                         help="Serve the pushed version and print recommendations."),
        ]
    ):  # fmt: skip
        command = option(command)
    return configured(command)


@cli.command()
@runnable
def run(**options: Any) -> None:
    """Runs the pipeline here: raw ads and events in, a pushed servable out."""
    execute("run", **options)


@cli.command()
@runnable
def refresh(**options: Any) -> None:
    """Takes new ads and events into the last pushed generation; trains nothing."""
    execute("refresh", **options)


def execute(name: str, json_path: Path | None, then_query: bool, **options: Any) -> None:
    """Runs one of the pipelines of `pipeline.run` and says what came of it."""
    config = read_config(**options)
    console.print(f"ads:    {config.data.ads.path}", soft_wrap=True, highlight=False)
    console.print(f"events: {config.data.events.path}", soft_wrap=True, highlight=False)
    log_to_file(config.home / "run.log")
    # Imported after the log is set up: TFX takes ten seconds and writes a page of notices.
    from pipeline import run as pipelines
    from pipeline.console import ConsoleReporter, print_outcome

    execute_pipeline = {"run": pipelines.run, "refresh": pipelines.refresh}[name]
    summary = execute_pipeline(config, ConsoleReporter(console))
    if json_path:
        summary.save(json_path)
    print_outcome(console, summary, command_options(**options))
    if not summary.pushed:
        sys.exit(REFUSED)
    if then_query:
        from pipeline.showcase import show_recommendations

        show_recommendations(config, console)


def command_options(
    config_path: str | None, ads: str, events: str, overrides: tuple[str, ...]
) -> str:
    """The options of this run, to be repeated in the next commands."""
    parts = [f"--config {config_path}"] if config_path else []
    parts += [f"--ads {ads}"] if ads else []
    parts += [f"--events {events}"] if events else []
    parts += [f"--set {override}" for override in overrides]
    return " ".join(parts)


@cli.command()
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
    config = read_config(**options)
    base = config.push_directory / flavour / "sid_tfx"
    if not base.is_dir():
        raise ConfigError(f"{base} has no pushed version; run `python pipeline.py run` first")
    console.print(f"serving {base} on port {port}; stop with Ctrl-C", soft_wrap=True)
    command = [sys.executable, "-m", "serving", "--model_base_path", str(base), "--port", str(port)]
    command += [f"--rest_api_port={rest_port}"] if rest_port is not None else []
    os.execv(command[0], [*command, *server_flags])


@cli.command("servable-set")
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
    "--keep", default=10, type=click.IntRange(min=1),
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
    config = read_config(**options)
    from pipeline import servable_set as sets
    from pipeline import servable_set_ids as ids

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


@cli.command()
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
    config = read_config(**options)
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


@cli.command()
@configured
@click.option("--target", type=click.Choice(["kubeflow"]), default="kubeflow")
@click.option("--image", default="sid-tfx:latest", help="Container image with this package.")
@click.option(
    "--pipeline-root",
    default="",
    help="Bucket for artifacts: gs://, s3:// or minio://. Default: the cluster's own.",
)
@click.option(
    "--schema-root",
    default="",
    help="Folder or bucket where the steps find the schemas written beside the YAML. "
    "Default: where they are written.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("sid_tfx_pipeline.yaml"))  # fmt: skip
def compile(
    target: str,
    image: str,
    pipeline_root: str,
    schema_root: str,
    output: Path,
    **options: Any,
) -> None:
    """Writes the Kubeflow v2 pipeline (spec 2.1) as YAML."""
    config = read_config(**options)
    log_to_file(config.home / "compile.log")
    from pipeline.kubeflow_runner import compile_pipeline

    compile_pipeline(
        config,
        image=image,
        output=output,
        pipeline_root=pipeline_root,
        schema_root=schema_root,
    )
    console.print(f"{target} pipeline: {output}", soft_wrap=True)


@cli.group()
def evaluate() -> None:
    """Measures on held-out users; prints a table and writes flat records with --json."""


@evaluate.command("recommender")
@configured
@click.option("--through", type=click.Choice(["grpc", "process"]), default="grpc",
              help="Ask the pushed servable over gRPC, or in this process.")  # fmt: skip
@click.option("--users", default=0, help="Test users, spread evenly; 0 takes all.")
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
@click.option("--splits", default="leave_one_out", help="With --seeds: leave_one_out, global_time.")
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
    config = read_config(**options)
    failed: list[str] = []
    if seeds:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from pipeline.compare_recommenders import compare
        from pipeline.comparison.records import write_records

        records, failed = compare(
            config,
            console,
            methods=_names(methods),
            splits=_names(splits),
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

    records, failed = compare(console, **options)
    if json_path:
        write_records(records, json_path)
    _fail_with(failed)


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
