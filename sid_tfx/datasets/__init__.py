"""Data on its way to a model: Parquet -> arrays, the vocabulary, pair and sequence batches.

`ads` and `events` read and check the two tables, `vocabulary` turns ads into the transformed
features that every model reads, `market` writes the simulated sample. The pipeline makes the same
features with TF Transform; both call the string operations in `text` and `fields`.
"""
