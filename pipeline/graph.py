"""The pipeline, once, for every runner."""

import dataclasses
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.components import Evaluator, ExampleValidator, Pusher, StatisticsGen, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import pusher_pb2, transform_pb2
from tfx.types import BaseChannel

from components.composer.component import Composer
from components.example_gen.component import ads_gen, events_gen
from components.index_builder.component import IndexBuilder
from components.interaction_builder.component import InteractionBuilder
from components.recommender_trainer import RecommenderTrainer
from components.serving_validator import ServingValidator
from components.sid_assigner import SidAssigner
from components.sid_evaluator import SidEvaluator
from components.tokenizer_trainer import TokenizerTrainer
from pipeline import model_gate, preprocessing
from pipeline.columns import Columns
from pipeline.config import Config
from sid_tfx.datasets.fields import VocabularyLimits

PREPROCESSING_FN = "pipeline.preprocessing.preprocessing_fn"
TOKENIZER_RUN_FN = "pipeline.tokenizer_run.run_fn"
RECOMMENDER_RUN_FN = "pipeline.recommender_run.run_fn"
MODEL_NAME = "sid_tfx"
FLAVOURS = ("portable", "scann")


@dataclasses.dataclass(frozen=True)
class Data:
    """The part of the graph that ends in data: what both trainers read.

    Attributes:
        components: Every component so far.
        ads: Raw ads.
        transformed: Transformed ads.
        transform_graph: What transformed them.
        sequences: User sequences by split.
        pairs: Swing pairs.
        anomalies: ExampleValidator's findings: ads, events.
    """

    components: list[BaseComponent]
    ads: BaseChannel
    transformed: BaseChannel
    transform_graph: BaseChannel
    sequences: BaseChannel
    pairs: BaseChannel
    anomalies: tuple[BaseChannel, BaseChannel]


def create_pipeline(
    config: Config,
    columns: Columns,
    pipeline_root: str,
    metadata_path: str | None = None,
) -> tfx_pipeline.Pipeline:
    """Builds the whole graph, from raw files to two pushed servables.

    Args:
        config: The run's configuration.
        columns: Which columns the input has (see `pipeline.columns.resolve`).
        pipeline_root: Where artifacts go: a folder, or a bucket for Kubeflow.
        metadata_path: SQLite file of the metadata store; None where the runner brings its own.

    Returns:
        The pipeline for LocalRunner, LocalDagRunner or KubeflowV2DagRunner.
    """
    data = _data(config, columns)
    tokenizer = TokenizerTrainer(
        examples=data.transformed,
        transform_graph=data.transform_graph,
        pairs=data.pairs,
        run_fn=TOKENIZER_RUN_FN,
        custom_config={
            "schema": columns.schema.to_json(),
            "seed": config.seed,
            "tokenizer": config.tokenizer.model_dump(),
        },
    )
    assigner = SidAssigner(
        examples=data.transformed,
        tokenizer=tokenizer.outputs["model"],
        max_dedup=config.catalog.max_dedup,
        alternatives=config.catalog.alternatives,
    )
    catalog = assigner.outputs["catalog"]
    sid_evaluator = SidEvaluator(
        catalog=catalog,
        examples=data.transformed,
        schema=columns.schema.to_json(),
        limits=config.sid_gate.model_dump(),
    )
    index_builder = IndexBuilder(
        catalog=catalog,
        max_k=config.servable.max_k,
        seed=config.seed,
        **config.index.model_dump(),
    )
    recommender = RecommenderTrainer(
        examples=data.sequences,
        catalog=catalog,
        sid_blessing=sid_evaluator.outputs["blessing"],
        run_fn=RECOMMENDER_RUN_FN,
        custom_config={"seed": config.seed, "recommender": config.recommender.model_dump()},
    )
    composer = Composer(
        tokenizer=tokenizer.outputs["model"],
        transform_graph=data.transform_graph,
        recommender=recommender.outputs["model"],
        catalog=catalog,
        index=index_builder.outputs["index"],
        index_blessing=index_builder.outputs["blessing"],
        sequences=data.sequences,
        **config.servable.model_dump(),
    )
    evaluator = Evaluator(
        examples=data.sequences,
        example_splits=["test"],
        model=composer.outputs["portable"],
        eval_config=model_gate.eval_config(config.model_gate),
    )
    validator = ServingValidator(
        portable=composer.outputs["portable"],
        scann=composer.outputs["scann"],
        ads=data.ads,
        sequences=data.sequences,
        sid_blessing=sid_evaluator.outputs["blessing"],
        index_blessing=index_builder.outputs["blessing"],
        model_blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        ads_anomalies=data.anomalies[0],
        events_anomalies=data.anomalies[1],
        limits=config.serving_gate.model_dump(),
    )
    pushers = [
        Pusher(
            model_blessing=evaluator.outputs["blessing"],
            # The blessing carries the model with its warm-up file, so `model` stays unwired.
            infra_blessing=validator.outputs[f"{flavour}_blessing"],
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(
                    base_directory=_push_directory(config, flavour)
                )
            ),
        ).with_id(f"{flavour.capitalize()}Pusher")
        for flavour in FLAVOURS
    ]
    return tfx_pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=[
            *data.components,
            tokenizer,
            assigner,
            sid_evaluator,
            index_builder,
            recommender,
            composer,
            evaluator,
            validator,
            *pushers,
        ],
        enable_cache=config.run.cache,
        metadata_connection_config=_metadata(metadata_path),
        beam_pipeline_args=list(config.run.beam_pipeline_args),
    )


