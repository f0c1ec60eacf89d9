"""What the model server adds to a recommendation, and how much of the machine it passes on."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from benchmarks import common, generated
from benchmarks.generated_servable import save_servable
from benchmarks.serving_load import (
    DEFAULT_SERVABLE,
    MODEL,
    Flood,
    ServerProcess,
    Timings,
    ask_one_by_one,
    draw_histories,
    history_length,
    known_ads,
    newest_version,
    recommend_in_process,
    request_bytes,
    run_batches,
)
from serving.client import RecommenderClient
from serving.servable import Servable

LIMIT_ADDED_MS = 1.0
LEAST_SHARE = 0.8
LOOP = "in_process, in a loop"
EMPTY = "grpc, empty call"
_ROUNDS = 10
_CONTENT_SIZE = 64
_BATCH_SIZES = (1, 4, 8, 16, 32, 64)
_CALIBRATION_ROWS = 256


def record(
    subject: str,
    concurrency: int,
    timings: Timings,
    share: float | None = None,
    added_ms: float | None = None,
) -> common.Record:
    """One flat record."""
    latencies = common.percentiles(np.array(timings.milliseconds)) if timings.milliseconds else {}
    found: common.Record = {
        "subject": subject,
        "concurrency": concurrency,
        "requests": timings.rows + timings.failures,
        **latencies,
        "requests_per_second": round(timings.requests_per_second, 1),
        "failures": timings.failures,
    }
    if share is not None:
        found["share_of_in_process"] = round(share, 3)
    if added_ms is not None:
        found["added_ms"] = round(added_ms, 3)
    return found


@click.command(context_settings={"show_default": True})
@click.option(
    "--servable",
    "base_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SERVABLE,
    help="Folder of numbered versions, as a pipeline run pushes it; the newest is measured.",
)
@click.option(
    "--ads", type=click.IntRange(min=100),
    help="Measure a servable of as many generated ads instead, its models untrained and of default "
    "size.",
)  # fmt: skip
@click.option("--requests", default=1000, type=click.IntRange(min=_ROUNDS), help="Timed requests.")
@click.option(
    "--concurrency", "concurrencies", multiple=True, type=click.IntRange(min=1),
    default=(1, 8, 32),
    help="Requests in flight, each of one history; repeat for several. With 1 the latency, too.",
)  # fmt: skip
@click.option("--max-batch-size", default=32, help="The server's, and its timeout is 0.")
@click.option("--seed", default=0, help="Draws the histories.")
@common.json_option
def main(
    base_path: Path,
    ads: int | None,
    requests: int,
    concurrencies: tuple[int, ...],
    max_batch_size: int,
    seed: int,
    json_path: Path | None,
) -> None:
    """`recommend` over gRPC against the same servable in this process.

    Latency: the typed client, one request at a time, and the same call in process, in turn for
    every request; beside them a call of the same server that does nothing (a health check), which
    is what Python's gRPC takes by itself, and the call in process in a loop of its own.
    Throughput: serialized requests against a batching server, and the largest throughput of batches
    in this process over some batch sizes and thread counts, in rounds that alternate. So other work
    on the machine falls on both; the requests are made on the machine that answers them.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    with tempfile.TemporaryDirectory() as folder:
        if ads is not None:
            base_path = Path(folder)
            with console.status(f"a servable of {ads:,} ads"):
                save_servable(
                    generated.catalog(ads, content_size=_CONTENT_SIZE, seed=seed),
                    base_path / "1",
                    seed,
                )
        measured = _measure(base_path, requests, concurrencies, max_batch_size, seed, console)
    _print(console, measured)
    common.write_records(measured, found, json_path)


def _measure(
    base_path: Path,
    requests: int,
    concurrencies: tuple[int, ...],
    max_batch_size: int,
    seed: int,
    console: Console,
) -> list[common.Record]:
    version = newest_version(base_path)
    servable = Servable(version, MODEL, int(version.name))
    width = history_length(servable)
    asked = draw_histories(known_ads(servable), width, requests, seed)
    measured: list[common.Record] = []
    if 1 in concurrencies:
        with ServerProcess(base_path) as server, console.status("latency"):
            measured += _latency(server.target, servable, asked)
    with tempfile.TemporaryDirectory() as folder:
        flags = _batching_flags(Path(folder), max_batch_size)
        with ServerProcess(base_path, *flags) as server, console.status("throughput"):
            measured += _throughput(server.target, servable, asked, concurrencies)
    servable.close()
    return measured


def _batching_flags(folder: Path, max_batch_size: int) -> list[str]:
    file = folder / "batching.config"
    cores = len(os.sched_getaffinity(0))
    file.write_text(
        f"max_batch_size {{ value: {max_batch_size} }} batch_timeout_micros {{ value: 0 }} "
        f"num_batch_threads {{ value: {cores} }} max_enqueued_batches {{ value: 100 }}"
    )
    return [
        "--enable_batching=true", f"--batching_parameters_file={file}", "--grpc_max_threads=64",
        # Every core runs a batch: to split its operations over the same cores only costs.
        "--tensorflow_intra_op_parallelism=1",
    ]  # fmt: skip


