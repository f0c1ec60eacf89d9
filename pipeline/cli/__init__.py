"""The commands of `pipeline.py`; none imports a heavy library before it runs."""
