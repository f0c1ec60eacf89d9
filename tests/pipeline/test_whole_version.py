"""What the publisher takes for whole: what loads, and nothing that a server refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.whole_version import check_whole
from serving.listed_files import Damaged
from serving.servable import Servable
from sid_tfx.export.saving import saved_files

pytestmark = pytest.mark.unit

ADS = 20


class Model(tf.Module):
    """Variables of several types, many enough for an index of more than one block."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        file = folder / "ads.txt"
        file.write_text("".join(f"ad{row}\n" for row in range(ADS)))
        self.asset = tf.saved_model.Asset(str(file))
        self.ids = tf.Variable([f"ad{row}" for row in range(ADS)])
        self.many = [tf.Variable(np.full([2, 3], row, np.float32)) for row in range(150)]
        self.large = tf.Variable(np.arange(600_000, dtype=np.int32))
        self.flag = tf.Variable(True)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def __call__(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        weights = tf.add_n([variable[0, 0] for variable in self.many])
        tf.io.read_file(self.asset.asset_path)
        return {"ids": tf.gather(self.ids, rows), "x": tf.gather(self.large, rows), "w": weights}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "1"
    model = Model(tmp_path_factory.mktemp("assets"))
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.__call__})
    (path / "assets.extra").mkdir()
    files = saved_files(str(path))
    metadata = {"ads": ADS, "fingerprints": {"catalog": "0" * 16}, "files": files}
    (path / "assets.extra" / "sid_tfx.json").write_text(json.dumps(metadata))
    return path


@pytest.fixture
def version(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "1")


def variables(version: Path, end: str) -> Path:
    [file] = (version / "variables").glob(f"*{end}")
    return file


def cut(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(bytes(content))


def zeros(file: Path) -> None:
    """What a machine leaves that lost power: the size, not the content."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "saved_model.pb cannot be read: No such file": lambda path: (path / "saved_model.pb").unlink(),
    "saved_model.pb has .* bytes of": lambda path: cut(path / "saved_model.pb"),
    "saved_model.pb is damaged": lambda path: zeros(path / "saved_model.pb"),
    "saved_model.pb has 0 bytes of": lambda path: (path / "saved_model.pb").write_bytes(b""),
    "variables.* cannot be read": lambda path: shutil.rmtree(path / "variables"),
    "variables.index has .* bytes of": lambda path: cut(variables(path, ".index")),
    "variables.index is damaged": lambda path: flip(variables(path, ".index"), 30),
    "data-00000-of-00001 cannot be read": lambda path: variables(path, "00001").unlink(),
    "data-00000-of-00001 has .* bytes of": lambda path: cut(variables(path, "00001"), 0.99),
    "data-00000-of-00001 is damaged": lambda path: flip(variables(path, "00001"), 5000),
    "ads.txt cannot be read": lambda path: (path / "assets" / "ads.txt").unlink(),
    "ads.txt has .* bytes of": lambda path: cut(path / "assets" / "ads.txt"),
    "ads.txt is damaged": lambda path: flip(path / "assets" / "ads.txt", 3),
}


def test_what_loads_is_whole(whole: Path) -> None:
    check_whole(whole)
    Servable(whole, "model", 1).close()


@pytest.mark.parametrize("message", DAMAGES)
def test_what_a_server_refuses_is_not_whole(version: Path, message: str) -> None:
    DAMAGES[message](version)
    with pytest.raises(Damaged, match=message):
        check_whole(version)
    with pytest.raises(Exception, match=r"."):
        Servable(version, "model", 1).close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path / "assets.extra"), "sid_tfx.json cannot be read"),
        (
            lambda path: (path / "assets.extra" / "sid_tfx.json").write_text('{"ads": 20}'),
            "sid_tfx.json cannot be read: KeyError",
        ),
    ],
)
def test_the_list_has_to_be_there(
    version: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(version)
    with pytest.raises(Damaged, match=message):
        check_whole(version)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 0.999), name=st.sampled_from(["saved_model.pb", ".index"]))
def test_a_file_cut_anywhere_is_found_out(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, share: float, name: str
) -> None:
    version = shutil.copytree(whole, tmp_path_factory.mktemp("cut") / "1")
    cut(version / name if name.startswith("saved") else variables(version, name), share)
    with pytest.raises(Damaged):
        check_whole(version)
