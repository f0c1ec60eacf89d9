"""What the serving benchmarks share: a server process, histories, in-process and gRPC calls."""

from __future__ import annotations

import dataclasses
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO

import click
import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from benchmarks import common
from serving.client import RecommenderClient
from serving.client_errors import RecommenderError
from serving.servable import Servable
from serving.tensors import fill
from serving.version_dirs import list_versions
from serving.wire import strings

MODEL = "sid_tfx"
SIGNATURE = "recommend"
DEFAULT_SERVABLE = Path("runs/sample/serving/portable/sid_tfx")
_METHOD = "/tensorflow.serving.PredictionService/Predict"
_WANTED_ADS = 200


@dataclasses.dataclass
class Timings:
    """What one way of asking took: milliseconds of each answer, wall seconds of all rounds."""

    milliseconds: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    failures: int = 0
    rows: int = 0

    @property
    def requests_per_second(self) -> float:
        """Histories answered per second of wall time."""
        return self.rows / self.seconds if self.seconds else 0.0


def newest_version(base_path: Path) -> Path:
    """The newest version under a base path.

    Raises:
        common.Skipped: there is none.
    """
    versions = list_versions(base_path)
    if not versions:
        raise common.Skipped(
            f"no servable under {base_path}: push one with `make run`, or name another folder of "
            "versions with --servable."
        )
    return versions[max(versions)]


def history_length(servable: Servable) -> int:
    """T, the width of `recommend`'s input."""
    shape = servable.signatures[SIGNATURE].inputs["history"].shape
    assert shape is not None
    return shape[1]


def padded(histories: Sequence[Sequence[str]], width: int) -> np.ndarray:
    """Histories as the wire has them, object [B, T] of bytes."""
    block = np.full((len(histories), width), b"", dtype=object)
    for row, history in enumerate(histories):
        newest = list(history)[-width:]
        block[row, : len(newest)] = strings(newest)
    return block


