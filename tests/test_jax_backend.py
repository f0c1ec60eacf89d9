"""What runs on JAX gives what it gives on TensorFlow. One process computes it all on JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ad_fixtures import catalogue, small_tokenizer
from tests.backend_values import values

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("jax")
    model = small_tokenizer()
    model.initialize(catalogue(200))
    path = tmp_path_factory.mktemp("jax") / "weights.npz"
    # Dropout is 0 in the runs, and a layer without dropout has no random state to carry over.
    kept = [w for w in model.weights if "seed_generator" not in w.path]
    np.savez(path, *[np.asarray(w) for w in kept])
    done = subprocess.run(
        [sys.executable, "-m", "tests.backend_values", path],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {"tensorflow": values(path), "jax": json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def tokenizers(results):
    return {backend: found["tokenizer"] for backend, found in results.items()}


def test_losses_and_gradients_are_the_same_on_jax(results):
    assert [found["backend"] for found in results.values()] == ["tensorflow", "jax"]
    for name, expected in results["tensorflow"]["losses"].items():
        assert results["jax"]["losses"][name] == pytest.approx(expected, rel=1e-4), name
        assert min(expected) > 0, name


def test_jax_clips_the_gradient_of_an_embedding_alike(results):
    steps = (results[backend]["clipped step"] for backend in ("tensorflow", "jax"))
    np.testing.assert_allclose(*steps)


def test_quantizers_give_the_same_on_jax_with_every_option(results):
    found = (results[backend]["quantizers"] for backend in ("tensorflow", "jax"))
    for one, other in zip(*found, strict=True):
        assert one["case"] == other["case"]
        # Rounding may part two codes that fit alike.
        same = np.mean(np.array(one["codes"]) == np.array(other["codes"]))
        assert same > 0.99, one["case"]
        np.testing.assert_array_equal(one["ranked"], other["ranked"], err_msg=one["case"])
        np.testing.assert_allclose(one["losses"], other["losses"], rtol=1e-3, err_msg=one["case"])


def test_jax_trains_the_tokenizer_to_the_same_losses_as_tensorflow(tokenizers):
    steps = (tokenizers[backend]["steps"] for backend in ("tensorflow", "jax"))
    for ours, theirs in zip(*steps, strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-5), name
    first = [tokenizers[backend]["fit"][0] for backend in ("tensorflow", "jax")]
    assert first[0] == pytest.approx(first[1], rel=1e-3), "fit and its callbacks, on JAX too"
    assert tokenizers["jax"]["codes_shape"] == [200, 3]


def test_jax_trains_a_tower_in_the_place_of_vectors_to_the_same_losses(tokenizers):
    ours, theirs = (tokenizers[backend]["tower"] for backend in ("tensorflow", "jax"))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[0] != ours[1]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_what_a_callback_assigns_between_steps_stays(tokenizers, backend):
    # The JAX trainer steps on a copy of the variables: an assignment that the copy does not
    # see is undone at the next step, which would show here as a move of its own.
    moved = np.array(tokenizers[backend]["moves"]).reshape(2, 5) > 0
    np.testing.assert_array_equal(moved, [[False, True, False, True, True], [False] * 5])
