"""The servable set: its file, and that a version with another file serves other ads."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.decoding import PrefixTrie, beam_search
from sid_tfx.export.servable_set import ServableSet
from sid_tfx.servable_set_file import (
    SERVABLE_SET_FILE,
    read_servable_set,
    write_servable_set,
)

pytestmark = pytest.mark.unit

ADS = 50
FINGERPRINT = "0123456789abcdef"


class Shop(tf.Module):
    """The least that can be served: a trie under a uniform model."""

    def __init__(self):
        super().__init__()
        codes = np.stack(np.unravel_index(np.arange(ADS) * 3, (6, 5, 5)), axis=1)
        self.trie = PrefixTrie.build(codes, (6, 5, 5))
        self.servable_set = ServableSet(ADS, FINGERPRINT, self.trie.set_live)
        self.asset = self.servable_set.asset

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32)])
    def best(self, excluded):
        batch = tf.shape(excluded)[0]

        def uniform(level, prefix, state):
            return tf.zeros([batch, prefix.shape[1], self.trie.sizes[level]]), state

        return beam_search(uniform, self.trie, ADS, ADS, batch, excluded)._asdict()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "1"
    shop = Shop()
    tf.saved_model.save(shop, str(path), signatures={"serving_default": shop.best})
    return path


def publish(version: pathlib.Path, target: pathlib.Path, live, fingerprint=FINGERPRINT):
    """What a publisher does: every file hard-linked, then the set replaced."""
    for file in version.rglob("*"):
        if file.is_file():
            linked = target / file.relative_to(version)
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, linked)
    write_servable_set(str(target / SERVABLE_SET_FILE), live, fingerprint)
    return target


def ask_session(path) -> list[int]:
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = meta.signature_def["serving_default"]
        feed = {signature.inputs["excluded"].name: [[0, -1]]}
        rows = session.run(signature.outputs["rows"].name, feed)[0]
    return sorted(rows[rows >= 0].tolist())


def ask(loaded) -> list[int]:
    rows = loaded.signatures["serving_default"](excluded=tf.constant([[0, -1]]))["rows"].numpy()[0]
    return sorted(rows[rows >= 0].tolist())


def test_a_version_with_another_file_serves_other_ads(saved, tmp_path):
    live = np.arange(ADS) % 7 == 0
    published = publish(saved, tmp_path / "2", live)
    wanted = np.flatnonzero(live)[1:].tolist()
    everything = list(range(1, ADS))
    assert (ask_session(saved), ask_session(published)) == (everything, wanted)
    # Both in one process: no version may see what the other one serves.
    first, second = tf.saved_model.load(str(saved)), tf.saved_model.load(str(published))
    assert (ask(first), ask(second), ask(first)) == (everything, wanted, everything)
    # All but the set is one file on disk, and the old set is as it was.
    inodes = {
        file.relative_to(saved): file.stat().st_ino for file in saved.rglob("*") if file.is_file()
    }
    changed = {name for name, inode in inodes.items() if (published / name).stat().st_ino != inode}
    assert changed == {pathlib.Path(SERVABLE_SET_FILE)}
    assert read_servable_set(str(saved / SERVABLE_SET_FILE), ADS)[0].all()


@pytest.mark.parametrize(
    ("ads", "fingerprint", "message"),
    [
        (ADS - 10, FINGERPRINT, "has not the size of 50 ads"),
        (ADS + 10, FINGERPRINT, "has not the size of 50 ads"),
        (ADS, "f" * 16, "is of another catalogue"),
    ],
)
@pytest.mark.parametrize("load", [ask_session, lambda path: tf.saved_model.load(str(path))])
def test_a_set_of_another_catalogue_fails_the_load(
    saved, tmp_path, ads, fingerprint, message, load
):
    published = publish(saved, tmp_path / "2", np.ones(ads, bool), fingerprint)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        load(published)


def test_what_is_set_before_saving_is_saved(tmp_path):
    shop = Shop()
    live = np.arange(ADS) < 4
    shop.servable_set.write(live)
    tf.saved_model.save(shop, str(tmp_path), signatures={"serving_default": shop.best})
    assert ask_session(tmp_path) == [1, 2, 3]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_the_file_comes_back_as_it_was(tmp_path_factory, flags):
    path = str(tmp_path_factory.getbasetemp() / "set.bits")
    write_servable_set(path, np.array(flags), FINGERPRINT)
    assert os.path.getsize(path) == 16 + (len(flags) + 7) // 8
    live, fingerprint = read_servable_set(path, len(flags))
    assert (live.tolist(), fingerprint) == (flags, FINGERPRINT)
    with pytest.raises(ValueError, match="a servable set of"):
        read_servable_set(path, len(flags) + 8)


@pytest.mark.parametrize(
    ("live", "fingerprint", "message"),
    [
        (np.ones(3), FINGERPRINT, "live must be bool"),
        (np.ones((2, 2), bool), FINGERPRINT, "live must be bool"),
        (np.ones(3, bool), "short", "must have 16 characters"),
    ],
)
def test_a_set_that_is_none_is_refused(tmp_path, live, fingerprint, message):
    with pytest.raises(ValueError, match=message):
        write_servable_set(str(tmp_path / "set.bits"), live, fingerprint)
