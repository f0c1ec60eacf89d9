"""`servable-set`: a version that differs in its set, published without copying or loss."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline import servable_set as sets
from pipeline.servable_set import Published, publish_servable_sets
from pipeline.servable_set_ids import Selection, only, read_ids, switch_off
from serving.errors import ServingError
from serving.servable import Servable
from serving.version_dirs import list_versions
from sid_tfx.export.saving import saved_files
from sid_tfx.servable_set_file import LIST_FILE, SERVABLE_SET_FILE, list_servable_set
from tests.pipeline.test_whole_version import whole  # noqa: F401 - a fixture
from tests.test_servable_set import ADS, FINGERPRINT, saved  # noqa: F401 - a fixture

pytestmark = pytest.mark.unit

# One id has a line break of Unicode's, which is none of the file's, one has space around it.
AD_IDS = ["ad00", "ad\u2028\x8501", " ad02", *(f"ad{row:02d}" for row in range(3, ADS))]


@pytest.fixture
def base(saved, tmp_path) -> pathlib.Path:  # noqa: F811
    folder = tmp_path / "serving" / "portable" / "sid_tfx"
    push(saved, folder / "7")
    return folder


def push(saved, version) -> None:  # noqa: F811
    shutil.copytree(saved, version)
    text = "".join(f"{ad}\n" for ad in AD_IDS)
    (version / "assets" / "ads.txt").write_text(text, encoding="utf-8")
    (version / "assets.extra").mkdir(exist_ok=True)
    files = saved_files(str(version))
    metadata = {"ads": ADS, "fingerprints": {"catalog": FINGERPRINT}, "files": files}
    (version / "assets.extra" / "sid_tfx.json").write_text(json.dumps(metadata))
    listed = list_servable_set((version / SERVABLE_SET_FILE).read_bytes())
    (version / LIST_FILE).write_text(listed)


def publish(base: pathlib.Path, selection: Selection, **options) -> Published:
    return publish_servable_sets({"portable": base}, selection, **options)["portable"]


def truncate(version: pathlib.Path, settled: bool = True) -> None:
    """Half a graph, written long ago or just now."""
    graph = version / "saved_model.pb"
    content = graph.read_bytes()
    graph.unlink()
    graph.write_bytes(content[: len(content) // 2])
    if settled:
        for file in version.rglob("*"):
            os.utime(file, (1e9, 1e9))


def served(version: pathlib.Path) -> set[str]:
    """The ads that a loaded version can return at all."""
    servable = Servable(version, "shop", 1)
    nothing = {"excluded": np.full([1, 2], -1, np.int32)}
    rows, scores = servable.run("serving_default", nothing, ["rows", "scores"])
    servable.close()
    return {AD_IDS[row] for row, score in zip(rows[0], scores[0], strict=True) if score > -1e30}


def test_the_new_version_serves_the_set_and_shares_the_rest(base):
    off = {"ad03", "ad17"}
    made = publish(base, switch_off(off))
    assert (made.source, made.ads, made.live, made.changed) == (7, ADS, ADS - 2, 2)
    version = base / str(made.version)
    assert served(version) == set(AD_IDS) - off
    assert served(base / "7") == set(AD_IDS), "the version before keeps its own set"
    assert sorted(list_versions(base)) == [7, made.version]
    for file in version.rglob("*"):
        if file.is_file():
            shared = os.path.samefile(file, base / "7" / file.relative_to(version))
            assert shared == (not file.name.startswith("servable_set.")), file
    # Each set stands by itself: it does not add to the one before.
    again = publish(base, only(["ad05", "ad06"]))
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


@pytest.mark.parametrize(
    "content",
    [
        b"ad03\nad17\n",
        b"\xef\xbb\xbfad03\r\n\r\nad17",
        b"  ad03\t\n\n \nad17 \xc2\xa0\nad03\n",
        b"ad03\rad17\r",
        b"\xef\xbb\xbfad03\n\xef\xbb\xbfad17\n",
    ],
)
def test_what_editors_leave_around_an_id_loses_no_ad(base, tmp_path, content):
    file = tmp_path / "ids.txt"
    file.write_bytes(content)
    made = publish(base, switch_off(read_ids(file)))
    assert served(base / str(made.version)) == set(AD_IDS) - {"ad03", "ad17"}


def test_an_id_is_taken_as_it_is_written_where_the_catalogue_has_it(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes("a\r\n\nb\u2028c\n d \n e\n".encode())
    ids = read_ids(file)
    flags, unknown = only(ids).flags(["a", "b\u2028c", " d ", "d", "e", "f"])
    assert (flags.tolist(), unknown) == ([True, True, True, False, True, False], [])
    file.write_bytes("ad03\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"is not UTF-8 .* save it as UTF-8"):
        read_ids(file)


def test_ids_that_the_catalogue_lacks_are_an_error_that_names_them(base):
    ids = ["ad03", "ad17", *(f"x{i}" for i in range(7)), " x0"]
    wanted = r"7 of 10 ids are not in the catalogue of .*7: 'x0', 'x1', 'x2', 'x3', 'x4', \.\.\.;"
    for selection in (switch_off(ids), only(ids)):
        with pytest.raises(ValueError, match=wanted):
            publish(base, selection)
    assert list(list_versions(base)) == [7]
    made = publish(base, switch_off(ids), allow_unknown=True)
    assert made.unknown == 7
    assert served(base / str(made.version)) == set(AD_IDS) - {"ad03", "ad17"}


def test_what_cannot_be_published_is_refused_and_leaves_nothing(base, whole, tmp_path):  # noqa: F811
    shutil.copytree(whole, tmp_path / "without" / "1")
    with pytest.raises(ValueError, match="exported without a set"):
        publish(tmp_path / "without", switch_off([]))
    with pytest.raises(ValueError, match="no ad of the 50 in"):
        publish(base, only([]))
    with pytest.raises(ValueError, match="has no version; push one"):
        publish(tmp_path / "missing", only(["ad05"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no version; push one"):
        publish(tmp_path / "empty", only(["ad05"]))
    assert [name for name in os.listdir(base) if name != ".servable-set.lock"] == ["7"]


def test_a_version_that_is_not_whole_is_passed_over(base, saved):  # noqa: F811
    push(saved, base / "8")
    truncate(base / "8")
    made = publish(base, switch_off(["ad03"]))
    assert made.source == 7
    assert list(made.skipped) == [8]
    assert "saved_model.pb has " in made.skipped[8]
    assert made.version > 8
    assert served(base / str(made.version)) == set(AD_IDS) - {"ad03"}


@pytest.mark.parametrize("content", [b"short", b"f" * 16 + b"\xff" * 7])
def test_a_set_that_no_server_takes_is_passed_over(base, saved, content):  # noqa: F811
    push(saved, base / "8")
    (base / "8" / SERVABLE_SET_FILE).write_bytes(content)
    # As of a push from before sets had a list.
    (base / "8" / LIST_FILE).unlink()
    for file in (base / "8").rglob("*"):
        os.utime(file, (1e9, 1e9))
    assert publish(base, switch_off(["ad03"])).source == 7


def test_an_ad_that_a_flipped_bit_switches_on_fails_the_load(base):
    made = publish(base, switch_off(["ad03"]))
    version = base / str(made.version)
    file = version / SERVABLE_SET_FILE
    content = bytearray(file.read_bytes())
    content[16] ^= 1 << 3
    file.write_bytes(content)
    with pytest.raises(ServingError, match=r"servable_set\.bits is damaged") as refused:
        served(version)
    assert refused.value.code == grpc.StatusCode.DATA_LOSS
    for touched in version.rglob("*"):
        os.utime(touched, (1e9, 1e9))
    again = publish(base, switch_off(["ad05"]))
    assert (again.source, list(again.skipped)) == (7, [made.version])
    # What was published before sets had a list is built on all the same.
    (base / str(again.version) / LIST_FILE).unlink()
    made = publish(base, switch_off(["ad06"]))
    assert made.source == again.version
    assert (base / str(made.version) / LIST_FILE).is_file()
    assert served(base / str(made.version)) == set(AD_IDS) - {"ad06"}


def test_without_a_whole_version_nothing_is_published(base):
    truncate(base / "7")
    with pytest.raises(ValueError, match=r"no version in .* is whole; push one anew: "):
        publish(base, switch_off(["ad03"]))
    assert list(list_versions(base)) == [7]


def test_a_push_that_is_being_written_is_not_hidden(base, saved, monkeypatch):  # noqa: F811
    push(saved, base / "8")
    truncate(base / "8", settled=False)
    with pytest.raises(ValueError, match=r"8 is being written: .*; call again when that is done"):
        publish(base, switch_off(["ad03"]))
    shutil.rmtree(base / "8")

    def write_while_one_is_pushed(*args):
        push(saved, base / "9")
        write(*args)

    write = sets.write_servable_set
    monkeypatch.setattr(sets, "write_servable_set", write_while_one_is_pushed)
    with pytest.raises(ValueError, match="9 was pushed meanwhile; call again"):
        publish(base, switch_off(["ad03"]))
    assert sorted(os.listdir(base)) == [".servable-set.lock", "7", "9"]


def test_several_at_once_publish_one_after_the_other(base):
    ids = ["ad03", "ad05", "ad17", "ad20"]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda ad: publish(base, switch_off([ad])), ids))
    assert len({published.version for published in made}) == 4
    for ad, published in zip(ids, made, strict=True):
        assert served(base / str(published.version)) == set(AD_IDS) - {ad}


def test_old_sets_are_pruned_and_pushes_stay(base, saved):  # noqa: F811
    first = [publish(base, switch_off([ad]), keep=2) for ad in ("ad03", "ad05", "ad06", "ad09")]
    assert [len(published.pruned) for published in first] == [0, 0, 1, 1]
    assert sorted(list_versions(base)) == [7, first[2].version, first[3].version]
    push(saved, base / str(first[3].version + 1))
    second = [publish(base, switch_off([ad]), keep=1) for ad in ("ad03", "ad05", "ad06")]
    # Going back past the second push meets the set of the first.
    pushes = {7, first[3].version + 1}
    assert set(list_versions(base)) == pushes | {first[3].version, second[2].version}
    assert served(base / str(first[3].version)) == set(AD_IDS) - {"ad09"}
    assert served(base / "7") == set(AD_IDS)


def test_what_a_killed_run_left_is_cleared_up(base):
    for name in (".5.partial", ".3.pruned", "notes"):
        (base / name / "assets").mkdir(parents=True)
    publish(base, switch_off(["ad03"]))
    assert sorted(os.listdir(base))[:1] == [".servable-set.lock"]
    assert {name for name in os.listdir(base) if not name.isdigit()} == {
        ".servable-set.lock",
        "notes",
    }


def command(*arguments: object) -> list[str]:
    return ["servable-set", "--ads", "a", "--events", "e", *map(str, arguments)]


def test_the_command(cli, base, tmp_path):
    ids = tmp_path / "paused.txt"
    ids.write_text("ad03\n\nad17\nunknown\n")
    pushed = ["--set", f"run.push_directory={tmp_path / 'serving'}"]
    done = CliRunner().invoke(cli, command(*pushed, "--off", ids))
    assert done.exit_code == 2
    assert "1 of 3 ids are not in the catalogue" in done.output
    done = CliRunner().invoke(cli, command(*pushed, "--off", ids, "--allow-unknown"))
    assert done.exit_code == 0, done.output
    assert "48 of 50 ads live, 2 changed, 1 ids not in the catalogue" in done.output
    assert served(base / str(max(list_versions(base)))) == set(AD_IDS) - {"ad03", "ad17"}
    done = CliRunner().invoke(cli, command(*pushed, "--all-live", "--keep", "1"))
    assert "50 of 50 ads live, 2 changed, 1 old sets removed" in done.output
    for wrong, message in (
        ([], "give one of"),
        (["--all-live", "--only", ids], "give one of"),
        (["--flavour", "scann", "--all-live"], "has no version; push one"),
    ):
        done = CliRunner().invoke(cli, command(*pushed, *wrong))
        assert (done.exit_code, message in done.output) == (2, True)
    nowhere = ["--set", f"run.push_directory={tmp_path / 'nowhere'}"]
    done = CliRunner().invoke(cli, command(*nowhere, "--all-live"))
    assert (done.exit_code, "has no version; push one" in done.output) == (2, True)


def test_the_command_needs_no_input_files(cli, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["servable-set", "--set", f"run.push_directory={tmp_path / 'serving'}"]
    done = CliRunner().invoke(cli, [*arguments, "--all-live"])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "runs").exists()


def test_a_flavour_that_cannot_be_published_takes_the_other_back(base, saved, monkeypatch):  # noqa: F811
    other = base.parents[1] / "scann" / "sid_tfx"
    push(saved, other / "7")
    rename = pathlib.Path.rename

    def full(self, target):
        if "scann" in str(target):
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", full)
    folders = {"portable": base, "scann": other}
    with pytest.raises(OSError, match="no space left"):
        publish_servable_sets(folders, switch_off(["ad03"]))
    assert [list(list_versions(folder)) for folder in (base, other)] == [[7], [7]]


def test_old_sets_that_cannot_be_removed_do_not_hide_what_is_live(base, monkeypatch):
    def denied(*arguments):
        raise PermissionError("denied")

    monkeypatch.setattr(sets, "prune_sets", denied)
    published = publish(base, switch_off(["ad03"]))
    assert published.pruned == ()
    assert max(list_versions(base)) == published.version


def test_the_command_publishes_all_flavours_or_none(cli, base, saved, tmp_path):  # noqa: F811
    off = tmp_path / "paused.txt"
    off.write_text("ad03\n")
    pushed = ["--set", f"run.push_directory={tmp_path / 'serving'}", "--off", off]
    other = tmp_path / "serving" / "scann" / "sid_tfx"
    flavours = ["--flavour", "portable", "--flavour", "scann"]
    done = CliRunner().invoke(cli, command(*pushed, *flavours))
    assert (done.exit_code, "nothing was published" in done.output) == (2, True)
    assert list(list_versions(base)) == [7]
    push(saved, other / "7")
    push(saved, other / "8")
    truncate(other / "7")
    truncate(other / "8")
    done = CliRunner().invoke(cli, command(*pushed))
    assert (done.exit_code, "is whole" in done.output) == (2, True)
    assert list(list_versions(base)) == [7]
    shutil.rmtree(other / "7")
    push(saved, other / "7")
    done = CliRunner().invoke(cli, command(*pushed))
    assert done.exit_code == 0, done.output
    assert "scann: built on version 7, for 8 is not whole" in done.output
    versions = [max(list_versions(folder)) for folder in (base, other)]
    assert versions[0] == versions[1]
    assert all(
        served(folder / str(versions[0])) == set(AD_IDS) - {"ad03"} for folder in (base, other)
    )
