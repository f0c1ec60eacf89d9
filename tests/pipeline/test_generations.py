"""Which generation a refresh builds on: the newest push that still stands, part by part."""

import json
import shutil

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import Channel, standard_artifacts

from components.artifacts import SidCatalog
from components.refusal import Refused
from pipeline.generations import PUSHED, TYPES, LastPushedGeneration, find_last_pushed
from pipeline.local_runner import LocalRunner, StageFailed

pytestmark = pytest.mark.unit

EVENT = metadata_store_pb2.Event


class History:
    """Writes pushed generations the way that pipeline runs leave them."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "metadata.sqlite"
        self.blessings = {}
        connection = metadata.sqlite_metadata_connection_config(str(self.path))
        with metadata.Metadata(connection) as handle:
            self.store = handle.store

    def push(self, name: str, pushed: int = 1, flavours=("portable", "scann")) -> dict[str, int]:
        """One run from Composer to the Pushers; returns the ids of what it used."""
        parts = {key: TYPES[key]() for key in TYPES if key != PUSHED}
        for key, artifact in parts.items():
            artifact.uri = str(self.folder / name / key)
            self._put(artifact)
        self._write_manifests(name)
        # A model of another stage must never be taken for the tokenizer or the recommender.
        portable = self._put(standard_artifacts.Model())
        scann = self._put(standard_artifacts.Model())
        self._run(
            {key: artifact.id for key, artifact in parts.items()},
            {"portable": portable.id, "scann": scann.id},
        )
        self.portable = portable.id
        self.blessings[name] = {
            flavour: self._put(standard_artifacts.InfraBlessing()).id for flavour in flavours
        }
        self._run({"portable": portable.id, "scann": scann.id}, self.blessings[name])
        self.push_again(name, name, pushed)
        return {key: artifact.id for key, artifact in parts.items()}

    def push_again(self, name: str, version: str, pushed: int = 1) -> None:
        """The Pushers of a later run with the same servables."""
        for flavour, blessing in self.blessings[name].items():
            destination = self.destination(version, flavour)
            push = standard_artifacts.PushedModel()
            push.set_int_custom_property("pushed", pushed)
            push.set_string_custom_property("pushed_destination", str(destination))
            self._run({"infra_blessing": blessing}, {"pushed_model": self._put(push).id})
            self._write(
                destination / "assets.extra" / "sid_tfx.json",
                {"fingerprints": self._fingerprints(name)},
            )

    def take_back(self, version: str, *flavours: str) -> None:
        for flavour in flavours or ("portable", "scann"):
            shutil.rmtree(self.destination(version, flavour))

    def destination(self, version: str, flavour: str = "portable"):
        return self.folder / "serving" / flavour / "sid_tfx" / version

    def take_from_cache(self, parts: dict[str, int]) -> None:
        """A later run that had Composer cached, and a resolver that handed the servable on."""
        self._run(parts, {"portable": self.portable})
        self._run({}, {"model": self.portable}, EVENT.INTERNAL_OUTPUT)

    def _write_manifests(self, name: str) -> None:
        fingerprints = self._fingerprints(name)
        for part in ("tokenizer", "recommender"):
            self._write(
                self.folder / name / part / "Format-Serving" / "metadata.json",
                {"fingerprint": fingerprints[part]},
            )
        self._write(
            self.folder / name / "catalog" / "manifest.json",
            {"fingerprints": {"catalog": fingerprints["catalog"]}},
        )

    @staticmethod
    def _fingerprints(name: str) -> dict[str, str]:
        return {part: f"{name}-{part}" for part in ("tokenizer", "recommender", "catalog")}

    @staticmethod
    def _write(path, content) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def _put(self, artifact):
        artifact.set_mlmd_artifact_type(
            metadata_store_pb2.ArtifactType(
                id=self.store.put_artifact_type(artifact.artifact_type),
                name=artifact.artifact_type.name,
            )
        )
        artifact.mlmd_artifact.state = metadata_store_pb2.Artifact.LIVE
        [artifact.id] = self.store.put_artifacts([artifact.mlmd_artifact])
        return artifact

    def _run(self, inputs, outputs, output_type=EVENT.OUTPUT) -> int:
        kind = self.store.put_execution_type(metadata_store_pb2.ExecutionType(name="stage"))
        [run] = self.store.put_executions([metadata_store_pb2.Execution(type_id=kind)])
        events = [(EVENT.INPUT, inputs), (output_type, outputs)]
        self.store.put_events(
            [
                EVENT(
                    type=event_type,
                    artifact_id=artifact_id,
                    execution_id=run,
                    path=EVENT.Path(steps=[EVENT.Path.Step(key=key), EVENT.Path.Step(index=0)]),
                )
                for event_type, artifacts in events
                for key, artifact_id in artifacts.items()
            ]
        )
        return run


@pytest.fixture
def history(tmp_path):
    return History(tmp_path)


def _ids(resolved):
    return {key: artifact.id for key, artifact in resolved.items() if key != PUSHED}


def test_the_newest_push_names_its_own_four_parts(history):
    history.push("first")
    second = history.push("second")
    resolved = find_last_pushed(history.path)
    assert _ids(resolved) == second
    assert isinstance(resolved["catalog"], SidCatalog)
    assert resolved["tokenizer"].uri.endswith("second/tokenizer")


def test_a_refused_push_and_a_withdrawn_one_do_not_count(history):
    first = history.push("first")
    history.push("second")
    history.push("third", pushed=0)
    history.take_back("second")
    assert _ids(find_last_pushed(history.path)) == first


@pytest.mark.parametrize("flavour", ["portable", "scann"])
def test_a_generation_of_which_one_flavour_was_withdrawn_does_not_count(history, flavour):
    first = history.push("first")
    history.push("second")
    history.take_back("second", flavour)
    assert _ids(find_last_pushed(history.path)) == first
    history.take_back("first", flavour)
    with pytest.raises(
        Refused, match=r"a version is gone, .*/second; run `python pipeline\.py run`"
    ):
        find_last_pushed(history.path)


def test_a_generation_that_was_pushed_in_one_flavour_only_counts(history):
    history.push("first")
    second = history.push("second", flavours=("portable",))
    assert _ids(find_last_pushed(history.path)) == second


def test_a_generation_pushed_again_is_the_last_until_that_push_is_withdrawn(history):
    first = history.push("first")
    second = history.push("second")
    history.push_again("first", "first-again")
    # Old versions may go, to free the disk.
    history.take_back("first")
    assert _ids(find_last_pushed(history.path)) == first
    history.take_back("first-again", "portable")
    assert _ids(find_last_pushed(history.path)) == second


def test_withdrawn_pushes_uncover_the_one_before_them(history):
    first = history.push("first")
    history.push("second")
    history.push_again("first", "first-again")
    history.take_back("first-again")
    history.take_back("second")
    assert _ids(find_last_pushed(history.path)) == first


def test_cached_stages_and_resolvers_do_not_hide_what_a_servable_was_made_from(history):
    parts = history.push("first")
    history.take_from_cache(parts)
    assert _ids(find_last_pushed(history.path)) == parts


def test_before_the_first_push_there_is_nothing_to_refresh(history, tmp_path):
    for path in (tmp_path / "no-run-yet.sqlite", history.path):
        with pytest.raises(Refused, match=r"Nothing was pushed yet.*pipeline\.py run"):
            find_last_pushed(path)


@pytest.mark.parametrize("part", ["tokenizer", "recommender", "catalog"])
def test_a_part_that_changed_on_disk_is_refused(history, part):
    history.push("first")
    [path] = (history.folder / "first" / part).rglob("*.json")
    text = path.read_text()
    path.write_text(text.replace("first-", "other-"))
    with pytest.raises(Refused, match=f"has {part} first-{part}, but .* is of other-{part}"):
        find_last_pushed(history.path)
    path.unlink()
    with pytest.raises(Refused, match=f"The {part} of the last push is gone"):
        find_last_pushed(history.path)


def test_a_resolver_that_finds_nothing_stops_the_run(tmp_path):
    path = str(tmp_path / "metadata.sqlite")
    last = Resolver(
        strategy_class=LastPushedGeneration,
        **{key: Channel(type=artifact_type) for key, artifact_type in TYPES.items()},
    ).with_id("Last")
    empty = tfx_pipeline.Pipeline(
        pipeline_name="empty",
        pipeline_root=str(tmp_path),
        components=[last],
        metadata_connection_config=metadata.sqlite_metadata_connection_config(path),
    )
    stages = []
    with pytest.raises(StageFailed, match="Last failed"):
        LocalRunner(lambda name: None, stages.append).run(empty)
    assert [stage.name for stage in stages] == ["Last"]
