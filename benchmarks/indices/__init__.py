"""The indices that `benchmarks.retrieval` compares, each measured in a process of its own.

`harness` needs NumPy and psutil only, because peers run it in an environment without TensorFlow.
"""
