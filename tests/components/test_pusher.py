"""Pusher: a push is taken from the cache only while it is what the folder serves."""

import itertools
import json
import os
import shutil
import types

import pytest
from tfx.components.pusher import executor
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts

from components.pusher import Pusher
from pipeline.local_runner import LocalRunner

pytestmark = pytest.mark.unit


class Site:
    """A folder of versions, and a pipeline that pushes one of several models to it."""

    def __init__(self, root):
        self.root = root
        self.versions = root / "serving"

    def push(self, model: str, blessed: int = 1):
        """Runs the pipeline; returns whether Pusher was cached, and its destination."""
        source = self.root / f"{model}{blessed}" / "stamped_model"
        if not source.exists():
            (source / "assets.extra").mkdir(parents=True)
            (source / "saved_model.pb").write_text(model)
            (source / "assets.extra" / "sid_tfx.json").write_text(json.dumps({"made": model}))
        blessing = Importer(
            source_uri=str(source.parent),
            artifact_type=standard_artifacts.InfraBlessing,
            custom_properties={"has_model": 1, "blessed": blessed},
        ).with_id("Blessing")
        pusher = Pusher(
            infra_blessing=blessing.outputs["result"],
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(self.versions))
            ),
        )
        [_, stage] = LocalRunner(lambda name: None, lambda stage: None).run(
            tfx_pipeline.Pipeline(
                pipeline_name="site",
                pipeline_root=str(self.root / "artifacts"),
                components=[blessing, pusher],
                enable_cache=True,
                metadata_connection_config=metadata.sqlite_metadata_connection_config(
                    str(self.root / "metadata.sqlite")
                ),
            )
        )
        [pushed] = stage.outputs["pushed_model"]
        return stage.cached, pushed.get_string_custom_property("pushed_destination")

    def publish_set(self, version: int) -> None:
        """A newer version with another servable set, as `pipeline.servable_set` makes it."""
        folder = self.versions / str(version + 50)
        shutil.copytree(self.versions / str(version), folder, copy_function=os.link)
        (folder / "assets.extra" / "servable_set").write_text("others are live")

    def path(self, version: int) -> str:
        return str(self.versions / str(version))


@pytest.fixture
def site(tmp_path, monkeypatch):
    # Pusher names a version by the second, and the tests push more often.
    clock = itertools.count(100, 100)
    monkeypatch.setattr(executor, "time", types.SimpleNamespace(time=lambda: next(clock)))
    return Site(tmp_path)


def test_a_push_that_stands_is_not_made_again(site):
    assert site.push("a") == (False, site.path(100))
    assert site.push("a") == (True, site.path(100))


def test_a_push_after_another_is_made_again_and_then_stands(site):
    site.push("a")
    site.push("b")
    assert site.push("a") == (False, site.path(300))
    assert site.push("a") == (True, site.path(300))
    assert site.push("b") == (False, site.path(400))


def test_a_push_that_was_taken_back_is_made_again(site):
    site.push("a")
    site.push("b")
    shutil.rmtree(site.path(200))
    assert site.push("a") == (True, site.path(100))
    assert site.push("b") == (False, site.path(300))
    shutil.rmtree(site.path(300))
    assert site.push("b") == (False, site.path(400))
    assert site.push("b") == (True, site.path(400))


def test_another_servable_set_is_still_the_same_push(site):
    site.push("a")
    site.publish_set(100)
    assert site.push("a") == (True, site.path(100))
    shutil.rmtree(site.path(100))
    assert site.push("a") == (False, site.path(200))


def test_half_a_version_is_not_served(site):
    site.push("a")
    site.push("b")
    shutil.copytree(site.path(100), site.path(250))
    (site.versions / "250" / "saved_model.pb").unlink()
    assert site.push("a") == (False, site.path(300))


def test_a_lost_archive_costs_one_push(site):
    site.push("a")
    shutil.rmtree(site.root / "artifacts" / "Pusher")
    assert site.push("a") == (False, site.path(200))
    assert site.push("a") == (True, site.path(200))


def test_a_refusal_stays_in_the_cache(site):
    assert site.push("a", blessed=0) == (False, "")
    assert site.push("a", blessed=0) == (True, "")
    assert not site.versions.exists()
