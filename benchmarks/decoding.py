"""Constrained decoding: latency against Hugging Face, and what a catalogue's size costs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
from rich.console import Console

from benchmarks import common
from benchmarks.decoding_subjects import (
    LIMIT_BYTES_PER_AD,
    PEERS,
    Candidate,
    Shape,
    Subject,
    candidate,
    own,
    peers,
)
from benchmarks.peers import generation

LIMIT_GROWTH = 1.5
# Times lower median latency than either T5's, by users per call.
GOALS = {1: 20, 64: 40}
SUBJECT = "sid_decoder"
PEER_PYTHON = common.ROOT / ".bench-torch-venv" / "bin" / "python"
# Calls of one user are short, and what else the machine does moves them most.
_SHORT = 5
Key = TypeVar("Key", bound=Hashable)


def compare(
    ours: Candidate, subjects: Mapping[str, Subject], beam: int, batch: int, shape: Shape,
    repeats: int, threads: Sequence[int],
) -> list[common.Record]:  # fmt: skip
    """A record per subject at one beam and batch; they take turns, each at its fastest."""
    task = generation.Request(beam, batch, shape.k).to_task()
    chosen = {name: subject.fastest(task, threads) for name, subject in subjects.items()}
    timings = _turns(
        {name: (subject, chosen[name]) for name, subject in subjects.items()}, task, repeats
    )
    medians = {name: float(np.median(found)) for name, found in timings.items()}
    tiger, equal = (medians[name] for name in PEERS)
    return [
        {
            **_latency(name, ours.ads, beam, batch, found, chosen[name]),
            "ratio_to_hf": round(tiger / medians[name], 2),
            "ratio_to_hf_equal": round(equal / medians[name], 2),
            "parameters": subjects[name].about["parameters"],
            "library": subjects[name].about["version"],
            **(ours.figures if name == SUBJECT else {}),
        }
        for name, found in timings.items()
    ]


def measure(
    candidates: Sequence[Candidate], subjects: Sequence[Subject], beam: int, batch: int,
    shape: Shape, repeats: int, threads: Sequence[int],
) -> list[common.Record]:  # fmt: skip
    """A record per catalogue at one beam and batch, the first catalogue being the yardstick.

    All run on as many threads as the first is fastest on.
    """
    task = generation.Request(beam, batch, shape.k).to_task()
    chosen = subjects[0].fastest(task, threads)
    timings = _turns(
        {found.ads: (subject, chosen) for found, subject in zip(candidates, subjects, strict=True)},
        task, repeats,
    )  # fmt: skip
    first = float(np.median(timings[candidates[0].ads]))
    return [
        {
            **_latency(SUBJECT, found.ads, beam, batch, timings[found.ads], chosen),
            "ratio_to_smallest_catalogue": round(float(np.median(timings[found.ads])) / first, 3),
            **found.figures,
        }
        for found in candidates
    ]


def _turns(
    subjects: Mapping[Key, tuple[Subject, int]], task: str, repeats: int
) -> dict[Key, np.ndarray]:
    """Milliseconds of each, turn by turn, after one that does not count."""
    timings: dict[Key, list[float]] = {key: [] for key in subjects}
    for turn in range(1 + repeats):
        for key, (subject, threads) in subjects.items():
            milliseconds = subject.run(task, threads)
            timings[key] += milliseconds if turn else []
    return {key: np.array(found) for key, found in timings.items()}


def _latency(
    subject: str, size: int, beam: int, batch: int, milliseconds: np.ndarray, threads: int
) -> common.Record:
    median = float(np.median(milliseconds))
    return {
        "subject": subject,
        "beam": beam,
        "batch": batch,
        "catalogue_size": size,
        "threads": threads,
        "median_ms": round(median, 3),
        "p95_ms": common.percentiles(milliseconds)["p95_ms"],
        "median_ms_per_user": round(median / batch, 3),
    }


def id_tables(size: int) -> common.Record:
    """Bytes an ad of the id strings and their tables, in memory and as a file of the model."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.id_table", str(size)],
        cwd=common.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(f"the id table of {size:,} ads failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "subject": "id_table",
        "catalogue_size": size,
        "id_bytes_per_ad": round(found["memory"], 1),
        "id_file_bytes_per_ad": round(found["file"], 1),
    }


