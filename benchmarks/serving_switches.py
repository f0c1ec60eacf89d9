"""Version switches under load, a damaged push, and a server killed in the middle of it all."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from tensorflow_serving.apis import predict_pb2

from benchmarks import common
from benchmarks.serving_load import (
    DEFAULT_SERVABLE,
    MODEL,
    Flood,
    ServerProcess,
    Timings,
    draw_histories,
    history_length,
    known_ads,
    newest_version,
    recommend_in_process,
    request_bytes,
)
from serving.client import RecommenderClient
from serving.servable import Servable

_WAIT_SECONDS = 120.0


class Answers:
    """Checks every answer against the servable's own, and counts by version.

    Args:
        expected: ad ids by request.
        published: versions that were whole on disk so far.
    """

    def __init__(self, expected: list[list[bytes]], published: set[int]) -> None:
        self._expected, self.published = expected, published
        self._lock = threading.Lock()
        self.wrong = 0
        self.by_version: dict[int, int] = {}

    def check(self, index: int, body: bytes) -> None:
        """Takes one answer."""
        response = predict_pb2.PredictResponse.FromString(body)
        version = response.model_spec.version.value
        right = list(response.outputs["ad_ids"].string_val) == self._expected[
            index % len(self._expected)
        ] and (version in self.published)
        with self._lock:
            self.wrong += not right
            self.by_version[version] = self.by_version.get(version, 0) + 1


def publish(source: Path, base: Path, version: int) -> None:
    """Hard-links a version and makes it appear whole, as the pipeline's push does."""
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        staged = Path(folder) / "staged"
        shutil.copytree(source, staged, copy_function=os.link)
        staged.rename(base / str(version))


def publish_damaged(source: Path, base: Path, version: int) -> None:
    """A version whose graph ends in the middle."""
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        staged = Path(folder) / "staged"
        shutil.copytree(source, staged)
        graph = staged / "saved_model.pb"
        graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
        staged.rename(base / str(version))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"{what}: not within {_WAIT_SECONDS:g} s")
        time.sleep(0.02)


def states(client: RecommenderClient) -> dict[int, str]:
    """The server's word on each version."""
    return {state.version: state.state for state in client.status()}


@click.command(context_settings={"show_default": True})
@click.option(
    "--servable",
    "base_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SERVABLE,
    help="Folder of numbered versions; copies of the newest are switched between.",
)
@click.option("--requests", default=200_000, type=click.IntRange(min=100), help="At least.")
@click.option("--switches", default=20, type=click.IntRange(min=1))
@click.option("--concurrency", default=32, type=click.IntRange(min=1))
@click.option("--seed", default=0, help="Draws the histories.")
@common.json_option
def main(
    base_path: Path,
    requests: int,
    switches: int,
    concurrency: int,
    seed: int,
    json_path: Path | None,
) -> None:
    """Counts failed and wrong answers over version switches, and what a crash leaves.

    The requests go on while version after version is published, the next one as soon as the last
    one serves and its share of the requests is answered. Then a damaged version is published,
    which must be refused; then the server is killed under load and started again.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    source = newest_version(base_path)
    servable = Servable(source, MODEL, int(source.name))
    width = history_length(servable)
    asked = draw_histories(known_ads(servable), width, min(requests, 500), seed)
    # One history at a time: in another batch, rounding may swap two ads of nearly equal score.
    expected = [recommend_in_process(servable, [h])["ad_ids"].ravel().tolist() for h in asked]
    servable.close()
    bodies = [request_bytes(history, width) for history in asked]
    with tempfile.TemporaryDirectory(dir=base_path.parent) as folder:
        base = Path(folder) / MODEL
        base.mkdir()
        published = {1}
        publish(source, base, 1)
        answers = Answers(expected, published)
        with ServerProcess(base, "--poll=0.2") as server:
            with console.status(f"{requests:,} requests over {switches} switches"):
                switched = _switch(
                    server, source, base, bodies, answers, requests, switches, concurrency
                )
            newest = 1 + switches
            refused = _push_damaged(server, source, base, newest + 1, newest)
            restarted, lost = _kill(server, bodies, answers, concurrency)
    records = [
        {
            "subject": "switches",
            "concurrency": concurrency,
            "requests": switched.rows + switched.failures,
            "switches": switches,
            "versions_that_answered": len(answers.by_version),
            "failures": switched.failures,
            "wrong_answers": answers.wrong,
            "requests_per_second": round(switched.requests_per_second, 1),
            **common.percentiles(np.array(switched.milliseconds)),
        },
        {"subject": "damaged version", "refused": refused, "still_serving": newest},
        {
            "subject": "kill -9",
            "failures": lost,
            "same_version": restarted[0] == newest,
            "seconds_to_serve": round(restarted[1], 1),
        },
    ]
    for record in records:
        common.print_table(console, str(record["subject"]), [record], list(record))
    common.write_records(records, found, json_path)
    if switched.failures or answers.wrong or not refused or restarted[0] != newest:
        raise click.ClickException("requests were lost, wrong, or a damaged version was served.")


def _answered(timings: Timings, requests: int) -> bool:
    return timings.rows + timings.failures >= requests


def _serves(client: RecommenderClient, version: int) -> bool:
    return states(client).get(version) == "AVAILABLE"


def _switch(
    server: ServerProcess,
    source: Path,
    base: Path,
    bodies: list[bytes],
    answers: Answers,
    requests: int,
    switches: int,
    concurrency: int,
) -> Timings:
    timings, flood, switched = Timings(), Flood(server.target), threading.Event()

    def stream() -> Iterator[bytes]:
        # A small load would end while the first versions load: it goes on until the last serves.
        for index in itertools.count():
            if index >= requests and switched.is_set():
                return
            yield bodies[index % len(bodies)]

    load = threading.Thread(target=flood.ask, args=(stream(), concurrency, timings, answers.check))
    load.start()
    with RecommenderClient(server.target, MODEL, timeout=_WAIT_SECONDS) as client:
        for version in range(2, switches + 2):
            share = requests * (version - 1) // (switches + 1)
            wait_for(functools.partial(_answered, timings, share), "the load")
            answers.published.add(version)
            publish(source, base, version)
            wait_for(functools.partial(_serves, client, version), f"version {version}")
            wait_for(
                functools.partial(answers.by_version.__contains__, version),
                f"an answer of version {version}",
            )
            shutil.rmtree(base / str(version - 1))
    switched.set()
    load.join()
    flood.close()
    return timings


def _push_damaged(
    server: ServerProcess, source: Path, base: Path, version: int, newest: int
) -> bool:
    publish_damaged(source, base, version)
    with RecommenderClient(server.target, MODEL, timeout=_WAIT_SECONDS) as client:
        wait_for(lambda: states(client).get(version) == "END", "the damaged version's refusal")
        return _serves(client, newest)


def _kill(
    server: ServerProcess, bodies: list[bytes], answers: Answers, concurrency: int
) -> tuple[tuple[int, float], int]:
    timings, flood = Timings(), Flood(server.target)
    load = threading.Thread(
        target=flood.ask, args=(bodies * 2, concurrency, timings, answers.check)
    )
    load.start()
    wait_for(lambda: timings.rows > len(bodies) // 4, "the load")
    server.kill()
    load.join()
    flood.close()
    begin = time.perf_counter()
    version = server.start()
    return (version, time.perf_counter() - begin), timings.failures


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving_switches")
