"""Typed settings of a method and of a training stage, and how recipes and the user fill them.

One model each; recipes, `--set key=value`, a config file and Python all fill the same ones, in
this order. An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from benchmark.errors import UserError, unknown_name
from benchmark.progress import say


@dataclass(frozen=True)
class Renamed:
    """What a setting of former versions is called now, and those of its values that are called otherwise."""

    key: str
    values: Mapping[Any, Any] = field(default_factory=dict)


OnlyWith = Mapping[str, Mapping[str, tuple[Any, ...]]]
"""A setting's name to those of the others that it depends on, and these to the values with which it counts."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    formerly: ClassVar[Mapping[str, Renamed]] = {}
    """Former names, which `--set`, files and checkpoints of one version before may still use."""

    counts_only_with: ClassVar[OnlyWith] = {}
    """Settings that nothing reads unless others have the values named here."""

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Nothing is turned into another kind of value: `true` is no number, and "no" no switch."""
        kinds = _plain_kinds(cls.model_fields[info.field_name or ""].annotation)
        # Between whole numbers and others the model itself decides: 2.0 is a whole number.
        accepted = {int: {int, float}, float: {int, float}}.get(type(value), {type(value)})
        if kinds and type(value) in _KINDS and not kinds & accepted:
            raise ValueError(f"should be {' or '.join(sorted(_KINDS[kind] for kind in kinds))}")
        return value

    def without_effect(self, given: Iterable[str], unless: Collection[str] = ()) -> Iterator[tuple[str, str]]:
        """Those of the names that nothing reads with these settings, and what would have to be otherwise.

        ``unless``: settings that others do not depend on here, whatever `counts_only_with` says.
        """
        for name in given:
            for other, values in self.counts_only_with.get(name, {}).items():
                if other not in unless and getattr(self, other) not in values:
                    yield name, f"{other}={' or '.join(map(str, values))}"

    @classmethod
    def of(cls, given: Settings) -> Self:
        """The settings as the kind that the caller reads. Raises UserError where they are of another."""
        if isinstance(given, cls):
            return given
        raise UserError(
            f"the settings are of {type(given).__name__}, and a stage reads {cls.__name__}: name that as `settings` "
            f"of the Specification (of the Stage, for training), and derive other settings from it"
        )


class MethodSettings(Settings):
    """Settings of a method itself, `--set method.KEY=VALUE`; a method's file adds its own."""


class EncoderChoice(MethodSettings):
    """Settings of a method that works on the features of one encoder."""

    encoder: Literal["", "untouched", "finetuned"] = Field(
        "", description="which encoder gives the features; by default the one of the method's paper"
    )


