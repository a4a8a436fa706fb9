"""Golden numbers of training: some steps of each released recipe through the project's own trainer.

Two fixed batches by turns, dropout removed, float32, on one CPU process. A method says how it reads
a recipe of its own (:class:`TrainingCase`); the steps are those of `benchmark.training.engine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from benchmark.training.batches import Batch, GroupLayout
from benchmark.training.engine import StageEngine
from benchmark.training.optimisation import standard_optimiser, standard_schedule

BATCHES = 2
"""Which are an epoch, and taken by turns."""

LOSSES = (1e-5, 5e-6)
LEARNING_RATES = 1e-6
NORMS = 1e-6
SUMS = 2e-2
"""Of the same parameter's change."""
DECAY_ALONE = 2e-2
STATISTICS = (1e-5, 1e-6)
NOISY_MEANS = 1e-3
"""Absolute; of running means behind a bias that is nothing but rounding noise."""
_PRINTED = 1e-5
"""Numbers that are listed with six digits."""


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


class _DecayedRows(Form):
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


class Recipe(Form):
    """One recipe of a training file; ``parameters``: norm and sum after the last step, norm of the change."""

    loss: list[float] = Field(min_length=1)
    learning_rate: list[float]
    parameters: dict[str, tuple[float, float, float]]
    no_gradient: list[str] = []
    exact_zero_gradient: list[str] = []
    unchanged: list[str] = []
    rounding_noise: list[str] = []
    config: dict[str, Any]
    token_ids: list[list[list[int]]] = []
    batch_norm_statistics: dict[str, float] = {}
    batch_norm_statistics_unchanged: bool = False
    decay_alone: dict[str, _DecayedRows] = {}
    token_embedding_used_rows: _UsedRows | None = None
    zero_gradient_under_decay: _ZeroGradientUnderDecay | None = None


class _TrainingForm(Form):
    steps: PositiveInt
    recipes: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class TrainingCase:
    """A recipe as its method reads it: weights drawn and dropout removed.

    ``released``: the method's part with the released names. ``changes``: relative tolerance of each
    parameter's change. ``used_tokens``: numbers of the tokens in any text, padding included.
    """

    method: Method
    released: nn.Module
    stage: Stage
    settings: TrainingSettings
    batches: tuple[Batch, Batch]
    changes: float = 3e-4
    used_tokens: Tensor | None = None


CaseReader = Callable[[GoldenFile, str, Recipe], TrainingCase]
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


@dataclass
class _Course:
    """What was seen while the steps were taken."""

    before: dict[str, Tensor]
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    with_state: set[str] = field(default_factory=set)


def read_recipes(file: GoldenFile) -> dict[str, Recipe]:
    """All recipes of a training file; raises UserError where it is not of this form."""
    form = file.parse(_TrainingForm)
    recipes = {n: file.parse(Recipe, entries, f"recipes.{n}") for n, entries in form.recipes.items()}
    for name, recipe in recipes.items():
        if not len(recipe.loss) == len(recipe.learning_rate) == form.steps:
            raise file.error(f"entry 'recipes.{name}': {form.steps} losses and learning rates are expected")
    return recipes


def check_recipe(name: str, recipe: Recipe, case: TrainingCase) -> Iterator[Deviation]:
    """Take the steps and give a deviation for everything that the recipe lists."""
    course = _train(name, case, len(recipe.loss))
    after = {n: t.detach() for n, t in case.released.state_dict().items()}
    for deviation in (
        *_step_deviations(recipe, course),
        *_parameter_deviations(recipe, case, course, after),
        *_gradient_deviations(recipe, course, after),
        *_decay_deviations(recipe, case, course, after),
        *_statistics_deviations(recipe, course, after),
    ):
        yield replace(deviation, output=f"{name}: {deviation.output}")


def _train(name: str, case: TrainingCase, steps: int) -> _Course:
    settings, stage = case.settings, case.stage
    process = Process(0, 1, 0, torch.device("cpu"))
    parameters = dict(case.released.named_parameters())
    course = _Course({n: t.detach().clone() for n, t in case.released.state_dict().items()})
    optimiser = (stage.optimiser or standard_optimiser)(stage.parameter_groups(case.method, settings), settings)
    schedule = (stage.schedule or standard_schedule)(settings, BATCHES)
    engine = StageEngine(case.method, optimiser, schedule, settings, GroupLayout.of(settings, 1), process)
    engine.training_mode()
    for step in range(steps):
        course.rates.append(engine.learning_rate())
        course.losses.append(float(engine.accumulate(case.batches[step % BATCHES], 0)))
        for parameter_name, parameter in parameters.items():
            norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
            course.gradients[parameter_name] = max(course.gradients.get(parameter_name, 0.0), norm)
        engine.update()
        say(f"  {name}: step {step + 1}/{steps}, loss {course.losses[-1]:.6g}")
    course.with_state = {n for n, p in parameters.items() if engine.optimiser.state.get(p)}
    engine.close()
    return course


def _step_deviations(recipe: Recipe, course: _Course) -> Iterator[Deviation]:
    losses = zip(course.losses, recipe.loss, strict=True)
    rates = zip(course.rates, recipe.learning_rate, strict=True)
    yield worst("losses", [Difference(f"step {i}", f, e, *LOSSES) for i, (f, e) in enumerate(losses)])
    yield worst("learning rates", [Difference(f"step {i}", f, e, LEARNING_RATES) for i, (f, e) in enumerate(rates)])