def _data(config: Config, columns: Columns) -> Data:
    ads = ads_gen(config.data.ads.path, columns.ads)
    events = events_gen(config.data.events.path, columns.events)
    checked = {
        "Ads": (ads, columns.ads_schema_file),
        "Events": (events, columns.events_schema_file),
    }
    checks: list[BaseComponent] = []
    schemas, anomalies = {}, []
    for name, (source, schema_file) in checked.items():
        statistics = StatisticsGen(examples=source.outputs["examples"]).with_id(f"{name}Statistics")
        schema = ImportSchemaGen(schema_file=str(schema_file)).with_id(f"{name}Schema")
        validator = ExampleValidator(
            statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
        ).with_id(f"{name}Validator")
        checks += [statistics, schema, validator]
        schemas[name] = schema.outputs["schema"]
        anomalies.append(validator.outputs["anomalies"])
    limits = VocabularyLimits(
        text=config.features.text_vocabulary,
        text_min_count=config.features.text_min_count,
        category=config.features.category_vocabulary,
        categorical=config.features.categorical_vocabulary,
    )
    transform = Transform(
        examples=ads.outputs["examples"],
        schema=schemas["Ads"],
        preprocessing_fn=PREPROCESSING_FN,
        splits_config=transform_pb2.SplitsConfig(analyze=["all"], transform=["all"]),
        custom_config=preprocessing.make_custom_config(columns.schema, limits),
        # The raw columns have statistics already; a second and third pass would cost more time
        # than the transformation itself.
        disable_statistics=True,
    )
    interactions = InteractionBuilder(
        events=events.outputs["examples"],
        ads=ads.outputs["examples"],
        split=config.data.split,
        validation_share=config.data.validation_share,
        test_share=config.data.test_share,
        swing_alpha=config.pairs.alpha,
        swing_top_k=config.pairs.top_k,
        max_users_per_ad=config.pairs.max_users_per_ad,
        max_ads_per_user=config.pairs.max_ads_per_user,
        max_rejected_share=config.data.events.max_rejected_share,
    )
    return Data(
        components=[ads, events, *checks, transform, interactions],
        ads=ads.outputs["examples"],
        transformed=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        sequences=interactions.outputs["sequences"],
        pairs=interactions.outputs["pairs"],
        anomalies=(anomalies[0], anomalies[1]),
    )


def _push_directory(config: Config, flavour: str) -> str:
    # A bucket (`gs://...`) is no path: pathlib would make it one below the working directory.
    base = config.run.push_directory
    if base is None or "://" not in base:
        base = str(config.push_directory)
    return f"{base.rstrip('/')}/{flavour}/{MODEL_NAME}"


def _metadata(path: str | None) -> metadata_store_pb2.ConnectionConfig | None:
    if path is None:
        return None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return metadata.sqlite_metadata_connection_config(path)
