"""Golden numbers of training: some steps of each released recipe through the project's own trainer.

Two fixed batches by turns, dropout removed, float32, on one CPU process. A method says how it reads
a recipe of its own (:class:`TrainingCase`); the steps are those of `benchmark.training.engine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from benchmark.distributed.process import Process
from benchmark.method import Method, Stage
from benchmark.parity.comparison import Deviation, Difference, worst
from benchmark.parity.files import Form, GoldenFile
from benchmark.progress import say
from benchmark.settings import TrainingSettings
from benchmark.training.adaptation import with_rates
from benchmark.training.batches import Batch, GroupLayout
from benchmark.training.engine import StageEngine
from benchmark.training.optimisation import standard_momentum, standard_optimiser, standard_schedule

BATCHES = 2
"""Which are an epoch, and taken by turns."""

LEARNING_RATES = 1e-6
STATISTICS = (1e-5, 1e-6)
NOISY_MEANS = 1e-3
"""Absolute; of running means behind a bias that is nothing but rounding noise."""
_PRINTED = 1e-5
"""Numbers that are listed with six digits."""


@dataclass(frozen=True)
class StepTolerances:
    """Relative ones, where a recipe has no others; ``losses``: with an absolute one. Of a sum: a share of the same
    parameter's change, one of its norm, one of the sum itself, and an absolute one."""

    losses: tuple[float, float] = (1e-5, 5e-6)
    parts: float = 5e-3
    norms: float = 1e-6
    sums: tuple[float, float, float, float] = (2e-2, 1e-6, 0.0, 0.0)
    decay_alone: float = 2e-2


class RecipeConfig(Form):
    """What a recipe's ``config`` says of the optimiser, whatever is trained."""

    batch: PositiveInt
    optimiser: Literal["Adam", "AdamW"]
    lr: PositiveFloat
    betas: tuple[float, float]
    eps: PositiveFloat
    weight_decay: float = Field(ge=0)
    schedule: Literal["CosineAnnealingLR"] | None = None
    t_max: PositiveInt = BATCHES
    eta_min: Literal[0] = 0
    batch_norms: Literal["eval", "train"] = "train"

    @model_validator(mode="after")
    def _whole_epochs(self) -> RecipeConfig:
        if self.t_max % BATCHES:
            raise ValueError(f"t_max counts updates of epochs of {BATCHES}, and {self.t_max} is no multiple")
        return self


class _Decayed(Form):
    """Rows without a gradient: one, or all from one on."""

    row: int | None = None
    rows_from: int | None = None
    norm_before: float
    norm_after: float
    change: float


class _UsedRows(Form):
    rows: int
    change: float


class _ZeroGradientUnderDecay(Form):
    parameter: str
    change: float
    largest_move: float
    sum_of_learning_rates: float
    first8_before: list[float]
    first8_after: list[float]


class GoldenRecipe(Form):
    """One recipe of a training file; ``parameters``: norm and sum after the last step, norm of the change.

    ``parts``: of each step's loss. ``learning_rate``: of each step, or of each step and group.
    """

    loss: list[float] = Field(min_length=1)
    parts: list[list[float]] = []
    learning_rate: list[float | list[float]]
    parameters: dict[str, tuple[float, float, float]]
    no_gradient: list[str] = []
    exact_zero_gradient: list[str] = []
    unchanged: list[str] = []
    rounding_noise: list[str] = []
    config: dict[str, Any]
    token_ids: list[list[list[int]]] = []
    token_id_pairs: list[list[tuple[list[int], list[int]]]] = []
    batch_norm_statistics: dict[str, float] = {}
    batch_norm_statistics_unchanged: bool = False
    decay_alone: dict[str, _Decayed] = {}
    token_embedding_used_rows: _UsedRows | None = None
    zero_gradient_under_decay: _ZeroGradientUnderDecay | None = None

    @model_validator(mode="before")
    @classmethod
    def _pairs_apart(cls, entries: Any) -> Any:
        """Of recipes with a second text the numbers of both stand under the name of the one's."""
        try:
            is_paired = isinstance(entries["token_ids"][0][0][0], list)
        except (KeyError, IndexError, TypeError):
            return entries
        return {**entries, "token_ids": [], "token_id_pairs": entries["token_ids"]} if is_paired else entries


class _TrainingForm(Form):
    steps: PositiveInt
    recipes: dict[str, Any] = Field(min_length=1)


@dataclass(frozen=True)
class TrainingCase:
    """A recipe as its method reads it: weights drawn and dropout removed.

    ``released``: the method's part with the released names. ``changes``: relative tolerance of each parameter's change.
    ``used_tokens``: numbers of the tokens in any text, padding included. ``before_step``: called with the number of
    each step, from 0. ``updates_per_epoch``: for the schedule. ``tolerances``: of all else.
    """

    method: Method
    released: nn.Module
    stage: Stage
    settings: TrainingSettings
    batches: Sequence[Batch]
    changes: float = 3e-4
    used_tokens: Tensor | None = None
    before_step: Callable[[int], None] = lambda step: None
    updates_per_epoch: int = BATCHES
    tolerances: StepTolerances = StepTolerances()


