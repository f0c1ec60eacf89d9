"""The same graph as a Kubeflow Pipelines v2 document."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from pipeline.columns import resolve
from pipeline.config import Config, ConfigError
from pipeline.graph import create_pipeline

STEP_COMMAND = ("python", "-m", "pipeline.kubeflow_step")
_BUCKET = re.compile(r"(gs|s3|minio)://[^/?]+")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_INGESTION = ("AdsGen", "EventsGen")


def compile_pipeline(
    config: Config, *, image: str, output: Path, pipeline_root: str = "", schema_root: str = ""
) -> None:
    """Writes the pipeline as YAML, pipeline spec 2.1.

    The input files are looked at here for their columns, and read by the steps under the same
    paths, so these are absolute. The same input, configuration and arguments give the same bytes.

    Args:
        config: The run's configuration.
        image: Container image that has this package and its requirements.
        output: Where the YAML goes; its folder also gets the data schemas.
        pipeline_root: Bucket for artifacts, `gs://`, `s3://` or `minio://`; "" leaves it to the
            cluster's default or to whoever starts a run.
        schema_root: Folder or bucket where the steps find the data schemas, copied there from
            the folder of `output`; "" says that `output` is on a volume the steps mount, too.

    Raises:
        ConfigError: `output` is not YAML, `pipeline_root` is no bucket, a path means nothing but
            here, or Kubeflow does not allow the configuration's name.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"the pipeline is written as YAML; {output} must end in .yaml or .yml")
    if pipeline_root and not _BUCKET.match(pipeline_root):
        raise ConfigError(
            f"pipeline root {pipeline_root!r} is no bucket; Kubeflow's launcher takes "
            "gs://, s3:// or minio://"
        )
    if not _NAME.fullmatch(config.name):
        raise ConfigError(
            f"name = {config.name!r}: Kubeflow allows lower-case letters, digits and '-'"
        )
    _check_paths(config)
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    columns = resolve(config, output.parent / "schemas")
    if schema_root:
        columns = dataclasses.replace(
            columns,
            ads_schema_file=f"{schema_root.rstrip('/')}/{Path(columns.ads_schema_file).name}",
            events_schema_file=f"{schema_root.rstrip('/')}/{Path(columns.events_schema_file).name}",
        )
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            display_name=config.name,
            default_image=image,
            default_commands=list(STEP_COMMAND),
            use_pipeline_spec_2_1=True,
        )
    )
    job = runner.run(create_pipeline(config, columns, pipeline_root), write_out=False)
    spec = _finish(job["pipelineSpec"], pipeline_root)
    output.write_text(yaml.safe_dump(spec, sort_keys=True))


def _check_paths(config: Config) -> None:
    """Refuses what a step would look for, or write, in its own container."""
    if config.run.push_directory is None:
        raise ConfigError(
            "run.push_directory is not set: the steps would push into their own containers, where "
            "no server looks; name a bucket, or a volume that the model server mounts too"
        )
    for key, path in (
        ("data.ads.path", config.data.ads.path),
        ("data.events.path", config.data.events.path),
        ("run.push_directory", config.run.push_directory),
    ):
        if "://" not in path and not Path(path).is_absolute():
            raise ConfigError(
                f"{key} = {path!r} is relative to a folder of this machine; name a bucket, or "
                "the absolute path of a volume that the steps mount"
            )


def _finish(spec: dict[str, Any], pipeline_root: str) -> dict[str, Any]:
    """Sets what TFX leaves out of the pipeline spec."""
    # TFX writes the root into the run's own configuration, which a YAML does not have.
    if pipeline_root:
        spec["defaultPipelineRoot"] = pipeline_root
    # Open-source Kubeflow runs no driver hook, so there the fingerprint of the input files is not
    # part of the cache key: new rows in an old file would be answered from the cache.
    for name in _INGESTION:
        spec["root"]["dag"]["tasks"][name].pop("cachingOptions", None)
    return spec
