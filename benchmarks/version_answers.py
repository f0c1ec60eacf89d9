"""Whether an answer is one that the version it comes from gives, from a version that served."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence

import click
import numpy as np

from benchmarks.mixed_requests import Answer, Request

Answers = Sequence[Answer]
"""The right answers to one request: batches of other sizes round otherwise."""


@dataclasses.dataclass
class Span:
    """When a version may have answered, on the clock of `time.perf_counter`.

    Attributes:
        content: Which servable it is.
        begin: Before it, the server said that the version does not serve.
        end: Since then, the server says so again.
    """

    content: str
    begin: float
    end: float = math.inf


class VersionAnswers:
    """Checks every answer, and counts by version.

    Args:
        known: By servable, the right answers to each request.

    Attributes:
        wrong: Answers that no version in service gives to that request.
        by_version: gRPC answers of each version; REST names none.
        by_signature: Answers of each signature.
    """

    def __init__(self, known: Mapping[str, Sequence[Answers]], signatures: Sequence[str]) -> None:
        self._known, self._signatures = known, signatures
        self._lock = threading.Lock()
        self._spans: dict[int, Span] = {}
        self._unsure: list[tuple[int, float]] = []
        self._wrong = 0
        self.by_version: dict[int, int] = {}
        self.by_signature: dict[str, int] = {}

    def expect(self, version: int, content: str, now: float) -> None:
        """A version is about to appear on disk: from now on it may come to serve."""
        with self._lock:
            self._spans[version] = Span(content, now)

    def still_absent(self, version: int, asked: float) -> None:
        """The server, asked at this moment, did not serve the version yet."""
        with self._lock:
            self._spans[version].begin = asked

    def gone(self, version: int, heard: float) -> None:
        """The server, heard at this moment, no longer serves the version."""
        with self._lock:
            self._spans[version].end = heard

    def check(
        self, index: int, answer: Answer, sent: float, heard: float, version: int | None
    ) -> None:
        """Takes one answer.

        Args:
            index: Of the request.
            answer: What came.
            sent: When the request went off.
            heard: When the answer came.
            version: That it names; None for none.
        """
        place = index % len(self._signatures)
        with self._lock:
            spans = {
                number: span
                for number, span in self._spans.items()
                if span.begin <= heard and span.end >= sent and version in (None, number)
            }
        right = any(
            answer.is_like(known)
            for content in {span.content for span in spans.values()}
            for known in self._known[content][place]
        )
        with self._lock:
            self._wrong += not right
            signature = self._signatures[place]
            self.by_signature[signature] = self.by_signature.get(signature, 0) + 1
            if version is not None:
                self.by_version[version] = self.by_version.get(version, 0) + 1
                if right:
                    self._unsure.append((version, heard))

    @property
    def wrong(self) -> int:
        """Answers so far that no version in service gives to that request."""
        with self._lock:
            # What was heard before a later look at the server found the version still absent.
            early = sum(
                heard < self._spans[v].begin for v, heard in self._unsure if v in self._spans
            )
            return self._wrong + early


def distinguishable(
    requests: Sequence[Request], first: Sequence[Answers], second: Sequence[Answers]
) -> list[int]:
    """Places of the requests to which two servables give different answers.

    Args:
        requests: What was asked.
        first: What one of them answers to each.
        second: What the other does.

    Raises:
        click.ClickException: there is none of some signature, so that a check would prove nothing.
    """
    told = [
        index
        for index in range(len(requests))
        if not any(one.is_like(other) for one in first[index] for other in second[index])
    ]
    untold = {r.signature for r in requests} - {requests[index].signature for index in told}
    if untold:
        raise click.ClickException(f"both servables answer alike to {', '.join(sorted(untold))}.")
    return told


def detects_wrong_answers(
    known: Mapping[str, Sequence[Answers]], signatures: Sequence[str], own: str, other: str
) -> bool:
    """Whether the check counts wrong answers: another servable's, mixed ones, too early or late.

    Args:
        known: By servable, the right answers to each request.
        signatures: Of each request.
        own: The servable that is to answer.
        other: The other one.
    """

    def wrong(answer: Answer, sent: float = 1.5, heard: float = 2.0) -> int:
        answers = VersionAnswers(known, signatures)
        answers.expect(1, own, 0.0)
        answers.still_absent(1, 1.0)
        answers.gone(1, 3.0)
        # One that names its version and one that does not.
        for version in (1, None):
            answers.check(0, answer, sent, heard, version)
        return answers.wrong

    right, foreign = known[own][0][0], known[other][0][0]
    half = np.arange(len(right.ad_ids)) % 2 == 0
    ad_ids = np.where(half, np.array(right.ad_ids), np.array(foreign.ad_ids)).tolist()
    mixed = Answer(tuple(ad_ids), np.where(half, right.scores, foreign.scores))
    bad = (wrong(foreign), wrong(mixed), wrong(right, 0.8, 0.9), wrong(right, 3.5, 4.0))
    return wrong(right) == 0 and set(bad) == {2}
