"""What a run can be told: one model, filled alike by the command line, a config file and Python."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from benchmark.configurations import ready_configuration
from benchmark.errors import UserError, first_of, gathered, unknown_name
from benchmark.settings import Settings, format_problem
from benchmark.structured_files import NotWellFormed, OutOfBounds, parse_toml, read_toml

DATA_ROOT_VARIABLE = "CIR_BENCHMARK_DATA"
CACHE_VARIABLE = "CIR_BENCHMARK_CACHE"
ASSETS_VARIABLE = "CIR_BENCHMARK_ASSETS"


def _option(
    default: Any,
    help: str,
    metavar: str = "",
    *,
    flags: Sequence[str] = (),
    repeated: bool = False,
    several: Literal["", "+", "*"] = "",
    **bounds: Any,
) -> Any:
    """A field that is an option of commands, too: `benchmark.cli.arguments` makes the parser of it.

    ``flags``: its spellings where they are not the field's name. ``repeated``: given once for each value.
    ``several``: `run` takes that many values ("*": none stands for all), and makes a run of each.
    """
    told: dict[str, Any] = {"metavar": metavar, "flags": list(flags), "repeated": repeated, "several": several}
    return Field(default, description=help, json_schema_extra=told, **bounds)


class RunOptions(Settings):
    """Options of one run of one method on one dataset; None or "" leaves the choice to the recipe."""

    method: str = _option(..., "one or more methods, or all", "NAME", several="+")
    dataset: str = _option(..., "one or more datasets, or all", "NAME", several="+")
    seed: int = _option(0, "one or more seeds; 0 by default", "N", several="+", ge=0, le=2**32 - 1)
    data_root: dict[str, str] = _option(
        {}, "folder that holds the dataset's folder, or is it; without it the demo data is used", "PATH|NAME=PATH",
        repeated=True,
    )
    demo: bool = _option(False, "use the demo data, whatever the environment says")
    cache: str = _option("", "folder for features, encoders and demo data", "PATH")
    assets_root: str = _option("", "folder that holds weights files", "PATH")
    allow_missing: bool = _option(
        False, "score what is left where pictures are missing or cannot be read, as <protocol>-partial"
    )
    limit: int | None = _option(None, "N triplets and N queries only, to try things", "N", ge=1)
    category: str = _option(
        "", "train on and evaluate one category of the dataset alone (FashionIQ's dress, shirt, toptee), each in a run "
        "of its own; `join` makes one record of all", "NAME", several="+",
    )
    device: str = _option("", "cpu, cuda, cuda:N; by default a GPU where torch has one")
    plugins: tuple[str, ...] = _option(
        (), "a file that declares a method or a dataset", "FILE.py", flags=["--plugin"], repeated=True
    )
    backbone: str = _option(
        "", "one or more, each with weights of its own behind a colon; by default RN50x4, tiny on the demo data",
        "NAME[:TAG|FILE]", several="+",
    )
    weights: str = _option("", "the backbone's weights", "TAG|FILE|random")
    protocol: tuple[str, ...] = _option((), "by default all that fit the text rule", "NAME")
    subset: str = _option("", "score the queries alone whose ids a file lists, one a line", "FILE")
    recipe: str = _option("", "a named recipe (see `list recipes`), or a file of your own", "NAME|FILE.toml")
    variant: str = _option(
        "", "named configurations of the method, or all; see `list variants`", "NAME", several="+"
    )
    selection: Literal["paper", "last", "heldout"] = _option("paper", "which epoch is reported")
    lr_sweep: bool = _option(False, "try the learning rate × 1/3, 1 and 3, keep the best by held-out selection")
    fair: Literal["", "untouched", "finetuned"] = _option(
        "",
        "a controlled comparison on one common encoder or on either: same text rule, triplets seen, batch, "
        "negative group, schedule, held-out selection and --lr-sweep for all; prints its table",
        "untouched|finetuned",
        several="*",
    )
    text_mode: str = _option("", "how captions become strings", "MODE")
    train_dataset: str = _option(
        "", "whose triplets to train on; its own by default, where it has any (CIRCO: CIRR's)", "NAME"
    )
    epochs: int | None = _option(None, "of the method's own stage", "N", ge=0)
    batch_size: int | None = _option(None, "triplets per update, over all processes", "N", ge=1)
    negative_group: int | None = _option(None, "pairs that see each other in the loss", "N", ge=0)
    precision: Literal["", "fp32", "bf16", "fp16"] = _option("", "another precision than the recipe's")
    set: dict[str, Any] = _option(
        {}, "any setting: method.…, backbone.…, trainer.… or a stage's name; may be repeated", "GROUP.KEY=VALUE",
        repeated=True,
    )
    deepspeed_config: str = _option(
        "", "DeepSpeed's configuration (ZeRO, communication), or a ready one by name", "FILE.json"
    )
    monitors: tuple[Literal["tensorboard", "csv", "wandb"], ...] = _option(
        (), "write losses, rates, speeds and scores there while training"
    )
    verbose: bool = _option(False, "show DeepSpeed's own lines, too", flags=["-v", "--verbose"])
    noise: float = _option(
        0.0, "make shares of the training triplets wrong, each in a run of its own: 0.2 0.5 0.8, say", "SHARE",
        several="+", ge=0, lt=1,
    )
    noise_seed: int = _option(42, "of the noise alone, whatever --seed; 42 by default, as published", "N", ge=0)
    noise_scheme: Literal["ntc", "ntc-front"] = _option("ntc", "how parts are exchanged; ntc-front: TME's CIRR")
    output: str = _option("", "the run's folder, or the one above several runs'; by default under ./runs", "PATH")
    resume: bool = _option(False, "go on where an interrupted run stopped, or start where none was begun")
    overwrite: bool = _option(False, "replace the whole run that the output folder holds")
    skip_bad_images: bool = _option(False, "leave triplets with unreadable pictures out of training")

    @model_validator(mode="before")
    @classmethod
    def _fair_selects_and_tunes(cls, values: Any) -> Any:
        return {"selection": "heldout", "lr_sweep": True, **values} if values.get("fair") else values

    @model_validator(mode="before")
    @classmethod
    def _backbone_may_name_its_weights(cls, values: Any) -> Any:
        given = str(values.get("backbone") or "")
        name, colon, weights = given.partition(":")
        if not colon or Path(given).is_file():
            return values
        if not name or not weights:
            raise ValueError(f"--backbone {given}: write NAME:TAG or NAME:FILE")
        if values.get("weights"):
            raise ValueError(f"--backbone {given} names its weights, and so does --weights; leave one of them out")
        return {**values, "backbone": name, "weights": weights}

    @model_validator(mode="after")
    def _continues_or_replaces(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume continues what --overwrite would replace; leave one of them out")
        return self

    @field_validator("data_root", mode="before")
    @classmethod
    def _one_root_for_all(cls, value: Any) -> Any:
        return {"*": str(value)} if isinstance(value, str | Path) else value

    @field_validator("data_root")
    @classmethod
    def _names_a_folder(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(name and path for name, path in value.items()):
            raise ValueError("names no folder; give PATH or NAME=PATH, or --demo for the demo data")
        return value

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, value: str) -> str:
        if value and not re.fullmatch(r"cpu|cuda(:\d{1,4})?", value):
            raise ValueError("known: cpu, cuda, cuda:N (Apple's and other GPUs are not supported)")
        return value

    @field_validator("protocol", "monitors", "plugins", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("protocol", "monitors", "plugins")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        require_different(value)
        return value

    @field_validator("set", mode="before")
    @classmethod
    def _flat_settings(cls, value: Any) -> Any:
        return _flattened(value) if isinstance(value, dict) else value

    def data_root_of(self, dataset: str) -> Path | None:
        """The data root named for a dataset, or for all, or by the environment; None for the demo."""
        named = self.data_root.get(dataset) or self.data_root.get("*")
        if named is None and not self.demo:
            named = os.environ.get(DATA_ROOT_VARIABLE)
        return Path(named).expanduser() if named else None

    @property
    def recipe_file(self) -> Path | None:
        """The user's own recipe, None where `--recipe` is a name."""
        return Path(self.recipe).expanduser() if self.recipe.endswith(".toml") else None

    @property
    def cache_root(self) -> Path:
        return cache_root(self.cache)

    @property
    def assets(self) -> Path | None:
        return assets_root(self.assets_root)


