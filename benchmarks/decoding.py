"""Constrained decoding: latency against Hugging Face, and what a catalogue's size costs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from rich.console import Console

from benchmarks import common, generated
from benchmarks.peers import generation, harness
from benchmarks.served import REQUESTS, Calls, served
from sid_tfx.decoder import SidDecoder
from sid_tfx.decoding import PrefixTrie
from sid_tfx.recommender import SidRecommender

LIMIT_BYTES_PER_AD = 40
LIMIT_GROWTH = 1.5
# Times lower median latency than that of the T5 of TIGER's size, by users per call.
GOALS = {1: 20, 64: 40}
SUBJECT = "sid_decoder"
PEERS = ("hf_t5_tiger", "hf_t5_equal")
# Calls of ours in a turn, after one that is not timed.
_OWN_CALLS = 5
PEER_PYTHON = common.ROOT / ".bench-torch-venv" / "bin" / "python"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What every call of a run has in common."""

    levels: int
    codebook_size: int
    history_length: int
    k: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A decoder over one catalogue as it is served, and what its arrays take.

    Attributes:
        codes: int `[N, levels + 1]`, the ads' semantic IDs with de-dup tokens.
        sizes: Codes per level.
        parameters: Trained parameters of the recommender, the catalogue's tables left out.
        figures: Seconds to build the trie, bytes an ad of the trie and of the model's tables.
        calls: What is timed.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    parameters: int
    figures: common.Record
    calls: Calls

    @property
    def size(self) -> int:
        """Ads."""
        return len(self.codes)


def candidate(size: int, settings: Sequence[tuple[int, int]], shape: Shape) -> Candidate:
    """A decoder over generated ads. The model is untrained: weights change no shape and no op."""
    sids = generated.sids(size, shape.levels, shape.codebook_size, shape.seed)
    # The first trie of a process also pays for TensorFlow's start.
    PrefixTrie.build(sids.codes[:1], sids.sizes)
    begin = time.perf_counter()
    PrefixTrie.build(sids.codes, sids.sizes)
    seconds = time.perf_counter() - begin
    # A trained vector per ad changes no op of decoding and would be most of the memory.
    recommender = SidRecommender(
        num_ads=size,
        levels=shape.levels,
        codebook_size=shape.codebook_size,
        dedup_size=sids.sizes[-1],
        content_size=16,
        id_embedding=False,
        seed=shape.seed,
    )
    recommender.ad_codes.assign(np.pad(sids.codes, [(1, 0), (0, 0)]))
    decoder = SidDecoder(recommender, hybrid=False)
    weights = [variable for variable in recommender.variables if variable.trainable]
    return Candidate(
        sids.codes,
        sids.sizes,
        sum(int(np.prod(weight.shape)) for weight in weights),
        _figures(decoder, size, seconds),
        served(decoder, settings, shape.history_length, shape.k, shape.seed),
    )


def _figures(decoder: SidDecoder, size: int, trie_build_seconds: float) -> common.Record:
    bytes_per_ad = decoder.trie.nbytes / size
    model = decoder.recommender
    tables = [v.value for v in model.variables if v.shape[:1] == (size + 1,)]
    tables += [table.value for table in model.catalog_softmax.followers]
    table_bytes = sum(int(np.prod(table.shape)) * table.dtype.size for table in tables)
    return {
        "trie_build_seconds": round(trie_build_seconds, 4),
        "bytes_per_ad": round(bytes_per_ad, 2),
        "share_of_byte_limit": round(bytes_per_ad / LIMIT_BYTES_PER_AD, 3),
        "model_table_bytes_per_ad": round(table_bytes / size, 2),
    }


def measure(
    candidates: Sequence[Candidate], beam: int, batch: int, repeats: int
) -> list[common.Record]:
    """A record per catalogue at one beam and batch, the first catalogue being the yardstick."""
    calls = {found.size: found.calls[beam, batch] for found in candidates}
    timings = common.alternate(calls, repeats)
    first = timings[candidates[0].size]
    return [
        {
            **_latency(SUBJECT, found.size, beam, batch, timings[found.size]),
            "ratio_to_smallest_catalogue": round(
                float(np.median(timings[found.size]) / np.median(first)), 3
            ),
            **found.figures,
        }
        for found in candidates
    ]


def _latency(
    subject: str, size: int, beam: int, batch: int, milliseconds: np.ndarray
) -> common.Record:
    median = float(np.median(milliseconds))
    return {
        "subject": subject,
        "beam": beam,
        "batch": batch,
        "catalogue_size": size,
        "median_ms": round(median, 3),
        "p95_ms": common.percentiles(milliseconds)["p95_ms"],
        "median_ms_per_user": round(median / batch, 3),
    }


def peers(
    ours: Candidate, folder: Path, python: Path, shape: Shape, users: int, threads: int
) -> dict[str, harness.Worker]:
    """The peers' processes: a T5 of TIGER's size and one of as many parameters as ours."""
    np.save(folder / "codes.npy", ours.codes)
    rows = generated.histories(ours.size, users, shape.history_length, shape.seed)
    np.save(folder / "histories.npy", rows)
    tokens = 1 + sum(ours.sizes)
    sizes = (generation.TIGER, generation.of_parameters(ours.parameters, tokens))
    workers = {}
    for name, size in zip(PEERS, sizes, strict=True):
        job = generation.Job(folder, ours.sizes, size, threads, shape.seed)
        job.save()
        # Each answers once its model is made, so that the next may write its own job.
        workers[name] = harness.Worker(python, "benchmarks.peers.hf_t5", job, passive=False)
    return workers


