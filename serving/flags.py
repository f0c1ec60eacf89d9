"""How the command line reads TF Serving's flags, those it cannot honour among them.

Names, types and defaults are those of TF Serving's `main.cc`. A flag that changes nothing of what
clients see is taken and said to have no effect; one whose absence they would notice is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

_Decorator = Callable[[Callable], Callable]


class OptionalFile(click.Path):
    """A file that exists; empty for none, as TF Serving's own flags have it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        return None if value == "" else super().convert(value, param, ctx)


def boolean(*names: str, default: bool | None = False, help: str = "", **more: Any) -> _Decorator:
    """A flag of TF Serving's style: `--name`, `--name=true` or `--name=false`."""
    return click.option(
        *names, type=bool, default=default, is_flag=False, flag_value=True, help=help, **more
    )


@dataclass(frozen=True)
class Foreign:
    """A flag of TF Serving that this server does not honour.

    Args:
        type: of its value.
        harmless: values that ask for nothing this server does not do.
        instead: what holds instead.
        refused: whether any other value keeps the server from starting.
    """

    type: type
    harmless: tuple[Any, ...]
    instead: str
    refused: bool = False


_NO_LITE = "there is no TensorFlow Lite in this server"
_LOADING = "a model loads its versions in a thread of its own, and no request waits for it"
_RETRIES = "a version that failed to load is tried again when its files change"

FOREIGN: Mapping[str, Foreign] = {
    "num_load_threads": Foreign(int, (), _LOADING),
    "num_unload_threads": Foreign(int, (), _LOADING),
    "max_num_load_retries": Foreign(int, (), _RETRIES),
    "load_retry_interval_micros": Foreign(int, (), _RETRIES),
    "flush_filesystem_caches": Foreign(bool, (False,), "file system caches are not flushed"),
    "rest_api_num_threads": Foreign(int, (), "--grpc_max_threads is REST's number of threads too"),
    "num_request_iterations_for_warmup": Foreign(int, (0, 1), "a warm-up record is run once"),
    "per_process_gpu_memory_fraction": Foreign(
        float, (0.0,), "TensorFlow takes a GPU's memory as it does by default"
    ),
    "remove_unused_fields_from_bundle_metagraph": Foreign(
        bool, (False,), "a graph's description is kept whole"
    ),
    "enable_profiler": Foreign(bool, (False,), "there is no profiler service"),
    "enable_grpc_healthcheck_service": Foreign(bool, (True,), "grpc.health.v1 is always served"),
    "enable_serialization_as_tensor_content": Foreign(
        bool, (False,), "answers have typed fields"
    ),
    "xla_cpu_compilation_enabled": Foreign(
        bool, (True,), "a graph that asks for XLA gets it, with or without the flag"
    ),
    "xla_gpu_compilation_enabled": Foreign(
        bool, (True,), "a graph that asks for XLA gets it, with or without the flag"
    ),
    "skip_initialize_tpu": Foreign(bool, (True,), "no TPU is initialized"),
    "num_tflite_pools": Foreign(int, (), _NO_LITE),
    "num_tflite_interpreters_per_pool": Foreign(int, (), _NO_LITE),
    "prefer_tflite_model": Foreign(bool, (False,), _NO_LITE, refused=True),
    "use_tflite_model": Foreign(bool, (False,), _NO_LITE, refused=True),
    "saved_model_tags": Foreign(
        str, ("", "serve"), "the graph tagged `serve` is served, no other", refused=True
    ),
    "grpc_socket_path": Foreign(str, ("",), "gRPC is on a TCP port only", refused=True),
    "rest_api_enable_cors_support": Foreign(
        bool, (False,), "REST answers carry no CORS headers; let a proxy add them", refused=True
    ),
    "enable_per_model_batching_parameters": Foreign(
        bool, (False,), "--batching_parameters_file holds for every model", refused=True
    ),
    "tensorflow_session_config_file": Foreign(
        str, ("",), "of a session only the two --tensorflow_*_op_parallelism can be set",
        refused=True,
    ),
    "platform_config_file": Foreign(
        str, ("",), "the one platform is tensorflow, set by the other flags", refused=True
    ),
    "thread_pool_factory_config_file": Foreign(
        str, ("",), "requests run in TensorFlow's own thread pools", refused=True
    ),
    "use_alts_credentials": Foreign(
        bool, (False,), "TLS is set by --ssl_config_file or --tls_*", refused=True
    ),
    "mixed_precision": Foreign(
        str, ("",), "a graph runs in the precision it was exported with", refused=True
    ),
}  # fmt: skip


def foreign_options(command: Callable) -> Callable:
    """Adds the flags of `FOREIGN` to a command, out of the way of its help."""
    for name, flag in FOREIGN.items():
        if flag.type is bool:
            option = boolean(f"--{name}", default=None, hidden=True)
        else:
            option = click.option(f"--{name}", type=flag.type, hidden=True)
        command = option(command)
    return command


def without_effect(flags: Mapping[str, Any]) -> Iterator[str]:
    """What to log of the given flags that are not honoured.

    Raises:
        click.UsageError: one asks for what this server cannot do.
    """
    for name, flag in FOREIGN.items():
        value = flags[name]
        if value is None or value in flag.harmless:
            continue
        if flag.refused:
            raise click.UsageError(f"--{name} cannot be honoured: {flag.instead}")
        yield f"--{name} has no effect: {flag.instead}"


def op_threads(flags: Mapping[str, Any]) -> tuple[int, int]:
    """Intra- and inter-op threads of a session, by TF Serving's three flags.

    Raises:
        click.UsageError: all three are given.
    """
    intra, inter = flags["intra_op_threads"], flags["inter_op_threads"]
    both = flags["tensorflow_session_parallelism"]
    if intra > 0 and inter > 0 and both > 0:
        raise click.UsageError(
            "give either --tensorflow_session_parallelism or --tensorflow_intra_op_parallelism and "
            "--tensorflow_inter_op_parallelism"
        )
    return (intra, inter) if intra > 0 or inter > 0 else (both, both)


def channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """Reads `--grpc_channel_arguments`: `key=value`, comma-separated; numbers are integers.

    Raises:
        click.UsageError: a part has no `=`.
    """
    found: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise click.UsageError(f"--grpc_channel_arguments: {part!r} is no key=value")
        found.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return tuple(found)
