"""Speed and memory against named peers and limits: `python -m benchmarks`, or one script alone."""

import os
import warnings

# Native libraries and Google's version notice write a page to each terminal, before any table.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\..*")
