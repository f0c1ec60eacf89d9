"""Version switches under load, a damaged push, and a server killed in the middle of it all."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np

from benchmarks import common
from benchmarks.mixed_load import MixedLoad
from benchmarks.mixed_requests import Answer, Request, draw_requests, known_answers
from benchmarks.serving_load import DEFAULT_SERVABLE, MODEL, ServerProcess, newest_version
from benchmarks.version_answers import VersionAnswers, detects_wrong_answers, distinguishable
from serving.client import RecommenderClient
from serving.servable import Servable
from sid_tfx.file_list import MANIFEST_FILE
from sid_tfx.servable_set_file import SERVABLE_SET_FILE, read_servable_set, write_servable_set

BATCHING = common.ROOT / "serving" / "deploy" / "batching.config"
_WAIT_SECONDS = 120.0
_DISTINCT_REQUESTS = 500
_CONTENTS = ("a", "b")


def content_of(version: int) -> str:
    """Which of the two servables a version is: they take turns."""
    return _CONTENTS[version % 2]


def with_half_the_ads(source: Path, folder: Path) -> Path:
    """The servable with every other ad switched off, all other files hard-linked.

    Raises:
        click.UsageError: it has no servable set.
    """
    if not (source / SERVABLE_SET_FILE).is_file():
        raise click.UsageError(
            f"{source} has no {SERVABLE_SET_FILE} to make a second servable from: name one with "
            "--other."
        )
    made = folder / "half"
    shutil.copytree(source, made, copy_function=os.link)
    ads = json.loads((source / MANIFEST_FILE).read_text())["ads"]
    live, fingerprint = read_servable_set(str(source / SERVABLE_SET_FILE), ads)
    live[1::2] = False
    write_servable_set(str(made / SERVABLE_SET_FILE), live, fingerprint)
    return made


def publish(source: Path, base: Path, version: int) -> None:
    """Hard-links a version and makes it appear whole, as the pipeline's push does."""
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        staged = Path(folder) / "staged"
        shutil.copytree(source, staged, copy_function=os.link)
        staged.rename(base / str(version))


def publish_damaged(source: Path, base: Path, version: int) -> None:
    """A version whose graph ends in the middle."""
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        staged = Path(folder) / "staged"
        shutil.copytree(source, staged)
        graph = staged / "saved_model.pb"
        graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
        staged.rename(base / str(version))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"{what}: not within {_WAIT_SECONDS:g} s")
        time.sleep(0.02)


def states(client: RecommenderClient) -> dict[int, str]:
    """The server's word on each version."""
    return {state.version: state.state for state in client.status()}


