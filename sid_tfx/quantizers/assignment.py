"""Assignments: which code of a codebook a vector gets."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sid_tfx.quantizers.matching import best
from sid_tfx.quantizers.sinkhorn import sinkhorn_codes


class Assignment(NamedTuple):
    """How codes are chosen.

    Attributes:
        unit: Whether vectors and code vectors are compared at length 1.
        choose: From scores `[B, K]` of a training batch to codes int32 `[B]`. At inference the
            best score decides, so that a code never depends on the batch.
    """

    unit: bool
    choose: Callable[[Any], Any]


ASSIGNMENTS: dict[str, Assignment] = {
    "nearest": Assignment(unit=False, choose=best),
    "cosine": Assignment(unit=True, choose=best),
    "sinkhorn": Assignment(unit=False, choose=sinkhorn_codes),
}
