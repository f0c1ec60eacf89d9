"""Entry point of a Kubeflow step: TFX's own, run on local copies of the artifacts.

Kubeflow's launcher downloads the input artifacts of a step to `/gcs/...`, `/s3/...` or `/minio/...`
before it starts, and uploads what lies there when it ends; Vertex AI mounts the bucket at `/gcs`.
So the executor gets these paths instead of the buckets' URIs. Executors then see plain files on
every kind of bucket, MinIO included, which TensorFlow can't read. What the step reports has the
URIs again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ENTRY_POINT = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
_INPUT_FLAG = "--json_serialized_invocation_args"
_COPIES = "/"
_FOLDERS = {"gs": "gcs", "s3": "s3", "minio": "minio"}


def local_path(uri: str) -> str:
    """Where Kubeflow keeps the local copy of an artifact; other URIs come back as they are.

    Example:

    >>> local_path("gs://bucket/run/model")
    '/gcs/bucket/run/model'
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _FOLDERS:
        return uri
    return os.path.join(_COPIES, _FOLDERS[scheme], rest)


def main(arguments: list[str]) -> int:
    """Runs TFX's entry point with the same arguments, on local paths; returns its exit code."""
    position = arguments.index(_INPUT_FLAG) + 1
    executor_input = json.loads(arguments[position])
    uris: dict[str, str] = {}

    def localize(uri: str) -> str:
        uris[local_path(uri)] = uri
        return local_path(uri)

    outputs = executor_input["outputs"]
    for lists in (executor_input.get("inputs", {}).get("artifacts", {}), outputs["artifacts"]):
        _replace_uris(lists, localize)
    report = Path(local_path(outputs["outputFile"]))
    outputs["outputFile"] = str(report)
    arguments = [*arguments[:position], json.dumps(executor_input), *arguments[position + 1 :]]
    code = subprocess.run(
        [sys.executable, "-m", _ENTRY_POINT, *arguments],
        # The entry point imports TensorFlow before it imports an executor, and with it `sid_tfx`,
        # which sets this variable in every other process.
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        check=False,
    ).returncode
    if code == 0:
        executor_output = json.loads(report.read_text())
        _replace_uris(executor_output.get("artifacts", {}), lambda path: uris.get(path, path))
        report.write_text(json.dumps(executor_output))
    return code


def _replace_uris(lists: dict[str, Any], replace: Callable[[str], str]) -> None:
    for artifacts in lists.values():
        for artifact in artifacts["artifacts"]:
            artifact["uri"] = replace(artifact["uri"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
