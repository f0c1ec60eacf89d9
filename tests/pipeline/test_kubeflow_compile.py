"""The Kubeflow document: complete, legal and the same every time; and a step's entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as spec_pb2
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_entrypoint_utils

from components import artifacts
from pipeline import kubeflow_step
from pipeline.config import ConfigError, load_config
from pipeline.kubeflow_runner import compile_pipeline
from sid_tfx.datasets.market import write_sample

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
STAGES = {
    "AdsGen", "EventsGen", "AdsStatistics", "EventsStatistics", "AdsSchema", "EventsSchema",
    "AdsValidator", "EventsValidator", "Transform", "InteractionBuilder", "TokenizerTrainer",
    "SidAssigner", "SidEvaluator", "IndexBuilder", "RecommenderTrainer", "Composer", "Evaluator",
    "ServingValidator", "PortablePusher", "ScannPusher",
}  # fmt: skip
IMAGE = "registry.example/sid-tfx:1"
NAMED = {"image": IMAGE, "pipeline_root": "gs://bucket/root", "schema_root": "gs://bucket/schemas/"}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    ads, events = write_sample(folder, ads=40, users=40)
    return [
        f"data.ads.path={ads}",
        f"data.events.path={events}",
        f"run.root={folder / 'runs'}",
        "run.push_directory=gs://bucket/models",
    ]


@pytest.fixture(scope="module")
def compiled(overrides, tmp_path_factory):
    output = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(load_config(overrides=overrides), output=output, **NAMED)
    return output


@pytest.fixture(scope="module")
def document(compiled):
    return yaml.safe_load(compiled.read_text())


@pytest.fixture(scope="module")
def spec(document):
    return json_format.ParseDict(document, spec_pb2.PipelineSpec())


@pytest.fixture(scope="module")
def executors(document):
    deployment = json_format.ParseDict(
        document["deploymentSpec"], spec_pb2.PipelineDeploymentConfig()
    )
    return deployment.executors


def test_every_stage_is_a_task_with_a_container(spec, executors):
    assert set(spec.root.dag.tasks) == STAGES
    for task in spec.root.dag.tasks.values():
        executor = executors[spec.components[task.component_ref.name].executor_label]
        # Open-source Kubeflow rejects resolvers.
        assert executor.WhichOneof("spec") == "container"
        assert executor.container.image == IMAGE
        assert list(executor.container.command) == ["python", "-m", "pipeline.kubeflow_step"]
        assert "{{$}}" in executor.container.args


def test_it_says_its_schema_version_name_and_root(spec):
    assert spec.schema_version == "2.1.0"
    assert spec.pipeline_info.name == "sid-tfx"
    assert spec.default_pipeline_root == "gs://bucket/root"


def test_a_fresh_process_with_other_hashes_writes_the_same_bytes(overrides, compiled, tmp_path):
    again = tmp_path / "again.yaml"
    subprocess.run(
        [
            *(sys.executable, "pipeline.py", "compile", "--output", str(again)),
            *(
                part
                for name, value in NAMED.items()
                for part in (f"--{name.replace('_', '-')}", value)
            ),
            *(part for override in overrides for part in ("--set", override)),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert again.read_bytes() == compiled.read_bytes()


def test_inputs_come_from_outputs_of_tasks_that_ran_before(spec):
    for task in spec.root.dag.tasks.values():
        component = spec.components[task.component_ref.name]
        assert set(task.inputs.artifacts) == set(component.input_definitions.artifacts)
        for key, source in task.inputs.artifacts.items():
            producer = source.task_output_artifact
            assert producer.producer_task in task.dependent_tasks
            made = spec.components[producer.producer_task].output_definitions.artifacts
            wanted = component.input_definitions.artifacts[key].artifact_type
            assert made[producer.output_artifact_key].artifact_type == wanted


def test_parameters_are_constants_of_their_declared_type(spec):
    kinds = {
        spec_pb2.ParameterType.STRING: "string_value",
        spec_pb2.ParameterType.NUMBER_INTEGER: "number_value",
        spec_pb2.ParameterType.NUMBER_DOUBLE: "number_value",
    }
    for task in spec.root.dag.tasks.values():
        declared = spec.components[task.component_ref.name].input_definitions.parameters
        assert set(task.inputs.parameters) == set(declared)
        for key, parameter in task.inputs.parameters.items():
            kind = kinds[declared[key].parameter_type]
            assert parameter.runtime_value.constant.WhichOneof("kind") == kind


def test_a_step_finds_the_class_of_every_artifact(spec):
    found = set()
    for component in spec.components.values():
        for definition in component.output_definitions.artifacts.values():
            raw = spec_pb2.RuntimeArtifact(name="a", uri="u", type=definition.artifact_type)
            parsed = kubeflow_v2_entrypoint_utils.parse_raw_artifact_dict(
                {"key": spec_pb2.ArtifactList(artifacts=[raw])}
            )
            found.add(type(parsed["key"][0]))
    own = {
        artifacts.SidCatalog,
        artifacts.SidIndex,
        artifacts.SidBlessing,
        artifacts.IndexBlessing,
    }
    assert own <= found


def test_only_ingestion_is_not_cached(spec):
    cached = {n for n, t in spec.root.dag.tasks.items() if t.caching_options.enable_cache}
    assert cached == STAGES - {"AdsGen", "EventsGen"}


def test_buckets_stay_buckets(spec, compiled):
    def constant(task, key):
        return spec.root.dag.tasks[task].inputs.parameters[key].runtime_value.constant.string_value

    destination = json.loads(constant("PortablePusher", "push_destination"))
    assert destination["filesystem"]["base_directory"] == "gs://bucket/models/portable/sid_tfx"
    schemas = {
        Path(constant(f"{table}Schema", "schema_file")).name: constant(
            f"{table}Schema", "schema_file"
        )
        for table in ("Ads", "Events")
    }
    for name, path in schemas.items():
        assert path == f"gs://bucket/schemas/{name}"
        assert (compiled.parent / "schemas" / name).is_file()


@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        ({"output": Path("pipeline.json")}, [], "must end in .yaml"),
        ({"pipeline_root": "/mnt/artifacts"}, [], "'/mnt/artifacts' is no bucket"),
        ({}, ["name=a_b"], "name = 'a_b'"),
        ({}, ["run.push_directory=null"], "run.push_directory is not set"),
        ({}, ["run.push_directory=models"], "run.push_directory = 'models' is relative"),
        ({}, ["data.ads.path=ads.parquet"], "data.ads.path = 'ads.parquet' is relative"),
        ({}, ["data.events.path=./e-*.csv"], "data.events.path = './e-.*csv' is relative"),
    ],
)
def test_what_kubeflow_would_reject_is_refused_here(overrides, tmp_path, arguments, more, said):
    with pytest.raises(ConfigError, match=said):
        compile_pipeline(
            load_config(overrides=[*overrides, *more]),
            **{"image": IMAGE, "output": tmp_path / "pipeline.yaml", **arguments},
        )


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/run/model", "/gcs/bucket/run/model"),
        ("s3://bucket/run/model", "/s3/bucket/run/model"),
        ("minio://bucket/run/model", "/minio/bucket/run/model"),
        ("/volume/run/model", "/volume/run/model"),
        ("hdfs://host/run", "hdfs://host/run"),
    ],
)
def test_local_paths_are_those_of_kubeflows_launcher(uri, path):
    assert kubeflow_step.local_path(uri) == path


def _import_schema(spec, executors, tmp_path, schema_file):
    """The arguments of the step AdsSchema, its output in a bucket."""
    component = spec.components["AdsSchema"]
    executor_input = spec_pb2.ExecutorInput()
    executor_input.inputs.parameter_values["schema_file"].string_value = str(schema_file)
    executor_input.outputs.artifacts["schema"].artifacts.add(
        name="schema",
        uri="gs://bucket/AdsSchema/schema",
        type=component.output_definitions.artifacts["schema"].artifact_type,
    )
    executor_input.outputs.output_file = str(tmp_path / "step" / "output.json")
    return [
        argument.replace("{{$}}", json_format.MessageToJson(executor_input))
        for argument in executors[component.executor_label].container.args
    ]


def test_a_step_writes_the_local_copy_and_reports_the_bucket(
    spec, executors, compiled, tmp_path, monkeypatch
):
    monkeypatch.setattr(kubeflow_step, "_COPIES", str(tmp_path))
    [schema_file] = (compiled.parent / "schemas").glob("ads-*")
    assert kubeflow_step.main(_import_schema(spec, executors, tmp_path, schema_file)) == 0
    written = tmp_path / "gcs" / "bucket" / "AdsSchema" / "schema" / "schema.pbtxt"
    assert "ad_id" in written.read_text()
    report = json.loads((tmp_path / "step" / "output.json").read_text())
    assert report["artifacts"]["schema"]["artifacts"][0]["uri"] == "gs://bucket/AdsSchema/schema"


def test_a_failed_step_says_so(spec, executors, tmp_path, monkeypatch):
    monkeypatch.setattr(kubeflow_step, "_COPIES", str(tmp_path))
    assert kubeflow_step.main(_import_schema(spec, executors, tmp_path, tmp_path / "absent")) != 0
