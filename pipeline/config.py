"""The run's configuration: one pydantic model, read from YAML, overridable key by key.

Example:

>>> config = load_config("configs/sample.yaml", overrides=["tokenizer.levels=4"])
>>> config.tokenizer.levels
4
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; says the key, the value and what is allowed."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableConfig(_Section):
    """One input table: where it is and how its columns are called."""

    path: str = Field("", description="a file or a glob; the suffix names the format")
    columns: dict[str, str] = Field(
        default_factory=dict, description="canonical column: the file's own column name"
    )
    category_separator: Annotated[str, Field(min_length=1)] = Field(
        " > ", description="splits category_path where it is text"
    )
    max_rejected_share: Share = Field(
        0.01, description="rejected rows past this share stop the run"
    )


class DataConfig(_Section):
    """Input tables and how events become training data."""

    ads: TableConfig = TableConfig()
    events: TableConfig = TableConfig()
    max_text_bytes: Annotated[int, Field(ge=4)] = Field(
        20_000, description="longer text is trimmed, never rejected"
    )
    split: Literal["leave_one_out", "global_time", "all"] = "leave_one_out"
    validation_share: Share = Field(0.1, description="global_time: share of events, by time")
    test_share: Share = Field(0.1, description="global_time: share of events, the newest")

    @pydantic.model_validator(mode="after")
    def _check_shares(self) -> DataConfig:
        shares = self.validation_share, self.test_share
        if min(shares) <= 0 or sum(shares) >= 1:
            raise ValueError(
                f"validation_share={shares[0]} and test_share={shares[1]} must be above 0 and "
                "leave some events for training: their sum must be below 1"
            )
        return self


class FeaturesConfig(_Section):
    """Which ad columns the models read, and how large their vocabularies may be."""

    text_tokens: dict[str, PositiveInt] = Field(
        default_factory=lambda: {"title": 24, "description": 48},
        description="text column: words kept; a column the data lacks is left out",
    )
    summary_tokens: PositiveInt = 16
    category_depth: Annotated[int, Field(ge=0, le=8)] = 4
    categorical: list[str] | None = Field(
        None, description="categorical columns; null takes every one the data has"
    )
    numeric: list[str] | None = Field(
        None, description="numeric columns; null takes every one the data has"
    )
    dense: dict[str, PositiveInt] | None = Field(
        None, description="vector column: size; null takes every *_embedding the data has"
    )
    text_vocabulary: PositiveInt = 20_000
    text_min_count: PositiveInt = 2
    category_vocabulary: PositiveInt = 20_000
    categorical_vocabulary: PositiveInt = 50_000


class PairsConfig(_Section):
    """Swing pairs, mined from training events (QuaSID)."""

    alpha: Annotated[float, Field(gt=0)] = 1.0
    top_k: PositiveInt = 20
    single_users: bool = Field(
        True, description="one user who met both ads makes a pair too; QuaSID's Swing asks for two"
    )
    max_users_per_ad: Annotated[int, Field(ge=2)] = Field(
        400, description="users sampled for a very popular ad; bounds the quadratic step"
    )
    max_ads_per_user: Annotated[int, Field(ge=2)] = Field(
        500, description="newest ads kept of a very long history"
    )


Preset = Literal[
    "joint",
    "unisid",
    "quasid",
    "rq_vae",
    "rq_vae_rotation",
    "rq_vae_gumbel",
    "improved_vqgan",
    "rq_opq",
    "grvq",
    "simvq",
    "letter",
    "diger",
    "rq_kmeans",
    "rq_kmeans_balanced",
    "rq_kmeans_collaborative",
    "rq_kmeans_joined",
    "rq_kmeans_joined_balanced",
]
"""The names of `sid_tfx.presets.PRESETS`, here without its import of Keras, which takes seconds."""


class TokenizerConfig(_Section):
    """The tokenizer: a preset, and what differs from it; null takes the preset's own."""

    preset: Preset = Field("joint", description="a preset of docs/methods.md")
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    codebook_size: Annotated[int, Field(ge=2, le=65_536)] = 256
    repulsion: bool | None = Field(
        None, description="true adds HaMR with CVPM to any preset that trains, false takes it away"
    )
    epochs: PositiveInt | None = None
    batch_pairs: PositiveInt | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    encoder: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the encoder, such as {dim: 64}; {kind: tower} reads fields, no "
        "vectors",
    )
    quantizer: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the quantizer, such as {gradient: rotation}"
    )
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="term: weight; the terms are SidTokenizer's"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of SidTokenizer"
    )
    stop_on_collapse: bool = Field(
        False,
        description="true ends the run after an epoch in whose batches less than half of the ads "
        "have semantic IDs of their own; false only says so",
    )

    def build_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `sid_tfx.presets.build`, apart from the name and the seed."""
        own = {"preset", "epochs", "batch_pairs", "arguments", "stop_on_collapse"}
        return {**self.model_dump(exclude=own), **self.arguments}


class CatalogConfig(_Section):
    """How ads with equal codes are told apart."""

    max_dedup: PositiveInt = Field(32, description="ads that may share one code tuple")
    alternatives: PositiveInt = Field(16, description="next-best tuples tried past that bound")


class SidGateConfig(_Section):
    """Limits a catalogue must keep before a recommender is trained on it."""

    max_collision_share: Share = 0.35
    max_largest_group: PositiveInt = 64
    min_entropy_share: Share = Field(0.85, description="of the maximum, log(number of ads)")
    min_coverage: Share = Field(
        0.2, description="share of each level's codes in use; a small catalogue cannot use all"
    )


class IndexConfig(_Section):
    """The nearest-neighbour indices over joint and SID embeddings."""

    kind: Literal["auto", "scann", "partitioned", "brute_force"] = Field(
        "auto", description="auto takes the fastest that reaches min_recall"
    )
    min_recall: Share = Field(0.95, description="recall@k against brute force")
    k: PositiveInt = 10


class RecommenderConfig(_Section):
    """The generative recommender; `arguments` go to SidRecommender as they are."""

    architecture: Literal["item_level", "flat", "tiger"] = Field(
        "item_level", description="a key of sid_tfx.architectures.ARCHITECTURES"
    )
    epochs: PositiveInt = Field(32, description="at most; the best on validation users is kept")
    batch_positions: PositiveInt = Field(1024, description="positions per step, all trained on")
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup_share: Share = Field(
        0.05, description="of all steps; then cosine decay to 2%; 0 keeps the rate constant"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    deletion: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="share of a history's ads left out at random, others in every epoch"
    )
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        0.99, description="of the moving average of the weights; null keeps the weights themselves"
    )
    patience: PositiveInt = Field(16, description="epochs without a better validation N@10")
    validation_users: PositiveInt = Field(3000, description="users ranked for after each epoch")
    max_history: PositiveInt = Field(50, description="newest ads of a history that are read")
    context: list[Literal["time", "event", "weight"]] | None = Field(
        default_factory=list,
        description="read beside each ad: time, event, weight; null takes what the events have",
    )
    successors: Annotated[int, Field(ge=0)] = Field(
        32,
        description="ads remembered per ad that followed it in training, for hybrid mode; 0: none",
    )
    dense_weight: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="of the dense score in hybrid mode; null: the best on validation users, 1 "
        "without any (data.split=all holds none out)",
    )
    successor_weight: Annotated[float, Field(ge=0)] | None = Field(
        None, description="of what followed in training, likewise"
    )
    arguments: dict[str, Any] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check_positions(self) -> RecommenderConfig:
        if self.batch_positions < self.max_history:
            raise ValueError(
                f"batch_positions={self.batch_positions} holds no history of "
                f"max_history={self.max_history} ads; raise it or lower max_history"
            )
        return self

    def model_arguments(self) -> dict[str, Any]:
        """Keyword arguments of SidRecommender, apart from `max_history` and the seed."""
        return {"architecture": self.architecture, **self.arguments}


class ServableConfig(_Section):
    """Maxima frozen into the servable's wire shapes, and how hybrid mode answers."""

    max_history: PositiveInt = 20
    max_k: PositiveInt = 20
    max_exclude: PositiveInt = 64
    beam_size: PositiveInt = 50
    default_mode: Literal["generative", "hybrid"] = "generative"
    dense_index: Literal["auto", "exact", "index"] = Field(
        "auto",
        description="finds hybrid mode's dense candidates: exact scores all ads, index asks ScaNN "
        "or partitions, tuned to index.min_recall, auto takes the fastest",
    )

    @pydantic.model_validator(mode="after")
    def _check_beam(self) -> ServableConfig:
        if self.beam_size < self.max_k:
            raise ValueError(
                f"beam_size={self.beam_size} finds fewer ads than max_k={self.max_k} asks for; "
                "raise it or lower max_k"
            )
        return self


