"""What an index artifact says of itself: its manifest and the gate's checks."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from components.verdict import Check
from sid_tfx.retrieval import Choice, Selection

SPACES = {"embedding": "joint embeddings", "sid_embedding": "SID embeddings"}
"""The vectors that are indexed, and their names for people."""

_NAMES = {"scann": "ScaNN", "partitioned": "the partitioned index", "brute_force": "brute force"}


def space_record(space: str, selection: Selection) -> dict[str, Any]:
    """What was chosen and measured over one kind of vectors, JSON-able.

    Args:
        space: A key of `SPACES`; the indices lie in a folder of that name.
        selection: The choices and the trials.
    """
    exact = selection.trials[0].index
    return {
        "dimensions": int(exact.vectors([0]).shape[1]),
        "similarity": exact.similarity,
        "flavours": {
            flavour: {
                "kind": choice.index.kind,
                "path": f"{space}/{choice.index.kind}",
                "reason": choice.reason,
                f"recall@{selection.k}": round(choice.recall.mean, 4),
                "recall_error": round(choice.recall.error, 4),
                "milliseconds": round(choice.milliseconds, 4),
                "queries_per_second": round(1e3 / choice.milliseconds, 1),
                "parameters": choice.index.get_config(),
            }
            for flavour, choice in selection.choices.items()
        },
        "trials": [trial.record(selection.k) for trial in selection.trials],
    }


def fingerprint(
    catalog: Mapping[str, str], limits: Mapping[str, Any], spaces: Mapping[str, Any]
) -> str:
    """Names an index by what it was made from and what was chosen; 16 hex digits."""
    chosen = {
        f"{space}/{flavour}": found["kind"]
        for space, record in spaces.items()
        for flavour, found in record["flavours"].items()
    }
    made_from = {"catalog": dict(catalog), "limits": dict(limits), "chosen": chosen}
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def check(space: str, flavour: str, choice: Choice, k: int, min_recall: float) -> Check:
    """Holds the recall of an index that is to be served against the limit."""
    return Check(
        name=f"{space}_{flavour}_recall@{k}",
        value=choice.recall.mean,
        limit=min_recall,
        ok=choice.recall.mean >= min_recall,
        sentence=(
            f"{_NAMES[choice.index.kind]} over {SPACES[space]} ({flavour}) finds "
            f"{choice.recall.mean:.3f} of the true {k} nearest ads in {choice.milliseconds:.4f} ms "
            f"a query, the limit is at least {min_recall:g}"
        ),
    )
