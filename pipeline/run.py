"""One pipeline run on this machine: stages in, a summary out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts

from components.artifacts import SidBlessing, SidIndex
from components.refusal import Refused
from components.verdict import read_verdict
from pipeline import stage_lines
from pipeline.columns import resolve
from pipeline.config import Config
from pipeline.generations import find_last_pushed
from pipeline.graph import (
    FLAVOURS,
    LAST_GENERATION,
    MODEL_NAME,
    create_pipeline,
    create_refresh_pipeline,
)
from pipeline.local_runner import LocalRunner, Stage, StageFailed
from sid_tfx.bundle import read_metadata
from sid_tfx.features import AdSchema

SUMMARY_FILE = "last_run.json"
METADATA_FILE = "metadata.sqlite"
_QUALITY = ("collision_share", "largest_group", "distinct_sids", "entropy_nats")


class Reporter(Protocol):
    """Who is told about the run as it goes."""

    def started(self, name: str) -> None:
        """A stage begins."""

    def finished(self, stage: Stage, line: str) -> None:
        """A stage ended; `line` says what it made."""


@dataclasses.dataclass
class Summary:
    """What a run did; `to_records` is what `--json` writes.

    Attributes:
        stages: Every stage in order.
        total_seconds: Wall time of all stages.
        peak_rss_mb: Largest resident memory of this process, MiB.
        metrics: Held-out metrics of the pushed servable, SID quality and index recall, by name.
        refusals: Sentences of every gate that said no; empty after a push.
        servables: Flavour -> pushed version directory.
        home: Folder of the run.
        artifacts: `<stage>.<output>` -> URI, for the commands that come after.
    """

    stages: list[dict[str, Any]]
    total_seconds: float
    peak_rss_mb: float
    metrics: dict[str, float]
    refusals: list[str]
    servables: dict[str, str]
    home: str
    artifacts: dict[str, str]

    @property
    def recommender(self) -> str:
        """URI of the recommender, trained in this run or carried over from an earlier one."""
        trained = self.artifacts.get("RecommenderTrainer.model")
        return trained or self.artifacts["RecommenderRefresher.model"]

    @property
    def pushed(self) -> bool:
        """Whether every flavour was pushed."""
        return not self.refusals and set(self.servables) == set(FLAVOURS)

    def save(self, path: Path) -> None:
        """Writes the summary as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, home: Path) -> Summary:
        """Reads the summary of the last run below a home folder.

        Raises:
            FileNotFoundError: Nothing ran there.
        """
        return cls(**json.loads((home / SUMMARY_FILE).read_text()))


def run(config: Config, reporter: Reporter) -> Summary:
    """Runs the pipeline and writes `<home>/last_run.json`.

    Raises:
        Refused: A stage refused; the message says why.
        StageFailed: A stage broke.
    """
    home = config.home
    pipeline = create_pipeline(
        config, resolve(config), str(home / "artifacts"), str(home / METADATA_FILE)
    )
    return _run(pipeline, home, reporter)


def refresh(config: Config, reporter: Reporter) -> Summary:
    """Takes new ads and events into the last pushed generation; otherwise as `run`.

    Raises:
        Refused: Nothing was pushed yet, the ads lack a column that the tokenizer was trained on,
            or a stage refused.
        StageFailed: A stage broke.
    """
    home = config.home
    last = find_last_pushed(home / METADATA_FILE)
    tokenizer = read_metadata(f"{last['tokenizer'].uri}/Format-Serving")
    columns = resolve(config, trained=AdSchema.from_dict(tokenizer["schema"]))
    pipeline = create_refresh_pipeline(
        config, columns, str(home / "artifacts"), str(home / METADATA_FILE)
    )
    return _run(pipeline, home, reporter)


def _run(pipeline: tfx_pipeline.Pipeline, home: Path, reporter: Reporter) -> Summary:
    def finished(stage: Stage) -> None:
        reporter.finished(stage, "" if stage.error else stage_lines.line(stage))

    begin = time.monotonic()
    try:
        stages = LocalRunner(reporter.started, finished).run(pipeline)
    except StageFailed as failure:
        refusal = next((error for error in _causes(failure) if isinstance(error, Refused)), None)
        if refusal is not None:
            raise Refused(f"{failure.stage.name}: {refusal}") from failure
        raise
    summary = _summarize(stages, time.monotonic() - begin, home)
    summary.save(home / SUMMARY_FILE)
    return summary


def serving_directory(config: Config, flavour: str) -> Path:
    """The folder of numbered versions that a model server watches."""
    return config.push_directory / flavour / MODEL_NAME


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _summarize(stages: list[Stage], seconds: float, home: Path) -> Summary:
    metrics: dict[str, float] = {}
    servables: dict[str, str] = {}
    refusals: list[str] = []
    outputs: dict[str, str] = {}
    for stage in stages:
        if stage.name == LAST_GENERATION:
            # What it names, an earlier run made and pushed.
            continue
        for key, artifacts in stage.outputs.items():
            for artifact in artifacts:
                outputs[f"{stage.name}.{key}"] = artifact.uri
                if isinstance(artifact, standard_artifacts.ModelEvaluation):
                    metrics |= stage_lines.overall_metrics(artifact)
                elif isinstance(artifact, SidBlessing):
                    quality = json.loads((Path(artifact.uri) / "quality.json").read_text())
                    metrics |= {name: quality[name] for name in _QUALITY}
                elif isinstance(artifact, SidIndex):
                    manifest = json.loads((Path(artifact.uri) / "manifest.json").read_text())
                    metrics |= _index_metrics(manifest)
                elif isinstance(artifact, standard_artifacts.InfraBlessing):
                    verdict = read_verdict(artifact.uri)
                    refusals += [c.sentence for c in verdict.checks if not c.ok]
                elif isinstance(artifact, standard_artifacts.PushedModel):
                    destination = artifact.get_string_custom_property("pushed_destination")
                    if artifact.get_int_custom_property("pushed"):
                        servables[Path(destination).parent.parent.name] = destination
    return Summary(
        stages=[
            {
                "stage": stage.name,
                "seconds": round(stage.seconds, 2),
                "cached": stage.cached,
                "made": stage_lines.line(stage),
            }
            for stage in stages
        ],
        total_seconds=round(seconds, 2),
        peak_rss_mb=round(_peak_rss_mb(), 1),
        metrics=metrics,
        refusals=list(dict.fromkeys(refusals)),
        servables=servables,
        home=str(home),
        artifacts=outputs,
    )


def _index_metrics(manifest: dict[str, Any]) -> dict[str, float]:
    """Recall of every index that is served, e.g. `embedding_scann_recall@10`."""
    recall = f"recall@{manifest['k']}"
    return {
        f"{space}_{flavour}_{recall}": chosen[recall]
        for space, found in manifest["spaces"].items()
        for flavour, chosen in found["flavours"].items()
    }


def _peak_rss_mb() -> float:
    # ru_maxrss is in KiB on Linux and in bytes on macOS; psutil has no peak on Linux.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if psutil.LINUX else 1024 * 1024)
