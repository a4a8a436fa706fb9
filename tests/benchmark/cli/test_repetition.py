"""`run --from-record`: the record's command again, with what is given above it, and both numbers side by side."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import run as run_command
from benchmark.cli.repetition import differences, format_repetition, repeated_options
from benchmark.errors import UserError
from benchmark.records.record import Record, read_record

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")


def made(**changes: Any) -> Record:
    raw = copy.deepcopy(GOLDEN)
    for path, value in changes.items():
        *parents, last = path.split("__")
        at: Any = raw
        for step in parents:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value
    return Record.model_validate(raw)


def options(command: str, *given: str, **changes: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    run_command.add_arguments(parser)
    own = parser.parse_args(["--from-record", "FILE", *given])
    return repeated_options(made(command=command, **changes), own, parser)


def test_one_run_of_a_command_of_many_is_repeated_with_its_settings() -> None:
    command = "python -m benchmark run --method all --dataset all --demo --seed 0 1 2 --set spirit.epochs=3 --output x"
    found = options(command, identity__seed=2)
    assert (found.method, found.dataset, found.seed) == (["spirit"], ["cirr"], [2])
    assert found.demo and found.set == ["spirit.epochs=3"] and found.output is None and not found.ablations


def test_of_several_shares_of_noise_the_record_s_is_repeated() -> None:
    command = "python -m benchmark run --method spirit --dataset cirr --demo --noise 0 0.2 --output 'it'\"'\"'s'"
    noise = {"share": 0.2, "seed": 42, "scheme": "ntc", "digest": "ab" * 32}
    assert options(command, identity__noise=noise).noise == [0.2]
    assert options(command).noise is None


def test_what_is_given_stands_above_the_record() -> None:
    command = "python -m benchmark run --method spirit --dataset cirr --data-root DATA --device cuda"
    official = {"identity__data__is_demo": False}
    found = options(command, "--data-root", "HERE", "--device", "cpu", "--output", "out", **official)
    assert (found.data_root, found.device, found.output, found.demo) == (["HERE"], "cpu", "out", None)
    assert options(command, **official).data_root == ["DATA"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("benchmark.run(…) from Python", "is no command of `run`"),
        ("python -m benchmark evaluate --method spirit", "is no command of `run`"),
        ("python -m benchmark run --no-such-option", "this version does not know the command"),
        ("python -m benchmark run 'x", "is no command of `run`"),
        ("python -m benchmark run --from-record first.json", "repeated another one; name that, first.json"),
    ],
)
def test_a_command_that_cannot_be_repeated_is_one_line(command: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        options(command)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_what_differs_is_told_in_order_and_numbers_stand_side_by_side() -> None:
    old = made()
    new = made(
        code__commit="f" * 40, identity__data__fingerprint="77" * 32, identity__encoder__digest="99" * 32,
        identity__batch_size=64, environment__torch="9.9", environment__threads=77,
    )  # fmt: skip
    told = list(differences(old, new))
    starts = [line.split(":")[0] for line in told]
    assert starts[:3] == ["code", "data", "encoder's weights at the start"]
    assert starts[3:] == ["batch_size", "torch", "threads"]
    raw = new.model_dump(mode="json")
    raw["results"][0]["metrics"]["R@50"] += 0.25
    text = format_repetition(old, Record.model_validate(raw))
    assert "98.50 | 98.75 |      +0.25" in text and text.index("code: ") < text.index("| R@50")
    assert "nothing: code, data, encoder" in format_repetition(old, old)
