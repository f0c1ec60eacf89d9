"""TF Serving's configuration messages that its Python package leaves out.

`tensorflow-serving-api` ships `ModelServerConfig` only. The files of `--batching_parameters_file`,
`--ssl_config_file` and `--monitoring_config_file` are text protos too, so their messages are
described here with the same names and types, and parsed by protobuf itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

_PACKAGE = "sid_tfx.serving"
_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64_VALUE, _STRING_VALUE = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
_BOOL_VALUE = ".google.protobuf.BoolValue"

# Field names; their numbers, which text does not show, are those of this order.
_MESSAGES: Mapping[str, Mapping[str, int | str]] = {
    "BatchingParameters": {
        "max_batch_size": _INT64_VALUE,
        "batch_timeout_micros": _INT64_VALUE,
        "max_enqueued_batches": _INT64_VALUE,
        "num_batch_threads": _INT64_VALUE,
        "thread_pool_name": _STRING_VALUE,
        "allowed_batch_sizes": _FIELD.TYPE_INT64,
        "pad_variable_length_inputs": _FIELD.TYPE_BOOL,
        "enable_large_batch_splitting": _BOOL_VALUE,
        "max_execution_batch_size": _INT64_VALUE,
    },
    "SSLConfig": {
        "server_key": _FIELD.TYPE_STRING,
        "server_cert": _FIELD.TYPE_STRING,
        "custom_ca": _FIELD.TYPE_STRING,
        "client_verify": _FIELD.TYPE_BOOL,
    },
    "PrometheusConfig": {"enable": _FIELD.TYPE_BOOL, "path": _FIELD.TYPE_STRING},
    "MonitoringConfig": {"prometheus_config": f".{_PACKAGE}.PrometheusConfig"},
}
_REPEATED = {"allowed_batch_sizes"}


def _make() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="sid_tfx/serving/config.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            made = message.field.add(name=field, number=number)
            made.label = _FIELD.LABEL_REPEATED if field in _REPEATED else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                made.type = kind
    pool = descriptor_pool.Default()
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return {
        # The type stubs are of a newer protobuf, which has another name for this.
        name: factory.GetPrototype(  # type: ignore[attr-defined]
            pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
        )
        for name in _MESSAGES
    }


_CLASSES = _make()


def read_text_proto(path: Path, message: Message, content: bytes | None = None) -> Any:
    """Fills a message from a text proto file.

    Args:
        path: the file.
        message: what to fill.
        content: of the file, if it has been read.

    Raises:
        ValueError: the file cannot be read or parsed; the message names file, line and field.
    """
    try:
        text = path.read_text() if content is None else content.decode()
        return text_format.Parse(text, message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ValueError(
            f"{path} is no readable {message.DESCRIPTOR.name} in protobuf's text format: {error}"
        ) from error


def read_config(path: Path, name: str) -> Any:
    """Reads a `BatchingParameters`, `SSLConfig` or `MonitoringConfig` file.

    Raises:
        ValueError: as `read_text_proto`.
    """
    return read_text_proto(path, _CLASSES[name]())
