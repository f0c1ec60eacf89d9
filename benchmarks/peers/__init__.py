"""The tokenizers that `benchmarks.tokenizers` compares, each in a process of its own.

`harness` needs NumPy only, because the peer runs in an environment without TensorFlow.
"""