def require_different(values: Sequence[Any]) -> None:
    """Raises ValueError where a value is given twice."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{first_of([str(value) for value in twice])} is given twice; name each once")


def assets_root(named: str = "") -> Path | None:
    """The folder of weights files: named, or by environment; None where neither is."""
    chosen = named or os.environ.get(ASSETS_VARIABLE, "")
    return Path(chosen).expanduser() if chosen else None


def cache_root(named: str = "") -> Path:
    """The folder for demo data, features and encoder artefacts: named, by environment, or the user's."""
    chosen = named or os.environ.get(CACHE_VARIABLE, "")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("cir-benchmark")


def parse_data_roots(values: list[str]) -> dict[str, str]:
    """`PATH` for all datasets, `name=PATH` for one."""
    roots: dict[str, str] = {}
    for value in values:
        name, separator, path = value.partition("=")
        key, root = (name, path) if separator and "/" not in name else ("*", value)
        if key in roots:
            raise UserError(f"--data-root: {f'{key}=' if key != '*' else ''}{root}: a second folder for the same data")
        roots[key] = root
    return roots


def parse_assignments(values: list[str]) -> dict[str, Any]:
    """`key=value` with values as in TOML; what is no TOML value is taken as a string."""
    assignments: dict[str, Any] = {}
    problems = []
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or "." not in key:
            problems.append(f"--set {value}: write it as group.key=value, such as spirit.epochs=20")
            continue
        if key.strip() in assignments:
            problems.append(f"--set {key.strip()}: is given twice; leave one of them out")
            continue
        try:
            assignments[key.strip()] = parse_toml(f"x = {text.strip()}")["x"]
        except OutOfBounds as error:
            problems.append(f"--set {value[:80]}: {error}; give another value")
        except NotWellFormed:
            assignments[key.strip()] = text.strip()
    if problems:
        raise UserError.collect(problems)
    return assignments


