"""Nearest neighbours: queries per second at equal recall, ours against brute force and faiss."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks import common, generated
from benchmarks.indices import harness

OWN = ("brute_force", "partitioned", "scann")
PORTABLE = ("brute_force", "partitioned")
FAISS = ("faiss_hnsw", "faiss_ivf_pq")
# From this size on, ScaNN is to be this many times as fast as brute force, and ahead of faiss.
AIM_FROM, AIM_OVER_BRUTE_FORCE = 1_000_000, 20.0
PEER_PYTHON = common.ROOT / ".bench-venv" / "bin" / "python"


@dataclasses.dataclass(frozen=True)
class Data:
    """Unit vectors to index, float32 [N, D], and others of the same kind to search with, [Q, D]."""

    name: str
    vectors: np.ndarray
    queries: np.ndarray


def generate(rows: int, queries: int, dimensions: int, seed: int) -> Data:
    """Clustered vectors; the queries are drawn with them and held out."""
    vectors = generated.clustered_vectors(rows + queries, dimensions, seed)
    return Data("clustered", vectors[:rows], vectors[rows:])


def read_embeddings(source: str, queries: int, seed: int, dimensions: int) -> Data:
    """Reads `PATH.parquet[:column]`; random rows become the queries and leave the catalogue.

    Wider vectors are reduced to their principal directions, as many as `dimensions`.

    Raises:
        click.BadParameter: no such file or column, or no column of equally long vectors.
    """
    path, _, column = source.partition(".parquet")
    file = Path(f"{path}.parquet")
    if not file.is_file():
        raise click.BadParameter(f"{source!r}: there is no file {file}.")
    known = pq.read_schema(file).names
    name = column.removeprefix(":") or next(
        (found for found in known if found == "embedding" or found.endswith("_embedding")),
        "embedding",
    )
    if name not in known:
        raise click.BadParameter(f"{file} has no column {name!r}; it has {known}.")
    vectors = _matrix(pq.read_table(file, columns=[name])[name])
    if vectors is None:
        raise click.BadParameter(f"column {name!r} of {file} holds no vectors of one length.")
    # A zero vector has no direction, hence no neighbours by angle.
    usable = np.isfinite(vectors).all(axis=1) & (np.abs(vectors).max(axis=1) > 0)
    name, vectors = f"{file.parent.name}/{file.stem}:{name}", vectors[usable]
    if vectors.shape[1] > dimensions:
        name = f"{name}, {dimensions} of {vectors.shape[1]} directions"
        _, directions = np.linalg.eigh(vectors.T @ vectors)
        vectors = vectors @ directions[:, -dimensions:]
    vectors = generated.unit(vectors)
    vectors = vectors[np.random.default_rng(seed).permutation(len(vectors))]
    held_out = min(queries, len(vectors) // 10)
    if held_out < 1:
        raise click.BadParameter(f"{file} has {len(vectors)} usable vectors: 10 are the least.")
    return Data(name, vectors[held_out:], vectors[:held_out])


def _matrix(column: pa.ChunkedArray) -> np.ndarray | None:
    """The lists of a column as float32 [rows, D], nulls left out; None where that can't be."""
    column = column.drop_null()
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not len(column) or not any(is_kind(column.type) for is_kind in kinds):
        return None
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        return None
    flat = pc.list_flatten(column).to_numpy().astype(np.float32)
    return flat.reshape(len(column), lengths[0])


def measure(
    data: Data, subject: str, job: harness.Job, python: Path, module: str
) -> list[common.Record]:
    """Runs one index in a process of its own, so that none pays for another's memory or threads."""
    command = [str(python), "-m", module, str(job.folder), subject]
    # OpenMP threads that spin while they wait cost faiss most of its time beside other work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=common.ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{subject} failed:\n{done.stderr[-2000:]}")
    records = json.loads((job.folder / "records.json").read_text())
    return [{"data": data.name, **record} for record in records]


def add_ratios(records: list[common.Record]) -> None:
    """Adds `ratio_to_brute_force` and, for ours, `ratio_to_best_faiss`: queries per second.

    An index that misses the recall target is compared with none.
    """

    def case(record: common.Record) -> tuple:
        return tuple(record[key] for key in ("data", "vectors", "recall_target", "batch"))

    for record in records:
        speed = record["queries_per_second"]
        rivals = [other for other in records if case(other) == case(record) and met(other)]
        if not met(record):
            continue
        for exact in (other for other in rivals if other["subject"] == "brute_force"):
            record["ratio_to_brute_force"] = round(speed / exact["queries_per_second"], 3)
        faiss = [r["queries_per_second"] for r in rivals if r["subject"] in FAISS]
        if faiss and record["subject"] in OWN:
            record["ratio_to_best_faiss"] = round(speed / max(faiss), 3)


def met(record: common.Record) -> bool:
    """Whether the index reached the recall it was asked for."""
    return _recall(record) >= record["recall_target"]


def _recall(record: common.Record) -> float:
    return next(value for key, value in record.items() if key.startswith("recall@"))


