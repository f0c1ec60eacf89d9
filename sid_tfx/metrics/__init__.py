"""Metrics: semantic-ID quality and ranking, in NumPy.

| module | measures |
|---|---|
| `sid_quality` | collisions, entropy, coverage, balance; V-measure and purity against categories |
| `hit_rate` | co-engaged ads that are near each other |
| `churn` | codes that changed between two catalogues |
| `ranking` | rank of the one relevant ad |
| `slices` | groups of users to measure apart |
"""