def read_config(path: Path) -> dict[str, Any]:
    """A TOML file with the same names as the options, or a ready one by name; `[set]` holds the settings."""
    path = ready_configuration(str(path), ".toml", "--config")
    try:
        values = read_toml(path)
    except UserError as error:
        raise UserError(f"--config {error}") from None
    known = {name.replace("_", "-") for name in RunOptions.model_fields}
    problems: list[str] = []
    for key, value in values.items():
        with gathered(problems):
            if key.replace("_", "-") not in known:
                raise unknown_name("option", key, known)
            _require_valid(key.replace("-", "_"), value)
    if problems:
        raise UserError.collect(f"--config {path}: {line}" for problem in problems for line in problem.splitlines())
    values = {key.replace("-", "_"): value for key, value in values.items()}
    if "set" in values:
        values["set"] = _flattened(values["set"])
    return values


def _require_valid(name: str, value: Any) -> None:
    """Raises UserError where an option alone cannot have a value; one that makes several runs may have a list."""
    told = RunOptions.model_fields[name].json_schema_extra
    several = isinstance(told, dict) and bool(told["several"])
    for one in value if several and isinstance(value, list) else [value]:
        make_options(**{"method": "", "dataset": "", name: one})


def _flattened(table: dict[str, Any]) -> dict[str, Any]:
    """Settings by "group.name". A table of a group's name holds its settings; what is a table below is a value."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        is_group = isinstance(value, dict) and "." not in key
        flat.update({f"{key}.{name}": own for name, own in value.items()} if is_group else {key: value})
    return flat


def make_options(**values: Any) -> RunOptions:
    """Options from plain values; raises UserError with all problems."""
    try:
        return RunOptions(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            if not problem["loc"]:
                lines.append(format_problem(problem))
                continue
            name = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                lines.append(str(unknown_name("option", name, RunOptions.model_fields)))
            else:
                lines.append(f"{name} = {problem['input']!r}: {format_problem(problem)}")
        raise UserError.collect(lines) from None