CaseReader = Callable[[GoldenFile, str, GoldenRecipe], TrainingCase]
"""(file, the recipe's name, the recipe) to what is trained."""

T = TypeVar("T", bound=TrainingSettings)


def recipe_settings(config: RecipeConfig, model: type[T], **more: Any) -> T:
    """Settings of a stage that train as a recipe's ``config`` says."""
    return model(
        epochs=config.t_max // BATCHES,
        batch_size=config.batch,
        optimiser="adamw" if config.optimiser == "AdamW" else "adam",
        learning_rate=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        schedule="cosine-rising" if config.schedule else "constant",
        schedule_epochs=config.t_max // BATCHES,
        batch_norm=config.batch_norms,
        **more,
    )


def read_recipes(file: GoldenFile) -> dict[str, GoldenRecipe]:
    """All recipes of a training file; raises UserError where it is not of this form."""
    form = file.parse(_TrainingForm)
    recipes = {name: file.parse(GoldenRecipe, "recipes", name) for name in form.recipes}
    for name, recipe in recipes.items():
        if not len(recipe.loss) == len(recipe.learning_rate) == form.steps:
            raise file.error(f"entry 'recipes.{name}': {form.steps} losses and learning rates are expected")
    return recipes


@dataclass
class _Course:
    """What was seen while the steps were taken; ``before`` and ``after`` are state dicts in float32."""

    before: dict[str, Tensor]
    after: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    parts: list[list[float]] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    with_state: set[str] = field(default_factory=set)

    def move(self, name: str) -> Tensor:
        return self.after[name].double() - self.before[name].double()

    def has_moved(self, name: str) -> bool:
        return not torch.equal(self.before[name], self.after[name])


def check_recipe(name: str, recipe: GoldenRecipe, case: TrainingCase) -> Iterator[Deviation]:
    """Take the steps and give a deviation for everything that the recipe lists."""
    course = _train(name, case, len(recipe.loss))
    checks = (_steps(recipe, case, course), _parameters(recipe, case, course), _still(recipe, course),
              _decay(recipe, case, course), _statistics(recipe, course))  # fmt: skip
    for deviation in chain(*checks):
        yield replace(deviation, output=f"{name}: {deviation.output}")


def _train(name: str, case: TrainingCase, steps: int) -> _Course:
    settings, stage = case.settings, case.stage
    parameters = dict(case.released.named_parameters())
    course = _Course({n: t.detach().clone() for n, t in case.released.state_dict().items()})
    groups = with_rates(stage.parameter_groups(case.method, settings), case.method, settings.rates)
    optimiser = (stage.optimiser or standard_optimiser)(groups, settings)
    schedule = (stage.schedule or standard_schedule)(settings, case.updates_per_epoch)
    process = Process(0, 1, 0, torch.device("cpu"))
    momentum = None if stage.schedule else standard_momentum(settings, case.updates_per_epoch)
    layout = GroupLayout.of(settings, 1)
    engine = StageEngine(case.method, optimiser, schedule, settings, layout, process, momentum=momentum)
    engine.training_mode()
    for step in range(steps):
        case.before_step(step)
        course.rates.append([float(group["lr"]) for group in engine.optimiser.param_groups])
        course.losses.append(float(engine.accumulate(case.batches[step % BATCHES], 0)))
        course.parts.append(list(engine.loss_parts().values()))
        for parameter_name, parameter in parameters.items():
            norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
            course.gradients[parameter_name] = max(course.gradients.get(parameter_name, 0.0), norm)
        engine.update()
        say(f"  {name}: step {step + 1}/{steps}, loss {course.losses[-1]:.6g}")
    course.with_state = {n for n, p in parameters.items() if engine.optimiser.state.get(p)}
    engine.close()
    course.after = {n: t.detach() for n, t in case.released.state_dict().items()}
    return course


def _steps(recipe: GoldenRecipe, case: TrainingCase, course: _Course) -> Iterator[Deviation]:
    allowed = case.tolerances
    losses = zip(course.losses, recipe.loss, strict=True)
    yield worst("losses", [Difference(f"step {i}", f, e, *allowed.losses) for i, (f, e) in enumerate(losses)])
    if recipe.parts:
        steps = enumerate(zip(course.parts, recipe.parts, strict=True))
        parts = [(i, *pair) for i, (found, wanted) in steps for pair in zip(found, wanted, strict=True)]
        yield worst("parts of the losses", [Difference(f"step {i}", f, e, allowed.parts) for i, f, e in parts])
    # A list of one rate is that of the first group.
    listed = [rate if isinstance(rate, list) else [rate] for rate in recipe.learning_rate]
    rates = [(i, *pair) for i, rate in enumerate(listed) for pair in zip(course.rates[i], rate, strict=False)]
    yield worst("learning rates", [Difference(f"step {i}", f, e, LEARNING_RATES) for i, f, e in rates])


