"""Which options of a vector quantizer go together."""

from collections.abc import Collection
from typing import Any

from sid_tfx.quantizers.assignment import ASSIGNMENTS
from sid_tfx.quantizers.codebook import CODEBOOKS
from sid_tfx.quantizers.gradient import ESTIMATORS
from sid_tfx.quantizers.initialization import INITIALIZATIONS
from sid_tfx.quantizers.learning import LEARNING

_CHOICES: dict[str, Collection[str]] = {
    "assignment": ASSIGNMENTS,
    "gradient": ESTIMATORS,
    "learning": LEARNING,
    "codebook": CODEBOOKS,
    "initialization": INITIALIZATIONS,
}

# Two options that exclude each other, the reason, the cure.
_CONFLICTS: tuple[tuple[tuple[str, str], tuple[str, str], str], ...] = (
    (
        ("learning", "ema"),
        ("codebook", "linear"),
        "a moving average sets each code vector by itself, and a linear codebook has no vectors of "
        "its own; use learning='gradient' or codebook='table'",
    ),
    (
        ("learning", "ema"),
        ("gradient", "gumbel"),
        "the soft gradient is there to train the codebook, and a moving average takes no gradient; "
        "use learning='gradient' or gradient='straight_through'",
    ),
    (
        ("assignment", "sinkhorn"),
        ("gradient", "gumbel"),
        "both choose the codes of a training batch; use assignment='nearest' or "
        "gradient='straight_through'",
    ),
)


def check_options(options: dict[str, Any], widths: list[int]) -> None:
    """Refuses options that are unknown, out of range or contradict each other.

    Args:
        options: Argument name -> value, as `VectorQuantizer` takes them.
        widths: Size of what each level quantizes.

    Raises:
        ValueError: With the argument, its value and the cure.
    """
    for name, known in _CHOICES.items():
        if options[name] not in known:
            raise ValueError(f"{name} must be one of {sorted(known)}, got {options[name]!r}.")
    for first, second, reason in _CONFLICTS:
        if all(options[name] == value for name, value in (first, second)):
            raise ValueError(
                f"{first[0]}={first[1]!r} excludes {second[0]}={second[1]!r}: {reason}."
            )
    factor_dim = options["factor_dim"]
    if factor_dim is not None and not 1 <= factor_dim <= min(widths):
        raise ValueError(
            f"factor_dim must be in [1, {min(widths)}], the size of what a level quantizes, or "
            f"None, got {factor_dim}."
        )
    if not 0.0 < options["ema_decay"] < 1.0:
        raise ValueError(f"ema_decay must be in (0, 1), got {options['ema_decay']}.")
    if not options["temperature"] > 0.0:
        raise ValueError(f"temperature must be positive, got {options['temperature']}.")
    for name in ("balance", "exploration"):
        if not options[name] >= 0.0:
            raise ValueError(f"{name} must not be negative, got {options[name]}.")
