"""Which columns a run uses: the configuration held against what the files have."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.example_gen.sniff import Sniffed, sniff_columns
from components.example_gen.spec import IngestSpec
from components.refusal import Refused
from pipeline.config import Config, ConfigError
from pipeline.schemas.derive import derive_schema, read_curated, write_schema
from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM, AdSchema, FeatureSizes

# Vectors of other events lie along other axes, and would say nothing to the frozen tokenizer.
_OF_THE_LAST_RUN = (
    f" A refresh takes {COLLABORATIVE} from the file of the last run: keep it for the ads it has, "
    "leave it empty for new ones."
)


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is read, and by which rules.

    Attributes:
        schema: The ad columns that models read.
        ads: How ads are ingested.
        events: How events are ingested.
        ads_schema_file: Data schema of the raw ads, for ImportSchemaGen.
        events_schema_file: The same of the events.
    """

    schema: AdSchema
    ads: IngestSpec
    events: IngestSpec
    ads_schema_file: Path | str
    events_schema_file: Path | str


def resolve(
    config: Config, schema_directory: Path | None = None, trained: AdSchema | None = None
) -> Columns:
    """Looks at the head of both inputs and settles every open question of the configuration.

    Args:
        config: The run's configuration; `data.ads.path` and `data.events.path` are set.
        schema_directory: Where the data schemas are written; `<home>/schemas` by default.
        trained: The columns that a tokenizer was trained on; they are used as they are, whatever
            the files have beside them. None chooses them by `features`.

    Raises:
        Refused: An input is missing, empty or lacks a mandatory column, or one of `trained`.
        ConfigError: The configuration names a column that the ads lack or uses one as what it
            isn't, or a tokenizer or a recommender that can't be made for them.
    """
    data = config.data
    sniffed = sniff_columns(
        data.ads.path,
        "ads",
        data.ads.columns,
        category_separator=data.ads.category_separator,
    )
    events_sniffed = sniff_columns(data.events.path, "events", data.events.columns)
    for column in config.recommender.context or ():
        # Timestamps are mandatory, under a name of their own.
        if column != "time" and column not in events_sniffed.columns:
            raise ConfigError(
                f"recommender.context names {column!r}, which the events lack; they have "
                f"{', '.join(sorted(events_sniffed.columns))}"
            )
    schema = _ad_schema(config, sniffed) if trained is None else trained
    if trained is None:
        _check_collaborative(schema, sniffed, config)
    else:
        _check_has(trained, sniffed, config)
    problem = tokenizer_problem(config.tokenizer.preset, schema, config.tokenizer.build_arguments())
    if problem:
        raise ConfigError(f"tokenizer: {problem}")
    settings = config.recommender
    problem = recommender_problem(
        {"max_history": settings.max_history, **settings.model_arguments()}
    )
    if problem:
        raise ConfigError(f"recommender: {problem}")
    ads, ads_schema = _ads_ingest(config, sniffed, schema)
    events = IngestSpec(
        "events",
        columns=data.events.columns,
        max_rejected_share=data.events.max_rejected_share,
        max_text_bytes=data.max_text_bytes,
    )
    directory = schema_directory or config.home / "schemas"
    return Columns(
        schema,
        ads,
        events,
        _write("ads", ads_schema, directory),
        _write("events", read_curated("events"), directory),
    )


def _ads_ingest(
    config: Config, sniffed: Sniffed, schema: AdSchema
) -> tuple[IngestSpec, schema_pb2.Schema]:
    """How ads are ingested, and the data schema that they must keep."""
    data = config.data
    try:
        ads = IngestSpec.for_ads(
            schema,
            also_text=[column for column in ("title",) if column in sniffed.columns],
            columns=data.ads.columns,
            category_separator=data.ads.category_separator,
            max_rejected_share=data.ads.max_rejected_share,
            max_text_bytes=data.max_text_bytes,
        )
        return ads, derive_schema(read_curated("ads"), _with_titles(schema, ads))
    except ValueError as error:
        raise ConfigError(f"{data.ads.path}: {error}") from None


def tokenizer_problem(preset: str, schema: AdSchema, arguments: dict[str, Any]) -> str:
    """Makes a small tokenizer, so that a wrong one is known before anything is trained.

    Args:
        preset: A name of `sid_tfx.presets.PRESETS`.
        schema: The columns of the ads.
        arguments: As `sid_tfx.presets.build` takes them.

    Returns:
        Why the tokenizer can't be made; empty where it can.
    """
    # Imported here: a command line that only answers --help needs no Keras.
    from sid_tfx.presets import build

    sizes = FeatureSizes(text=2, categorical=dict.fromkeys(schema.categorical, 2), category=2)
    try:
        build(preset, schema, sizes, **arguments)
    except (TypeError, ValueError) as error:
        return f"{preset}: {error}"
    return ""


