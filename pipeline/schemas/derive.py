"""A run's data schema: the curated one, fitted to the columns that its ads have."""

from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from sid_tfx.datasets import fields
from sid_tfx.features import AdSchema

_CONTENT = {
    schema_pb2.BYTES: "text", schema_pb2.FLOAT: "numbers", schema_pb2.INT: "whole numbers",
}  # fmt: skip
_KEPT = ("ad_id", fields.SUMMARY)


def read_curated(name: str) -> schema_pb2.Schema:
    """Reads a curated schema.

    Args:
        name: `"ads"` or `"events"`. The events schema is used as it is: its optional columns may
            be absent from the data.

    Raises:
        ValueError: There is no schema of that name.
    """
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.pbtxt"))
    if name not in names:
        raise ValueError(f"There is no curated schema {name!r}; there are {names}.")
    return text_format.Parse((folder / f"{name}.pbtxt").read_text(), schema_pb2.Schema())


def derive_schema(
    curated: schema_pb2.Schema, ad_schema: AdSchema, also_text: Sequence[str] = ()
) -> schema_pb2.Schema:
    """Fits the curated schema of ads to the columns that are used.

    A column that is curated keeps its rules; any other gets those of its kind: one text or
    category, one finite number, a finite vector of the declared size. `summary` is always kept,
    since it may be absent from data and from single ads.

    Args:
        curated: `read_curated("ads")`.
        ad_schema: The columns that models read.
        also_text: Further text columns in the data, such as a title kept for people to read.

    Returns:
        The schema of the raw tf.Examples, features in the order of their names.

    Raises:
        ValueError: A column is used as another type than it is curated as.
    """
    wanted = dict.fromkeys((*_KEPT, *also_text), schema_pb2.BYTES)
    wanted |= dict.fromkeys((*ad_schema.text, *ad_schema.categorical), schema_pb2.BYTES)
    wanted |= dict.fromkeys((*ad_schema.numeric, *ad_schema.dense), schema_pb2.FLOAT)
    if ad_schema.category_depth:
        wanted[fields.CATEGORY_PATH] = schema_pb2.BYTES

    known = {feature.name: feature for feature in curated.feature}
    schema = schema_pb2.Schema()
    for name in sorted(wanted):
        feature = schema.feature.add()
        if name in known:
            feature.CopyFrom(known[name])
        else:
            feature.CopyFrom(_feature(name, wanted[name], ad_schema.dense.get(name, 1)))
        if feature.type != wanted[name]:
            raise ValueError(
                f"column {name!r} is to hold {_CONTENT[feature.type]} by its curated schema, but "
                f"is used as {_CONTENT[wanted[name]]}; write it so, or rename the column."
            )
    return schema


def write_schema(schema: schema_pb2.Schema, path: str | Path) -> None:
    """Writes a schema as the text file that ImportSchemaGen reads."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_format.MessageToString(schema))


def _feature(name: str, kind: int, values: int) -> schema_pb2.Feature:
    feature = schema_pb2.Feature(name=name, type=kind)
    feature.value_count.min = values
    feature.value_count.max = values
    feature.presence.min_count = 0
    if kind == schema_pb2.FLOAT:
        feature.float_domain.disallow_nan = True
        feature.float_domain.disallow_inf = True
    return feature
