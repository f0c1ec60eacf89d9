"""Whether tokenizer, catalogue, index and recommender were made from one another."""

from collections.abc import Mapping
from typing import Any

from components.refusal import Refused

_CURE = "run the later stages again on the newer one"


def check_generation(
    tokenizer: Mapping[str, Any],
    catalog: Mapping[str, str],
    index: Mapping[str, Any],
    recommender: Mapping[str, Any],
) -> None:
    """Compares the fingerprint that each part names with the part it was made from.

    Args:
        tokenizer: `metadata.json` of the tokenizer.
        catalog: Fingerprints of the catalogue: its own and its tokenizer's.
        index: `manifest.json` of the index.
        recommender: `metadata.json` of the recommender.

    Raises:
        Refused: Two parts are of different generations, or one doesn't say what it was made from.
    """
    links = (
        ("catalogue", catalog, "tokenizer", tokenizer.get("fingerprint")),
        ("index", index.get("fingerprints", {}), "catalog", catalog.get("catalog")),
        ("recommender", recommender.get("fingerprints", {}), "catalog", catalog.get("catalog")),
    )
    for part, made_from, source, found in links:
        named = made_from.get(source)
        if named is None or found is None:
            raise Refused(
                f"Composer: the {part} does not name the {source} it was made from; {_CURE}."
            )
        if named != found:
            raise Refused(
                f"Composer: the {part} was made from {source} {named}, but the {source} given is "
                f"{found}; {_CURE}."
            )