@click.command(context_settings={"show_default": True})
@click.option(
    "--servable",
    "base_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SERVABLE,
    help="Folder of numbered versions; the newest is one of the two that take turns.",
)
@click.option(
    "--other",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Version folder of the other one, of the same signatures and ads; by default the first "
    "with every other ad switched off.",
)
@click.option("--requests", default=200_000, type=click.IntRange(min=100), help="At least.")
@click.option("--switches", default=20, type=click.IntRange(min=1))
@click.option(
    "--concurrency", default=32, type=click.IntRange(min=4), help="A quarter of it over REST."
)
@click.option("--seed", default=0, help="Draws the requests.")
@common.json_option
def main(
    base_path: Path,
    other: Path | None,
    requests: int,
    switches: int,
    concurrency: int,
    seed: int,
    json_path: Path | None,
) -> None:
    """Counts failed and wrong answers over version switches, and what a crash leaves.

    Requests of several signatures go on over gRPC and REST, batching on, while version after
    version is published, two servables in turn: the next one as soon as the last one serves and
    its share of the requests is answered. Then a damaged version is published, which must be
    refused; then the server is killed under load and started again.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    source = newest_version(base_path)
    with tempfile.TemporaryDirectory(dir=base_path.parent) as folder:
        sources = dict(
            zip(_CONTENTS, (source, other or with_half_the_ads(source, Path(folder))), strict=True)
        )
        asked, known = _prepare(sources, min(requests, _DISTINCT_REQUESTS), seed)
        signatures = [request.signature for request in asked]
        if not detects_wrong_answers(known, signatures, content_of(1), content_of(2)):
            raise click.ClickException("the check would not notice a wrong answer.")
        base = Path(folder) / MODEL
        base.mkdir()
        answers = VersionAnswers(known, signatures)
        answers.expect(1, content_of(1), time.perf_counter())
        publish(sources[content_of(1)], base, 1)
        flags = ("--poll=0.2", "--enable_batching=true", f"--batching_parameters_file={BATCHING}")
        with ServerProcess(base, *flags, rest=True) as server:
            load = MixedLoad(server, asked, answers, concurrency)
            with console.status(f"{requests:,} requests over {switches} switches"):
                _switch(server, sources, base, load, answers, requests, switches)
            switched, wrong = load, answers.wrong
            asked_of = {f"answers_{name}": n for name, n in answers.by_signature.items()}
            newest = 1 + switches
            refused = _push_damaged(server, source, base, newest + 1, newest)
            restarted, lost = _kill(server, MixedLoad(server, asked, answers, concurrency), asked)
            wrong_after = answers.wrong - wrong
    records = [
        {
            "subject": "switches",
            "concurrency": concurrency,
            "requests": switched.answered,
            "rest_requests": switched.rest.rows,
            "switches": switches,
            "versions_that_answered": len(answers.by_version),
            "failures": switched.failures,
            "wrong_answers": wrong,
            "requests_per_second": round(switched.rows / switched.seconds, 1),
            **asked_of,
            **common.percentiles(np.array(switched.milliseconds)),
        },
        {"subject": "damaged version", "refused": refused, "still_serving": newest},
        {
            "subject": "kill -9",
            "failures": lost,
            "wrong_answers": wrong_after,
            "same_version": restarted[0] == newest,
            "seconds_to_serve": round(restarted[1], 1),
        },
    ]
    for record in records:
        common.print_table(console, str(record["subject"]), [record], list(record))
    common.write_records(records, found, json_path)
    same = restarted[0] == newest
    if switched.failures or answers.wrong or not refused or not same:
        raise click.ClickException("requests were lost, wrong, or a damaged version was served.")


def _prepare(
    sources: dict[str, Path], count: int, seed: int
) -> tuple[list[Request], dict[str, list[list[Answer]]]]:
    """Requests that tell the servables apart, and what each answers to them."""
    asked: list[Request] = []
    known: dict[str, list[list[Answer]]] = {}
    for content, path in sources.items():
        servable = Servable(path, MODEL, 1)
        asked = asked or draw_requests(servable, count, seed)
        known[content] = known_answers(servable, asked)
        servable.close()
    told = distinguishable(asked, *known.values())
    return (
        [asked[index] for index in told],
        {content: [found[index] for index in told] for content, found in known.items()},
    )


def _switch(
    server: ServerProcess,
    sources: dict[str, Path],
    base: Path,
    load: MixedLoad,
    answers: VersionAnswers,
    requests: int,
    switches: int,
) -> None:
    load.start()
    with RecommenderClient(server.target, MODEL, timeout=_WAIT_SECONDS) as client:

        def serves(version: int) -> bool:
            asked = time.perf_counter()
            if states(client).get(version) == "AVAILABLE":
                return True
            answers.still_absent(version, asked)
            return False

        def left(version: int) -> bool:
            gone = states(client).get(version) in (None, "UNLOADING", "END")
            if gone:
                answers.gone(version, time.perf_counter())
            return gone

        def answered(share: int) -> bool:
            return load.answered >= share

        for version in range(2, switches + 2):
            share = requests * (version - 1) // (switches + 1)
            wait_for(functools.partial(answered, share), "the load")
            answers.expect(version, content_of(version), time.perf_counter())
            publish(sources[content_of(version)], base, version)
            wait_for(functools.partial(serves, version), f"version {version}")
            wait_for(
                functools.partial(answers.by_version.__contains__, version),
                f"an answer of version {version}",
            )
            wait_for(functools.partial(left, version - 1), f"the end of version {version - 1}")
            shutil.rmtree(base / str(version - 1))
        # A small load would end while the first versions load: it goes on until the last serves.
        wait_for(functools.partial(answered, requests), "the load")
    load.stop()


def _push_damaged(
    server: ServerProcess, source: Path, base: Path, version: int, newest: int
) -> bool:
    publish_damaged(source, base, version)
    with RecommenderClient(server.target, MODEL, timeout=_WAIT_SECONDS) as client:
        wait_for(lambda: states(client).get(version) == "END", "the damaged version's refusal")
        return states(client).get(newest) == "AVAILABLE"


def _kill(
    server: ServerProcess, load: MixedLoad, asked: Sequence[Request]
) -> tuple[tuple[int, float], int]:
    load.start()
    wait_for(lambda: load.rows > len(asked) // 4, "the load")
    server.kill()
    # Whoever was waiting for an answer has to be told so.
    wait_for(lambda: load.failures > 0, "the kill to be noticed")
    load.stop()
    begin = time.perf_counter()
    version = server.start()
    return (version, time.perf_counter() - begin), load.failures


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving_switches")
