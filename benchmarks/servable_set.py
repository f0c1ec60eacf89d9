"""Switching ads off in a large catalogue: seconds from the command to the first answer under it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks import common, generated
from benchmarks.generated_servable import save_servable
from benchmarks.serving_load import MODEL, ServerProcess
from serving.client import RecommenderClient
from serving.client_errors import RecommenderError
from serving.results import AdList

LIMIT_LIVE_SECONDS = 10.0
_EMBEDDING_SIZE = 64
_WAIT_SECONDS = 600.0
_REQUEST_SECONDS = 60.0
_PAUSE = 0.01


class Switch:
    """What happened to requests while a servable set was published."""

    def __init__(self, off: set[str]) -> None:
        self._off = off
        self.asked = self.failures = self.wrong = 0

    def ask(self, client: RecommenderClient, history: list[str], old: int) -> bool:
        """Asks once; whether another version than `old` has answered."""
        self.asked += 1
        try:
            answer = client.recommend(history)
        except RecommenderError:
            self.failures += 1
            return False
        switched = answer.model_version != old
        self.wrong += switched and self._shows_off(answer)
        return switched

    def _shows_off(self, answer: AdList) -> bool:
        return not len(answer) or bool(self._off & set(answer.ad_ids))


@click.command(context_settings={"show_default": True})
@click.option(
    "--ads", "sizes", multiple=True, type=click.IntRange(min=100), default=(20_000, 1_000_000),
    help="Generated ads; repeat for several. 1M take several GB of memory.",
)  # fmt: skip
@click.option(
    "--off-share", default=0.1, type=click.FloatRange(0, 0.9), help="Share of ads switched off."
)
@click.option("--seed", default=0, help="Draws codes, vectors, weights and what is switched off.")
@common.json_option
def main(sizes: tuple[int, ...], off_share: float, seed: int, json_path: Path | None) -> None:
    """Seconds from `pipeline.py servable-set` to the first answer under the new set.

    The server watches the folder with its defaults and is asked all the while. What it recommended
    before is switched off, and so is a share of all other ads.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    records: list[common.Record] = []
    for ads in sizes:
        with tempfile.TemporaryDirectory() as folder, console.status(f"{ads:,} ads"):
            records.append(measure(ads, off_share, seed, Path(folder)))
    common.print_table(console, "A servable set goes live", records, list(records[0]))
    for record in records:
        verdict = common.verdict(record["live_seconds"], LIMIT_LIVE_SECONDS)
        console.print(
            f"{record['ads']:,} ads: live {record['live_seconds']:g} s after the command, limit "
            f"{LIMIT_LIVE_SECONDS:g} s: {verdict}"
        )
    common.write_records(records, found, json_path)
    if any(record["failures"] or record["wrong_answers"] for record in records):
        raise click.ClickException("requests were lost, or an ad that is off was recommended.")


def measure(ads: int, off_share: float, seed: int, folder: Path) -> common.Record:
    """Publishes a set of one catalogue under a server and times when it answers by it."""
    catalog = generated.catalog(ads, content_size=_EMBEDDING_SIZE, seed=seed)
    base = folder / "portable" / MODEL
    save_servable(catalog, base / "1", seed)
    files = [file for file in base.rglob("*") if file.is_file()]
    history = [str(ad) for ad in catalog.ad_ids[:5]]
    with (
        ServerProcess(base) as server,
        RecommenderClient(server.target, MODEL, timeout=_REQUEST_SECONDS) as client,
    ):
        shown = client.recommend(history)
        rng = np.random.default_rng(seed)
        off = {*shown.ad_ids, *catalog.ad_ids[rng.random(ads) < off_share].tolist()}
        switch = Switch(off)
        publish, live = _publish(client, switch, history, off, folder)
    return {
        "subject": "servable_set",
        "ads": ads,
        "publish_seconds": round(publish, 2),
        "live_seconds": round(live, 2),
        "off_ads": len(off),
        "requests": switch.asked,
        "failures": switch.failures,
        "wrong_answers": switch.wrong,
        "servable_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def _publish(
    client: RecommenderClient, switch: Switch, history: list[str], off: set[str], folder: Path
) -> tuple[float, float]:
    """Seconds that the command took, and until the first answer of the version it made."""
    paused = folder / "paused.txt"
    paused.write_text("".join(f"{ad}\n" for ad in sorted(off)))
    command = [
        sys.executable, str(common.ROOT / "pipeline.py"), "servable-set", "--off", str(paused),
        "--flavour", "portable", "--ads", "generated", "--events", "generated",
        "--set", f"run.push_directory={folder}",
    ]  # fmt: skip
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=common.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    published = None
    while not switch.ask(client, history, old=1):
        seconds = time.perf_counter() - begin
        if published is None and process.poll() is not None:
            published = seconds
            if process.returncode:
                said = process.stdout.read().decode() if process.stdout else ""
                raise click.ClickException(f"servable-set failed:\n{said}")
        if seconds > _WAIT_SECONDS:
            process.kill()
            raise click.ClickException(f"the new set is not live after {seconds:.0f} s")
        time.sleep(_PAUSE)
    live = time.perf_counter() - begin
    process.communicate()
    return published or live, live


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.servable_set")
