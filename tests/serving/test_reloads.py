"""What a reload and the end of a server do to requests that come in between. No SavedModel here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving import config_watcher, versions
from serving.config_watcher import ConfigWatcher
from serving.errors import ServingError, invalid_argument
from serving.model_config import ModelConfig
from serving.models import Models
from serving.policies import Latest, Specific
from serving.server import Server
from serving.settings import ServerSettings
from serving.versions import ModelVersions

pytestmark = pytest.mark.unit


@dataclass
class Loaded:
    """A servable that only knows where it is from."""

    path: Path
    name: str
    version: int
    signatures: dict = field(default_factory=dict)
    meta_graph: object = None
    closed: bool = False

    def close(self) -> None:
        self.closed = True


def publish(base: Path, *numbers: int) -> Path:
    for number in numbers:
        (base / str(number)).mkdir(parents=True)
        (base / str(number) / "saved_model.pb").touch()
    return base


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def make_models(poll_seconds: float = 0.02, labels_for_unavailable: bool = False) -> Models:
    def make(config: ModelConfig) -> ModelVersions:
        return ModelVersions(
            config.name,
            config.base_path,
            Loaded,  # type: ignore[arg-type]
            policy=config.policy,
            poll_seconds=poll_seconds,
            settle_seconds=0,
        )

    return Models(make, labels_for_unavailable)


def only(*numbers: int) -> Specific:
    return Specific(frozenset(numbers))


def labelled(label: str) -> ModelSpec:
    return ModelSpec(name="m", version_label=label)


def test_a_request_between_look_up_and_use_finds_what_replaced_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = publish(tmp_path / "old", 1), publish(tmp_path / "new", 1)
    models = make_models()
    models.start([ModelConfig("m", old)])
    first = models.get("m")
    assert first is not None
    assert first.wait_until_settled(20)
    real = first.use

    def use(version: int | None = None) -> object:
        monkeypatch.setattr(first, "use", real)
        models.reload([ModelConfig("m", new)])
        return real(version)

    monkeypatch.setattr(first, "use", use)
    with models.use(ModelSpec(name="m")) as servable:
        assert servable.path == new / "1"
    with pytest.raises(ServingError, match="Servable not found"), models.use(ModelSpec(name="n")):
        pass
    models.stop()


def test_a_label_always_names_a_version_that_serves(tmp_path: Path) -> None:
    base = publish(tmp_path, 1, 2)
    models = make_models(poll_seconds=0.3, labels_for_unavailable=True)
    models.start([ModelConfig("m", base, only(1), {"stable": 1})])
    wait_for(lambda: [model.available for model in models] == [1])
    ended, seen, failures = threading.Event(), set(), []

    def ask() -> None:
        while not ended.is_set():
            try:
                with models.use(labelled("stable")) as servable:
                    seen.add(servable.version)
            except ServingError as error:
                failures.append(error)
            time.sleep(0.001)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: seen == {1})
    # A request that is held makes the old version's end take a while.
    with models.use(labelled("stable")):
        models.reload([ModelConfig("m", base, only(2), {"stable": 2})])
        wait_for(lambda: seen == {1, 2})
    ended.set()
    asking.join()
    models.stop()
    assert failures == []


def test_a_refused_label_moves_none_of_its_model(tmp_path: Path) -> None:
    base = publish(tmp_path, 1, 2)
    models = make_models(labels_for_unavailable=True)
    models.start([ModelConfig("m", base, only(1), {"stable": 1})])
    wait_for(lambda: [model.available for model in models] == [1])
    with pytest.raises(ServingError, match="label to version 7") as caught:
        models.reload([ModelConfig("m", base, only(1, 2), {"stable": 7, "canary": 2})])
    assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
    assert models.version_of(labelled("stable")) == 1
    with pytest.raises(ServingError, match="Unrecognized servable version label: canary"):
        models.version_of(labelled("canary"))
    models.stop()


def test_a_version_is_unloaded_although_the_disk_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_SWEEP_SECONDS", 0.02)
    models = make_models(poll_seconds=0)
    models.start([ModelConfig("m", publish(tmp_path, 1, 2), only(1))])
    [model] = models
    wait_for(lambda: model.available == 1)
    with models.use(ModelSpec(name="m")) as held:
        model.apply(only(2))
        assert model.available == 2
        time.sleep(0.1)
        assert not held.closed  # type: ignore[attr-defined]
    wait_for(lambda: held.closed)  # type: ignore[attr-defined]
    wait_for(lambda: model.statuses()[-1].state == ModelVersionStatus.END)
    # Read once: what comes later is not looked at.
    publish(tmp_path, 3)
    time.sleep(0.1)
    assert [status.version for status in model.statuses()] == [2, 1]
    models.stop()


def test_a_model_has_not_failed_while_another_version_still_loads(tmp_path: Path) -> None:
    loading, go = threading.Event(), threading.Event()

    def load(path: Path, name: str, version: int) -> Loaded:
        if version == 2:
            raise ValueError("damaged")
        loading.set()
        go.wait(20)
        return Loaded(path, name, version)

    model = ModelVersions("m", tmp_path, load, settle_seconds=0)  # type: ignore[arg-type]
    model.poll()
    assert not model.wait_until_settled(0.01)
    publish(tmp_path, 1, 2)
    looking = threading.Thread(target=model.poll)
    looking.start()
    assert loading.wait(20)
    assert not model.wait_until_settled(0.05), "version 1 may still come"
    go.set()
    looking.join()
    assert model.wait_until_settled(0)
    assert model.available == 1
    model.stop()


def test_the_end_is_not_held_up_by_a_reload_that_waits(tmp_path: Path) -> None:
    models = make_models()
    models.start([ModelConfig("m", publish(tmp_path / "m", 1))])
    caught: list[ServingError] = []

    def reload() -> None:
        try:
            models.reload([ModelConfig("m", tmp_path / "m"), ModelConfig("never", tmp_path / "n")])
        except ServingError as error:
            caught.append(error)

    reloading = threading.Thread(target=reload)
    reloading.start()
    time.sleep(0.1)
    assert reloading.is_alive()
    models.end_reloads()
    reloading.join(10)
    assert [error.code for error in caught] == [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(ServingError, match="shutting down"):
        models.reload([])
    with models.use(ModelSpec(name="m")) as servable:
        assert servable.version == 1, "what served goes on until it is stopped"
    models.stop()


class SlowLoads:
    """Loads of version 2 that take until they are let go."""

    def __init__(self) -> None:
        self.loading, self.go = threading.Event(), threading.Event()
        self.loaded: list[Loaded] = []

    def __call__(self, path: Path, name: str, version: int) -> Loaded:
        if version == 2:
            self.loading.set()
            assert self.go.wait(30)
        self.loaded.append(Loaded(path, name, version))
        return self.loaded[-1]

    def models(self) -> Models:
        def make(config: ModelConfig) -> ModelVersions:
            return ModelVersions(
                config.name,
                config.base_path,
                self,  # type: ignore[arg-type]
                policy=config.policy,
                poll_seconds=0.02,
                settle_seconds=0,
            )

        return Models(make)

    def all_thrown_away(self) -> bool:
        return len(self.loaded) == 2 and all(one.closed for one in self.loaded)


def new_version(models: Models, base: Path) -> None:
    publish(base, 2)


def new_policy(models: Models, base: Path) -> None:
    publish(base, 2)
    models.reload([ModelConfig("m", base, only(1, 2))])


def new_model(models: Models, base: Path) -> None:
    models.reload([ModelConfig("m", base), ModelConfig("n", publish(base / "n", 2))])


@pytest.mark.parametrize("begin", [new_version, new_policy, new_model])
def test_the_end_waits_for_a_load_no_longer_than_it_may(
    tmp_path: Path, begin: Callable[[Models, Path], None]
) -> None:
    loads = SlowLoads()
    models = loads.models()
    policy = only(1) if begin is new_policy else Latest()
    models.start([ModelConfig("m", publish(tmp_path, 1), policy)])
    [model] = models
    wait_for(lambda: model.available == 1)
    ended: list[ServingError] = []

    def ask() -> None:
        try:
            begin(models, tmp_path)
        except ServingError as error:
            ended.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert loads.loading.wait(20)
    models.end_reloads()
    if begin is new_model:
        asking.join(20)
        assert [error.code for error in ended] == [grpc.StatusCode.UNAVAILABLE]
    before = time.monotonic()
    assert not models.stop(wait_seconds=0.2)
    assert time.monotonic() - before < 5
    loads.go.set()
    asking.join(20)
    # What has come too late never serves, and keeps nothing else loaded.
    wait_for(loads.all_thrown_away)
    assert model.available is None
    assert models.stop(wait_seconds=20)


def test_an_end_with_time_left_waits_for_the_load(tmp_path: Path) -> None:
    loads = SlowLoads()
    models = loads.models()
    models.start([ModelConfig("m", publish(tmp_path, 1))])
    [model] = models
    wait_for(lambda: model.available == 1)
    publish(tmp_path, 2)
    assert loads.loading.wait(20)
    threading.Timer(0.2, loads.go.set).start()
    assert models.stop(wait_seconds=20)
    assert loads.all_thrown_away()


def test_a_config_that_cannot_be_in_force_yet_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text("")
    errors: dict[str, list[Exception]] = {
        "late": [ServingError(grpc.StatusCode.FAILED_PRECONDITION, "not yet")] * 2,
        "wrong": [invalid_argument("never")],
        "surprise": [RuntimeError("a bug")],
        "good": [],
    }
    told: list[str] = []

    def reload(configs: Sequence[ModelConfig]) -> None:
        [config] = configs
        told.append(config.name)
        if errors[config.name]:
            raise errors[config.name].pop()

    watcher = ConfigWatcher(path, reload, 0.01)
    watcher.start()
    for name, times in {"late": 3, "wrong": 1, "surprise": 1, "good": 1}.items():
        path.write_text(f'model_config_list {{ config {{ name: "{name}" base_path: "/x" }} }}')
        wait_for(lambda name=name, times=times: told.count(name) >= times)  # type: ignore[misc]
        time.sleep(0.1)
        assert told.count(name) == times
    watcher.stop()


def test_a_config_that_is_being_written_is_left_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watcher, "_SETTLE_SECONDS", 1)
    path = tmp_path / "models.config"
    path.write_text('model_config_list { config { name: "a" base_path: "/x" } }')
    told: list[list[str]] = []

    def reload(configs: Sequence[ModelConfig]) -> None:
        told.append([config.name for config in configs])

    watcher = ConfigWatcher(path, reload, 0.001)
    watcher.start()
    with path.open("w") as file:
        # Nothing and a comment are lists of no models.
        for part in ("", "# The one", " model\n"):
            file.write(part)
            file.flush()
            time.sleep(0.05)
        file.write('model_config_list { config { name: "b" base_path: "/x" } }')
    wait_for(lambda: bool(told))
    time.sleep(0.1)
    watcher.stop()
    assert told == [["b"]]


class Slow:
    """A model whose first look-up of its version takes until it is let go."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.asked, self.go = threading.Event(), threading.Event()

    @property
    def available(self) -> int | None:
        found = self.version
        if not self.asked.is_set():
            self.asked.set()
            self.go.wait(20)
        return found


def test_health_is_not_left_at_what_an_earlier_look_saw() -> None:
    server = Server([], ServerSettings())
    slow = Slow()
    server.models = [slow]  # type: ignore[assignment]
    early = threading.Thread(target=server._update_health)
    early.start()
    assert slow.asked.wait(20)
    slow.version = 1
    late = threading.Thread(target=server._update_health)
    late.start()
    late.join(0.2)
    slow.go.set()
    early.join()
    late.join()
    assert server._grpc.health.state("") == health_pb2.HealthCheckResponse.SERVING
