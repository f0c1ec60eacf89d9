"""Speed and memory against named peers and limits: `python -m benchmarks`, or one script alone."""
