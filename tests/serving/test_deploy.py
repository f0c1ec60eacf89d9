"""The deployment files: structure and agreement. No container is started here."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.server import ModelServer
from tests.serving.stubs import Stubs

pytestmark = pytest.mark.unit

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
IMAGE = f"tensorflow/serving:{version('tensorflow-serving-api')}"


def service() -> dict:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    [only] = compose["services"].values()
    return only


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def config() -> ModelServerConfig:
    return text_format.Parse((DEPLOY / "models.config").read_text(), ModelServerConfig())


def test_both_use_the_image_of_the_locked_api() -> None:
    assert service()["image"] == IMAGE
    assert re.findall(r"^FROM (\S+)$", dockerfile(), re.MULTILINE) == [IMAGE]


def test_both_run_the_same_command() -> None:
    flags = re.search(r"^CMD \[(.*)\]$", dockerfile(), re.MULTILINE)
    assert flags
    assert re.findall(r'"([^"]+)"', flags[1]) == service()["command"]
    assert '["/usr/bin/tensorflow_model_server"]' in dockerfile()
    assert service()["entrypoint"] == ["/usr/bin/tensorflow_model_server"]


def test_mounts_give_the_command_what_it_names() -> None:
    mounts = {mount["target"]: mount for mount in service()["volumes"]}
    assert all(mount["read_only"] for mount in mounts.values())
    [model] = config().model_config_list.config
    assert mounts[model.base_path]["source"].endswith("/portable/sid_tfx")
    assert mounts[model.base_path]["source"].startswith("${PUSH_DIR:?")
    [config_flag] = [flag for flag in service()["command"] if "model_config_file=" in flag]
    for target in (config_flag.split("=")[1], service()["healthcheck"]["test"][-1]):
        assert (DEPLOY / mounts[target]["source"]).is_file()
        assert f" {target}" in dockerfile()


def test_ports_are_published() -> None:
    flags = dict(flag[2:].split("=") for flag in service()["command"])
    ports = {flags["port"], flags["rest_api_port"]}
    assert ports == {"8500", "8501"}
    assert {port.split(":")[1] for port in service()["ports"]} == ports
    assert set(re.findall(r"^EXPOSE (.*)$", dockerfile(), re.MULTILINE)[0].split()) == ports


def test_copied_files_are_in_the_build_context() -> None:
    copied = re.findall(r"^COPY --chmod=\d+ (\S+) ", dockerfile(), re.MULTILINE)
    assert sorted(copied) == ["healthcheck.sh", "models.config"]
    assert all((DEPLOY / name).is_file() for name in copied)


def test_the_embedded_server_accepts_the_model_config(toys: dict[int, Path]) -> None:
    request = ReloadConfigRequest(config=config())
    [model] = request.config.model_config_list.config
    assert model.name == "sid_tfx"
    model.base_path = str(toys[1].parent)
    with ModelServer("other", toys[1].parent, settle_seconds=0) as server:
        stubs = Stubs(server.port)
        with stubs.channel:
            assert stubs.model.HandleReloadConfigRequest(request).status.error_code == 0


@contextmanager
def rest_status(state: str, code: int = 200) -> Iterator[int]:
    """What TF Serving's REST status answers, on a free port."""
    body = (
        f'{{\n "model_version_status": [\n  {{\n   "version": "1",\n   "state": "{state}"\n  }}]}}'
    )

    class Status(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/v1/models/sid_tfx"
            self.send_response(code if known else 404)
            self.end_headers()
            self.wfile.write(body.encode() if known else b'{"error": "Could not find any"}')

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def healthy(port: int, model: str = "sid_tfx") -> bool:
    script = str(DEPLOY / "healthcheck.sh")
    return subprocess.run(["bash", script, model, str(port)], capture_output=True).returncode == 0


def test_the_health_check_is_true_only_when_a_version_is_available() -> None:
    with rest_status("AVAILABLE") as port:
        assert healthy(port)
        assert not healthy(port, "other")
    assert not healthy(port)
    with rest_status("LOADING") as port:
        assert not healthy(port)