def compare(
    ours: Candidate, workers: dict[str, harness.Worker], beam: int, batch: int, shape: Shape,
    repeats: int,
) -> list[common.Record]:  # fmt: skip
    """A record per subject at one beam and batch; they take turns."""
    own = ours.calls[beam, batch]
    task = generation.Request(beam, batch, shape.k).to_task()
    common.alternate({SUBJECT: own}, 1)
    for worker in workers.values():
        worker.run(task)
    turns = []
    for _ in range(repeats):
        # The peers time themselves: what their pipe costs is not theirs.
        answers = [worker.run(task) for worker in workers.values()]
        # A peer's call of a second empties the caches and then runs warm for nearly all of its own
        # time; one call of ours of 3 ms right after it would be nothing but the refilling.
        own_ms = common.alternate({SUBJECT: own}, _OWN_CALLS, warm_up=1)[SUBJECT]
        turns.append([float(np.median(own_ms)), *(answer["milliseconds"] for answer in answers)])
    timings = dict(zip((SUBJECT, *workers), np.array(turns).T, strict=True))
    medians = {name: float(np.median(found)) for name, found in timings.items()}
    tiger, equal = (medians[name] for name in PEERS)
    about = {name: worker.about for name, worker in workers.items()}
    about[SUBJECT] = {"parameters": ours.parameters, "version": f"tensorflow {tf.__version__}"}
    return [
        {
            **_latency(name, ours.size, beam, batch, found),
            "ratio_to_hf": round(tiger / medians[name], 2),
            "ratio_to_hf_equal": round(equal / medians[name], 2),
            "parameters": about[name]["parameters"],
            "library": about[name]["version"],
            **(ours.figures if name == SUBJECT else {}),
        }
        for name, found in timings.items()
    ]


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
@click.option("--repeats", default=50, type=click.IntRange(min=1), help="Timed calls.")
@click.option(
    "--peer-repeats", default=10, type=click.IntRange(min=1), help="Timed calls beside the peers."
)
@click.option(
    "--peer-python", type=click.Path(path_type=Path), default=PEER_PYTHON,
    show_default=".bench-torch-venv/bin/python", help="Python of an environment with PyTorch.",
)  # fmt: skip
@click.option("--seed", default=0, help="Draws codes, weights and histories.")
@common.json_option
def main(
    sizes: tuple[int, ...], beams: tuple[int, ...], batches: tuple[int, ...], k: int,
    history_length: int, levels: int, codebook_size: int, repeats: int, peer_repeats: int,
    peer_python: Path, seed: int, json_path: Path | None,
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
    candidates = []
    for size in sorted(set(sizes)):
        with console.status(f"{size:,} ads: semantic IDs, trie and model"):
            candidates.append(candidate(size, settings, shape))
    compared: list[common.Record] = []
    if peer_python.is_file():
        users = max(batches) * REQUESTS
        with tempfile.TemporaryDirectory() as folder, console.status("Hugging Face") as status:
            workers = peers(
                candidates[0], Path(folder), peer_python, shape, users, machine["cores"]
            )
            try:
                for beam, batch in settings:
                    status.update(f"Hugging Face: beam {beam}, batch {batch}")
                    compared += compare(candidates[0], workers, beam, batch, shape, peer_repeats)
            except RuntimeError as error:
                raise click.ClickException(str(error)) from error
            finally:
                for worker in workers.values():
                    worker.close()
    else:
        console.print(
            "Hugging Face skipped: its environment is absent; `make bench-torch` makes it "
            "(.bench-torch-venv from benchmarks/requirements-torch.txt, 2.2 GB of downloads)."
        )
    grown: list[common.Record] = []
    for beam, batch in settings:
        with console.status(f"growing catalogue: beam {beam}, batch {batch}"):
            grown += measure(candidates, beam, batch, repeats)
    with console.status("id tables"):
        ids = [id_tables(found.size) for found in candidates]
    _print(console, compared, grown, ids)
    records = [{**record, **dataclasses.asdict(shape)} for record in (*compared, *grown, *ids)]
    common.write_records(records, machine, json_path)


def _print(
    console: Console, compared: Sequence[common.Record], grown: Sequence[common.Record],
    ids: Sequence[common.Record],
) -> None:  # fmt: skip
    if compared:
        columns = ["beam", "batch", "subject", "median_ms", "median_ms_per_user", "ratio_to_hf"]
        columns += ["ratio_to_hf_equal", "parameters", "library"]
        title = f"recommend over {compared[0]['catalogue_size']:,} ads against Hugging Face"
        common.print_table(console, title, compared, columns)
    for record in compared:
        if record["subject"] == SUBJECT and record["batch"] in GOALS:
            ratio, goal = record["ratio_to_hf"], GOALS[record["batch"]]
            console.print(
                f"beam {record['beam']}, batch {record['batch']}: {ratio:.1f} times faster than "
                f"the T5 of TIGER's size, goal {goal}: {common.verdict(ratio, goal, at_most=False)}"
            )
    columns = ["beam", "batch", "catalogue_size", "median_ms", "p95_ms", "median_ms_per_user"]
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