class TrainingSettings(Settings):
    """Settings of one training stage, `--set STAGE.KEY=VALUE`.

    ``batch_size`` is global, over all processes; ``negative_group`` is the number of pairs that
    see each other in the loss and in batch norms (0: the whole batch). Both belong to the recipe.
    """

    epochs: int = Field(1, ge=0, description="passes over the training triplets")
    batch_size: int = Field(128, ge=1, description="triplets per update, over all processes")
    negative_group: int = Field(0, ge=0, description="pairs that see each other in the loss; 0: the batch")
    keep_last: bool = Field(
        False, description="train on what is left of an epoch behind its whole batches, too, as a smaller last batch"
    )
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0, description="coupled for adam and sgd, decoupled for adamw")
    gradient_clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: none")
    schedule: Literal["constant", "cosine", "cosine-rising", "step", "one-cycle"] = Field(
        "constant",
        description="cosine ends at zero; cosine-rising has its minimum at schedule_epochs and rises again; one-cycle "
        "rises to the learning rate and falls, while the momentum does the opposite",
    )
    schedule_epochs: int = Field(
        0, ge=0, description="epochs to the cosine's minimum, between steps, or of one cycle (0: all)"
    )
    schedule_factor: float = Field(0.1, gt=0, description="factor of each step of the schedule 'step'")
    milestones: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (), description="epochs, counted from 1, before which the schedule 'step' steps, and never else, in place of "
        "schedule_epochs"
    )
    warmup: float = Field(0.0, ge=0, le=1, description="share of all updates with a rising rate")
    warmup_updates: int = Field(0, ge=0, description="updates with a rising rate, however many there are in all")
    cycle_start: float = Field(25.0, ge=1, description="one-cycle: the peak over the rate that it starts from")
    cycle_end: float = Field(1e4, ge=1, description="one-cycle: the rate that it starts from over the last one")
    cycle_momentum: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.85, 0.95), description="one-cycle: β₁ (of sgd: the momentum) at the peak, and at both ends"
    )
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="learning rate, in place of the stage's, of parameters whose names begin so"
    )
    frozen: tuple[str, ...] = Field((), description="parameters that do not train: what their names begin with")
    lora: int = Field(
        0, ge=0, description="rank of low-rank changes of the backbone's attention matrices, which train in place "
        "of its weights; 0: none"
    )
    lora_alpha: float = Field(16.0, gt=0, description="factor of LoRA's changes, times their rank")
    average_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights; 0: none")
    batch_norm: Literal["train", "eval"] = Field(
        "train", description="eval: running statistics are used and kept, scale and shift still train"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    text_rule: str = Field("as-is", description="how captions become strings in training and evaluation")
    pair_sampling: str = Field("", description="how training pairs are drawn, where a dataset draws them")
    criterion: Literal["dataset", "arithmetic", "geometric", "harmonic", "R@10"] = Field(
        "dataset", description="what picks the best epoch: the dataset's criterion, a mean of all its recalls, or of "
        "R@10 over the categories"
    )
    selection_protocol: str = Field("", description="protocol that picks the best epoch; by default the dataset's own")
    validate_every: int = Field(1, ge=1, description="epochs between two validations")
    patience: int = Field(
        0, ge=0, description="validations without a new best after which training ends early; 0: it never does"
    )

    formerly: ClassVar[Mapping[str, Renamed]] = {"drawing": Renamed("pair_sampling")}
    added_later: ClassVar[tuple[str, ...]] = (
        "cycle_start", "cycle_end", "cycle_momentum", "rates", "frozen", "lora", "lora_alpha", "keep_last",
        "milestones", "patience", "selection_protocol", "warmup_updates",
    )  # fmt: skip
    """Settings that later versions added, and that identities name only where they are used."""

    # Of the standard optimisers and schedules: a stage that brings its own may read them otherwise.
    counts_only_with: ClassVar[OnlyWith] = {
        "betas": {"optimiser": ("adam", "adamw")},
        "eps": {"optimiser": ("adam", "adamw")},
        "momentum": {"optimiser": ("sgd",)},
        "schedule_epochs": {"schedule": ("cosine-rising", "step", "one-cycle")},
        "warmup_updates": {"schedule": ("constant", "cosine", "cosine-rising", "step")},
        "cycle_start": {"schedule": ("one-cycle",)},
        "cycle_end": {"schedule": ("one-cycle",)},
        "cycle_momentum": {"schedule": ("one-cycle",)},
        "schedule_factor": {"schedule": ("step",)},
        "milestones": {"schedule": ("step",)},
    }

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must grow from one to the next")
        if self.milestones and self.schedule_epochs:
            raise ValueError("milestones take the place of schedule_epochs; leave one of them out")
        if self.warmup and self.warmup_updates:
            raise ValueError("warmup_updates takes the place of warmup; leave one of them out")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A run that asks for none of these is the run that it was before they were there: its folder keeps its name.
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.added_later}
        return {
            name: value
            for name, value in dump(self).items()
            if name not in defaults or getattr(self, name) != defaults[name]
        }

    @property
    def picks_an_epoch(self) -> bool:
        """Whether there is a choice: where only the end of training is validated, the last epoch is the best."""
        return self.validate_every < self.epochs

    @property
    def group(self) -> int:
        """Rows of one negative group."""
        return self.negative_group or self.batch_size


