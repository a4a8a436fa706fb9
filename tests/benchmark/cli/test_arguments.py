"""The parser is made from the options' model: every field once, with its words, choices and kinds of values."""

from __future__ import annotations

import argparse

import pytest

from benchmark.cli import run
from benchmark.cli.arguments import add_options, run_values
from benchmark.options import RunOptions, make_options


def parser_of_run() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser


def test_every_option_of_a_run_is_an_argument_once_with_its_help() -> None:
    actions = {action.dest: action for action in parser_of_run()._actions}
    for name, field in RunOptions.model_fields.items():
        assert field.description and actions[name].help == field.description, name
        assert actions[name].default is None, name
    others = set(actions) - set(RunOptions.model_fields)
    assert others == {"help", "ablations", "config", "dry_run", "from_record"}


def test_values_are_read_as_the_model_has_them() -> None:
    given = (
        "--method sum spirit --dataset cirr --seed 3 4 --data-root cirr=/a --data-root /b --protocol official x "
        "--limit 7 --selection last --monitors csv wandb --plugin a.py --plugin b.py --set spirit.epochs=2 "
        "--set method.grids=[2] -v --resume"
    )
    options = parser_of_run().parse_args(given.split())
    assert (options.method, options.dataset, options.seed) == (["sum", "spirit"], ["cirr"], [3, 4])
    values = run_values(options)
    assert values == {
        "data_root": {"cirr": "/a", "*": "/b"},
        "protocol": ("official", "x"),
        "limit": 7,
        "selection": "last",
        "monitors": ("csv", "wandb"),
        "plugins": ("a.py", "b.py"),
        "set": {"spirit.epochs": 2, "method.grids": [2]},
        "verbose": True,
        "resume": True,
    }
    made = make_options(method="sum", dataset="cirr", **values)
    assert made.model_dump(include=set(values)) == values


def test_what_is_not_given_is_left_to_the_model() -> None:
    assert run_values(parser_of_run().parse_args([])) == {}


@pytest.mark.parametrize("given", ["--selection best", "--precision fp8", "--limit many", "--monitors paper"])
def test_choices_and_numbers_are_the_models(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser_of_run().parse_args(given.split())
    assert stopped.value.code == 2
    assert given.split()[0] in capsys.readouterr().err


def test_a_command_that_shares_an_option_takes_one_value_and_may_say_it_in_its_own_words() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, "limit", dataset="the file's")
    assert vars(parser.parse_args(["--dataset", "cirr"])) == {"limit": None, "dataset": "cirr"}
    assert "the file's" in parser.format_help() and "N triplets and N queries only" in parser.format_help()
