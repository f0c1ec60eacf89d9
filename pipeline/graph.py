"""The pipeline, once, for every runner."""

from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.components import Evaluator
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import pusher_pb2
from tfx.types import BaseChannel, Channel

from components.composer.component import Composer
from components.index_builder.component import IndexBuilder
from components.pusher import Pusher
from components.recommender_refresher import RecommenderRefresher
from components.recommender_trainer import RecommenderTrainer
from components.serving_validator import ServingValidator
from components.sid_assigner import SidAssigner
from components.sid_evaluator import SidEvaluator
from components.tokenizer_trainer import TokenizerTrainer
from pipeline import model_gate
from pipeline.columns import Columns
from pipeline.config import Config
from pipeline.data_graph import Data, data_graph
from pipeline.generations import TYPES, LastPushedGeneration

TOKENIZER_RUN_FN = "pipeline.tokenizer_run.run_fn"
RECOMMENDER_RUN_FN = "pipeline.recommender_run.run_fn"
MODEL_NAME = "sid_tfx"
FLAVOURS = ("portable", "scann")
LAST_GENERATION = "LastGeneration"


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
    data = data_graph(config, columns)
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
    assigner, sid_evaluator = _catalog(config, columns, data, tokenizer.outputs["model"])
    recommender = RecommenderTrainer(
        examples=data.sequences,
        catalog=assigner.outputs["catalog"],
        sid_blessing=sid_evaluator.outputs["blessing"],
        run_fn=RECOMMENDER_RUN_FN,
        custom_config={
            "seed": config.seed,
            "recommender": config.recommender.model_dump(),
            "held_out": config.data.split != "all",
            "max_history": config.servable.max_history,
            "beam_size": config.servable.beam_size,
        },
    )
    delivery = _delivery(
        config,
        data,
        tokenizer=tokenizer.outputs["model"],
        catalog=assigner.outputs["catalog"],
        sid_blessing=sid_evaluator.outputs["blessing"],
        recommender=recommender.outputs["model"],
    )
    nodes = [*data.components, tokenizer, assigner, sid_evaluator, recommender, *delivery]
    return _pipeline(config, nodes, pipeline_root, metadata_path)


def create_refresh_pipeline(
    config: Config,
    columns: Columns,
    pipeline_root: str,
    metadata_path: str | None = None,
) -> tfx_pipeline.Pipeline:
    """Builds the graph that takes new ads and events into the generation that was pushed last.

    It trains nothing: transform graph, tokenizer and recommender are those of the last push, which
    it finds in the metadata of the pipeline of the same name. Gates and push are those of
    `create_pipeline`.

    Args:
        config: The run's configuration.
        columns: Which columns the input has; the AdSchema is the one of the last push.
        pipeline_root: Where artifacts go.
        metadata_path: SQLite file of the metadata store, which knows the last push.

    Returns:
        The pipeline for LocalRunner.
    """
    last = Resolver(
        strategy_class=LastPushedGeneration,
        **{key: Channel(type=artifact_type) for key, artifact_type in TYPES.items()},
    ).with_id(LAST_GENERATION)
    data = data_graph(config, columns, transform_graph=last.outputs["transform_graph"])
    assigner, sid_evaluator = _catalog(
        config, columns, data, last.outputs["tokenizer"], previous=last.outputs["catalog"]
    )
    recommender = RecommenderRefresher(
        recommender=last.outputs["recommender"],
        previous=last.outputs["catalog"],
        catalog=assigner.outputs["catalog"],
        examples=data.sequences,
        sid_blessing=sid_evaluator.outputs["blessing"],
        successors=config.recommender.successors,
    )
    delivery = _delivery(
        config,
        data,
        tokenizer=last.outputs["tokenizer"],
        catalog=assigner.outputs["catalog"],
        sid_blessing=sid_evaluator.outputs["blessing"],
        recommender=recommender.outputs["model"],
    )
    nodes = [last, *data.components, assigner, sid_evaluator, recommender, *delivery]
    return _pipeline(config, nodes, pipeline_root, metadata_path)


def _pipeline(
    config: Config, nodes: list[BaseNode], pipeline_root: str, metadata_path: str | None
) -> tfx_pipeline.Pipeline:
    return tfx_pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=nodes,
        enable_cache=config.run.cache,
        metadata_connection_config=_metadata(metadata_path),
        beam_pipeline_args=list(config.run.beam_pipeline_args),
    )


def _catalog(
    config: Config,
    columns: Columns,
    data: Data,
    tokenizer: BaseChannel,
    previous: BaseChannel | None = None,
) -> tuple[SidAssigner, SidEvaluator]:
    """Semantic IDs and the gate on them."""
    assigner = SidAssigner(
        examples=data.transformed,
        tokenizer=tokenizer,
        previous=previous,
        max_dedup=config.catalog.max_dedup,
        alternatives=config.catalog.alternatives,
    )
    sid_evaluator = SidEvaluator(
        catalog=assigner.outputs["catalog"],
        examples=data.transformed,
        pairs=data.pairs,
        # A refresh has the last push at hand; a run may have none before it.
        previous=previous,
        schema=columns.schema.to_json(),
        limits=config.sid_gate.model_dump(),
    )
    return assigner, sid_evaluator


def _delivery(
    config: Config,
    data: Data,
    *,
    tokenizer: BaseChannel,
    catalog: BaseChannel,
    sid_blessing: BaseChannel,
    recommender: BaseChannel,
) -> list[BaseComponent]:
    """Index, servables, the gates on them and the push."""
    index_builder = IndexBuilder(
        catalog=catalog,
        tokenizer=tokenizer,
        max_k=config.servable.max_k,
        seed=config.seed,
        **config.index.model_dump(),
    )
    composer = Composer(
        tokenizer=tokenizer,
        transform_graph=data.transform_graph,
        recommender=recommender,
        catalog=catalog,
        index=index_builder.outputs["index"],
        index_blessing=index_builder.outputs["blessing"],
        sequences=data.sequences,
        dense_min_recall=config.index.min_recall,
        seed=config.seed,
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
        sid_blessing=sid_blessing,
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
    return [index_builder, composer, evaluator, validator, *pushers]


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