def recommend_in_process(
    servable: Servable, histories: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """The call that the server makes for a request, padding included."""
    outputs = list(servable.signatures[SIGNATURE].outputs)
    block = padded(histories, history_length(servable))
    return dict(zip(outputs, servable.run(SIGNATURE, {"history": block}, outputs), strict=True))


def request_bytes(history: Sequence[str], width: int) -> bytes:
    """A serialized `recommend` request of one history."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL, SIGNATURE
    fill(request.inputs["history"], padded([history], width))
    return request.SerializeToString()


def known_ads(servable: Servable, wanted: int = _WANTED_ADS) -> list[str]:
    """Ads of the servable's catalogue, found by asking it: popular ones, then what follows them."""
    ads: dict[str, None] = {}
    asked: list[str] = []
    while len(ads) < wanted:
        answer = recommend_in_process(servable, [asked])
        found = answer["ad_ids"][0, : answer["count"][0]].tolist()
        ads.update(dict.fromkeys(ad.decode() for ad in found))
        left = [ad for ad in ads if ad not in asked]
        if not left:
            break
        asked = [*asked, left[0]]
    if not ads:
        raise click.ClickException(f"the servable {servable.path} recommends nothing at all.")
    return list(ads)


def draw_histories(ads: Sequence[str], longest: int, count: int, seed: int) -> list[list[str]]:
    """Histories of 1 to `longest` of these ads."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size=count)
    return [[ads[i] for i in rng.integers(len(ads), size=length)] for length in lengths]


def ask_one_by_one(
    call: Callable[[list[str]], object], asked: Sequence[list[str]], timings: Timings
) -> None:
    """Sends requests one after the other and adds to the timings."""
    begin = time.perf_counter()
    for history in asked:
        start = time.perf_counter()
        try:
            call(history)
        except RecommenderError:
            timings.failures += 1
            continue
        timings.milliseconds.append(1e3 * (time.perf_counter() - start))
        timings.rows += 1
    timings.seconds += time.perf_counter() - begin


class Flood:
    """Keeps a number of serialized requests in flight, each answer sending the next one off.

    No thread waits for an answer and none is decoded unless asked for, so that one Python process
    can ask for more than a server gives.

    Args:
        target: `host:port`.
        connections: HTTP/2 connections to spread the requests over.
    """

    def __init__(self, target: str, connections: int = 2) -> None:
        self._channels = [
            # Each channel with its own options gets a connection of its own.
            grpc.insecure_channel(target, options=[("benchmark.connection", index)])
            for index in range(connections)
        ]
        self._calls = [channel.unary_unary(_METHOD) for channel in self._channels]

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            channel.close()

    def ask(
        self,
        bodies: Iterable[bytes],
        concurrency: int,
        timings: Timings,
        on_answer: Callable[[int, bytes], None] | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Sends all requests and returns when all are answered.

        Args:
            bodies: serialized requests.
            concurrency: requests in flight.
            timings: what is added to.
            on_answer: told index and answer of each request that succeeded.
            timeout: seconds that one request may take.
        """
        lock, left, ended = threading.Lock(), enumerate(bodies), threading.Semaphore(0)

        def send(lane: int) -> None:
            with lock:
                found = next(left, None)
            if found is None:
                ended.release()
                return
            index, body = found
            start = time.perf_counter()

            def done(call: grpc.Future) -> None:
                taken = 1e3 * (time.perf_counter() - start)
                failed = call.exception() is not None
                with lock:
                    timings.failures += failed
                    if not failed:
                        timings.milliseconds.append(taken)
                        timings.rows += 1
                if on_answer and not failed:
                    on_answer(index, call.result())
                send(lane)

            call = self._calls[lane % len(self._calls)]
            call.future(body, timeout=timeout).add_done_callback(done)

        begin = time.perf_counter()
        for lane in range(concurrency):
            send(lane)
        for _ in range(concurrency):
            ended.acquire()
        timings.seconds += time.perf_counter() - begin


def run_batches(
    servable: Servable, asked: Sequence[list[str]], size: int, threads: int, timings: Timings
) -> None:
    """Answers histories in this process, in batches of one size on some threads."""
    batches = [asked[start : start + size] for start in range(0, len(asked), size)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for batch, _ in zip(
            batches, pool.map(lambda b: recommend_in_process(servable, b), batches), strict=True
        ):
            timings.rows += len(batch)
    timings.seconds += time.perf_counter() - begin


class ServerProcess:
    """`python -m serving` on a folder of versions; it can be killed and started again.

    Args:
        base_path: folder of versions.
        flags: further flags of the server.
        rest: whether it serves REST too, at `rest_port`.
    """

    def __init__(self, base_path: Path, *flags: str, rest: bool = False) -> None:
        with socket.socket() as probe, socket.socket() as other:
            for one in (probe, other):
                one.bind(("127.0.0.1", 0))
            port, self.rest_port = probe.getsockname()[1], other.getsockname()[1]
        self.target = f"127.0.0.1:{port}"
        if rest:
            flags = (*flags, f"--rest_api_port={self.rest_port}")
        self._command = [
            sys.executable, "-m", "serving", "--host=127.0.0.1", f"--port={port}",
            f"--model_name={MODEL}", f"--model_base_path={base_path.resolve()}", *flags,
        ]  # fmt: skip
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen | None = None

    def start(self) -> int:
        """Starts it and waits until it serves.

        Returns:
            The version that serves.
        """
        self._process = subprocess.Popen(
            self._command, cwd=common.ROOT, stdout=self._log, stderr=self._log
        )
        with RecommenderClient(self.target, MODEL) as client:
            try:
                return client.wait_until_available(timeout=180)
            except TimeoutError as error:
                self._log.seek(0)
                said = self._log.read()[-2000:].decode(errors="replace")
                raise click.ClickException(f"{error}\nThe server said:\n{said}") from error

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends it as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        self._log.close()
