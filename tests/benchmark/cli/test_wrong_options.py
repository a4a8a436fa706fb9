"""Options that are wrong are told before anything is opened or computed: all of them at once, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import UserError, unknown_name
from benchmark.options import RunOptions, make_options, read_config
from benchmark.settings import TrainingSettings, fill

RUN = ("run", "--method", "sum", "--dataset", "cirr", "--dry-run")

WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "protocol twice": (("--protocol", "official", "official"), "official is given twice"),
    "seed twice": (("--seed", "0", "1", "0"), "--seed: 0 is given twice"),
    "method twice": (("--method", "sum", "sum"), "--method: sum is given twice"),
    "dataset twice": (("--dataset", "cirr", "cirr"), "--dataset: cirr is given twice"),
    "variant twice": (("--variant", "a", "a"), "--variant: a is given twice"),
    "fair twice": (("--fair", "untouched", "untouched"), "--fair: untouched is given twice"),
    "monitor twice": (("--monitors", "csv", "csv"), "csv is given twice"),
    "setting twice": (("--set", "method.alpha=1", "--set", "method.alpha=2"), "--set method.alpha: is given twice"),
    "seed too large": (("--seed", str(10**30)), "seed = 1000000000000000000000000000000"),
    "seed below zero": (("--seed", "3", "-1"), "seed = -1"),
    "no folder": (("--data-root", ""), "'data-root' is given empty"),
    "no folder of a name": (("--data-root", "cirr="), "names no folder"),
    "no name of a folder": (("--data-root", "=d"), "names no folder"),
    "two folders": (("--data-root", "a", "--data-root", "b"), "a second folder for the same data"),
    "a misspelt name": (("--data-root", "shos=/d"), "unknown dataset 'shos': did you mean shoes?"),
    "a folder of another": (("--data-root", "shoes=/d"), "names a folder for shoes alone; add cirr=PATH"),
    "an empty output": (("--output", ""), "'output' is given empty"),
    "an empty cache": (("--cache", ""), "'cache' is given empty"),
    "an empty device": (("--device", ""), "'device' is given empty"),
    "an empty protocol": (("--protocol", "official", ""), "'protocol' is given empty"),
    "continues and replaces": (("--resume", "--overwrite"), "--resume continues what --overwrite would replace"),
} | {
    f"device {name}": (("--device", name), f"device = {name!r}: known: cpu, cuda, cuda:N")
    for name in ("gpu", "mps", "MPS", "xpu", "nonsense", "cuda:", "cuda:x", "cpu:0", "cuda:-1", "cuda 0")
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_one_line(command: Command, tmp_path: Path, name: str) -> None:
    arguments, part = WRONG[name]
    outcome = command(*RUN, *arguments)
    assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err
    assert part in outcome.err and "Traceback" not in outcome.err
    # Neither were demo data drawn in its place.
    assert "synthetic" not in outcome.err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--set", "method.nonsense=1"), "method.nonsense"),
        (("--set", "sum.x=1", "--weights", "openai", "--backbone", "nonsense"), "nonsense"),
        (("--recipe", "nonsense"), "nonsense"),
        (("--variant", "nonsense"), "nonsense"),
        (("--text-mode", "nonsense"), "nonsense"),
        (("--deepspeed-config", "nonsense.json"), "nonsense.json"),
    ],
)
def test_settings_are_held_against_what_there_is_before_demo_data_is_drawn(
    command: Command, tmp_path: Path, wrong: tuple[str, ...], told: str
) -> None:
    outcome = command("run", "--method", "spirit", "--dataset", "cirr", "--cache", tmp_path / "cache", *wrong)
    assert outcome.status == 2 and told in outcome.err, outcome.err
    assert "synthetic" not in outcome.err and list(tmp_path.iterdir()) == []


def test_all_that_is_wrong_is_told_at_once(command: Command) -> None:
    outcome = command(
        *RUN, "--protocol", "x", "x", "--seed", 0, 0, "--method", "a", "a", "--device", "gpu", "--monitors", "csv", "csv"
    )
    assert outcome.status == 2 and len(outcome.errors) == 5, outcome.err


def test_settings_that_are_wrong_are_told_at_once(command: Command, small_cirr: Path) -> None:
    outcome = command(
        *RUN, "--method", "spirit", "--data-root", small_cirr, "--set", "spirit.betas=[5,5]", "--set", "spirit.lr=1",
        "--set", "spirit.epochs=true", "--set", 'method.fusion="no"',
    )  # fmt: skip
    assert outcome.status == 2 and "spirit.betas.0 = 5" in outcome.err
    for part in ("did you mean spirit.learning_rate?", "spirit.epochs = True: should be a whole number",
                 "method.fusion = 'no': should be true or false"):  # fmt: skip
        assert part in outcome.err
    outcome = command(*RUN, "--set", "spirit.learning_rate=nan", "--set", "epochs=1", "--data-root", "a", "--data-root", "b")
    assert outcome.status == 2 and len(outcome.errors) == 3, outcome.err


VALUES = st.sampled_from(
    ["5", "true", "1.5", "nan", "inf", "-1", '""', '"x"', "[]", "[1]", '["x", "x"]', "[[1]]", "{a = 1}", "{a = {b = 2}}",
     "1979-05-27", "9223372036854775807"]
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(RunOptions.model_fields)), VALUES, min_size=1, max_size=4))
def test_a_file_of_options_is_read_or_refused_in_lines(tmp_path: Path, values: dict[str, str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    try:
        read = read_config(file)
    except UserError as error:
        assert all(line.startswith(f"--config {file}: ") for line in str(error).splitlines())
    else:
        assert read.keys() == values.keys()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("method = 5", "method = 5: should be a string"),
        ("fair = true", "fair = True: should be a string"),
        ('fair = "both"', "fair = 'both'"),
        ("limit = true", "limit = True: should be a whole number"),
        ('resume = "no"', "resume = 'no': should be true or false"),
        ("seed = [0, 1.5]", "seed = 1.5"),
        ('data_root = ""', "names no folder"),
        ("lr = 1", "unknown option 'lr'"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_config(tmp_path / "c.toml")
    assert part in str(refused.value) and "\n" not in str(refused.value)


KNOWN = ["s.learning_rate", "s.batch_size", "s.weight_decay", "s.epochs", "s.betas", "s.gradient_clip"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("s.lr", "learning_rate"), ("s.bs", "batch_size"), ("s.wd", "weight_decay"), ("s.num_epochs", "epochs"),
     ("s.learning-rate", "learning_rate"), ("s.epoch", "epochs"), ("s.LR", "learning_rate")],
)  # fmt: skip
def test_an_abbreviation_names_what_it_stands_for(given: str, meant: str) -> None:
    assert f"did you mean s.{meant}" in str(unknown_name("setting", given, KNOWN))


@pytest.mark.parametrize("value", [True, "1", "x", float("nan"), float("inf"), -1.0])
def test_no_setting_takes_a_value_of_another_kind(value: Any) -> None:
    for name in ("learning_rate", "epochs", "warmup", "average_decay"):
        with pytest.raises(UserError, match=rf"--set: s.{name} = "):
            fill(TrainingSettings, [("--set", {name: value})], "s")


def test_whole_numbers_stay_numbers() -> None:
    filled = fill(TrainingSettings, [("--set", {"learning_rate": 1, "epochs": 2.0, "betas": [0, 0.5]})], "s")
    assert (filled.learning_rate, filled.epochs, filled.betas) == (1.0, 2, (0.0, 0.5))
    assert make_options(method="m", dataset="d", seed=2**32 - 1, device="cuda:3").device == "cuda:3"


def test_a_setting_of_another_optimiser_or_schedule_is_refused(command: Command, small_cirr: Path) -> None:
    given = ("spirit.momentum=0.5", "spirit.schedule=constant", "spirit.schedule_factor=0.5")
    given += ("spirit.batch_size=8", "encoders.batch_size=8")
    outcome = command(*RUN, "--method", "spirit", "--data-root", small_cirr, *(w for g in given for w in ("--set", g)))
    assert outcome.status == 2 and len(outcome.errors) == 2, outcome.err
    assert "spirit.momentum: has no effect here, only with spirit.optimiser=sgd" in outcome.err
    assert "spirit.schedule_factor: has no effect here, only with spirit.schedule=step" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("method.word_vectors=/no/such/file", "method.word_width=20"), "only with method.implementation=artemis"),
        (("method.implementation=artemis", "method.loss=soft_triplet"), "only with method.implementation=original"),
        (("method.implementation=artemis", "method.padding=released"), "only with method.text_encoder=lstm"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(
    command: Command, small_cirr: Path, arguments: tuple[str, ...], part: str
) -> None:
    given = [word for argument in arguments for word in ("--set", argument)]
    outcome = command("run", "--method", "tirg", "--dataset", "cirr", "--dry-run", "--data-root", small_cirr, "--set",
                      "method.cnn=tiny", "--set", "method.start=random", *given)  # fmt: skip
    assert outcome.status == 2 and "has no effect here" in outcome.err and part in outcome.err