class BackboneSettings(Settings):
    """Settings of the backbone, `--set backbone.KEY=VALUE`."""

    preprocessing: Literal["targetpad", "squarepad", "clip", "clip-hf", "squash"] = Field(
        "targetpad", description="how a picture is padded before it is resized and cropped; clip: not at all; clip-hf: "
        "nor is the crop's offset rounded, but cut off; squash: it is resized to a square as it is"
    )
    interpolation: Literal["", "bicubic", "bilinear"] = Field(
        "", description="of the resizing; by default what the weights were trained with"
    )
    rgb_first: bool = Field(False, description="convert a picture to RGB before padding, not after, as released")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="of the frozen encoder's pass; tf32 is a GPU's, bf16 and fp16 are autocast"
    )
    compile: bool = Field(False, description="torch.compile for the frozen picture encoder")
    mean: tuple[float, ...] = Field(
        (), description="of each colour, subtracted from pixels of 0…1; by default what the weights were trained with"
    )
    std: tuple[float, ...] = Field((), description="of each colour, which pixels are divided by then; with mean")

    @model_validator(mode="after")
    def _three_of_each(self) -> Self:
        if (len(self.mean), len(self.std)) not in ((0, 0), (3, 3)):
            raise ValueError("mean and std are three numbers each, red, green and blue, and given together")
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < v < math.inf for v in self.std):
            raise ValueError("mean must be finite, and std finite and above 0")
        return self

    @model_serializer(mode="wrap")
    def _without_what_weights_decide(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A run that leaves them to the weights is the run that it was before these settings were there.
        theirs = ("mean", "std", "interpolation")
        return {name: value for name, value in dump(self).items() if name not in theirs or value}


KeepFeatures = Literal["as fits", "always", "never"]


class TrainerSettings(Settings):
    """Settings of the trainer that change no result, `--set trainer.KEY=VALUE`."""

    checkpoint_seconds: float = Field(60.0, ge=0, description="least time between two resumable states")
    zero: Literal[0, 1, 2] | None = Field(
        None, description="ZeRO stage: what is split over processes besides the batch (1: the optimiser's state, "
        "2: gradients as well); by default that of --deepspeed-config, or 0"
    )
    micro_batch: int = Field(
        0, ge=0, description="pictures encoded at a time in stages that read pictures; 0: all of a group. Gradients "
        "stay exact and memory falls; a quarter more time"
    )
    keep_features: KeepFeatures = Field(
        "as fits", description="pictures' features on the disk, or encoded anew whenever they are needed; by default "
        "as the disk has room"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the encoders' blocks again in the backward pass instead of keeping their outputs"
    )

    formerly: ClassVar[Mapping[str, Renamed]] = {"piece": Renamed("micro_batch")}


S = TypeVar("S", bound=Settings)

_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _plain_kinds(annotation: Any) -> frozenset[type]:
    """The kinds of a field that holds one plain value; none for tuples, tables and what may be anything."""
    if annotation in _KINDS:
        return frozenset({annotation})
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return frozenset(map(type, inner))
    if origin in (Union, UnionType):
        parts = [_plain_kinds(part) for part in inner if part is not NoneType]
        return frozenset().union(*parts) if all(parts) else frozenset()
    return frozenset()


def format_problem(problem: Mapping[str, Any]) -> str:
    """One of pydantic's complaints in words: what is wrong with the value."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def with_present_names(model: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of this version, whichever they were written with."""
    present: dict[str, Any] = {}
    for key, value in values.items():
        renamed = model.formerly.get(key, Renamed(key))
        # A list is no key of a table of values.
        present[renamed.key] = renamed.values.get(value, value) if isinstance(value, str) else value
    return present


@cache
def _tell_once(line: str) -> None:
    say(line)


def fill(
    model: type[S], layers: Iterable[tuple[str, Mapping[str, Any]]], namespace: str
) -> S:
    """A settings model from layers of (source, values), later ones winning.

    Raises UserError with all problems at once: unknown keys with their nearest, values out of range.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    problems: list[str] = []
    for source, layer in layers:
        for key in layer.keys() & model.formerly.keys():
            _tell_once(f"{source}: {namespace}.{key} is called {namespace}.{model.formerly[key].key} now")
        for key, value in with_present_names(model, layer).items():
            if key not in model.model_fields:
                known = [f"{namespace}.{name}" for name in model.model_fields]
                problems.append(f"{source}: {unknown_name('setting', f'{namespace}.{key}', known)}")
                continue
            values[key], origin[key] = value, source
    try:
        filled = model.model_validate(values)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(map(str, (namespace, *problem["loc"])))
            told = f"{name} = {problem['input']!r}" if problem["loc"] else f"settings of {namespace}"
            source = origin.get(str(problem["loc"][0]), "settings") if problem["loc"] else "--set"
            problems.append(f"{source}: {told}: {format_problem(problem)}")
    if problems:
        raise UserError.collect(problems)
    return filled
