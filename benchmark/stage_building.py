"""Building a stage: the one place where a stage's method is made, whoever asks for it.

`build_stage` starts a method afresh, by a seed, and may read files from outside; `rebuild_stage`
makes one whose weights are loaded next, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.backbone import Backbone
from benchmark.method import BuildContext, Inputs, Method, Stage
from benchmark.settings import MethodSettings, TrainingSettings
from benchmark.weights.fit import load_into


@dataclass(frozen=True)
class BuiltStage:
    """A stage's method, on the host in training mode, and what it was built with."""

    stage: Stage
    context: BuildContext
    method: Method

    @property
    def inputs(self) -> Inputs:
        """What the stage reads."""
        return self.stage.inputs(self.context)


def build_stage(
    stage: Stage,
    backbone: Backbone | None,
    method_settings: MethodSettings,
    training_settings: TrainingSettings,
    *,
    assets_root: Path | None = None,
    texts: Callable[[], Sequence[str]] | None = None,
    seed: int = 0,
    earlier: Mapping[str, Method] | None = None,
) -> BuiltStage:
    """A stage's method as it starts: drawn by the seed, or from pretrained weights in ``assets_root``.

    ``texts`` gives all training strings, for a stage that trains (a vocabulary, say); ``earlier`` are the
    methods of earlier stages by name, in order, of which the last is what `Stage.initialise_from` means.
    Raises UserError where a required file is missing.
    """
    earlier = earlier if earlier is not None else {}
    context = BuildContext(backbone, method_settings, training_settings, assets_root, earlier)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = stage.build(context)
        if stage.initialise_from != "nothing" and earlier:
            _take_shared(method, list(earlier.values())[-1], f"stage {list(earlier)[-1]}")
        elif stage.trains and texts is not None:
            # Within the seed's draw: words that are met here get vectors of their own.
            method.build_extra_state(texts())
    return BuiltStage(stage, context, method)


def rebuild_stage(
    stage: Stage,
    backbone: Backbone | None,
    method_settings: MethodSettings,
    training_settings: TrainingSettings,
    *,
    extra_state: Mapping[str, Any] | None = None,
    earlier: Mapping[str, Method] | None = None,
) -> BuiltStage:
    """A stage's method whose weights are loaded next. ``extra_state``: what was saved beside them."""
    context = BuildContext(
        backbone, method_settings, training_settings, earlier=earlier or {}, weights_follow=True
    )
    method = stage.build(context)
    if extra_state is not None:
        method.load_extra_state(extra_state)
    return BuiltStage(stage, context, method)


def _take_shared(method: Method, earlier: Method, source: str) -> None:
    """What both have under one name; the later stage goes on with what the earlier one prepared."""
    method.load_extra_state(earlier.extra_state())
    own = method.state_dict()
    shared = {name: tensor for name, tensor in earlier.state_dict().items() if name in own}
    if not shared:
        raise ValueError(f"{source}: has no tensor of the same name as the stage that takes its weights")
    load_into(method, {**own, **shared}, source)
