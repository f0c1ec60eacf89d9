"""A tokenizer in a process of its own that trains or encodes for as long as it is told to.

Both subjects go through this file. They wait for each other, so that their rounds alternate.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_FILE = "job.json"
TASKS = ("train", "encode")
# OpenMP threads that spin while they wait take the core that the other subject, or other work on
# the machine, needs.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclasses.dataclass(frozen=True)
class Job:
    """What both do: one RQ-VAE over the same vectors.

    Attributes:
        folder: holds `vectors.npy`, float32 [N, D].
        hidden: width of the encoder's hidden layers; the decoder mirrors them.
        code_dim: size of a code vector.
        levels: L.
        codebook_size: K.
        batch_rows: rows of a training step and of an encoded batch.
        epochs: of a training round; an epoch sees every vector twice, as pairs do.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        threads: threads of the library.
        seed: of weights and order.
    """

    folder: Path
    hidden: tuple[int, ...]
    code_dim: int
    levels: int
    codebook_size: int
    batch_rows: int
    epochs: int
    learning_rate: float
    weight_decay: float
    threads: int
    seed: int

    def save(self) -> None:
        fields = {**dataclasses.asdict(self), "folder": str(self.folder)}
        (self.folder / _FILE).write_text(json.dumps(fields))

    @classmethod
    def load(cls, folder: Path) -> Job:
        fields = json.loads((folder / _FILE).read_text())
        return cls(**{**fields, "folder": Path(fields["folder"]), "hidden": (*fields["hidden"],)})

    def vectors(self) -> np.ndarray:
        return np.load(self.folder / "vectors.npy")


class Subject(abc.ABC):
    """An RQ-VAE that can train and encode, ready when it is made."""

    version: str
    parameters: int

    @abc.abstractmethod
    def train(self) -> float:
        """Trains one round; returns the last loss."""

    @abc.abstractmethod
    def encode(self) -> np.ndarray:
        """Encodes every vector, codes int [N, L] and embeddings; returns the codes."""

    def run(self, task: str) -> dict[str, Any]:
        """Carries out a task; returns what there is to say of it."""
        if task == "train":
            return {"loss": self.train()}
        codes = self.encode()
        return {"rows": len(codes), "distinct_sids": len(np.unique(codes, axis=0))}


class Runs(Protocol):
    """What a process does: any subject, of this benchmark or another."""

    version: str
    parameters: int

    def run(self, task: str) -> dict[str, Any]:
        """Carries out a task; returns what there is to say of it."""
        ...


class HasFolder(Protocol):
    """A job as far as its process is concerned: where its files lie."""

    @property
    def folder(self) -> Path:
        """The folder."""
        ...


def serve(subject: Runs) -> None:
    """Does the tasks that stdin names, one a line; says on stdout when each is done."""
    _say({"version": subject.version, "parameters": subject.parameters})
    for line in sys.stdin:
        _say(subject.run(line.strip()))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


class Worker:
    """A subject's process, seen from the benchmark.

    Args:
        python: interpreter of the subject's environment.
        module: module to run.
        job: the job, saved.
        environment: what its environment has beside that of the benchmark.

    Raises:
        RuntimeError: the process ended; the message is the end of its log.
    """

    def __init__(
        self,
        python: Path,
        module: str,
        job: HasFolder,
        environment: Mapping[str, str] = PASSIVE,
    ) -> None:
        self._module = module
        self._log = open(job.folder / f"{module}.log", "w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), "-m", module, str(job.folder)],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.about = self._answer()

    def run(self, task: str) -> dict[str, Any]:
        """Has a task done and waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Libraries may print lines of their own.
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self._log.seek(0)
        raise RuntimeError(f"{self._module} failed:\n{self._log.read()[-2000:]}")

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._log.close()