def _parameters(recipe: GoldenRecipe, case: TrainingCase, course: _Course) -> Iterator[Deviation]:
    own = {name for name, _ in case.released.named_parameters()}
    differing = sorted(own ^ recipe.parameters.keys())
    yield Deviation("parameter names", len(differing), 0, differing[0] if differing else "")
    norms, sums, changes, allowed = [], [], [], case.tolerances
    of_change, of_norm, of_sum, absolute = allowed.sums
    for name, (norm, total, change) in recipe.parameters.items():
        if name in recipe.rounding_noise or name not in own:
            continue
        now = course.after[name].double()
        norms.append(Difference(name, float(now.norm()), norm, allowed.norms))
        floor = of_norm * norm + of_sum * abs(total) + absolute
        sums.append(Difference(name, float(now.sum()), total, of_change, floor, scale=change))
        changes.append(Difference(name, float(course.move(name).norm()), change, case.changes))
    yield worst("norms", norms)
    yield worst("sums, of the change", sums)
    yield worst("changes", changes).with_note(f"without {len(recipe.rounding_noise)} of rounding noise")


def _still(recipe: GoldenRecipe, course: _Course) -> Iterator[Deviation]:
    """Parameters without a gradient have no optimiser state either, and do not move."""

    def none_of(output: str, found: dict[str, float]) -> Iterator[Deviation]:
        if found:
            yield worst(output, [Difference(name, value, 0.0, 0.0) for name, value in found.items()])

    known = course.after.keys()
    without = {n: float(n in course.with_state or course.has_moved(n)) for n in recipe.no_gradient if n in known}
    yield from none_of("no gradient: moved or with Adam state", without)
    zero = {name: course.gradients.get(name, 0.0) for name in recipe.exact_zero_gradient}
    yield from none_of("exact zero gradients", zero)
    unchanged = {name: float(course.has_moved(name)) for name in recipe.unchanged if name in known}
    yield from none_of("unchanged: moved", unchanged)


def _decay(recipe: GoldenRecipe, case: TrainingCase, course: _Course) -> Iterator[Deviation]:
    for name, rows in recipe.decay_alone.items():
        if name not in course.after:
            continue
        chosen = slice(rows.rows_from, None) if rows.row is None else slice(rows.row, rows.row + 1)
        before, after = course.before[name][chosen].double().norm(), course.after[name][chosen].double().norm()
        norms = [
            Difference("before", float(before), rows.norm_before, case.tolerances.norms),
            Difference("after", float(after), rows.norm_after, case.tolerances.norms),
        ]
        yield worst(f"decay alone: norms of {name}", norms)
        change = Difference("", float(course.move(name)[chosen].norm()), rows.change, case.tolerances.decay_alone)
        yield worst(f"decay alone: change of {name}", [change])
    used = recipe.token_embedding_used_rows
    name = next((own for own in course.after if own.endswith("token_embedding.weight")), "")
    if used is not None and case.used_tokens is not None and name:
        yield Deviation("used tokens", abs(len(case.used_tokens) - used.rows), 0)
        moved = float(course.move(name)[case.used_tokens].norm())
        yield worst("used tokens' change", [Difference(name, moved, used.change, case.changes)])
    zero = recipe.zero_gradient_under_decay
    if zero is None or zero.parameter not in course.after:
        return
    moves, total = course.move(zero.parameter), zero.sum_of_learning_rates
    first = [a - b for a, b in zip(zero.first8_after, zero.first8_before, strict=True)]
    yield worst(
        "zero gradient under decay",
        [
            Difference("change", float(moves.norm()), zero.change, case.changes),
            Difference("largest move", float(moves.abs().max()), zero.largest_move, case.changes),
            Difference("sum of learning rates", sum(first for first, *_ in course.rates), total, _PRINTED),
            *(
                Difference("first entries", found, wanted, case.changes, scale=total)
                for found, wanted in zip(moves.flatten()[: len(first)].tolist(), first, strict=True)
            ),
        ],
    )


def _statistics(recipe: GoldenRecipe, course: _Course) -> Iterator[Deviation]:
    statistics = [n for n in course.after if n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    if recipe.batch_norm_statistics_unchanged:
        yield worst("batch norms: moved", [Difference(n, float(course.has_moved(n)), 0.0, 0.0) for n in statistics])
    exact: list[Difference] = []
    noisy: list[Difference] = []
    for name, expected in recipe.batch_norm_statistics.items():
        found = float(course.after[name].double().norm()) if name in course.after else math.inf
        # A running mean inherits the noise of a bias in the same block, which stands before it.
        block = name.rpartition(".")[0].rpartition(".")[0] + "."
        behind_noise = any(n.startswith(block) and n.endswith(".bias") for n in recipe.rounding_noise)
        if name.endswith("running_mean") and behind_noise:
            noisy.append(Difference(name, found, expected, 0.0, NOISY_MEANS))
        else:
            exact.append(Difference(name, found, expected, *STATISTICS))
    if exact:
        yield worst("batch norms", exact)
    if noisy:
        yield worst("batch norms: means behind rounding noise", noisy)
