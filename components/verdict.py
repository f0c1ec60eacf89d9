"""A gate's verdict: what was measured, against which limit, in JSON and in words."""

import dataclasses
import json
import os
from collections.abc import Sequence

from tensorflow.io import gfile

from components.refusal import Refused

VERDICT_FILE = "verdict.json"


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured value against its limit.

    Attributes:
        name: What is measured, with its unit in the name, e.g. `"collision_share"`.
        value: The measured value.
        limit: The limit from the configuration.
        ok: Whether the value keeps the limit.
        sentence: One sentence for people, with the value and the limit in it.
    """

    name: str
    value: float
    limit: float
    ok: bool
    sentence: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a gate decided.

    Attributes:
        gate: Name of the gate, e.g. `"sid_quality"`.
        checks: Every check, passed or not.
    """

    gate: str
    checks: tuple[Check, ...]

    @property
    def blessed(self) -> bool:
        """Whether every check is ok."""
        return all(check.ok for check in self.checks)

    def refusal(self) -> str:
        """The failed checks' sentences in one line; empty when blessed."""
        return " ".join(check.sentence for check in self.checks if not check.ok)


def write_verdict(directory: str, gate: str, checks: Sequence[Check]) -> Verdict:
    """Writes `verdict.json` into a directory (made if absent) and returns the verdict.

    Args:
        directory: Usually the uri of the blessing artifact.
        gate: Name of the gate.
        checks: What was measured; at least one.

    Raises:
        ValueError: if `checks` is empty: a gate that looked at nothing must not bless.
    """
    if not checks:
        raise ValueError(f"gate '{gate}' has no checks; a verdict needs at least one")
    verdict = Verdict(gate, tuple(checks))
    gfile.makedirs(directory)
    payload = {
        "gate": verdict.gate,
        "blessed": verdict.blessed,
        "checks": [dataclasses.asdict(check) for check in verdict.checks],
    }
    with gfile.GFile(os.path.join(directory, VERDICT_FILE), "w") as file:
        file.write(json.dumps(payload, indent=2) + "\n")
    return verdict


def read_verdict(directory: str) -> Verdict:
    """Reads the `verdict.json` that `write_verdict` left in a directory.

    Raises:
        ValueError: if the file's `blessed` contradicts its checks.
    """
    path = os.path.join(directory, VERDICT_FILE)
    with gfile.GFile(path) as file:
        payload = json.loads(file.read())
    verdict = Verdict(payload["gate"], tuple(Check(**check) for check in payload["checks"]))
    if verdict.blessed != payload["blessed"]:
        raise ValueError(f"{path} says blessed={payload['blessed']} against its own checks")
    return verdict


def require_blessed(directory: str) -> Verdict:
    """Returns the verdict in a directory if it blesses.

    Raises:
        Refused: with the gate and its failed checks otherwise.
    """
    verdict = read_verdict(directory)
    if not verdict.blessed:
        raise Refused(f"The gate '{verdict.gate}' did not pass: {verdict.refusal()}")
    return verdict