class ModelGateConfig(_Section):
    """Limits on the held-out ranking quality of the servable (TFMA)."""

    min_recall_at_10: Share = 0.005
    min_recall_over_popularity: Annotated[float, Field(ge=0)] = Field(
        1.0, description="recall@10 of the servable over recall@10 of popularity, at least"
    )


class ServingGateConfig(_Section):
    """Limits on the model server answering real requests."""

    load_seconds: PositiveInt = 120
    requests: PositiveInt = 32
    max_p95_ms: Annotated[float, Field(gt=0)] = 250.0


class RunConfig(_Section):
    """Where a run lives and how Beam runs."""

    root: str = Field("runs", description="artifacts, metadata and pushed models live below it")
    push_directory: str | None = Field(None, description="null: <root>/<name>/serving")
    beam_pipeline_args: list[str] = Field(
        default_factory=list,
        description="e.g. [--runner=FlinkRunner, ...]; empty: the in-process DirectRunner",
    )
    cache: bool = True

    @pydantic.field_validator("root")
    @classmethod
    def _check_folder(cls, root: str) -> str:
        if "://" in root:
            # As a path it would be a folder `gs:` below the working directory.
            raise ValueError(
                f"{root!r} is no folder; a run here needs one, a bucket is named by "
                "run.push_directory or by `compile --pipeline-root`"
            )
        return root


