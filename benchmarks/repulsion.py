"""Qualified repulsion: what HaMR adds to a training step, against the plain pairwise form."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from keras import ops
from rich.console import Console

from benchmarks import common
from sid_tfx.losses import (
    CodebookCommitment,
    HammingMarginRepulsion,
    Reconstruction,
    conflict_mask,
)
from sid_tfx.quantizers import ResidualQuantizer

LIMIT_RATIO_TO_NONE = 1.25
FORMS = ("none", "pairwise", "ours")
_JUDGED = ("step", "ours")
_INPUT = 384
_HIDDEN = (512, 256, 128)
_BATCHES = 8


class PairwiseRepulsion(HammingMarginRepulsion):
    """HaMR as the formula reads: every pair's codes and vectors side by side, [2B, 2B, D]."""

    def call(self, vectors: Any, codes: Any, ad_row: Any) -> Any:
        """Returns a scalar."""
        unit = ops.normalize(vectors, axis=-1)
        distance = 1.0 - ops.sum(unit[:, None] * unit[None], axis=-1)
        differing = ops.sum(ops.cast(codes[:, None] != codes[None], "int32"), axis=-1)
        valid = conflict_mask(ad_row)
        near = ops.logical_and(differing > 0, differing <= self.radius)
        groups = (
            (differing == 0, self.full_margin, self.full_weight),
            (near, self.partial_margin, self.partial_weight),
        )
        value = 0.0
        for group, margin, weight in groups:
            members = ops.cast(ops.logical_and(valid, group), distance.dtype)
            hinge = ops.sum(members * ops.relu(margin - distance))
            value += weight * hinge / (ops.sum(members) + 1e-8)
        return value


def make(form: str, radius: int) -> HammingMarginRepulsion | None:
    """The repulsion of a form; None where there is none."""
    forms = {"ours": HammingMarginRepulsion, "pairwise": PairwiseRepulsion}
    return forms[form](radius=radius) if form in forms else None


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a batch: 2B rows of D numbers, L codes out of K, near rows, HaMR's R."""

    rows: int
    dim: int
    levels: int
    codebook_size: int
    near_share: float
    radius: int


def draw(shape: Shape, seed: int) -> list[tuple[tf.Tensor, ...]]:
    """Batches of vectors, codes and ad rows, of which a share has another row within one code."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(_BATCHES):
        codes = rng.integers(0, shape.codebook_size, (shape.rows, shape.levels)).astype("int32")
        near = rng.permutation(shape.rows)[: int(shape.near_share * shape.rows / 2) * 2]
        codes[near[::2]] = codes[near[1::2]]
        codes[near[::4], -1] = rng.integers(0, shape.codebook_size, len(near[::4]))
        vectors = rng.normal(size=(shape.rows, shape.dim)).astype("float32")
        ads = rng.permutation(10 * shape.rows)[: shape.rows].astype("int32")
        batches.append(tuple(map(tf.constant, (vectors, codes, ads))))
    return batches


def loss_call(form: str, shape: Shape, seed: int) -> Callable[[], Any]:
    """A call of the loss and its gradient, on another batch every time."""
    layer: Any = make(form, shape.radius)
    turns = itertools.cycle(draw(shape, seed))

    # Keras traces a training step with the batch size open, so this does.
    @tf.function(
        input_signature=[
            tf.TensorSpec((None, shape.dim), tf.float32),
            tf.TensorSpec((None, shape.levels), tf.int32),
            tf.TensorSpec((None,), tf.int32),
        ]
    )
    def gradient(vectors: tf.Tensor, codes: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            value = layer(vectors, codes, ads)
        return tape.gradient(value, vectors)

    return lambda: gradient(*next(turns)).numpy()


class Step(keras.Model):
    """The smallest tokenizer that HaMR plugs into: an RQ-VAE on given item vectors."""

    def __init__(self, shape: Shape, repulsion: HammingMarginRepulsion | None, seed: int) -> None:
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.encoder = _mlp((*_HIDDEN, shape.dim), _INPUT)
        self.decoder = _mlp((*_HIDDEN[::-1], _INPUT), shape.dim)
        self.quantizer = ResidualQuantizer(shape.levels, shape.codebook_size, shape.dim, seed=seed)
        self.reconstruction = Reconstruction()
        self.commitment = CodebookCommitment()
        self.repulsion = repulsion
        self.built = True

    def call(self, features: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Encodes, quantizes, decodes."""
        z = self.encoder(features["vector"])
        quantized = self.quantizer(z, training=training)
        return {"z": z, "rebuilt": self.decoder(quantized.quantized), **quantized._asdict()}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        """Reconstruction, codebook and commitment terms, and repulsion where there is one."""
        loss = self.reconstruction(x["vector"], y_pred["rebuilt"])
        loss += self.commitment(y_pred["inputs"], y_pred["vectors"])
        if self.repulsion is not None:
            loss += self.repulsion(y_pred["z"], y_pred["codes"], x["ad_row"])
        return loss


