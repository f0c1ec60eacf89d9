"""What a server is told to serve: names, folders, version policies and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig as ModelConfigProto
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.config_protos import read_text_proto
from serving.errors import invalid_argument
from serving.policies import All, Latest, Specific, VersionPolicy

_PLATFORM = "tensorflow"


@dataclass(frozen=True)
class ModelConfig:
    """One served model.

    Args:
        name: its name in requests.
        base_path: the folder of its numbered versions.
        policy: which of them are served.
        labels: names for versions that requests may use, such as `stable` and `canary`.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)


def model_configs(config: ModelServerConfig) -> list[ModelConfig]:
    """Reads TF Serving's `ModelServerConfig`.

    Raises:
        ServingError: INVALID_ARGUMENT, and the message names model and field.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    return check_names(_model_config(proto) for proto in config.model_config_list.config)


def check_names(configs: Iterable[ModelConfig]) -> list[ModelConfig]:
    """The configs, once it is sure that each has a name of its own.

    Raises:
        ServingError: INVALID_ARGUMENT when a name is listed twice or empty.
    """
    found: dict[str, ModelConfig] = {}
    for config in configs:
        if not config.name:
            raise invalid_argument("ModelConfig has no name specified.")
        if config.name in found:
            raise invalid_argument(
                f"Illegal to list model {config.name} multiple times in config list"
            )
        found[config.name] = config
    return list(found.values())


def read_model_configs(
    path: Path, content: bytes | None = None, first: bool = False
) -> list[ModelConfig]:
    """Reads a `--model_config_file`.

    Args:
        path: the file.
        content: of the file, if it has been read.
        first: whether the server starts with it, which it may do with an empty file and no model.
            A file that is emptied later is refused, as in TF Serving: it would end all models.

    Raises:
        ValueError: the file is not a `ModelServerConfig` in text format, or empty.
        ServingError: as `model_configs`.
    """
    config = read_text_proto(path, ModelServerConfig(), content)
    if config.WhichOneof("config") is None:
        if first:
            return []
        raise ValueError(f"{path} is empty; `model_config_list {{}}` lists no model")
    return model_configs(config)


def _model_config(proto: ModelConfigProto) -> ModelConfig:
    if proto.model_platform not in ("", _PLATFORM):
        raise invalid_argument(
            f"model_platform of {proto.name} is {proto.model_platform!r}; this server serves "
            f"{_PLATFORM!r}"
        )
    if not proto.base_path:
        raise invalid_argument(f"base_path of {proto.name} is empty: name its folder of versions")
    try:
        policy = _policy(proto.model_version_policy)
    except ValueError as error:
        raise invalid_argument(f"model_version_policy of {proto.name}: {error}") from error
    return ModelConfig(proto.name, Path(proto.base_path), policy, dict(proto.version_labels))


def _policy(
    proto: FileSystemStoragePathSourceConfig.ServableVersionPolicy,
) -> VersionPolicy:
    kind = proto.WhichOneof("policy_choice")
    if kind == "all":
        return All()
    if kind == "specific":
        return Specific(frozenset(proto.specific.versions))
    # As in TF Serving, `latest {}` means one version.
    return Latest(proto.latest.num_versions or 1)
