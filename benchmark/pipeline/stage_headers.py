"""What a weights file says of the stage that made it, and of those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.method import Method
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.reporting import StageOutcome
from benchmark.training.job import Trained
from benchmark.weights.checkpoints import EarlierStage, WeightsHeader


def header_of(
    plan: Plan,
    planned: PlannedStage,
    trained: Trained | None,
    method: Method,
    *,
    earlier: list[EarlierStage],
    encoder: tuple[str, str],
    width: int,
    start: dict[str, Any],
) -> WeightsHeader:
    """The header of a stage's weights; ``trained`` None where it trains nothing.

    ``encoder``: digest and file of the artefact whose features it reads, "" for none; ``width``, ``start``:
    the backbone's, 0 and empty without one.
    """
    return WeightsHeader(
        method=plan.method.name if planned.stage.output == "method" else planned.stage.name,
        stage=planned.stage.name,
        dataset=plan.dataset.info.name,
        method_settings=plan.method_settings.model_dump(mode="json"),
        training_settings=planned.settings.model_dump(mode="json"),
        backbone={**plan.backbone_identity, "seed": plan.options.seed},
        width=width,
        seed=plan.options.seed,
        encoder=encoder[0],
        encoder_file=encoder[1],
        recipe=planned.recipe.name if planned.recipe else "",
        variant=plan.variant.name if plan.variant and planned.stage.output == "method" else "",
        selection=plan.options.selection,
        updates=trained.updates if trained else 0,
        triplets_seen=trained.triplets_seen if trained else 0,
        prepared=dict(method.extra_state()),
        earlier=earlier,
        start=start,
    )


def told(outcome: StageOutcome, methods: Mapping[str, Method]) -> EarlierStage:
    """An earlier stage as the header of a later one's weights tells it; ``methods`` by name of their stage."""
    name = outcome.planned.stage.name
    return EarlierStage(
        name=name,
        settings=outcome.planned.settings.model_dump(mode="json"),
        updates=outcome.updates,
        triplets_seen=outcome.triplets_seen,
        prepared=dict(methods[name].extra_state()) if name in methods else {},
    )
