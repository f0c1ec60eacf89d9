"""The HTTP front: Tornado's event loop in one thread, requests worked on in bounded pools."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from serving.errors import ServingError, shutting_down, too_many_bytes
from serving.memory import LARGE_BYTES, trim
from serving.metrics import CONTENT_TYPE, Metrics
from serving.rest_api import Answer, RestApi, asks_for_status, error_answer
from serving.settings import ServerSettings


class _Pool:
    """Threads, and how many calls they have in hand. Used from the loop alone, but for `close`.

    Args:
        name: the threads' name.
        threads: calls worked on at once.
        limit: calls taken on, those that wait for a thread included.
        max_bytes: what their bodies come to at most; a call that is alone may have more.
    """

    def __init__(self, name: str, threads: int, limit: int, max_bytes: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads, self._limit, self._max_bytes = threads, limit, max_bytes
        self.in_hand = 0
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self.in_hand - self._threads)

    def problem(self, size: int) -> ServingError | None:
        """Why no further call with a body of this size is taken on; None where one is."""
        if self.in_hand >= self._limit:
            return ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self.in_hand} requests are in flight, the limit is {self._limit}",
            )
        if self.in_hand and self._bytes + size > self._max_bytes:
            return too_many_bytes(self._bytes, self._max_bytes)
        return None

    async def run(self, call: Callable[[], Answer], size: int = 0) -> Answer:
        """What a call with a body of this size returns."""
        # Counted on the loop's own thread, so that no lock is needed.
        self.in_hand += 1
        self._bytes += size
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self.in_hand -= 1
            self._bytes -= size

    def begin(self, call: Callable[[], object]) -> None:
        """Runs a call that nobody waits for."""
        self._executor.submit(call)

    def close(self) -> None:
        """Ends the threads; a call that still runs is not waited for."""
        self._executor.shutdown(wait=False)


class HttpServer:
    """Serves the REST API and the metrics page.

    Args:
        api: what answers.
        metrics: what the page shows.
        settings: host, port and bounds.
    """

    def __init__(self, api: RestApi, metrics: Metrics, settings: ServerSettings) -> None:
        self._api, self._metrics, self._settings = api, metrics, settings
        limits = (settings.max_workers + settings.max_queue, settings.max_inflight_bytes)
        self._work = _Pool("rest", settings.max_workers, *limits)
        # Probes and scrapers ask with these: a server that has all hands full still says how it is.
        self._status = _Pool("rest-status", 1, *limits)
        self._being_written = 0
        metrics.waiting("REST", lambda: self._work.waiting)
        self._draining = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._server: HTTPServer | None = None
        self.port = settings.rest_port or 0

    def start(self) -> None:
        """Listens.

        Raises:
            OSError: the port cannot be bound.
        """
        # Without SO_REUSEPORT, so that a second server on the port is an error.
        sockets = bind_sockets(self.port, self._settings.host, family=socket.AF_INET)
        self.port = sockets[0].getsockname()[1]
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(sockets), self._loop).result()

    def stop(self, grace: float) -> None:
        """Takes no more requests; those in flight have `grace` seconds to be answered."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._drain(grace), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for pool in (self._work, self._status):
            pool.close()

    async def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Answers one request in a thread; refuses at once when too many wait, or at the end."""
        if self._draining:
            # Connections that are kept alive bring new requests for as long as they are open.
            return error_answer(shutting_down())
        pool = self._status if asks_for_status(method, path) else self._work
        if (refusal := pool.problem(len(body))) is not None:
            return self._api.refuse(method, path, refusal)
        deadline = time.monotonic() + self._settings.rest_timeout_seconds
        try:
            return await pool.run(lambda: self._api.answer(method, path, body, deadline), len(body))
        finally:
            if len(body) > LARGE_BYTES:
                pool.begin(trim)

    async def page(self) -> Answer:
        """The metrics page."""
        return await self._status.run(lambda: Answer(200, self._metrics.page()))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the end back until an answer has left."""
        self._being_written += 1
        try:
            yield
        finally:
            self._being_written -= 1

    @property
    def _unfinished(self) -> int:
        return self._work.in_hand + self._status.in_hand + self._being_written

    async def _listen(self, sockets: list[socket.socket]) -> None:
        bound = self._settings.max_message_bytes
        handlers: list = [(r".*", _Rest, {"front": self})]
        if self._settings.metrics_path:
            handlers.insert(0, (self._settings.metrics_path, _MetricsPage, {"front": self}))
        self._server = HTTPServer(
            Application(handlers, compress_response=True, log_function=lambda handler: None),
            decompress_request=True,
            max_body_size=bound,
            max_buffer_size=2 * bound,
            idle_connection_timeout=3600,
        )
        self._server.add_sockets(sockets)

    async def _drain(self, grace: float) -> None:
        assert self._server is not None
        self._server.stop()
        self._draining = True
        deadline = time.monotonic() + grace
        while self._unfinished and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._server.close_all_connections()


class _Front(RequestHandler):
    def initialize(self, front: HttpServer) -> None:
        self.front = front

    async def write_answer(self, answer: Answer, content_type: str) -> None:
        self.set_status(answer.status)
        self.set_header("Content-Type", content_type)
        # A caller that has gone is no error of the server's.
        with self.front.writing(), contextlib.suppress(StreamClosedError):
            await self.finish(answer.body)

    def write_error(self, status_code: int, **kwargs: object) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish({"error": self._reason})


class _Rest(_Front):
    async def answer(self) -> None:
        path = self.request.path
        if not path.lower().startswith("/v1/"):
            self.send_error(404)
            return
        answer = await self.front.answer(self.request.method or "", path, self.request.body)
        await self.write_answer(answer, "application/json")

    # What a path does not know is for the API to say, and it says so of every method alike.
    get = head = post = put = delete = patch = options = answer


class _MetricsPage(_Front):
    async def get(self) -> None:
        await self.write_answer(await self.front.page(), CONTENT_TYPE)
