"""`python -m serving`: the model server as a process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from serving.flags import (
    OptionalFile,
    boolean,
    channel_arguments,
    foreign_options,
    op_threads,
    without_effect,
)

if TYPE_CHECKING:
    from serving.model_config import ModelConfig
    from serving.settings import ServerSettings

_FILE = OptionalFile()
# TF Serving's, where no --batching_parameters_file names another.
_BATCH_THREADS = "model_server_batch_threads"


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        try:
            own = version("sid_tfx")
        except PackageNotFoundError:
            # An image may hold the folder `serving` without the package.
            own = "unpackaged"
        click.echo(f"sid_tfx model server: {own}")
        click.echo(f"TensorFlow Library: {version('tensorflow')}")
        context.exit()


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.option("--port", default=8500, help="gRPC port; 0 picks a free one and logs it.")
@click.option(
    "--rest_api_port", default=0, type=click.IntRange(min=0), help="HTTP port; 0 for no HTTP."
)
@boolean("--pick_rest_api_port", help="HTTP on a free port, which is logged.")
@click.option("--rest_api_timeout_in_ms", default=30000, type=click.IntRange(min=1))
@click.option("--host", default="0.0.0.0", help="Address to listen on.")
@click.option("--model_name", default="sid_tfx", help="The model's name in requests.")
@click.option(
    "--model_base_path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of numbered version directories.",
)
@click.option(
    "--model_config_file",
    type=_FILE,
    help="A ModelServerConfig with names, policies and labels; --model_name and "
    "--model_base_path are ignored then.",
)
@click.option(
    "--model_config_file_poll_wait_seconds",
    "config_poll_seconds",
    default=0.0,
    type=click.FloatRange(min=0),
    help="Seconds between looks for a changed config file; 0 reads it once.",
)
@click.option(
    "--file_system_poll_wait_seconds",
    "--poll",
    "poll_seconds",
    default=1.0,
    type=click.FloatRange(min=0),
    help="Seconds between looks for a new version; 0 looks once.",
)
@boolean(
    "--allow_version_labels_for_unavailable_models",
    "labels_for_unavailable",
    help="Whether a new label may name a version that does not serve; at the start none does.",
)
@boolean(
    "--enable_signature_method_name_check",
    "check_method_names",
    help="Whether Classify and Regress want signatures of their own method name.",
)
@boolean("--enable_model_warmup", "warm_up", default=True)
@boolean("--enable_batching")
@click.option("--batching_parameters_file", type=_FILE, help="A BatchingParameters file.")
@click.option("--monitoring_config_file", type=_FILE, help="A MonitoringConfig file.")
@click.option("--ssl_config_file", type=_FILE, help="TLS of the gRPC port: an SSLConfig file.")
@click.option("--tls_key", type=_FILE, help="TLS of the gRPC port: the private key, PEM.")
@click.option("--tls_certificate", type=_FILE, help="The server's certificate, PEM.")
@click.option("--tls_client_ca", type=_FILE, help="Clients need a certificate of this authority.")
@click.option("--grpc_max_threads", "--max_workers", "max_workers", default=16)
@click.option(
    "--grpc_channel_arguments",
    default="",
    help="For the gRPC server: key=value, comma-separated.",
)
@click.option("--max_queue", default=1000, help="Requests that may wait for a thread.")
@click.option(
    "--max_inflight_bytes",
    default=1024 * 1024 * 1024,
    help="What the messages of the requests in flight come to at most, per protocol.",
)
@click.option("--max_message_bytes", default=64 * 1024 * 1024)
@click.option("--max_rows", default=10_000, help="Rows of a request at most without batching.")
@click.option("--drain_seconds", default=30.0, help="Time for requests in flight on SIGTERM.")
@click.option(
    "--lame_duck_seconds",
    default=0.0,
    help="On SIGTERM, time to say NOT_SERVING before taking no more requests.",
)
@click.option("--tensorflow_intra_op_parallelism", "intra_op_threads", default=0)
@click.option("--tensorflow_inter_op_parallelism", "inter_op_threads", default=0)
@click.option(
    "--tensorflow_session_parallelism", default=0, help="Both of them, where neither is given."
)
@boolean(
    "--version",
    help="Shows the version and ends.",
    is_eager=True,
    expose_value=False,
    callback=_show_version,
)
@foreign_options
def main(
    drain_seconds: float, lame_duck_seconds: float, config_poll_seconds: float, **flags: Any
) -> None:
    """Serves models through TF Serving's gRPC and REST API; the flags are TF Serving's.

    Flags of TF Serving that are not listed are refused, or logged to have no effect.
    SIGTERM and SIGINT drain: requests in flight finish, then the process ends with 0.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for line in without_effect(flags):
        logging.warning(line)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The signals are taken before the slow import, so that an early SIGTERM ends it cleanly too.
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)

    from serving import memory
    from serving.config_watcher import ConfigWatcher
    from serving.errors import ServingError
    from serving.server import Server

    memory.settle()
    config_file = flags["model_config_file"]
    try:
        server = Server(_configs(flags), _settings(flags))
        server.start()
    except (OSError, ValueError, ServingError) as error:
        raise click.ClickException(str(error)) from error
    watcher = None
    if config_file and config_poll_seconds:
        watcher = ConfigWatcher(config_file, server.reload, config_poll_seconds)
        watcher.start()
    ending.wait()
    logging.info("draining")
    if not server.stop(drain_seconds, lame_duck_seconds):
        # A version still loads, which cannot be cut short. The interpreter's own end would wait for
        # the load of a reload, and be no safe place for native code to come back to from others.
        logging.shutdown()
        os._exit(0)
    if watcher:
        watcher.stop()


