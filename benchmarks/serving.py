"""What the model server adds to a recommendation: `recommend` over gRPC and in process."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from benchmarks import common
from serving.client import RecommenderClient
from serving.client_errors import RecommenderError
from serving.servable import Servable
from serving.version_dirs import list_versions
from serving.wire import strings

LIMIT_ADDED_MS = 1.0
SIGNATURE = "recommend"
_MODEL = "sid_tfx"
_ROUNDS = 10
_WANTED_ADS = 200
_DEFAULT = Path("runs/sample/serving/portable/sid_tfx")


@dataclasses.dataclass
class Timings:
    """What one way of asking took: milliseconds of each answer, wall seconds of all rounds."""

    milliseconds: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    failures: int = 0

    @property
    def requests_per_second(self) -> float:
        """Answers per second of wall time."""
        return len(self.milliseconds) / self.seconds if self.seconds else 0.0


def recommend_in_process(servable: Servable, history: Sequence[str]) -> dict[str, np.ndarray]:
    """The call that the server makes for a request of one history, padding included."""
    signature = servable.signatures[SIGNATURE]
    shape = signature.inputs["history"].shape
    assert shape is not None
    block = np.full((1, shape[1]), b"", dtype=object)
    newest = list(history)[-shape[1] :]
    block[0, : len(newest)] = strings(newest)
    outputs = list(signature.outputs)
    values = servable.run(SIGNATURE, {"history": block}, outputs)
    return dict(zip(outputs, values, strict=True))


def known_ads(servable: Servable, wanted: int = _WANTED_ADS) -> list[str]:
    """Ads of the servable's catalogue, found by asking it: popular ones, then what follows them."""
    ads: dict[str, None] = {}
    asked: list[str] = []
    while len(ads) < wanted:
        answer = recommend_in_process(servable, asked)
        found = answer["ad_ids"][0, : answer["count"][0]].tolist()
        ads.update(dict.fromkeys(ad.decode() for ad in found))
        left = [ad for ad in ads if ad not in asked]
        if not left:
            break
        asked = [*asked, left[0]]
    return list(ads)


def histories(ads: Sequence[str], longest: int, count: int, seed: int) -> list[list[str]]:
    """Histories of 1 to `longest` of these ads."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size=count)
    return [[ads[i] for i in rng.integers(len(ads), size=length)] for length in lengths]


def ask(
    call: Callable[[list[str]], object],
    requests: Sequence[list[str]],
    concurrency: int,
    timings: Timings,
) -> None:
    """Sends requests from as many threads as `concurrency`, one at a time each."""
    lock, left = threading.Lock(), iter(requests)

    def work() -> None:
        milliseconds, failures = [], 0
        while True:
            with lock:
                history = next(left, None)
            if history is None:
                break
            begin = time.perf_counter()
            try:
                call(history)
            except RecommenderError:
                failures += 1
            else:
                milliseconds.append(1e3 * (time.perf_counter() - begin))
        with lock:
            timings.milliseconds += milliseconds
            timings.failures += failures

    begin = time.perf_counter()
    if concurrency == 1:
        work()
    else:
        with ThreadPoolExecutor(concurrency) as pool:
            for done in [pool.submit(work) for _ in range(concurrency)]:
                done.result()
    timings.seconds += time.perf_counter() - begin


@contextmanager
def model_server(base_path: Path) -> Iterator[RecommenderClient]:
    """`python -m serving` on the servable in a process of its own, and a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serving", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model_name", _MODEL, "--model_base_path", str(base_path.resolve())]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=common.ROOT, stdout=log, stderr=log)
        try:
            with RecommenderClient(f"127.0.0.1:{port}", _MODEL) as client:
                try:
                    client.wait_until_available(timeout=180)
                except TimeoutError as error:
                    log.seek(0)
                    said = log.read()[-2000:].decode(errors="replace")
                    raise click.ClickException(f"{error}\nThe server said:\n{said}") from error
                yield client
        finally:
            process.terminate()
            process.wait(60)


