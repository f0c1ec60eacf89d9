"""`python -m serving`: the model server as a process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType

import click


@click.command(context_settings={"show_default": True})
@click.option("--port", default=8500, help="gRPC port; 0 picks a free one and logs it.")
@click.option("--host", default="0.0.0.0", help="Address to listen on.")
@click.option("--model_name", default="sid_tfx", help="The model's name in requests.")
@click.option(
    "--model_base_path",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of numbered version directories.",
)
@click.option(
    "--file_system_poll_wait_seconds",
    "--poll",
    "poll_seconds",
    default=1.0,
    type=click.FloatRange(min=0),
    help="Seconds between looks for a new version; 0 looks once.",
)
@click.option("--grpc_max_threads", "--max_workers", "max_workers", default=16)
@click.option("--max_queue", default=1000, help="Requests that may wait for a thread.")
@click.option("--max_message_bytes", default=64 * 1024 * 1024)
@click.option("--drain_seconds", default=30.0, help="Time for requests in flight on SIGTERM.")
@click.option(
    "--lame_duck_seconds",
    default=0.0,
    help="On SIGTERM, time to say NOT_SERVING before taking no more requests.",
)
@click.option("--tensorflow_intra_op_parallelism", "intra_op_threads", default=0)
@click.option("--tensorflow_inter_op_parallelism", "inter_op_threads", default=0)
def main(
    port: int,
    host: str,
    model_name: str,
    model_base_path: Path,
    poll_seconds: float,
    max_workers: int,
    max_queue: int,
    max_message_bytes: int,
    drain_seconds: float,
    lame_duck_seconds: float,
    intra_op_threads: int,
    inter_op_threads: int,
) -> None:
    """Serves the newest version under --model_base_path through TF Serving's gRPC API.

    SIGTERM and SIGINT drain: requests in flight finish, then the process ends with 0.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The signals are taken before the slow import, so that an early SIGTERM ends it cleanly too.
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)

    from serving import memory
    from serving.server import ModelServer

    memory.settle()
    server = ModelServer(
        model_name,
        model_base_path,
        port,
        host=host,
        max_workers=max_workers,
        max_queue=max_queue,
        max_message_bytes=max_message_bytes,
        poll_seconds=poll_seconds,
        intra_op_threads=intra_op_threads,
        inter_op_threads=inter_op_threads,
    )
    try:
        server.start()
    except OSError as error:
        raise click.ClickException(str(error)) from error
    ending.wait()
    logging.info("draining")
    server.stop(drain_seconds, lame_duck_seconds)


if __name__ == "__main__":
    main(prog_name="python -m serving")