@click.command(context_settings={"show_default": True})
@click.option(
    "--vectors",
    "sizes",
    multiple=True,
    type=click.IntRange(min=100),
    default=(10_000, 100_000, 1_000_000),
    help="Generated catalogues, rows each; repeat for several.",
)
@click.option(
    "--embeddings",
    multiple=True,
    metavar="PATH.parquet[:COLUMN]",
    help="Real embeddings, measured first: a column of equally long lists of floats, by default "
    "the first one named `embedding` or `*_embedding`. An ads file with such a column does, and "
    "`catalog.parquet`, which every pipeline run leaves in its SidCatalog artifact. A tenth of the "
    "rows, at most --queries, are the queries.",
)
@click.option(
    "--dimensions", default=64, type=click.IntRange(min=2),
    help="Of generated vectors; wider real ones are reduced to as many principal directions.",
)  # fmt: skip
@click.option("--queries", default=1000, type=click.IntRange(min=1), help="Queries held out.")
@click.option("--k", default=10, type=click.IntRange(min=1), help="Neighbours wanted.")
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 64),
    help="Queries per call; repeat for several.",
)  # fmt: skip
@click.option(
    "--recall", "targets", multiple=True, type=click.FloatRange(0, 1, min_open=True),
    default=(0.95, 0.99), help="Recall to reach, each index with its cheapest search that does.",
)  # fmt: skip
@click.option("--seconds", default=1.0, help="Least time for timing one batch size.")
@click.option("--threads", default=1, type=click.IntRange(min=1), help="Threads of a search.")
@click.option("--seed", default=0, help="Draws the data.")
@click.option(
    "--peer-python",
    type=click.Path(path_type=Path),
    default=PEER_PYTHON,
    show_default=".bench-venv/bin/python",
    help="Python of the environment with benchmarks/requirements.txt, for faiss.",
)
@common.json_option
def main(
    sizes: tuple[int, ...],
    embeddings: tuple[str, ...],
    dimensions: int,
    queries: int,
    k: int,
    batches: tuple[int, ...],
    targets: tuple[float, ...],
    seconds: float,
    threads: int,
    seed: int,
    peer_python: Path,
    json_path: Path | None,
) -> None:
    """Queries per second at equal recall: ScaNN, the portable indices (core ops) and faiss-cpu.

    All search the same unit vectors by inner product, NumPy arrays in and out.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    subjects = [(name, Path(sys.executable), "benchmarks.indices.own") for name in OWN]
    if peer_python.is_file():
        subjects += [(name, peer_python, "benchmarks.indices.faiss_peers") for name in FAISS]
    else:
        console.print(
            "faiss-cpu skipped: its environment is absent; `make bench` makes it "
            "(.bench-venv from benchmarks/requirements.txt).",
        )

    def inputs() -> Iterator[Data]:
        for source in embeddings:
            yield read_embeddings(source, queries, seed, dimensions)
        for rows in sizes:
            yield generate(rows, queries, dimensions, seed)

    records: list[common.Record] = []
    for data in inputs():
        if len(data.vectors) < k:
            raise click.BadParameter(f"{data.name} has {len(data.vectors)} vectors, k is {k}.")
        with tempfile.TemporaryDirectory() as folder:
            job = harness.Job(Path(folder), k, batches, tuple(sorted(targets)), seconds, threads)
            job.save()
            np.save(job.folder / "vectors.npy", data.vectors)
            np.save(job.folder / "queries.npy", data.queries)
            kth = harness.kth_scores(data.vectors, data.queries, k)
            np.save(job.folder / "kth_scores.npy", kth)
            for subject, python, module in subjects:
                with console.status(f"{data.name}, {len(data.vectors):,} vectors: {subject}"):
                    records += measure(data, subject, job, python, module)
    for record in records:
        record["portable"] = record["subject"] in PORTABLE
    add_ratios(records)
    _print(console, records, k)
    common.write_records(records, found, json_path)


def _print(console: Console, records: list[common.Record], k: int) -> None:
    columns = ["data", "vectors", "batch", "recall_target", "subject", f"recall@{k}"]
    columns += ["queries_per_second", "ratio_to_brute_force", "ratio_to_best_faiss"]
    columns += ["build_seconds", "tuning_seconds", "memory_mb", "index_mb"]
    order = ("data", "vectors", "batch", "recall_target")
    ordered = sorted(records, key=lambda record: [record[key] for key in order])
    common.print_table(
        console, "Retrieval: the cheapest search that reaches each recall", ordered, columns
    )
    for record in ordered:
        if record["batch"] == ordered[0]["batch"] and not met(record):
            console.print(
                f"{record['subject']} reaches recall {_recall(record):.4f} of "
                f"{record['recall_target']:g} on {record['data']} ({record['vectors']:,} vectors) "
                "even with its widest search.",
            )
    for record in ordered:
        if record["subject"] == "scann" and record["vectors"] >= AIM_FROM:
            _print_aims(console, record)


def _print_aims(console: Console, record: common.Record) -> None:
    case = (
        f"ScaNN, {record['data']}, {record['vectors']:,} vectors, batch {record['batch']}, recall "
        f"{record['recall_target']:g}"
    )
    for key, rival, aim in (
        ("ratio_to_brute_force", "brute force", AIM_OVER_BRUTE_FORCE),
        ("ratio_to_best_faiss", "the faster faiss index", 1.0),
    ):
        if key in record:
            verdict = common.verdict(record[key], aim, at_most=False)
            console.print(f"{case}: {record[key]:g} times {rival}, aim {aim:g}: {verdict}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.retrieval")