def records(concurrency: int, grpc: Timings, in_process: Timings) -> list[common.Record]:
    """The two flat records of one concurrency."""
    base = float(np.median(in_process.milliseconds))
    return [
        {
            "subject": subject,
            "concurrency": concurrency,
            "requests": len(timings.milliseconds) + timings.failures,
            **common.percentiles(np.array(timings.milliseconds)),
            "requests_per_second": round(timings.requests_per_second, 1),
            "failures": timings.failures,
            "added_ms": round(float(np.median(timings.milliseconds)) - base, 3),
            "share_of_in_process": round(
                timings.requests_per_second / in_process.requests_per_second, 3
            ),
        }
        for subject, timings in (("in_process", in_process), ("grpc", grpc))
    ]


@click.command(context_settings={"show_default": True})
@click.option(
    "--servable",
    "base_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT,
    help="Folder of numbered versions, as a pipeline run pushes it; the newest is measured.",
)
@click.option("--requests", default=1000, type=click.IntRange(min=_ROUNDS), help="Timed requests.")
@click.option(
    "--concurrency", "concurrencies", multiple=True, type=click.IntRange(min=1), default=(1,),
    help="Requests in flight, each of one history; repeat for several. Client threads share one "
    "Python process, which bounds what can be sent.",
)  # fmt: skip
@click.option("--seed", default=0, help="Draws the histories.")
@common.json_option
def main(
    base_path: Path,
    requests: int,
    concurrencies: tuple[int, ...],
    seed: int,
    json_path: Path | None,
) -> None:
    """Latency of `recommend` over gRPC against the same call in process.

    The in-process call is what the server itself makes: the servable in a session, the history
    padded. Rounds of both alternate, so that other work on the machine falls on both.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    versions = list_versions(base_path)
    if not versions:
        raise common.Skipped(
            f"no servable under {base_path}: push one with `make run`, or name another folder of "
            "versions with --servable."
        )
    version = max(versions)
    servable = Servable(versions[version], _MODEL, version)
    ads = known_ads(servable)
    if not ads:
        raise click.ClickException(f"the servable {versions[version]} recommends nothing at all.")
    shape = servable.signatures[SIGNATURE].inputs["history"].shape
    assert shape is not None
    asked = histories(ads, shape[1], requests, seed)
    measured: list[common.Record] = []
    with model_server(base_path) as client:
        for concurrency in concurrencies:
            with console.status(f"{requests} requests, {concurrency} in flight"):
                measured += records(concurrency, *_alternate(client, servable, asked, concurrency))
    servable.close()
    _print(console, measured)
    common.write_records(measured, found, json_path)


def _alternate(
    client: RecommenderClient, servable: Servable, asked: list[list[str]], concurrency: int
) -> tuple[Timings, Timings]:
    grpc, in_process = Timings(), Timings()
    calls = ((client.recommend, grpc), (lambda h: recommend_in_process(servable, h), in_process))
    for call, _ in calls:
        ask(call, asked[: max(20, 2 * concurrency)], concurrency, Timings())
    for start in range(_ROUNDS):
        for call, timings in calls:
            ask(call, asked[start::_ROUNDS], concurrency, timings)
    if not grpc.milliseconds:
        raise click.ClickException(f"all {grpc.failures} requests over gRPC failed.")
    return grpc, in_process


def _print(console: Console, measured: list[common.Record]) -> None:
    columns = ["subject", "concurrency", "requests", "p50_ms", "p95_ms", "p99_ms"]
    columns += ["requests_per_second", "failures", "added_ms", "share_of_in_process"]
    title = f"recommend, one history a request (limit: {LIMIT_ADDED_MS:g} ms added at the median)"
    common.print_table(console, title, measured, columns)
    for record in measured:
        if record["subject"] == "grpc" and record["concurrency"] == 1:
            added = record["added_ms"]
            console.print(
                f"gRPC adds {added:.2f} ms at the median, {added / LIMIT_ADDED_MS:.2f} of the "
                f"limit of {LIMIT_ADDED_MS:g} ms: {common.verdict(added, LIMIT_ADDED_MS)}"
            )
        if record["failures"]:
            console.print(
                f"[red]{record['failures']} of {record['requests']} requests failed[/red]"
            )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving")