def _mlp(units: Sequence[int], width: int) -> keras.Sequential:
    layers = [keras.layers.Dense(unit, activation="relu") for unit in units[:-1]]
    return keras.Sequential([keras.Input((width,)), *layers, keras.layers.Dense(units[-1])])


def step_call(form: str, shape: Shape, seed: int) -> Callable[[], Any]:
    """A call of one training step on generated item vectors."""
    model = Step(shape, make(form, shape.radius), seed)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(_BATCHES, shape.rows, _INPUT)).astype("float32")
    # An ad much like another: their codes collide, as those of one brand's variants do.
    near = int(shape.near_share * shape.rows / 2) * 2
    noise = rng.normal(size=(_BATCHES, near // 2, _INPUT))
    vectors[:, 1:near:2] = vectors[:, :near:2] + 0.01 * noise
    flat = vectors.reshape(-1, _INPUT)
    model.quantizer.initialize(ops.convert_to_numpy(model.encoder(flat)))
    model.compile(keras.optimizers.AdamW(1e-3), jit_compile=False)
    model.make_train_function()
    rows = np.arange(shape.rows, dtype="int32")
    batches = (
        tf.data.Dataset.from_tensors(({"vector": part, "ad_row": rows},)).repeat()
        for part in vectors
    )
    turns = itertools.cycle([iter(batch) for batch in batches])
    return lambda: {name: float(v) for name, v in model.train_function(next(turns)).items()}


def measure(task: str, shape: Shape, repeats: int, seed: int) -> list[common.Record]:
    """A record per form of one task, `loss` or `step`."""
    call = {"loss": loss_call, "step": step_call}[task]
    forms = FORMS[1:] if task == "loss" else FORMS
    timings = common.alternate({form: call(form, shape, seed) for form in forms}, repeats)
    medians = {form: float(np.median(found)) for form, found in timings.items()}
    return [
        {
            "subject": form,
            "task": task,
            **dataclasses.asdict(shape),
            "median_ms": round(medians[form], 3),
            "p95_ms": common.percentiles(timings[form])["p95_ms"],
            "ratio_to_pairwise": round(medians[form] / medians["pairwise"], 3),
            **(
                {"ratio_to_none": round(medians[form] / medians["none"], 3)}
                if "none" in medians
                else {}
            ),
        }
        for form in forms
    ]


@click.command(context_settings={"show_default": True})
@click.option("--rows", default=512, type=click.IntRange(min=8), help="Rows of a batch, 2B.")
@click.option("--dim", default=32, type=click.IntRange(min=1), help="Size of a vector.")
@click.option("--levels", default=3, type=click.IntRange(min=1), help="Codes of a semantic ID.")
@click.option("--codebook-size", default=256, type=click.IntRange(min=2), help="Codes per level.")
@click.option("--radius", default=1, type=click.IntRange(min=0), help="HaMR's R.")
@click.option(
    "--near-share", "shares", multiple=True, type=click.FloatRange(0, 1), default=(0.1, 0.4, 1.0),
    help="Share of a batch's rows that have another one near; repeat for several.",
)  # fmt: skip
@click.option("--repeats", default=50, type=click.IntRange(min=1), help="Timed calls.")
@click.option("--seed", default=0, help="Draws vectors, codes and weights.")
@common.json_option
def main(
    rows: int, dim: int, levels: int, codebook_size: int, radius: int, shares: tuple[float, ...],
    repeats: int, seed: int, json_path: Path | None,
) -> None:  # fmt: skip
    """Milliseconds of HaMR with its gradient, and of a training step with and without it.

    The step is an RQ-VAE on given vectors, the smallest that HaMR plugs into; in any larger
    tokenizer its share is smaller.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    records: list[common.Record] = []
    for share in shares:
        shape = Shape(rows, dim, levels, codebook_size, share, radius)
        for task in ("loss", "step"):
            with console.status(f"{task}, {share:.0%} near rows"):
                records += measure(task, shape, repeats, seed)
    _print(console, records)
    common.write_records(records, found, json_path)


def _print(console: Console, records: list[common.Record]) -> None:
    columns = ["task", "subject", "rows", "near_share", "median_ms", "p95_ms"]
    columns += ["ratio_to_pairwise", "ratio_to_none"]
    title = f"HaMR (limit: a step {LIMIT_RATIO_TO_NONE:g} times that without repulsion)"
    common.print_table(console, title, records, columns)
    ratio = max(r["ratio_to_none"] for r in records if (r["task"], r["subject"]) == _JUDGED)
    console.print(
        f"Training step: at most {ratio:.2f} times that without repulsion, limit "
        f"{LIMIT_RATIO_TO_NONE:g}: {common.verdict(ratio, LIMIT_RATIO_TO_NONE)}"
    )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.repulsion")
