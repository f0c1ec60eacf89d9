"""TFX components, one folder each: spec, executor, test."""

from typing import Any

_ARTIFACTS = frozenset({"SidCatalog", "SidIndex", "SidBlessing", "IndexBlessing"})


def __getattr__(name: str) -> Any:
    # Kubeflow imports an artifact class by its type name, "components.SidCatalog". Resolved on
    # demand: whoever needs only `components.refusal` must not wait for TFX to import.
    if name in _ARTIFACTS:
        from components import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module 'components' has no attribute '{name}'")
