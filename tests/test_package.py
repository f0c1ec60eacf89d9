"""`import sid_tfx` is light, and gives the main classes by name."""

import subprocess
import sys

import pytest

import sid_tfx

pytestmark = pytest.mark.unit


def test_the_main_classes_are_there_by_name():
    for name in sid_tfx.__all__:
        assert getattr(sid_tfx, name).__name__ == name
        assert name in dir(sid_tfx)
    with pytest.raises(AttributeError, match="no attribute 'SidTokeniser'"):
        _ = sid_tfx.SidTokeniser


def test_importing_the_package_imports_no_framework():
    code = "import sys, sid_tfx; print([n for n in ('keras', 'tensorflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