@click.command(context_settings={"show_default": True})
@click.option(
    "--catalogue-size", "sizes", multiple=True, type=click.IntRange(min=1),
    default=(10_000, 100_000, 1_000_000, 10_000_000), help="Generated ads; repeat for several.",
)  # fmt: skip
@click.option(
    "--beam", "beams", multiple=True, type=click.IntRange(min=1), default=(20, 50),
    help="Prefixes kept per level; repeat for several.",
)  # fmt: skip
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 64),
    help="Users per call; repeat for several.",
)  # fmt: skip
@click.option("--k", default=10, type=click.IntRange(min=1), help="Ads recommended.")
@click.option("--history-length", default=20, type=click.IntRange(min=1), help="Ads per user.")
@click.option("--levels", default=3, type=click.IntRange(min=1), help="Codes of a semantic ID.")
@click.option("--codebook-size", default=256, type=click.IntRange(min=2), help="Codes per level.")
@click.option(
    "--repeats", default=10, type=click.IntRange(min=1), help="Turns, of five calls each of ours."
)
@click.option(
    "--peer-repeats",
    default=6,
    type=click.IntRange(min=1),
    help="Turns beside the peers; five times as many for one user.",
)
@click.option(
    "--threads", multiple=True, type=click.IntRange(min=1),
    default=sorted({1, len(os.sched_getaffinity(0))}), show_default="1 and the machine's",
    help="Threads of an operation; each subject takes the faster. Repeat for several.",
)  # fmt: skip
@click.option(
    "--peer-python", type=click.Path(path_type=Path), default=PEER_PYTHON,
    show_default=".bench-torch-venv/bin/python", help="Python of an environment with PyTorch.",
)  # fmt: skip
@click.option("--seed", default=0, help="Draws codes, weights and histories.")
@common.json_option
def main(
    sizes: tuple[int, ...], beams: tuple[int, ...], batches: tuple[int, ...], k: int,
    history_length: int, levels: int, codebook_size: int, repeats: int, peer_repeats: int,
    threads: tuple[int, ...], peer_python: Path, seed: int, json_path: Path | None,
) -> None:  # fmt: skip
    """Latency of `SidDecoder.recommend` against Hugging Face `generate`, and as a catalogue grows.

    Ours is a servable in a session, as the model server runs it, without what a request costs over
    gRPC. The peers decode over the smallest catalogue. The recommender has its default size.
    Histories are full.
    """
    console, machine = common.console(), common.machine()
    common.print_machine(console, machine)
    shape = Shape(levels, codebook_size, history_length, k, seed)
    settings = list(itertools.product(beams, batches))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        candidates: list[Candidate] = []
        for size in sorted(set(sizes)):
            with console.status(f"{size:,} ads: semantic IDs, trie and model"):
                (root / str(size)).mkdir()
                candidates.append(
                    candidate(size, settings, shape, root / str(size), codes=not candidates)
                )
        subjects = [stack.enter_context(closing(own(found, seed))) for found in candidates]
        try:
            compared: list[common.Record] = []
            if peer_python.is_file():
                rivals = peers(candidates[0], peer_python, seed)
                for rival in rivals.values():
                    stack.enter_context(closing(rival))
                for beam, batch in settings:
                    with console.status(f"Hugging Face: beam {beam}, batch {batch}"):
                        compared += compare(
                            candidates[0], {SUBJECT: subjects[0], **rivals}, beam, batch, shape,
                            peer_repeats * (_SHORT if batch == 1 else 1), threads,
                        )  # fmt: skip
            else:
                console.print(
                    "Hugging Face skipped: its environment is absent; `make bench-torch` makes it "
                    "(.bench-torch-venv from benchmarks/requirements-torch.txt, 2.2 GB of "
                    "downloads)."
                )
            grown: list[common.Record] = []
            for beam, batch in settings:
                with console.status(f"growing catalogue: beam {beam}, batch {batch}"):
                    grown += measure(candidates, subjects, beam, batch, shape, repeats, threads)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
    with console.status("id tables"):
        ids = [id_tables(found.ads) for found in candidates]
    _print(console, compared, grown, ids)
    records = [{**record, **dataclasses.asdict(shape)} for record in (*compared, *grown, *ids)]
    common.write_records(records, machine, json_path)


def _print(
    console: Console, compared: Sequence[common.Record], grown: Sequence[common.Record],
    ids: Sequence[common.Record],
) -> None:  # fmt: skip
    if compared:
        columns = ["beam", "batch", "subject", "threads", "median_ms", "median_ms_per_user"]
        columns += ["ratio_to_hf", "ratio_to_hf_equal", "parameters", "library"]
        title = f"recommend over {compared[0]['catalogue_size']:,} ads against Hugging Face"
        common.print_table(console, title, compared, columns)
    for record in compared:
        if record["subject"] == SUBJECT and record["batch"] in GOALS:
            goal = GOALS[record["batch"]]
            for key, peer in (("ratio_to_hf", "TIGER's"), ("ratio_to_hf_equal", "equal")):
                console.print(
                    f"beam {record['beam']}, batch {record['batch']}: {record[key]:.1f} times "
                    f"faster than the T5 of {peer} size, goal {goal}: "
                    f"{common.verdict(record[key], goal, at_most=False)}"
                )
    columns = [
        "beam",
        "batch",
        "catalogue_size",
        "threads",
        "median_ms",
        "p95_ms",
        "median_ms_per_user",
    ]
    columns += ["ratio_to_smallest_catalogue", "trie_build_seconds", "bytes_per_ad"]
    columns += ["share_of_byte_limit", "model_table_bytes_per_ad"]
    title = (
        f"A growing catalogue (limits: {LIMIT_BYTES_PER_AD} trie bytes an ad, latency "
        f"{LIMIT_GROWTH:g} times that of the smallest)"
    )
    common.print_table(console, title, grown, columns)
    columns = ["catalogue_size", "id_bytes_per_ad", "id_file_bytes_per_ad"]
    common.print_table(console, "Id strings and their tables", ids, columns)
    heaviest = max(record["bytes_per_ad"] for record in grown)
    slowest = max(record["ratio_to_smallest_catalogue"] for record in grown)
    console.print(
        f"Trie: at most {heaviest:.1f} bytes an ad, {heaviest / LIMIT_BYTES_PER_AD:.2f} of the "
        f"limit of {LIMIT_BYTES_PER_AD}: {common.verdict(heaviest, LIMIT_BYTES_PER_AD)}"
    )
    console.print(
        f"Latency: at most {slowest:.2f} times that of the smallest catalogue, limit "
        f"{LIMIT_GROWTH:g}: {common.verdict(slowest, LIMIT_GROWTH)}"
    )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.decoding")
