"""How a recommender reads a history and writes codes: one interface, chosen by name."""

from sid_tfx.architectures.base import AdInputs, Architecture
from sid_tfx.architectures.flat import FlatDecoder
from sid_tfx.architectures.item_level import ItemLevel
from sid_tfx.architectures.tiger import Tiger

ARCHITECTURES: dict[str, type[Architecture]] = {
    "item_level": ItemLevel,
    "flat": FlatDecoder,
    "tiger": Tiger,
}
"""By the name that `SidRecommender` and the configuration take."""

__all__ = ["ARCHITECTURES", "AdInputs", "Architecture", "FlatDecoder", "ItemLevel", "Tiger"]
