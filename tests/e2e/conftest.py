"""One small pipeline run, shared by every end-to-end test."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sid_tfx.datasets.market import write_sample

ROOT = Path(__file__).parents[2]
SMALL = [
    "tokenizer.codebook_size=32",
    "tokenizer.epochs=6",
    "tokenizer.encoder={dim: 32, layers: 1}",
    "recommender.epochs=3",
    "recommender.arguments={hidden_size: 32, head_size: 64, mlp_size: 64}",
    # A model this small proves the plumbing; the gates' limits are tested on their own.
    "sid_gate.max_collision_share=1.0",
    "sid_gate.min_entropy_share=0.0",
    "sid_gate.max_largest_group=1000",
    "model_gate.min_recall_at_10=0.0",
    "model_gate.min_recall_over_popularity=0.0",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of the command line."""

    options: list[str]
    home: Path
    summary: dict
    output: str


def pipeline(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Runs `python pipeline.py` as a user does, who has not set what this process has."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "200"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    result = subprocess.run(
        [sys.executable, "pipeline.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def options(root: Path, ads: Path, events: Path) -> list[str]:
    """The options of a small run."""
    overrides = [f"run.root={root}", "name=small", *SMALL]
    return [
        *("--ads", str(ads), "--events", str(events)),
        *(part for override in overrides for part in ("--set", override)),
    ]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("e2e")
    ads, events = write_sample(root / "data", ads=300, users=500)
    arguments = options(root / "runs", ads, events)
    result = pipeline("run", *arguments, "--json", str(root / "summary.json"))
    summary = json.loads((root / "summary.json").read_text())
    return Run(arguments, root / "runs" / "small", summary, result.stdout)


def changed_run(run: Run, root: Path, *overrides: str) -> Run:
    """Runs again with other settings; what does not depend on them is not made again."""
    # On a copy of the metadata, so that the shared run stays as it is.
    (root / "small").mkdir()
    shutil.copy(run.home / "metadata.sqlite", root / "small")
    settings = (f"run.root={root}", *overrides)
    arguments = [*run.options, *(part for setting in settings for part in ("--set", setting))]
    result = pipeline("run", *arguments, "--json", str(root / "summary.json"))
    summary = json.loads((root / "summary.json").read_text())
    return Run(arguments, root / "small", summary, result.stdout)
