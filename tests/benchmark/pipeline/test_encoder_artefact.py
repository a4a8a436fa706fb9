"""The encoder that runs share is taken only as it was written: cut, replaced or half there, it is trained anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_training import Small

from benchmark.distributed.job import ALONE
from benchmark.pipeline.encoder_artefact import EncoderArtefact
from benchmark.training.job import Trained
from benchmark.weights.checkpoints import WeightsHeader


def artefact(cache: Path) -> EncoderArtefact:
    plan = SimpleNamespace(
        dataset=SimpleNamespace(label="toy"),
        encoder_identity=lambda planned: {"stage": "small"},
        options=SimpleNamespace(cache_root=cache),
    )
    return EncoderArtefact(plan, SimpleNamespace(stage=SimpleNamespace(name="small")), ALONE)  # type: ignore[arg-type]


def written(cache: Path) -> Path:
    """An artefact of a method of seed 1 (selected) and seed 2 (last); gives its folder."""
    made = artefact(cache)
    header = WeightsHeader("m", "small", "toy", {}, {}, {}, 6, 0)
    with made.held():
        made.write(Trained(Small(1).state_dict(), Small(2).state_dict(), 1, "c", 1.0, 3, 3), header)
    return made.file.parent


def test_what_was_written_is_taken(tmp_path: Path) -> None:
    written(tmp_path)
    method = Small(0)
    assert artefact(tmp_path).take_into(method)
    assert torch.equal(method.layer.weight, Small(1).layer.weight)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchanged(path: Path) -> None:
    path.write_bytes((path.parent / "last.safetensors").read_bytes() + b" " * (path.suffix != ".safetensors"))


HARMS: list[Callable[[Path], Any]] = [cut, emptied, flipped, Path.unlink]


@pytest.mark.parametrize(
    ("name", "harm"),
    [(name, harm) for name in ("weights.safetensors", "last.safetensors", "training-log.json", "digests.json") for harm in HARMS]
    + [("weights.safetensors", exchanged)],
)
def test_what_is_not_as_it_was_written_is_trained_anew(
    tmp_path: Path, name: str, harm: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path)
    harm(folder / name)
    method = Small(0)
    assert not artefact(tmp_path).take_into(method)
    assert torch.equal(method.layer.weight, Small(0).layer.weight)
    told = capsys.readouterr().err.splitlines()
    if (name, harm) != ("weights.safetensors", Path.unlink):
        assert len(told) == 1 and str(folder) in told[0] and "training the encoder anew" in told[0]
    written(tmp_path)
    assert artefact(tmp_path).take_into(method)
    assert torch.equal(method.layer.weight, Small(1).layer.weight)
