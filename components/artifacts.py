"""The artifact types that TFX has no standard type for, and the stage line.

Kubeflow finds a custom artifact's class again by its type name, which it reads as
`<package>.<class>` with one dot. Hence `TYPE_NAME = "components.SidCatalog"`, and
`components/__init__.py` resolves the four names.

What a stage knows about its artifact goes into custom properties (`set_int_custom_property`), not
into a class's `PROPERTIES`: Kubeflow's schema for a type of one's own has none, and TFX refuses to
compile a class that declares some.
"""

from tfx.types.artifact import Artifact
from tfx.types.system_artifacts import Dataset, Metrics
from tfx.types.system_artifacts import Model as SystemModel

SUMMARY_PROPERTY = "summary"
"""Custom property with the one line that people read about a stage."""


class SidCatalog(Artifact):
    """Codes, de-dup token and embedding of every ad.

    Files: `catalog.parquet`, `quality.json`, `manifest.json`. Custom properties: `ads`, `levels`,
    `codebook_size`.
    """

    TYPE_NAME = "components.SidCatalog"
    TYPE_ANNOTATION = Dataset


class SidIndex(Artifact):
    """Nearest-neighbour indices over the catalogue's joint embeddings and its SID embeddings.

    Files: `<space>/<kind>/` for each index, `curve.png`, and `manifest.json`, which names the one
    to serve for each space and flavour. Custom property: `kind`, that of the joint embeddings'
    index where ScaNN's ops may be served.
    """

    TYPE_NAME = "components.SidIndex"
    TYPE_ANNOTATION = SystemModel


class SidBlessing(Artifact):
    """Verdict of the gate on semantic-ID quality: `verdict.json`.

    Custom property: `blessed`, 1 or 0.
    """

    TYPE_NAME = "components.SidBlessing"
    TYPE_ANNOTATION = Metrics


class IndexBlessing(Artifact):
    """Verdict of the gate on the index's recall: `verdict.json`.

    Custom property: `blessed`, 1 or 0.
    """

    TYPE_NAME = "components.IndexBlessing"
    TYPE_ANNOTATION = Metrics


def set_summary(artifact: Artifact, text: str) -> None:
    """Sets the stage line on an artifact, e.g. `"12,101 ads, 0 rejected"`."""
    artifact.set_string_custom_property(SUMMARY_PROPERTY, text)


def get_summary(artifact: Artifact) -> str:
    """Returns the stage line of an artifact; empty where the stage set none."""
    return artifact.get_string_custom_property(SUMMARY_PROPERTY) or ""
