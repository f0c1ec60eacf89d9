"""Commands that run a pipeline, here or on Kubeflow: run, refresh, compile."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.shared import REFUSED, configured, console, read_config
from pipeline.logs import log_to_file

if TYPE_CHECKING:
    from collections.abc import Callable


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


@click.command()
@runnable
def run(**options: Any) -> None:
    """Runs the pipeline here: raw ads and events in, a pushed servable out."""
    execute("run", **options)


@click.command()
@runnable
def refresh(**options: Any) -> None:
    """Takes new ads and events into the last pushed generation; trains nothing."""
    execute("refresh", **options)


def execute(name: str, json_path: Path | None, then_query: bool, **options: Any) -> None:
    """Runs one of the pipelines of `pipeline.run` and says what came of it."""
    config = read_config(**options)
    if then_query:
        _ = config.push_directory  # A bucket is refused now, and not after the run.
    console.print(f"ads:    {config.data.ads.path}", soft_wrap=True, highlight=False)
    console.print(f"events: {config.data.events.path}", soft_wrap=True, highlight=False)
    log_to_file(config.home / "run.log")
    # Imported after the log is set up: TFX takes ten seconds and writes a page of notices.
    import pipeline.run as pipelines
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
    parts = ["--config", config_path] if config_path else []
    parts += ["--ads", ads] if ads else []
    parts += ["--events", events] if events else []
    for override in overrides:
        parts += ["--set", override]
    return shlex.join(parts)


@click.command()
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
