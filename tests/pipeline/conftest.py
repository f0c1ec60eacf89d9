import importlib.util
import pathlib

import pytest


@pytest.fixture(scope="module")
def cli():
    """The command line: a file with the name of the package beside it."""
    path = pathlib.Path(__file__).parents[2] / "pipeline.py"
    spec = importlib.util.spec_from_file_location("command_line", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cli
