import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.jax_quantizers import results

pytestmark = pytest.mark.unit


def run(backend):
    result = subprocess.run(
        [sys.executable, "-m", "tests.jax_quantizers"],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_options_give_the_same_on_jax_as_on_tensorflow():
    pytest.importorskip("jax")
    ours, theirs = results(), run("jax")
    assert [ours["backend"], theirs["backend"]] == ["tensorflow", "jax"]
    for one, other in zip(ours["cases"], theirs["cases"], strict=True):
        assert one["case"] == other["case"]
        # Rounding may part two codes that fit alike.
        same = np.mean(np.array(one["codes"]) == np.array(other["codes"]))
        assert same > 0.99, one["case"]
        np.testing.assert_array_equal(one["ranked"], other["ranked"], err_msg=one["case"])
        np.testing.assert_allclose(one["losses"], other["losses"], rtol=1e-3, err_msg=one["case"])
