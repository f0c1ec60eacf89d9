"""Tests of the library, the components, the pipeline and serving."""
