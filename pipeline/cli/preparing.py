"""Commands that make input for a run: collaborative-vectors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.running import command_options
from pipeline.cli.shared import configured, console, read_config

# What the next command names by itself.
_NAMED_AGAIN = ("data.ads.path", "data.events.path", "tokenizer.preset")


@click.command("collaborative-vectors")
@configured
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file to write: the ads with the column collaborative_embedding.",
)
def collaborative_vectors(out: Path, **options: Any) -> None:
    """Adds the column that rq_kmeans_collaborative and rq_kmeans_joined quantize to the ads.

    Vectors of ads that the same users met lie near each other. They are made from training events
    alone, by data.split and pairs.*: give the run the same --config and --set.
    """
    config = read_config(**options)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from pipeline.collaborative import add_vectors
    from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM

    made = add_vectors(config, out)
    without = f"; {made.without:,} without a pair have zeros" if made.without else ""
    console.print(
        f"{out}: {made.ads:,} ads, {COLLABORATIVE} of {COLLABORATIVE_DIM} dimensions from "
        f"{made.pairs:,} pairs of training events (data.split={config.data.split}){without}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    kept = [o for o in options["overrides"] if o.partition("=")[0] not in _NAMED_AGAIN]
    again = command_options(
        options["config_path"],
        str(out),
        config.data.events.path,
        (*kept, f"tokenizer.preset={made.preset}"),
    )
    python = os.path.relpath(sys.executable)
    console.print(
        f"next: {python} pipeline.py run {again}", soft_wrap=True, highlight=False, markup=False
    )
