"""A plug-in brings a backbone, and a method runs on it, is evaluated and exported as on any other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from command_line import Command

from benchmark.backbone import BackboneChoice
from benchmark.encoders.families import family_of
from benchmark.errors import UserError
from benchmark.interop.exported import load
from benchmark.records.record import read_record
from benchmark.registry import discover

PLUGIN = '''"""A backbone of one linear layer for each side."""
import torch
from torch import nn
from benchmark.backbone import Backbone, TextContext
from benchmark.encoders.network_family import NetworkFamily
from benchmark.facts import BackboneInfo

SIDE, WIDTH, LENGTH = 16, 8, 12

class Linear(Backbone):
    def __init__(self):
        super().__init__()
        self.picture, self.text = nn.Linear(3 * SIDE * SIDE, WIDTH), nn.Embedding(128, WIDTH)
    width = WIDTH
    parts = {"image": ("picture.",), "text": ("text.",)}
    text_context = TextContext("linear", LENGTH, lambda texts: [len(text) for text in texts])
    def encode_image(self, pixels):
        return self.picture(pixels.flatten(1))
    def encode_text(self, tokens):
        return self.text(tokens).mean(dim=1)
    def tokenize(self, texts):
        return torch.tensor([[ord(letter) % 128 for letter in text[:LENGTH].ljust(LENGTH)] for text in texts])

INFO = BackboneInfo("linear", "one layer for each side", WIDTH, SIDE, "random", mean=(0.5,) * 3, std=(0.5,) * 3)
BACKBONES = NetworkFamily("linear-family", (INFO,), lambda name: Linear())
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "linear.py"
    path.write_text(PLUGIN.replace("INFO =", "INFO_OF_IT =").replace("(INFO,)", "(INFO_OF_IT,)"))
    return path


def test_a_plugin_s_backbone_is_tuned_evaluated_and_exported(plugin: Path, command: Command, small_cirr: Path, tmp_path: Path) -> None:
    shown = command("list", "backbones", "--plugin", plugin)
    assert "linear" in shown.out and "one layer for each side" in shown.out
    run = ("--method", "clip4cir_sum", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--plugin", plugin)
    done = command("run", *run, "--backbone", "linear", "--set", "encoders.epochs=1", "--output", tmp_path / "run")
    assert done.status == 0, done.err
    encoder = read_record(tmp_path / "run").identity.encoder
    assert encoder is not None and (encoder.name, encoder.mean) == ("linear", (0.5, 0.5, 0.5))
    again = command("evaluate", "--method", "clip4cir_sum", "--checkpoint", tmp_path / "run", "--plugin", plugin,
                    "--data-root", small_cirr, "--limit", 24, "--output", tmp_path / "again")  # fmt: skip
    assert again.status == 0, again.err
    assert read_record(tmp_path / "again").results[0].metrics == read_record(tmp_path / "run").results[0].metrics
    exported = command("export", tmp_path / "run", "--output", tmp_path / "out.safetensors", "--plugin", plugin)
    assert exported.status == 0, exported.err
    model = load(tmp_path / "out.safetensors", plugins=[plugin])
    found = model.encode_target([next(small_cirr.rglob("*.png"))])
    assert isinstance(found, torch.Tensor) and found.shape == (1, 8)
    unknown = command("run", *run[:-2], "--backbone", "linear")
    assert unknown.status == 2 and "unknown backbone 'linear'" in unknown.err


def test_a_file_that_brings_only_backbones_is_a_plugin(plugin: Path) -> None:
    registry = discover()
    registry.add_plugin(plugin)
    (family,) = registry.backbone_families()
    assert family.name == "linear-family" and list(family.backbones) == ["linear"]
    empty = plugin.with_name("empty.py")
    empty.write_text("x = 1\n")
    with pytest.raises(UserError, match="no method .*, no dataset .* and no backbones"):
        registry.add_plugin(empty)


def test_another_distribution_s_backbone_joins_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "lone-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[benchmark.backbones]\nlinear = lone_backbone\n")
    (tmp_path / "site" / "lone_backbone.py").write_text(PLUGIN.replace("INFO", "INFO_OF_IT"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry = discover()
    assert "lone_backbone" not in sys.modules, "the listing of methods imports no code from outside"
    assert family_of("tiny", registry.backbone_families()).name == "open_clip"
    assert "lone_backbone" not in sys.modules, "a backbone of the program's own asks nobody else"
    (family,) = registry.backbone_families()
    backbone = family_of("linear", [family]).load(BackboneChoice("linear"))
    assert backbone.description.family == "linear-family" and backbone.preprocessing.size == 16
    del sys.modules["lone_backbone"]
