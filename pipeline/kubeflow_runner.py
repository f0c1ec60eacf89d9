"""The same graph as a Kubeflow Pipelines v2 document."""

import os
from pathlib import Path

from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from pipeline.columns import resolve
from pipeline.config import Config
from pipeline.graph import create_pipeline


def compile_pipeline(config: Config, *, image: str, pipeline_root: str, output: Path) -> None:
    """Writes the pipeline as YAML, pipeline spec 2.1.

    Input paths, the push directory and the schema files must mean the same inside the containers:
    mount a volume at the same path, or use a bucket.

    Args:
        config: The run's configuration; its input files are looked at for their columns.
        image: Container image that has this package and its requirements.
        pipeline_root: Bucket or volume for artifacts.
        output: Where the YAML goes; its folder also gets the data schemas.

    Raises:
        ValueError: `output` does not end in .yaml or .yml.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise ValueError(f"the pipeline is written as YAML; {output} must end in .yaml or .yml")
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    columns = resolve(config, output.parent / "schemas")
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            display_name=config.name,
            default_image=image,
            use_pipeline_spec_2_1=True,
        ),
        output_dir=os.fspath(output.parent),
        output_filename=output.name,
    )
    runner.run(create_pipeline(config, columns, pipeline_root))
