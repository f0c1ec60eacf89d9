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
from typing import Any

import kubernetes.client
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.__main__ import _configs, _settings, main
from serving.batch_parameters import BatchingParameters
from serving.server import ModelServer
from tests.serving.stubs import Stubs

pytestmark = pytest.mark.unit

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
IMAGE = f"tensorflow/serving:{version('tensorflow-serving-api')}"


MANIFESTS = DEPLOY / "kubernetes"


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
    files = [flag.split("=")[1] for flag in service()["command"] if "_file=" in flag]
    assert config_flag.split("=")[1] in files
    for target in (*files, service()["healthcheck"]["test"][-1]):
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
    assert sorted(copied) == [
        "batching.config",
        "healthcheck.sh",
        "models.config",
        "monitoring.config",
    ]
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


def manifests() -> dict[str, dict]:
    """The manifests that the kustomization lists, by kind."""
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    files = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed) == files
    found = [yaml.safe_load((MANIFESTS / name).read_text()) for name in listed]
    return {manifest["kind"]: manifest for manifest in found}


def schema_errors(value: object, kind: str, where: str) -> list[str]:
    """What of a manifest the API's own model, by Kubernetes' client, has no place for."""
    if kind.startswith("list["):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        parts = [schema_errors(v, kind[5:-1], f"{where}[{i}]") for i, v in enumerate(value)]
        return [error for part in parts for error in part]
    if kind.startswith("dict("):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        element = kind[5:-1].split(", ")[1]
        parts = [schema_errors(v, element, f"{where}.{key}") for key, v in value.items()]
        return [error for part in parts for error in part]
    plain: dict[str, Any] = {
        "str": str,
        "int": int,
        "bool": bool,
        "float": (int, float),
        "object": object,
    }
    if kind in plain:
        wrong = not isinstance(value, plain[kind]) or (kind == "int" and isinstance(value, bool))
        return [f"{where} is {value!r}, not {kind}"] if wrong else []
    model = getattr(kubernetes.client, kind)
    if not isinstance(value, dict):
        return [f"{where} is no {kind}"]
    fields = {json: field for field, json in model.attribute_map.items()}
    errors = [f"{where}.{key} is no field of {kind}" for key in value.keys() - fields.keys()]
    made = {fields[key]: part for key, part in value.items() if key in fields}
    try:
        # The constructors refuse a missing required field.
        model(**made)
    except ValueError as error:
        errors.append(f"{where}: {error}")
    for field, part in made.items():
        json = model.attribute_map[field]
        errors += schema_errors(part, model.openapi_types[field], f"{where}.{json}")
    return errors


KINDS = {
    "ConfigMap": ("v1", "V1ConfigMap"),
    "Deployment": ("apps/v1", "V1Deployment"),
    "Service": ("v1", "V1Service"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "V2HorizontalPodAutoscaler"),
    "PodDisruptionBudget": ("policy/v1", "V1PodDisruptionBudget"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_fits_the_schema_of_its_api(kind: str) -> None:
    version, model = KINDS[kind]
    manifest = manifests()[kind]
    assert manifest["apiVersion"] == version
    assert schema_errors(manifest, model, kind) == []
    assert manifest["metadata"]["name"] == "sid-tfx-serving"


def test_the_schema_check_finds_mistakes() -> None:
    manifest = manifests()["Deployment"]
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["redinessProbe"] = container.pop("readinessProbe")
    container["ports"][0].pop("containerPort")
    manifest["spec"]["minReadySeconds"] = "5"
    del manifest["spec"]["selector"]
    errors = "\n".join(schema_errors(manifest, "V1Deployment", "Deployment"))
    for part in (
        "containers[0].redinessProbe is no field of V1Container",
        "`container_port`",
        "minReadySeconds is '5', not int",
        "`selector`",
    ):
        assert part in errors


def test_the_manifests_agree_with_each_other_and_with_compose() -> None:
    found = manifests()
    assert found.keys() == KINDS.keys()
    deployment = found["Deployment"]["spec"]
    pod = deployment["template"]
    [container] = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert container["image"] == IMAGE
    assert [*container["command"], *container["args"]] == [
        *service()["entrypoint"],
        *service()["command"],
    ]
    assert labels == deployment["selector"]["matchLabels"] == found["Service"]["spec"]["selector"]
    assert labels == found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == {
        "apiVersion": found["Deployment"]["apiVersion"],
        "kind": "Deployment",
        "name": found["Deployment"]["metadata"]["name"],
    }
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["targetPort"]: port["port"] for port in found["Service"]["spec"]["ports"]}
    # As ConfigMap files, with the names that the arguments and the probes use.
    data = found["ConfigMap"]["data"]
    for name, content in data.items():
        assert content == (DEPLOY / name).read_text()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["models"] == config().model_config_list.config[0].base_path
    probes = [container[f"{kind}Probe"]["exec"]["command"][-1] for kind in ("startup", "readiness")]
    files = [flag.split("=")[1] for flag in container["args"] if "_file=" in flag]
    assert {*files, *probes} == {f"{mounts['config']}/{name}" for name in data}


def test_the_embedded_server_takes_the_arguments_of_the_manifests() -> None:
    [container] = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    arguments = [arg.replace("/etc/tensorflow_serving", str(DEPLOY)) for arg in container["args"]]
    flags = main.make_context("serving", arguments).params
    settings = _settings(flags)
    assert (settings.port, settings.rest_port) == (8500, 8501)
    assert settings.batching == BatchingParameters(32, 0, 100, 4)
    assert settings.metrics_path == "/monitoring/prometheus/metrics"
    [model] = _configs(flags)
    assert (model.name, str(model.base_path)) == ("sid_tfx", "/models/sid_tfx")


def test_the_scann_image_installs_locked_packages_and_runs_the_same_arguments() -> None:
    text = (DEPLOY / "Dockerfile.scann").read_text().replace("\\\n", " ")
    [installed] = re.findall(r"pip install (.*)", text)
    names = [word for word in installed.split() if not word.startswith("--")]
    root = DEPLOY.parents[1]
    locked = set(
        re.findall(r"^([\w.-]+)(?:\[.*\])?==", (root / "requirements.txt").read_text(), re.M)
    )
    assert set(names) - {"constraints.txt"} <= locked
    [command] = re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE)[-1:]
    assert re.findall(r'"([^"]+)"', command) == service()["command"]
    for source in re.findall(r"serving/deploy/\S+\.(?:config|sh)", text):
        assert (root / source).is_file()
    # What the image lacks, the server must not import.
    imported = set()
    for path in (root / "serving").glob("*.py"):
        imported |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    assert not imported & {"sid_tfx", "tfx", "apache_beam", "keras", "components", "pipeline"}
