"""Export: the servable, its signatures and what its graph is made of."""

from sid_tfx.export.inventory import custom_ops
from sid_tfx.export.saving import read_manifest, save
from sid_tfx.export.servable import Servable, WireLimits

__all__ = ["Servable", "WireLimits", "custom_ops", "read_manifest", "save"]
