"""`servable-set`: a version that differs in its set, published without copying or loss."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.servable_set import only, publish_servable_set, read_ids, switch_off
from serving.servable import Servable
from tests.test_servable_set import ADS, FINGERPRINT, saved  # noqa: F401 - a fixture

pytestmark = pytest.mark.unit

# One id has a line break of Unicode's, which is none of the file's.
AD_IDS = ["ad00", "ad\u2028\x8501", *(f"ad{row:02d}" for row in range(2, ADS))]


@pytest.fixture
def base(saved, tmp_path) -> pathlib.Path:  # noqa: F811
    folder = tmp_path / "serving" / "portable" / "sid_tfx"
    version = folder / "7"
    shutil.copytree(saved, version)
    text = "".join(f"{ad}\n" for ad in AD_IDS)
    (version / "assets" / "ads.txt").write_text(text, encoding="utf-8")
    (version / "assets.extra").mkdir(exist_ok=True)
    metadata = {"fingerprints": {"catalog": FINGERPRINT}}
    (version / "assets.extra" / "sid_tfx.json").write_text(json.dumps(metadata))
    return folder


def served(version: pathlib.Path) -> set[str]:
    """The ads that a loaded version can return at all."""
    servable = Servable(version, "shop", 1)
    nothing = {"excluded": np.full([1, 2], -1, np.int32)}
    rows, scores = servable.run("serving_default", nothing, ["rows", "scores"])
    servable.close()
    return {AD_IDS[row] for row, score in zip(rows[0], scores[0], strict=True) if score > -1e30}


def test_the_new_version_serves_the_set_and_shares_the_rest(base):
    off = {"ad03", "ad17", "not in the catalogue"}
    made = publish_servable_set(base, switch_off(off))
    assert (made.ads, made.live, made.changed, made.unknown) == (ADS, ADS - 2, 2, 1)
    version = base / str(made.version)
    assert served(version) == set(AD_IDS) - off
    assert served(base / "7") == set(AD_IDS), "the version before keeps its own set"
    assert sorted(os.listdir(base)) == sorted(["7", str(made.version)])
    for file in version.rglob("*"):
        if file.is_file():
            shared = os.path.samefile(file, base / "7" / file.relative_to(version))
            assert shared == (file.name != "servable_set.bits"), file
    # Each set stands by itself: it does not add to the one before.
    again = publish_servable_set(base, only(["ad05", "ad06"]))
    assert again.version > made.version
    assert served(base / str(again.version)) == {"ad05", "ad06"}


def test_the_command_waits_for_no_library_that_it_does_not_need():
    program = (
        "import sys, runpy, pipeline.servable_set\n"
        "runpy.run_path('pipeline.py', run_name='not main')\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'scann', 'tfx', 'apache_beam', 'grpc'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_ids_come_from_a_file_one_a_line(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes("a\r\n\nb\u2028c\n d".encode())
    assert read_ids(file) == ["a", "b\u2028c", " d"]


def test_what_cannot_be_published_is_refused_and_leaves_nothing(base, tmp_path):
    with pytest.raises(ValueError, match="no ad of the 50 in"):
        publish_servable_set(base, only(["nobody"]))
    with pytest.raises(ValueError, match="has no version; push one"):
        publish_servable_set(tmp_path / "empty", only(["ad05"]))
    (base / "7" / "assets" / "servable_set.bits").unlink()
    with pytest.raises(ValueError, match="exported without a set"):
        publish_servable_set(base, switch_off([]))
    assert os.listdir(base) == ["7"]


@pytest.fixture(scope="module")
def cli():
    """The command line: a file with the name of the package beside it."""
    path = pathlib.Path(__file__).parents[2] / "pipeline.py"
    spec = importlib.util.spec_from_file_location("command_line", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cli


def test_the_command(cli, base, tmp_path):
    ids = tmp_path / "paused.txt"
    ids.write_text("ad03\n\nad17\nunknown\n")
    files = ["--ads", "a", "--events", "e", "--set", f"run.push_directory={tmp_path / 'serving'}"]
    command = ["servable-set", *files, "--flavour", "portable"]
    done = CliRunner().invoke(cli, [*command, "--off", str(ids)])
    assert done.exit_code == 0, done.output
    assert "48 of 50 ads live, 2 changed, 1 ids not in the catalogue" in done.output
    newest = max(base.iterdir(), key=lambda version: int(version.name))
    assert served(newest) == set(AD_IDS) - {"ad03", "ad17"}
    done = CliRunner().invoke(cli, [*command, "--all-live"])
    assert "50 of 50 ads live, 2 changed" in done.output
    for wrong, message in (
        ([], "give one of"),
        (["--all-live", "--only", str(ids)], "give one of"),
    ):
        done = CliRunner().invoke(cli, [*command, *wrong])
        assert (done.exit_code, message in done.output) == (2, True)
    done = CliRunner().invoke(cli, ["servable-set", *files, "--flavour", "scann", "--all-live"])
    assert done.exit_code == 2
    assert "has no version; push one" in done.output
