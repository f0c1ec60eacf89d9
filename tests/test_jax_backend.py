import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, SMALL, SMALL_ENCODER, catalogue

pytestmark = pytest.mark.unit


def run(backend, weights):
    result = subprocess.run(
        [sys.executable, "-m", "tests.jax_steps", str(weights)],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_jax_trains_the_tokenizer_to_the_same_losses_as_tensorflow(tmp_path):
    pytest.importorskip("jax")
    model = SidTokenizer(SCHEMA, SIZES, **SMALL, **SMALL_ENCODER)
    model.initialize(catalogue(200))
    weights = tmp_path / "weights.npz"
    # Dropout is 0 in the runs, and a layer without dropout has no random state to carry over.
    kept = [w for w in model.weights if "seed_generator" not in w.path]
    np.savez(weights, *[np.asarray(w) for w in kept])
    results = {backend: run(backend, weights) for backend in ("tensorflow", "jax")}
    assert [r["backend"] for r in results.values()] == ["tensorflow", "jax"]
    for ours, theirs in zip(results["tensorflow"]["steps"], results["jax"]["steps"], strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4, rel=1e-4), name
    # Rounding flips a code here and there later on; the first whole epoch still agrees.
    first = [results[backend]["fit"][0] for backend in ("tensorflow", "jax")]
    assert first[0] == pytest.approx(first[1], rel=0.01), "fit and its callbacks, on JAX too"
    assert results["jax"]["codes_shape"] == [200, 3]