def _latency(target: str, servable: Servable, asked: Sequence[list[str]]) -> list[common.Record]:
    served, in_process, loop, empty = Timings(), Timings(), Timings(), Timings()

    def here(history: list[str]) -> object:
        return recommend_in_process(servable, [history])

    with RecommenderClient(target, MODEL) as client, grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        ways: list[tuple[Callable[[list[str]], object], Timings]] = [
            (client.recommend, served),
            (here, in_process),
            (lambda _: health.Check(health_pb2.HealthCheckRequest()), empty),
        ]
        # Each follows each of the others as often.
        orders = itertools.cycle(itertools.permutations(ways))
        for call, _ in ways:
            ask_one_by_one(call, asked[:20], Timings())
        for start in range(_ROUNDS):
            # Between two requests a server waits, its caches and its cores go to others, and the
            # next run takes longer than in a loop of its own. Asked all ways in turn, a request
            # finds the same here, so that the difference is what gRPC and the server add.
            for history, order in zip(asked[start::_ROUNDS], orders, strict=False):
                for call, timings in order:
                    ask_one_by_one(call, [history], timings)
            ask_one_by_one(here, asked[start::_ROUNDS], loop)
    if not served.milliseconds:
        raise click.ClickException(f"all {served.failures} requests over gRPC failed.")
    alone = float(np.median(in_process.milliseconds))
    found = [
        record(
            subject,
            1,
            timings,
            timings.requests_per_second / in_process.requests_per_second,
            float(np.median(timings.milliseconds)) - alone,
        )
        for subject, timings in (("in_process", in_process), ("grpc", served), (LOOP, loop))
    ]
    return [*found, record(EMPTY, 1, empty)]


def _best_batching(servable: Servable, asked: Sequence[list[str]]) -> tuple[int, int]:
    """Batch size and threads of the largest throughput in this process."""
    rows = [asked[index % len(asked)] for index in range(_CALIBRATION_ROWS)]
    speeds = {}
    for size in _BATCH_SIZES:
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            run_batches(servable, rows[:size], size, threads, Timings())
            timings = Timings()
            run_batches(servable, rows, size, threads, timings)
            speeds[size, threads] = timings.requests_per_second
    return max(speeds, key=lambda choice: speeds[choice])


def _throughput(
    target: str, servable: Servable, asked: Sequence[list[str]], loads: Sequence[int]
) -> list[common.Record]:
    size, threads = _best_batching(servable, asked)
    bodies = [request_bytes(history, history_length(servable)) for history in asked]
    flood, found = Flood(target), []
    for concurrency in loads:
        served, in_process = Timings(), Timings()
        flood.ask(bodies[: max(20, 4 * concurrency)], concurrency, Timings())
        for start in range(_ROUNDS):
            flood.ask(bodies[start::_ROUNDS], concurrency, served)
            run_batches(servable, asked[start::_ROUNDS], size, threads, in_process)
        share = served.requests_per_second / in_process.requests_per_second
        name = f"in_process batches of {size}, {threads} threads"
        found += [
            record(name, concurrency, in_process, 1.0),
            record("grpc, batching", concurrency, served, share),
        ]
    flood.close()
    return found


def _print(console: Console, measured: list[common.Record]) -> None:
    columns = ["subject", "concurrency", "requests", "p50_ms", "p95_ms", "p99_ms"]
    columns += ["requests_per_second", "failures", "added_ms", "share_of_in_process"]
    common.print_table(console, "recommend, one history a request", measured, columns)
    for found in measured:
        if found["subject"] == "grpc":
            added = found["added_ms"]
            console.print(
                f"gRPC adds {added:.2f} ms at the median, {added / LIMIT_ADDED_MS:.2f} of the "
                f"limit of {LIMIT_ADDED_MS:g} ms: {common.verdict(added, LIMIT_ADDED_MS)}"
            )
        elif found["subject"] == EMPTY:
            console.print(
                f"A call of the server that does nothing takes {found['p50_ms']:.2f} ms, the least "
                "that Python's gRPC can add here"
            )
        elif found["subject"] == LOOP:
            console.print(
                f"In a loop in which nothing else runs the call takes {-found['added_ms']:.2f} ms "
                "less than between requests to the server"
            )
        elif found["subject"] == "grpc, batching":
            share, load = found["share_of_in_process"], found["concurrency"]
            console.print(
                f"{load} in flight: {share:.0%} of the in-process maximum"
                + (f" (aim at 32: {LEAST_SHARE:.0%})" if load == 32 else "")
            )
        if found["failures"]:
            console.print(f"[red]{found['failures']} of {found['requests']} requests failed[/red]")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving")
