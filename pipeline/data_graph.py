"""The part of the graph that ends in data: ingestion, checks, features, sequences."""

import dataclasses

from tfx.components import ExampleValidator, StatisticsGen, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.proto import transform_pb2
from tfx.types import BaseChannel

from components.ad_transformer import AdTransformer
from components.example_gen.component import ads_gen, events_gen
from components.interaction_builder.component import InteractionBuilder
from pipeline import preprocessing
from pipeline.columns import Columns
from pipeline.config import Config
from sid_tfx.datasets.fields import VocabularyLimits

PREPROCESSING_FN = "pipeline.preprocessing.preprocessing_fn"


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


def data_graph(
    config: Config, columns: Columns, transform_graph: BaseChannel | None = None
) -> Data:
    """Builds ingestion, checks, features and sequences.

    Args:
        config: The run's configuration.
        columns: Which columns the input has.
        transform_graph: A graph to transform the ads with; None makes a new one from them.
    """
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
    transform: BaseComponent
    if transform_graph is None:
        transform = _transform(config, columns, ads.outputs["examples"], schemas["Ads"])
        transform_graph = transform.outputs["transform_graph"]
    else:
        transform = AdTransformer(examples=ads.outputs["examples"], transform_graph=transform_graph)
    interactions = InteractionBuilder(
        events=events.outputs["examples"],
        ads=ads.outputs["examples"],
        split=config.data.split,
        validation_share=config.data.validation_share,
        test_share=config.data.test_share,
        swing_alpha=config.pairs.alpha,
        swing_top_k=config.pairs.top_k,
        swing_single_users=config.pairs.single_users,
        max_users_per_ad=config.pairs.max_users_per_ad,
        max_ads_per_user=config.pairs.max_ads_per_user,
        max_rejected_share=config.data.events.max_rejected_share,
    )
    return Data(
        components=[ads, events, *checks, transform, interactions],
        ads=ads.outputs["examples"],
        transformed=transform.outputs["transformed_examples"],
        transform_graph=transform_graph,
        sequences=interactions.outputs["sequences"],
        pairs=interactions.outputs["pairs"],
        anomalies=(anomalies[0], anomalies[1]),
    )


def _transform(
    config: Config, columns: Columns, ads: BaseChannel, schema: BaseChannel
) -> Transform:
    limits = VocabularyLimits(
        text=config.features.text_vocabulary,
        text_min_count=config.features.text_min_count,
        category=config.features.category_vocabulary,
        categorical=config.features.categorical_vocabulary,
    )
    return Transform(
        examples=ads,
        schema=schema,
        preprocessing_fn=PREPROCESSING_FN,
        splits_config=transform_pb2.SplitsConfig(analyze=["all"], transform=["all"]),
        custom_config=preprocessing.make_custom_config(columns.schema, limits),
        # The raw columns have statistics already; a second and third pass would cost more time
        # than the transformation itself.
        disable_statistics=True,
    )
