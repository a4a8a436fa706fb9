"""What a run can be told: one model, filled alike by the command line, a config file and Python."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from benchmark.errors import UserError, unknown_name
from benchmark.ready_configurations import ready_configuration
from benchmark.settings import Settings

DATA_ROOT_VARIABLE = "CIR_BENCHMARK_DATA"
CACHE_VARIABLE = "CIR_BENCHMARK_CACHE"
ASSETS_VARIABLE = "CIR_BENCHMARK_ASSETS"


class RunOptions(Settings):
    """Options of one run of one method on one dataset; None or "" leaves the choice to the recipe."""

    method: str
    dataset: str
    data_root: dict[str, str] = Field(default_factory=dict, description="folder by dataset, '*' for all")
    demo: bool = False
    protocol: tuple[str, ...] = ()
    backbone: str = ""
    weights: str = ""
    recipe: str = ""
    variant: str = Field("", description="a named configuration; by default the one whose settings `set` gives")
    selection: Literal["paper", "last", "heldout"] = "paper"
    fair: Literal["", "untouched", "finetuned"] = Field(
        "", description="the encoder of a fair comparison; what else is fixed: `benchmark.pipeline.fair`"
    )
    lr_sweep: bool = False
    seed: int = Field(0, ge=0)
    epochs: int | None = Field(None, ge=0)
    batch_size: int | None = Field(None, ge=1)
    negative_group: int | None = Field(None, ge=0)
    text_mode: str = ""
    limit: int | None = Field(None, ge=1)
    set: dict[str, Any] = Field(default_factory=dict)
    output: str = ""
    cache: str = ""
    assets_root: str = ""
    resume: bool = False
    device: str = ""
    precision: Literal["", "fp32", "bf16", "fp16"] = ""
    deepspeed_config: str = ""
    monitors: tuple[Literal["tensorboard", "csv", "wandb"], ...] = ()
    verbose: bool = False
    skip_bad_images: bool = False
    allow_missing: bool = False
    plugins: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fair_selects_and_tunes(cls, values: Any) -> Any:
        return {"selection": "heldout", "lr_sweep": True, **values} if values.get("fair") else values

    @field_validator("data_root", mode="before")
    @classmethod
    def _one_root_for_all(cls, value: Any) -> Any:
        return {"*": str(value)} if isinstance(value, str | Path) else value

    @field_validator("protocol", "monitors", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

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
    def cache_root(self) -> Path:
        return cache_root(self.cache)

    @property
    def assets(self) -> Path | None:
        return assets_root(self.assets_root)


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
        if separator and "/" not in name:
            roots[name] = path
        else:
            roots["*"] = value
    return roots


def parse_assignments(values: list[str]) -> dict[str, Any]:
    """`key=value` with values as in TOML; what is no TOML value is taken as a string."""
    assignments: dict[str, Any] = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or "." not in key:
            raise UserError(f"--set {value}: write it as group.key=value, such as spirit.epochs=20")
        try:
            assignments[key.strip()] = tomllib.loads(f"x = {text.strip()}")["x"]
        except tomllib.TOMLDecodeError:
            assignments[key.strip()] = text.strip()
    return assignments


def read_config(path: Path) -> dict[str, Any]:
    """A TOML file with the same names as the options, or a ready one by name; `[set]` holds the settings."""
    path = ready_configuration(str(path), ".toml", "--config")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not valid TOML ({error})") from None
    known = {name.replace("_", "-") for name in RunOptions.model_fields}
    for key in values:
        if key.replace("_", "-") not in known:
            raise UserError(f"--config {path}: {unknown_name('option', key, known)}")
    values = {key.replace("-", "_"): value for key, value in values.items()}
    if "set" in values:
        values["set"] = _flattened(values["set"])
    return values


def _flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat.update(_flattened(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def make_options(**values: Any) -> RunOptions:
    """Options from plain values; raises UserError with all problems."""
    try:
        return RunOptions(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else "options"
            if problem["type"] == "extra_forbidden":
                lines.append(str(unknown_name("option", name, RunOptions.model_fields)))
            else:
                lines.append(f"{name} = {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
        raise UserError.collect(lines) from None