def _configs(flags: dict[str, Any]) -> list[ModelConfig]:
    from serving.model_config import ModelConfig, read_model_configs

    config_file, base_path = flags["model_config_file"], flags["model_base_path"]
    if config_file:
        if base_path is not None:
            logging.info("--model_base_path is ignored: --model_config_file is given")
        configs = read_model_configs(config_file, first=True)
        if not configs:
            logging.warning("%s lists no model: none is served before a reload", config_file)
        return configs
    if base_path is None:
        raise click.UsageError("give --model_base_path or --model_config_file")
    return [ModelConfig(flags["model_name"], base_path)]


def _settings(flags: dict[str, Any]) -> ServerSettings:
    from serving.batch_parameters import BatchingParameters, read_batching_parameters
    from serving.config_protos import read_config
    from serving.metrics import DEFAULT_PATH
    from serving.settings import ServerSettings
    from serving.tls import TlsConfig, read_pem_files, read_ssl_config

    batching = None
    if flags["batching_parameters_file"] and not flags["enable_batching"]:
        raise click.UsageError("--batching_parameters_file needs --enable_batching=true")
    if flags["batching_parameters_file"]:
        batching = read_batching_parameters(flags["batching_parameters_file"])
    elif flags["enable_batching"]:
        batching = BatchingParameters(thread_pool_name=_BATCH_THREADS)
    tls: TlsConfig | None = None
    key, certificate = flags["tls_key"], flags["tls_certificate"]
    if flags["ssl_config_file"]:
        tls = read_ssl_config(flags["ssl_config_file"])
    elif key and certificate:
        tls = read_pem_files(key, certificate, flags["tls_client_ca"])
    elif key or certificate or flags["tls_client_ca"]:
        raise click.UsageError("TLS needs both --tls_key and --tls_certificate")
    metrics_path = DEFAULT_PATH
    if flags["monitoring_config_file"]:
        monitoring = read_config(flags["monitoring_config_file"], "MonitoringConfig")
        given = monitoring.prometheus_config
        metrics_path = (given.path or DEFAULT_PATH) if given.enable else ""
    names = (
        "host", "port", "max_workers", "max_queue", "max_inflight_bytes", "max_message_bytes",
        "max_rows", "poll_seconds", "labels_for_unavailable", "check_method_names", "warm_up",
    )  # fmt: skip
    intra_op_threads, inter_op_threads = op_threads(flags)
    return ServerSettings(
        rest_port=0 if flags["pick_rest_api_port"] else flags["rest_api_port"] or None,
        grpc_options=channel_arguments(flags["grpc_channel_arguments"]),
        intra_op_threads=intra_op_threads,
        inter_op_threads=inter_op_threads,
        rest_timeout_seconds=1e-3 * flags["rest_api_timeout_in_ms"],
        batching=batching,
        tls=tls,
        metrics_path=metrics_path,
        **{name: flags[name] for name in names},
    )


if __name__ == "__main__":
    main(prog_name="python -m serving")
