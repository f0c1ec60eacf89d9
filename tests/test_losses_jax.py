"""The losses on JAX: the values and gradients of TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loss_values import values

pytestmark = pytest.mark.unit


def test_losses_and_gradients_are_the_same_on_jax():
    pytest.importorskip("jax")
    result = subprocess.run(
        [sys.executable, "-m", "tests.loss_values"],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    on_jax = json.loads(result.stdout.splitlines()[-1])
    for name, expected in values().items():
        assert on_jax[name] == pytest.approx(expected, rel=1e-4), name
        assert min(expected) > 0, name
