"""Pic2Word's own recipe: pictures of a folder, cut anew in every epoch and encoded by a frozen CLIP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from benchmark.methods.networks.clip_pictures import RandomResizedCrop
from benchmark.methods.pic2word import Pic2WordTraining
from command_line import Command
from PIL import Image
from store_backbone import SmallBackbone
from torch import Tensor

from benchmark.data.folders import folder_pictures
from benchmark.data.pictures import UnreadablePicture, open_picture
from benchmark.data.pixels import PixelSource
from benchmark.dataset import Pictures
from benchmark.encoders.frozen_encoder import FrozenEncoder
from benchmark.errors import UserError
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.preparation import advice_on_pictures
from benchmark.records.record import read_record
from benchmark.registry import discover
from benchmark.training.batches import Share
from benchmark.training.optimisation import standard_schedule
from benchmark.training.sources import EncodedRows

COUNT = 12


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of several colour modes and sizes."""
    folder = tmp_path_factory.mktemp("pictures") / "street"
    folder.mkdir()
    for i in range(COUNT):
        blotches = Image.fromarray(np.random.default_rng(i).integers(0, 256, (5, 4, 3), dtype=np.uint8))
        picture = blotches.resize((60 + i, 80 - i)).convert(("RGB", "L", "P", "RGBA")[i % 4])
        picture.save(folder / f"{i:02}.png")
    return folder


def test_what_is_seen_of_a_row_depends_on_seed_epoch_and_row_alone(street: Path) -> None:
    """Of a backbone that refuses gradients and its training mode."""
    backbone, pictures = SmallBackbone(), folder_pictures(street, "")
    crop = RandomResizedCrop(backbone.preprocessing, (0.3, 1.0), rgb_first=False)
    encoder = FrozenEncoder(backbone, torch.device("cpu"), "fp32")
    first, second = (Share(np.arange(start, start + 6)) for start in (0, 6))

    def seen(plan: Sequence[Share], seed: int = 3, epoch: int = 1) -> Tensor:
        with PixelSource(pictures, crop, workers=2) as pixels:
            rows = EncodedRows(pixels, encoder, ("global",), seed)
            return torch.cat([views["global"] for views in rows.batches(epoch, plan)])

    whole = seen([first, second])
    assert whole.shape == (COUNT, backbone.width)
    drawn = [crop.picture(open_picture(pictures.paths[i]), np.random.default_rng((3, 1, i, 0))) for i in range(COUNT)]
    with torch.no_grad():
        expected = backbone.eval().encode_image(crop.normalise(torch.from_numpy(np.stack(drawn))))
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    # Gone on with in the middle of an epoch; the second of two processes.
    torch.testing.assert_close(seen([second]), whole[6:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen([Share(first.group, slice(3, 6))]), whole[3:6], rtol=1e-4, atol=1e-4)
    for other in (seen([first, second], epoch=2), seen([first, second], seed=4)):
        assert (other - whole).abs().amax(dim=1).min() > 0.01


@pytest.mark.parametrize("dataset", ["cirr", "fashioniq", "shoes", "fashion200k", "circo"])
def test_the_recipe_is_the_release_s_on_every_dataset(dataset: str) -> None:
    recipe = discover().recipe("pic2word", dataset, "", "pretrained")
    settings = Pic2WordTraining.model_validate(recipe.settings)
    assert recipe.name == "paper" and settings.smallest_part == 0.9
    assert settings.text_rule == ("last-first" if dataset == "fashioniq" else "as-is")
    # 2,930 updates of 1,024 in an epoch of CC3M's 3 million pictures.
    total, factor = 30 * 2930, standard_schedule(settings, 2930)
    assert factor(0) == 1e-4 and factor(9_999) == factor(10_000) == 1
    assert factor(50_000) == pytest.approx((1 + math.cos(math.pi * 40_000 / (total - 10_000))) / 2)
    small = Pic2WordTraining.model_validate({**recipe.settings, "epochs": 1})
    assert standard_schedule(small, 98)(97) == pytest.approx(98 / 10_000), "a smaller folder shortens no warm-up"


def test_what_later_settings_leave_out_keeps_a_run_s_name() -> None:
    named: Any = Pic2WordTraining().model_dump()
    assert not {"smallest_part", "warmup_updates"} & named.keys()
    assert Pic2WordTraining(smallest_part=0.9, warmup_updates=5).model_dump() == {
        **named, "smallest_part": 0.9, "warmup_updates": 5,
    }  # fmt: skip
    with pytest.raises(ValueError, match="warmup_updates takes the place of warmup"):
        Pic2WordTraining(warmup=0.1, warmup_updates=5)


def test_a_run_on_crops_of_a_folder_stores_no_feature_of_them(
    street: Path, command: Command, small_cirr: Path, own_surroundings: Path
) -> None:
    given = ("run", "--method", "pic2word", "--dataset", "cirr", "--data-root", small_cirr, "--set", "method.encoder=untouched")
    own = ("--set", f"method.pictures={street}", "--set", "pic2word.smallest_part=0.9", "--set", "pic2word.batch_size=6")
    outcome = command(*given, *own, "--epochs", 1, "--output", "run")
    assert outcome.status == 0, outcome.err
    identity = read_record(Path("run")).identity
    assert identity.zero_shot and set(identity.training_files or {}) == {"street"}
    assert [stage.updates for stage in identity.stages] == [2]
    assert not list(own_surroundings.rglob("street-*")), "features of crops are of one epoch"


def test_a_damaged_picture_of_the_folder_is_told_with_what_to_do() -> None:
    rows, own = (Pictures((name,), (Path(name),)) for name in ("street/03.png", "cirr/03.png"))
    dataset = SimpleNamespace(pictures=own, info=SimpleNamespace(name="cirr"))
    plan = cast(Plan, SimpleNamespace(training_rows={"pic2word": SimpleNamespace(pictures=rows)}, dataset=dataset))
    for path, told in (("street/03.png", "or take it out of its folder"), ("cirr/03.png", "`data verify cirr` finds all")):
        with pytest.raises(UserError, match=f"{path}: damaged.*{told}"), advice_on_pictures(plan):
            raise UnreadablePicture(f"{path}: damaged")