def _parameter_deviations(
    recipe: Recipe, case: TrainingCase, course: _Course, after: Mapping[str, Tensor]
) -> Iterator[Deviation]:
    own = {name for name, _ in case.released.named_parameters()}
    differing = sorted(own ^ recipe.parameters.keys())
    yield Deviation("parameter names", len(differing), 0, differing[0] if differing else "")
    norms, sums, changes = [], [], []
    for name, (norm, total, change) in recipe.parameters.items():
        if name in recipe.rounding_noise or name not in own:
            continue
        now = after[name].double()
        moved = float((now - course.before[name].double()).norm())
        norms.append(Difference(name, float(now.norm()), norm, NORMS))
        sums.append(Difference(name, float(now.sum()), total, SUMS, NORMS * norm, scale=change))
        changes.append(Difference(name, moved, change, case.changes))
    yield worst("norms", norms)
    yield worst("sums, of the change", sums)
    yield worst("changes", changes).with_note(f"without {len(recipe.rounding_noise)} of rounding noise")


def _gradient_deviations(recipe: Recipe, course: _Course, after: Mapping[str, Tensor]) -> Iterator[Deviation]:
    """Parameters without a gradient have no optimiser state either, and do not move."""
    still = [
        Difference(name, float(name in course.with_state or _has_moved(name, course, after)), 0.0, 0.0)
        for name in recipe.no_gradient
        if name in after
    ]
    if still:
        yield worst("no gradient: moved or with Adam state", still)
    zero = [Difference(n, course.gradients.get(n, 0.0), 0.0, 0.0) for n in recipe.exact_zero_gradient]
    if zero:
        yield worst("exact zero gradients", zero)
    unchanged = [Difference(n, float(_has_moved(n, course, after)), 0.0, 0.0) for n in recipe.unchanged if n in after]
    if unchanged:
        yield worst("unchanged: moved", unchanged)


def _has_moved(name: str, course: _Course, after: Mapping[str, Tensor]) -> bool:
    return not torch.equal(course.before[name], after[name])


def _decay_deviations(
    recipe: Recipe, case: TrainingCase, course: _Course, after: Mapping[str, Tensor]
) -> Iterator[Deviation]:
    for name, rows in recipe.decay_alone.items():
        if name in after:
            chosen = slice(rows.rows_from, None) if rows.row is None else slice(rows.row, rows.row + 1)
            yield from _decayed_rows(name, rows, course.before[name][chosen], after[name][chosen])
    used, name = recipe.token_embedding_used_rows, "token_embedding.weight"
    if used is not None and case.used_tokens is not None and name in after:
        moved = (after[name] - course.before[name]).double()[case.used_tokens].norm()
        yield Deviation("used tokens", abs(len(case.used_tokens) - used.rows), 0)
        yield worst("used tokens' change", [Difference(name, float(moved), used.change, case.changes)])
    if recipe.zero_gradient_under_decay is not None:
        yield from _zero_gradient_under_decay(recipe.zero_gradient_under_decay, case, course, after)


def _decayed_rows(name: str, rows: _DecayedRows, before: Tensor, now: Tensor) -> Iterator[Deviation]:
    change = float((now.double() - before.double()).norm())
    norms = [
        Difference("before", float(before.double().norm()), rows.norm_before, NORMS),
        Difference("after", float(now.double().norm()), rows.norm_after, NORMS),
    ]
    yield worst(f"decay alone: norms of {name}", norms)
    yield worst(f"decay alone: change of {name}", [Difference("", change, rows.change, DECAY_ALONE)])


def _zero_gradient_under_decay(
    expected: _ZeroGradientUnderDecay, case: TrainingCase, course: _Course, after: Mapping[str, Tensor]
) -> Iterator[Deviation]:
    name, total = expected.parameter, sum(course.rates)
    if name not in after:
        return
    moves = after[name].double() - course.before[name].double()
    first = [a - b for a, b in zip(expected.first8_after, expected.first8_before, strict=True)]
    numbers = [
        Difference("change", float(moves.norm()), expected.change, case.changes),
        Difference("largest move", float(moves.abs().max()), expected.largest_move, case.changes),
        Difference("sum of learning rates", total, expected.sum_of_learning_rates, _PRINTED),
    ]
    for found, wanted in zip(moves.flatten()[: len(first)].tolist(), first, strict=True):
        numbers.append(Difference("first entries", found, wanted, case.changes, scale=expected.sum_of_learning_rates))
    yield worst("zero gradient under decay", numbers)


def _statistics_deviations(recipe: Recipe, course: _Course, after: Mapping[str, Tensor]) -> Iterator[Deviation]:
    statistics = [n for n in after if n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    if recipe.batch_norm_statistics_unchanged:
        moved = [Difference(n, float(_has_moved(n, course, after)), 0.0, 0.0) for n in statistics]
        yield worst("batch norms: moved", moved)
    if not recipe.batch_norm_statistics:
        return
    exact: list[Difference] = []
    noisy: list[Difference] = []
    for name, expected in recipe.batch_norm_statistics.items():
        found = float(after[name].double().norm()) if name in after else math.inf
        if _inherits_noise(name, recipe.rounding_noise):
            noisy.append(Difference(name, found, expected, 0.0, NOISY_MEANS))
        else:
            exact.append(Difference(name, found, expected, *STATISTICS))
    yield worst("batch norms", exact)
    if noisy:
        yield worst("batch norms: means behind rounding noise", noisy)


def _inherits_noise(name: str, noise: list[str]) -> bool:
    """Whether a running mean stands behind a bias of the same block that is rounding noise."""
    block = name.rpartition(".")[0].rpartition(".")[0] + "."
    return name.endswith("running_mean") and any(n.startswith(block) and n.endswith(".bias") for n in noise)
