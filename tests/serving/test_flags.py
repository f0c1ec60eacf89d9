"""The command line: TF Serving's own, as its documentation writes them, start this server."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from serving.__main__ import _configs, _settings, main
from serving.flags import FOREIGN, without_effect
from serving.model_config import ModelConfig
from serving.server import Server
from serving.settings import ServerSettings
from tests.serving.stubs import Stubs, refused

pytestmark = pytest.mark.unit

MODELS = 'model_config_list { config { name: "first" base_path: "/models/first" } }'
BATCHING = (
    "max_batch_size { value: 128 } batch_timeout_micros { value: 0 }\n"
    "max_enqueued_batches { value: 1000000 } num_batch_threads { value: 8 }"
)
MONITORING = 'prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }'
# What the image's entry point gives before a user's own arguments.
IMAGE = "--port=8500 --rest_api_port=8501 --model_name=model --model_base_path=/models/model "


def parse(line: str) -> dict[str, Any]:
    return main.make_context("serving", shlex.split(line)).params


@pytest.fixture
def files(tmp_path: Path) -> Path:
    texts = {"models": MODELS, "batching": BATCHING, "monitoring": MONITORING, "nothing": ""}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


# From api_rest.md, docker.md, serving_config.md, main.cc and the image's entry point.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "--rest_api_port=8501 --model_name=half_plus_three --model_base_path=/tmp/half/": {},
    "--port=8500 --model_name=mnist --model_base_path=/tmp/mnist_model/": {},
    IMAGE: {"rest_port": 8501},
    IMAGE + "--enable_batching": {"batching": True},
    IMAGE + "--enable_batching=true --batching_parameters_file={files}/batching": {
        "batching": True
    },
    IMAGE + "--enable_batching=false": {"batching": False},
    IMAGE + "--model_config_file={files}/models --model_config_file_poll_wait_seconds=60": {
        "models": ["first"]
    },
    IMAGE + "--monitoring_config_file={files}/monitoring": {},
    IMAGE + "--allow_version_labels_for_unavailable_models": {"labels_for_unavailable": True},
    IMAGE + "--allow_version_labels_for_unavailable_models=true": {"labels_for_unavailable": True},
    IMAGE + "--enable_model_warmup=false --file_system_poll_wait_seconds=0": {"warm_up": False},
    IMAGE + "--enable_signature_method_name_check": {"check_method_names": True},
    IMAGE + "--model_config_file={files}/nothing": {"models": []},
    IMAGE + "--rest_api_port=0 --model_config_file=": {"rest_port": None, "models": ["model"]},
    IMAGE + "--tensorflow_session_parallelism=4": {"intra_op_threads": 4, "inter_op_threads": 4},
    IMAGE + "--tensorflow_session_parallelism=4 --tensorflow_intra_op_parallelism=2": {
        "intra_op_threads": 2, "inter_op_threads": 0,
    },
    IMAGE + "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,a=b": {
        "grpc_options": (("grpc.max_connection_age_ms", 2000), ("a", "b")),
    },
}  # fmt: skip


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_documented_command_line_is_understood(line: str, files: Path) -> None:
    flags = parse(line.format(files=files))
    assert list(without_effect(flags)) == []
    settings, configs = _settings(flags), _configs(flags)
    said = {
        "models": [config.name for config in configs],
        "batching": settings.batching is not None,
    }
    for name, value in DOCUMENTED[line].items():
        assert (said[name] if name in said else getattr(settings, name)) == value


# Every flag of TF Serving's main.cc.
TF_SERVING = """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models
batching_parameters_file enable_per_model_batching_parameters model_config_file
model_config_file_poll_wait_seconds model_name model_base_path num_load_threads num_unload_threads
max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file
tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism use_alts_credentials
ssl_config_file platform_config_file per_process_gpu_memory_fraction saved_model_tags
grpc_channel_arguments grpc_max_threads enable_model_warmup num_request_iterations_for_warmup
version monitoring_config_file remove_unused_fields_from_bundle_metagraph prefer_tflite_model
num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
xla_cpu_compilation_enabled enable_profiler thread_pool_factory_config_file
"""


def test_no_flag_of_tf_serving_is_unknown() -> None:
    known = {option for parameter in main.params for option in parameter.opts}
    assert {f"--{name}" for name in TF_SERVING.split()} <= known


def test_the_pool_of_batches_has_tf_servings_name() -> None:
    batching = _settings(parse(IMAGE + "--enable_batching")).batching
    assert batching
    assert batching.thread_pool_name == "model_server_batch_threads"


def test_rest_is_off_unless_asked_for() -> None:
    base = "--model_base_path=/models/model"
    assert _settings(parse(base)).rest_port is None
    assert _settings(parse(f"{base} --rest_api_port=0")).rest_port is None
    assert _settings(parse(f"{base} --pick_rest_api_port")).rest_port == 0


def test_what_is_ignored_is_logged(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        [config] = _configs(parse(f"{IMAGE} --model_config_file={files}/models"))
    assert config.name == "first"
    assert "--model_base_path is ignored" in caplog.text
    assert _configs(parse(f"--model_config_file={files}/nothing")) == []
    assert "nothing lists no model: none is served before a reload" in caplog.text


@pytest.mark.parametrize("name", FOREIGN)
def test_a_flag_that_cannot_be_honoured_says_so(name: str) -> None:
    flag = FOREIGN[name]
    for value in flag.harmless:
        assert list(without_effect(parse(f"{IMAGE} --{name}={value}"))) == []
    asked = {bool: True not in flag.harmless, int: 7, float: 0.5, str: "x"}[flag.type]
    line = f"{IMAGE} --{name}={asked}"
    if flag.refused:
        with pytest.raises(click.UsageError, match=f"--{name} cannot be honoured: "):
            list(without_effect(parse(line)))
    else:
        assert list(without_effect(parse(line))) == [f"--{name} has no effect: {flag.instead}"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "give --model_base_path or --model_config_file"),
        ("--model_base_path=/x --batching_parameters_file={files}/batching", "--enable_batching"),
        (
            "--model_base_path=/x --tensorflow_session_parallelism=1 "
            "--tensorflow_intra_op_parallelism=1 --tensorflow_inter_op_parallelism=1",
            "give either --tensorflow_session_parallelism or",
        ),
        ("--model_base_path=/x --grpc_channel_arguments=a", "'a' is no key=value"),
        ("--model_base_path=/x --use_alts_credentials", "--use_alts_credentials cannot be"),
        ("--model_base_path=/x --no_such_flag", "No such option"),
    ],
)
def test_what_cannot_start_ends_at_once(line: str, message: str, files: Path) -> None:
    result = CliRunner().invoke(main, shlex.split(line.format(files=files)))
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("flag", ["--version", "--version=true"])
def test_version(flag: str) -> None:
    result = CliRunner().invoke(main, [flag])
    assert result.exit_code == 0
    assert "TensorFlow Library: 2." in result.output


def test_channel_arguments_reach_the_grpc_server(
    toys: dict[int, Path], request_for: Any, history: np.ndarray
) -> None:
    settings = ServerSettings(
        settle_seconds=0, grpc_options=(("grpc.max_receive_message_length", 50),)
    )
    with Server([ModelConfig("sid_tfx", toys[1].parent)], settings) as server:
        stubs = Stubs(server.port)
        with stubs.channel:
            code, _ = refused(stubs.prediction.Predict, request_for("recommend", history=history))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