class Config(_Section):
    """Everything a run needs."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")] = "sid-tfx"
    seed: int = 17
    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    pairs: PairsConfig = PairsConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    catalog: CatalogConfig = CatalogConfig()
    sid_gate: SidGateConfig = SidGateConfig()
    index: IndexConfig = IndexConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    servable: ServableConfig = ServableConfig()
    model_gate: ModelGateConfig = ModelGateConfig()
    serving_gate: ServingGateConfig = ServingGateConfig()
    run: RunConfig = RunConfig()

    @property
    def home(self) -> Path:
        """The run's own folder."""
        return Path(self.run.root).absolute() / self.name

    @property
    def push_directory(self) -> Path:
        """The folder whose `portable/` and `scann/` a model server watches.

        Raises:
            ConfigError: It is a bucket, which only the Pushers write to.
        """
        if "://" in (self.run.push_directory or ""):
            raise ConfigError(
                f"run.push_directory = {self.run.push_directory!r} is no folder, and this needs "
                "one; name a folder, such as a copy of the bucket's"
            )
        return Path(self.run.push_directory or self.home / "serving").absolute()

    def canonical_file(self, name: str) -> Path:
        """The one file of an input table, for commands that read it whole and rename no column.

        Args:
            name: `ads` or `events`.

        Raises:
            ConfigError: There is no such file, or its columns have names of their own.
        """
        table = getattr(self.data, name)
        path = Path(table.path)
        if table.columns:
            raise ConfigError(
                f"data.{name}.columns = {table.columns}: this command reads files whose columns "
                "have the canonical names (docs/architecture.md); rename them in the file"
            )
        if not path.is_file():
            raise ConfigError(f"data.{name}.path = {table.path!r} is not one file; give one file")
        return path


def load_config(
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Config:
    """Reads a YAML file, sets values and applies `key.path=value` overrides, the later one winning.

    Args:
        path: A YAML file; None takes every default.
        overrides: Strings such as `tokenizer.levels=4`; the value is read as YAML.
        values: Dotted key -> value, taken as it is: a path is not YAML.

    Raises:
        ConfigError: An unknown key (with the keys allowed there), a value out of its domain, or a
            file or an override that is not YAML.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except FileNotFoundError:
            raise ConfigError(f"config file {path} does not exist") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"config file {path} is not YAML: {error}") from None
        if not isinstance(tree, dict):
            raise ConfigError(f"config file {path} must hold a mapping, got {type(tree).__name__}")
    for key, value in (values or {}).items():
        _set(tree, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes key.path=value, got {override!r}")
        try:
            _set(tree, key, yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {text!r} is not YAML; quote it. {error}") from None
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as error:
        source = path or "the command line"
        raise ConfigError("\n".join(_explain(e, source) for e in error.errors())) from None


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a section")
        node = child
    node[leaf] = value


def _explain(error: Any, source: str | Path) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        allowed = sorted(_keys_at(location[:-1]))
        close = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{source}: unknown key {key!r}{hint} Allowed here: {', '.join(allowed)}"
    if error["type"] == "value_error":
        # Of a whole section: its message names the keys.
        return f"{source}: {key}: {error['ctx']['error']}"
    return f"{source}: {key} = {error['input']!r}: {error['msg']}"


def _keys_at(location: list[str]) -> set[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        model = annotation
    return set(model.model_fields)
