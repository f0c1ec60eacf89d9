"""Where the libraries' chatter goes. Light to import, and to be called before TensorFlow is."""

import logging
import os
import warnings
from pathlib import Path


def log_to_file(path: Path) -> None:
    """Sends logs and warnings of every library to a file, so that the terminal stays readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import logging as absl_logging

    # absl would add a handler of its own that writes to stderr.
    absl_logging.use_absl_handler()
    root.handlers = [handler]
    absl_logging.set_verbosity(absl_logging.INFO)
