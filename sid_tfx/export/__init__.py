"""Export: the servable, its signatures and what its graph is made of."""

from sid_tfx.export.inventory import custom_ops
from sid_tfx.export.saving import read_manifest, save
from sid_tfx.export.servable import Servable, WireLimits
from sid_tfx.servable_set_file import (
    SERVABLE_SET_FILE,
    read_servable_set,
    write_servable_set,
)

__all__ = [
    "SERVABLE_SET_FILE",
    "Servable",
    "WireLimits",
    "custom_ops",
    "read_manifest",
    "read_servable_set",
    "save",
    "write_servable_set",
]
