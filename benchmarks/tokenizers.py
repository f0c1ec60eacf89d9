"""Tokenizers: ads per second of training and encoding against PyTorch, and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks import common, generated
from benchmarks.peers import harness
from sid_tfx.presets import preset

PEER_PYTHON = common.ROOT / ".bench-torch-venv" / "bin" / "python"
OWN, PEER = "sid_tfx", "torch"
MODULES = {OWN: "benchmarks.peers.own_rq_vae", PEER: "benchmarks.peers.torch_rq_vae"}
GOAL_RATIO = 1.5
LIMIT_MEMORY_RATIO = 1.1


def job(
    folder: Path, ads: int, dimensions: int, levels: int, codebook_size: int, batch_rows: int,
    epochs: int, threads: int, seed: int,
) -> harness.Job:  # fmt: skip
    """Writes the vectors and the preset's sizes, which both sides read."""
    chosen = preset("rq_vae")
    made = harness.Job(
        folder, tuple(chosen.encoder[1]["hidden"]), chosen.encoder[1]["code_dim"], levels,
        codebook_size, batch_rows, epochs, chosen.learning_rate, chosen.weight_decay, threads, seed,
    )  # fmt: skip
    made.save()
    np.save(folder / "vectors.npy", generated.clustered_vectors(ads, dimensions, seed))
    return made


def compare(
    made: harness.Job, ads: int, pythons: Mapping[str, Path], rounds: int
) -> list[common.Record]:
    """A record per subject and task; the subjects take turns, round by round."""
    records: list[common.Record] = []
    for task in harness.TASKS:
        environment = _environment(task, made.threads)
        workers = {
            name: harness.Worker(python, MODULES[name], made, environment)
            for name, python in pythons.items()
        }
        try:
            calls = {name: _call(worker, task) for name, worker in workers.items()}
            # The first round of each traces its graph and starts its threads.
            timings = common.alternate(calls, rounds, warm_up=1)
            rows = ads * (2 * made.epochs if task == "train" else 1)
            for name, milliseconds in timings.items():
                record: common.Record = {
                    "subject": name,
                    "task": task,
                    "ads_per_second": round(rows / (1e-3 * float(np.median(milliseconds))), 1),
                    "best_ads_per_second": round(rows / (1e-3 * float(milliseconds.min())), 1),
                    "rows": rows,
                    "threads": made.threads,
                    "batch_rows": made.batch_rows,
                    "parameters": workers[name].about["parameters"],
                    "library": workers[name].about["version"],
                }
                if PEER in timings:
                    # Round by round: what else the machine did in a round slowed both.
                    record["ratio"] = round(float(np.median(timings[PEER] / milliseconds)), 3)
                records.append(record)
        finally:
            for worker in workers.values():
                worker.close()
    return records


def _environment(task: str, threads: int) -> dict[str, str]:
    """What a subject's process has in its environment; PyTorch reads nothing of TensorFlow's.

    Ours encodes as many batches at once as it has threads, an operation on one.
    """
    intra = 1 if task == "encode" else threads
    return {
        **harness.PASSIVE,
        "TF_NUM_INTRAOP_THREADS": str(intra),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }


def _call(worker: harness.Worker, task: str) -> Callable[[], Any]:
    return lambda: worker.run(task)


