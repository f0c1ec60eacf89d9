"""InteractionBuilder: events and ads in, user sequences and Swing pairs out."""

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.interaction_builder.executor import Executor
from components.interaction_builder.sequences import SPLITS


class InteractionBuilderSpec(ComponentSpec):
    """Inputs, outputs and parameters of `InteractionBuilder`."""

    PARAMETERS = {
        "split": ExecutionParameter(type=str),
        "validation_share": ExecutionParameter(type=float),
        "test_share": ExecutionParameter(type=float),
        "swing_alpha": ExecutionParameter(type=float),
        "swing_top_k": ExecutionParameter(type=int),
        # Execution properties hold numbers and text: 0 or 1.
        "swing_single_users": ExecutionParameter(type=int),
        "max_users_per_ad": ExecutionParameter(type=int),
        "max_ads_per_user": ExecutionParameter(type=int),
        "max_rejected_share": ExecutionParameter(type=float),
    }
    INPUTS = {
        "events": ChannelParameter(type=standard_artifacts.Examples),
        "ads": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        "sequences": ChannelParameter(type=standard_artifacts.Examples),
        "pairs": ChannelParameter(type=standard_artifacts.Examples),
    }


class InteractionBuilder(base_beam_component.BaseBeamComponent):
    """Groups events into user sequences, holds out targets, and mines Swing pairs.

    Events of one user, ad and second count once. Event types and weights, where the log has them,
    stand beside the times in the sequences. Events that name an ad outside `ads` go to the
    quarantine beside the sequences. Both outputs learn from training events only.

    Args:
        events: Raw events from EventsGen, split `all`.
        ads: Raw ads from AdsGen, split `all`.
        split: How targets are held out: `"leave_one_out"`, `"global_time"` or `"all"` (which
            holds out nothing: for a final model, never for a figure).
        validation_share: Share of events in the validation window of `global_time`.
        test_share: Share of events in the test window of `global_time`.
        swing_alpha: Smoothing of the Swing score, above 0.
        swing_top_k: Targets kept for a trigger ad.
        swing_single_users: Whether one user who met both ads makes a pair too.
        max_users_per_ad: Users sampled for a very popular trigger; bounds a quadratic step.
        max_ads_per_user: Newest ads of a user that count for Swing; bounds another.
        max_rejected_share: Rejected events past this share stop the run.

    Raises:
        ValueError: An argument is out of range.
    """

    SPEC_CLASS = InteractionBuilderSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        events: types.BaseChannel,
        ads: types.BaseChannel,
        *,
        split: str = "leave_one_out",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        swing_alpha: float = 1.0,
        swing_top_k: int = 20,
        swing_single_users: bool = False,
        max_users_per_ad: int = 400,
        max_ads_per_user: int = 500,
        max_rejected_share: float = 0.01,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}.")
        if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
            raise ValueError(
                "validation_share and test_share must be above 0 and sum to less than 1, got "
                f"{validation_share} and {test_share}."
            )
        if not swing_alpha > 0:
            raise ValueError(f"swing_alpha must be above 0, got {swing_alpha}.")
        for name, value, least in (
            ("swing_top_k", swing_top_k, 1),
            ("max_users_per_ad", max_users_per_ad, 2),
            ("max_ads_per_user", max_ads_per_user, 2),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if not 0 <= max_rejected_share <= 1:
            raise ValueError(f"max_rejected_share must lie in [0, 1], got {max_rejected_share}.")
        super().__init__(
            InteractionBuilderSpec(
                events=events,
                ads=ads,
                split=split,
                validation_share=float(validation_share),
                test_share=float(test_share),
                swing_alpha=float(swing_alpha),
                swing_top_k=swing_top_k,
                swing_single_users=int(swing_single_users),
                max_users_per_ad=max_users_per_ad,
                max_ads_per_user=max_ads_per_user,
                max_rejected_share=float(max_rejected_share),
                sequences=types.Channel(type=standard_artifacts.Examples),
                pairs=types.Channel(type=standard_artifacts.Examples),
            )
        )
