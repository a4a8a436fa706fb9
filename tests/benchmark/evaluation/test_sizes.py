"""Numbers of parameters, part by part, beside those of papers and releases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Command

from benchmark.errors import UserError
from benchmark.evaluation import sizes
from benchmark.evaluation.sizes import Counted, count_parts, size_table
from benchmark.facts_file import read_facts
from benchmark.registry import discover


@pytest.fixture(scope="module")
def counted() -> list[Counted]:
    return list(count_parts(discover()))


def test_every_part_has_the_published_number_of_parameters(counted: list[Counted]) -> None:
    assert [(c.method, c.form, c.part.title, c.found) for c in counted if not c.agrees] == []
    exact = {(c.method, c.part.title): c.found for c in counted if not c.part.within}
    assert exact["spirit", "all"] == 115_581_478 == sum(
        exact["spirit", part] for part in ("VTF", "local network", "triplet alpha")
    )
    assert exact["spirit", "local network"] == sum(
        exact["spirit", part] for part in ("PSC", "visual self-attention", "PSD", "PSF")
    )
    assert {c.method for c in counted} >= {"spirit", "clip4cir", "clip4cir_sum", "val", "tirg", "concat", "artemis"}


def test_a_difference_is_told(counted: list[Counted], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [replace(counted[0], found=counted[0].found + 1 + counted[0].part.within), counted[1]]
    monkeypatch.setattr(sizes, "count_parts", lambda registry: iter(wrong))
    rows = size_table(discover()).splitlines()[2:]
    assert "DIFFERS" in rows[0] and "DIFFERS" not in rows[1]


def test_the_command_prints_the_table(command: Command) -> None:
    outcome = command("list", "methods", "--parameters")
    assert outcome.status == 0 and "115,581,478" in outcome.out and "DIFFERS" not in outcome.out


def test_a_plugin_s_sizes_stand_in_its_toml(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "mine.toml").write_text(SIZES)
    registry = discover()
    registry.add_plugin(tmp_path / "mine.py")
    (counted,) = count_parts(registry, "linear")
    assert (counted.form, counted.found, counted.agrees) == ("narrow", 15, True)


def test_a_wrong_part_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SIZES.replace("published = 15", 'published = "15"'))
    with pytest.raises(UserError, match=r"mine.toml, \[\[size.parts\]\] 1: published = '15' must be a whole number"):
        read_facts(tmp_path / "mine.toml")


PLUGIN = """
from torch import nn
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage

class Linear(Method):
    def __init__(self, context: BuildContext) -> None:
        super().__init__()
        self.layer = nn.Linear(context.width, 3)

STAGE = Stage("linear", Linear, lambda context: FeatureInputs())
METHOD = Specification(stages=lambda settings, start: (STAGE,))
"""
SIZES = """
[[method]]
name = "linear"
[[size]]
form = "narrow"
width = 4
parts = [{ title = "layer", names = ["layer."], published = 15 }]
"""
