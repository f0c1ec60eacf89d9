import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ad_fixtures import catalogue, small_tokenizer

pytestmark = pytest.mark.unit


def environment(backend: str) -> dict[str, Any]:
    """Arguments of a process in which Keras runs on `backend`."""
    return {
        "env": {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        "cwd": Path(__file__).parents[1],
        "timeout": 500,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("jax")
    model = small_tokenizer()
    model.initialize(catalogue(200))
    path = tmp_path_factory.mktemp("jax") / "weights.npz"
    # Dropout is 0 in the runs, and a layer without dropout has no random state to carry over.
    kept = [w for w in model.weights if "seed_generator" not in w.path]
    np.savez(path, *[np.asarray(w) for w in kept])
    return {backend: _run(backend, path) for backend in ("tensorflow", "jax")}


def _run(backend, weights):
    command = [sys.executable, "-m", "tests.jax_steps", str(weights)]
    done = subprocess.run(command, **environment(backend), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_jax_trains_the_tokenizer_to_the_same_losses_as_tensorflow(results):
    assert [r["backend"] for r in results.values()] == ["tensorflow", "jax"]
    for ours, theirs in zip(results["tensorflow"]["steps"], results["jax"]["steps"], strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-5), name
    # Rounding flips a code sooner or later; the first whole epoch still agrees.
    first = [results[backend]["fit"][0] for backend in ("tensorflow", "jax")]
    assert first[0] == pytest.approx(first[1], rel=1e-3), "fit and its callbacks, on JAX too"
    assert results["jax"]["codes_shape"] == [200, 3]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_what_a_callback_assigns_between_steps_stays(results, backend):
    # The JAX trainer steps on a copy of the variables: an assignment that the copy does not
    # see is undone at the next step, which would show here as a move of its own.
    moved = np.array(results[backend]["moves"]).reshape(2, 5) > 0
    np.testing.assert_array_equal(moved, [[False, True, False, True, True], [False] * 5])
