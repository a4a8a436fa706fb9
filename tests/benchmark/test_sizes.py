"""Numbers of parameters, part by part, beside those of papers and releases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Command

from benchmark.errors import UserError
from benchmark.evaluation import sizes
from benchmark.evaluation.sizes import Counted, count_parts, size_table
from benchmark.registry import Registry, discover


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


PLUGIN = """
from torch import Tensor, nn
from benchmark.method import FeatureInputs, Method, Specification, Stage

class Linear(Method):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, WIDTH)

WIDTH = 3
STAGE = Stage("linear", lambda context: Linear(context.width), lambda context: FeatureInputs())
METHODS = {"linear": Specification(stages=lambda settings, start: (STAGE,))}
"""
COMPANION = """
from benchmark.evaluation.sizes import Part, PublishedSizes
from ..my_method import WIDTH

SIZES = {"linear": {"narrow": PublishedSizes((Part("layer", ("layer.",), 5 * WIDTH),), width=4)}}
"""


def plugin(folder: Path, companion: str = "") -> Registry:
    (folder / "my_method.py").write_text(PLUGIN)
    if companion:
        (folder / "parity").mkdir()
        (folder / "parity" / "my_method.py").write_text(companion)
    registry = discover()
    registry.add_plugin(folder / "my_method.py")
    return registry


def test_a_companion_beside_a_plugin_counts_it(tmp_path: Path) -> None:
    (counted,) = count_parts(plugin(tmp_path, COMPANION), "linear")
    assert counted.found == 15 and counted.agrees


def test_a_plugin_needs_no_companion(tmp_path: Path) -> None:
    assert not list(count_parts(plugin(tmp_path), "linear"))


def test_a_broken_companion_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"parity/my_method.py: failed on import"):
        list(count_parts(plugin(tmp_path, "from ..my_method import Missing"), "linear"))
