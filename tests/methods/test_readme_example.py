"""The method that `methods/README.md` shows: run as a plug-in, alone and with its facts, and through the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark.datasets.demo import demo_data
from command_line import Command

from benchmark.records.record import read_record

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "methods" / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(autouse=True)
def fewer_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Demo data with a fifth of the pictures, and triplets enough for the example's largest batch."""
    whole = demo_data._LAYOUTS["cirr"]
    monkeypatch.setitem(demo_data._LAYOUTS, "cirr", replace(whole, sizes=demo_data.Sizes(90, 12, 12, 6, 4, 3)))


@pytest.fixture
def my_method(tmp_path: Path) -> Path:
    file = tmp_path / "my_method.py"
    file.write_text(block("python"), encoding="utf-8")
    return file


def test_the_example_is_short() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 35


@pytest.mark.slow
def test_it_runs_on_demo_data_with_the_default_recipe(my_method: Path, command: Command, tmp_path: Path) -> None:
    asked = ("--plugin", my_method, "--method", "my_method", "--dataset", "cirr", "--demo", "--limit", 60)
    run = ("run", *asked, "--set", "encoders.epochs=1", "--epochs", 2, "--output", tmp_path / "run")
    outcome = command(*run)
    assert outcome.status == 0, outcome.err
    record = read_record(tmp_path / "run")
    assert record.title == "my_method" and record.identity.recipe_source.startswith("default")
    assert [stage.name for stage in record.identity.stages] == ["encoders", "residual"]


def test_its_facts_give_it_a_title_recipes_and_variants(my_method: Path, command: Command) -> None:
    my_method.with_suffix(".toml").write_text(block("toml"), encoding="utf-8")
    asked = ("run", "--plugin", my_method, "--method", "my_method", "--dataset", "cirr", "--demo", "--dry-run")
    outcome = command(*asked)
    assert outcome.status == 0 and "tuned on the demo data" in outcome.out, outcome.err
    outcome = command(*asked, "--variant", "large-batch")
    assert outcome.status == 0 and "Residual (batch of 1,024)" in outcome.out, outcome.err


def test_a_view_that_its_inputs_do_not_name_is_told_in_a_line(my_method: Path, command: Command) -> None:
    text = my_method.read_text(encoding="utf-8")
    my_method.write_text(text.replace('normalise(target["global"])', 'normalise(target["whole"])'), encoding="utf-8")
    outcome = command(
        "run", "--plugin", my_method, "--method", "my_method", "--dataset", "cirr", "--demo", "--limit", 40,
        "--set", "encoders.epochs=0",
    )  # fmt: skip
    assert outcome.status == 2
    (told,) = [line for line in outcome.err.splitlines() if line.startswith("error")]
    assert "view 'whole' of the target" in told and "give global" in told


def test_settings_that_are_not_those_of_a_method_on_features_are_told(my_method: Path, command: Command) -> None:
    text = my_method.read_text(encoding="utf-8")
    my_method.write_text(text.replace("EncoderChoice", "MethodSettings"), encoding="utf-8")
    outcome = command("run", "--plugin", my_method, "--method", "my_method", "--dataset", "cirr", "--demo")
    assert outcome.status == 2 and "derive from EncoderChoice" in outcome.err


@pytest.mark.slow
def test_the_tests_of_every_method_hold_for_it(my_method: Path) -> None:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0",
         str(ROOT / "tests" / "methods" / "test_every_method.py"), "--method-file", str(my_method), "-k", "my_method"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