def stream(sizes: Sequence[int], threads: int) -> list[common.Record]:
    """A record per generated catalogue, encoded to Parquet in a process of its own."""
    records: list[common.Record] = []
    for rows in sorted(set(sizes)):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.peers.stream", str(rows), folder]
            done = subprocess.run(
                [*command, str(threads)],
                cwd=common.ROOT,
                env={**os.environ, **_environment("encode", threads)},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            raise click.ClickException(f"encoding {rows:,} ads failed:\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        records.append(
            {
                "subject": OWN,
                "task": "stream",
                "ads_per_second": round(rows / found["seconds"], 1),
                "rows": rows,
                "threads": threads,
                "peak_rss_mb": found["peak_rss_mb"],
            }
        )
    for record in records:
        record["memory_ratio"] = round(record["peak_rss_mb"] / records[0]["peak_rss_mb"], 3)
    return records


@click.command(context_settings={"show_default": True})
@click.option("--ads", default=12_288, type=click.IntRange(min=16), help="Generated ads.")
@click.option("--dimensions", default=384, type=click.IntRange(min=2), help="Of an ad's vector.")
@click.option("--levels", default=3, type=click.IntRange(min=1), help="Codes of a semantic ID.")
@click.option("--codebook-size", default=256, type=click.IntRange(min=2), help="Codes per level.")
@click.option("--batch-rows", default=512, type=click.IntRange(min=2), help="Rows of a batch.")
@click.option("--epochs", default=4, type=click.IntRange(min=1), help="Epochs of a round.")
@click.option("--rounds", default=7, type=click.IntRange(min=1), help="Timed rounds of each.")
@click.option(
    "--threads", default=len(os.sched_getaffinity(0)), type=click.IntRange(min=1),
    show_default="the machine's", help="Threads of either library.",
)  # fmt: skip
@click.option(
    "--encode-rows", "sizes", multiple=True, type=click.IntRange(min=1),
    default=(100_000, 1_000_000), help="Generated ads to encode to Parquet; repeat for several.",
)  # fmt: skip
@click.option("--seed", default=0, help="Draws vectors, weights and order.")
@click.option(
    "--peer-python", type=click.Path(path_type=Path), default=PEER_PYTHON,
    show_default=".bench-torch-venv/bin/python", help="Python of an environment with PyTorch.",
)  # fmt: skip
@common.json_option
def main(
    ads: int, dimensions: int, levels: int, codebook_size: int, batch_rows: int, epochs: int,
    rounds: int, threads: int, sizes: tuple[int, ...], seed: int, peer_python: Path,
    json_path: Path | None,
) -> None:  # fmt: skip
    """The preset `rq_vae` against the same RQ-VAE in plain PyTorch, ads per second.

    And the memory that encoding a catalogue takes as it grows.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    pythons = {OWN: Path(sys.executable)}
    if peer_python.is_file():
        pythons[PEER] = peer_python
    else:
        console.print(
            "PyTorch skipped: its environment is absent; `make bench-torch` makes it "
            "(.bench-torch-venv from benchmarks/requirements-torch.txt, 2.2 GB of downloads)."
        )
    with tempfile.TemporaryDirectory() as folder, console.status("RQ-VAE: training, encoding"):
        made = job(
            Path(folder), ads, dimensions, levels, codebook_size, batch_rows, epochs, threads, seed
        )  # fmt: skip
        try:
            records = compare(made, ads, pythons, rounds)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
    with console.status("a growing catalogue, encoded to Parquet"):
        streamed = stream(sizes, threads)
    _print(console, records, streamed)
    common.write_records([*records, *streamed], found, json_path)


def _print(
    console: Console, records: Sequence[common.Record], streamed: Sequence[common.Record]
) -> None:
    columns = ["task", "subject", "ads_per_second", "best_ads_per_second", "ratio", "rows"]
    columns += ["threads", "parameters", "library"]
    common.print_table(console, "RQ-VAE, ours and plain PyTorch", records, columns)
    for record in records:
        if record["subject"] == OWN and "ratio" in record:
            console.print(
                f"{record['task']}: {record['ratio']:.2f} times PyTorch, goal {GOAL_RATIO:g}: "
                f"{common.verdict(record['ratio'], GOAL_RATIO, at_most=False)}"
            )
    columns = ["rows", "ads_per_second", "peak_rss_mb", "memory_ratio"]
    common.print_table(console, "A growing catalogue, encoded to Parquet", streamed, columns)
    growth = max(record["memory_ratio"] for record in streamed)
    console.print(
        f"Memory: at most {growth:.2f} times that of the smallest catalogue, limit "
        f"{LIMIT_MEMORY_RATIO:g}: {common.verdict(growth, LIMIT_MEMORY_RATIO)}"
    )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.tokenizers")