def recommender_problem(arguments: dict[str, Any]) -> str:
    """Makes a small recommender, as `tokenizer_problem` does a tokenizer.

    Args:
        arguments: As `SidRecommender` takes them, apart from the sizes of a catalogue.

    Returns:
        Why the recommender can't be made; empty where it can.
    """
    from sid_tfx.recommender import SidRecommender

    sizes: dict[str, Any] = {
        "num_ads": 2, "levels": 1, "codebook_size": 2, "dedup_size": 1, "content_size": 2,
    }  # fmt: skip
    try:
        SidRecommender(**sizes, **arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _ad_schema(config: Config, sniffed: Sniffed) -> AdSchema:
    features = config.features
    text = {
        column: tokens
        for column, tokens in features.text_tokens.items()
        if column in sniffed.columns
    }
    categorical = _chosen("categorical", features.categorical, sniffed)
    numeric = _chosen("numeric", features.numeric, sniffed)
    dense = sniffed.dense if features.dense is None else dict(features.dense)
    for column in dense:
        _require("dense", column, sniffed)
    depth = min(features.category_depth, sniffed.category_depth)
    summarized = bool({"summary", "advertiser"} & set(sniffed.columns)) or depth > 0
    try:
        return AdSchema(
            text=text,
            categorical=tuple(column for column in categorical if column not in text),
            category_depth=depth,
            numeric=numeric,
            dense={column: size for column, size in dense.items() if size},
            summary_tokens=features.summary_tokens if summarized else 0,
        )
    except ValueError as error:
        raise ConfigError(
            f"{config.data.ads.path}: {error} It has {', '.join(sorted(sniffed.columns))}."
        ) from None


def _check_collaborative(schema: AdSchema, sniffed: Sniffed, config: Config) -> None:
    """Says how a column is made that the tokenizer quantizes and no input file has by itself."""
    from sid_tfx.presets import PRESETS

    settings, data = config.tokenizer, config.data
    vectors = settings.encoder.get("vectors")
    needed = vectors == "collaborative" if vectors else PRESETS[settings.preset].collaborative
    if not needed or COLLABORATIVE in schema.dense:
        return
    if COLLABORATIVE in sniffed.dense:
        raise ConfigError(
            f"features.dense leaves out {COLLABORATIVE!r}, which tokenizer.preset="
            f"{settings.preset} quantizes; name it there with its size, {COLLABORATIVE_DIM}"
        )
    files = f"--ads {shlex.quote(data.ads.path)} --events {shlex.quote(data.events.path)}"
    raise ConfigError(
        f"tokenizer.preset={settings.preset} quantizes the column {COLLABORATIVE!r}, of which "
        f"{data.ads.path} has no vectors; it has {', '.join(sorted(sniffed.columns))}. Make it "
        f"with `python pipeline.py collaborative-vectors {files} --out ads-with-vectors.parquet` "
        "and the --config and --set of this run"
    )


def _check_has(trained: AdSchema, sniffed: Sniffed, config: Config) -> None:
    wanted = [*trained.text, *trained.categorical, *trained.numeric, *trained.dense]
    wanted += ["category_path"] if trained.category_depth else []
    lacking = [column for column in wanted if column not in sniffed.columns]
    if lacking:
        raise Refused(
            f"{config.data.ads.path} lacks {', '.join(lacking)}, which the last push was trained "
            f"on; it has {', '.join(sorted(sniffed.columns))}. Name the file's own columns with "
            "data.ads.columns, or train anew with `python pipeline.py run`."
            + (_OF_THE_LAST_RUN if COLLABORATIVE in lacking else "")
        )


def _chosen(kind: str, wanted: list[str] | None, sniffed: Sniffed) -> tuple[str, ...]:
    if wanted is None:
        return sniffed.names(kind)
    for column in wanted:
        _require(kind, column, sniffed)
    return tuple(wanted)


def _require(kind: str, column: str, sniffed: Sniffed) -> None:
    if column not in sniffed.columns:
        raise ConfigError(
            f"features.{kind} names {column!r}, which the ads lack; they have "
            f"{', '.join(sorted(sniffed.columns))}"
        )


def _with_titles(schema: AdSchema, ads: IngestSpec) -> AdSchema:
    """The data schema lists what is ingested: titles are kept for people even if no model reads."""
    extra = {column: 1 for column in ads.text if column not in schema.text and column != "summary"}
    return dataclasses.replace(schema, text={**schema.text, **extra})


def _write(name: str, schema: schema_pb2.Schema, directory: Path) -> Path:
    # The content names the file: TFX caches by path, so another schema needs another path.
    digest = hashlib.sha256(text_format.MessageToString(schema).encode()).hexdigest()[:12]
    path = directory / f"{name}-{digest}.pbtxt"
    if not path.exists():
        write_schema(schema, path)
    return path
