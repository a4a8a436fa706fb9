"""The feature store: right features, whatever is asked for and however it is damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from store_backbone import BOTH, COUNT, SIDE, WIDTH, SmallBackbone, ask, draw_pictures, same, small_store

import benchmark.features.picture_filling
from benchmark.backbone import Output
from benchmark.dataset import Pictures
from benchmark.encoders.backbones import load_backbone
from benchmark.errors import UserError
from benchmark.features.room import bytes_needed
from benchmark.features.store import FeatureStore, PictureFeatures


@torch.no_grad()
def plain_features(pictures: Pictures) -> dict[str, torch.Tensor]:
    """Each picture and crop on its own, straight through the backbone."""
    backbone = SmallBackbone().eval()
    prepare = backbone.preprocessing
    whole, patches = [], []
    for path in pictures.paths:
        with Image.open(path) as image:
            crops = [image, *prepare.patch_crops(image)]
            pixels = [torch.tensor(prepare.picture(crop)[None]) for crop in crops]
        rows = [backbone.encode_image(prepare.normalise(crop))[0] for crop in pixels]
        whole.append(rows[0])
        patches.append(torch.stack(rows[1:]))
    return {"global": torch.stack(whole), "patches": torch.stack(patches)}


def test_features_are_those_of_the_backbone(
    tmp_path: Path, pictures: Pictures, backbone: SmallBackbone
) -> None:
    features = ask(small_store(tmp_path, backbone), pictures)
    expected = plain_features(pictures)
    for view in BOTH:
        torch.testing.assert_close(features.views[view], expected[view], rtol=1e-5, atol=1e-4)
    assert features.views["patches"].shape == (COUNT, 13, WIDTH)
    assert set(backbone.image_passes) == {32}, "every forward pass has the same shape"


def test_training_mode_and_gradients_are_left_as_they_were(tmp_path: Path, pictures: Pictures) -> None:
    backbone = SmallBackbone().train()
    store = small_store(tmp_path, backbone)
    ask(store, pictures, ("global",))
    store.texts(["red"])
    assert backbone.training
    assert backbone.norm.training
    assert torch.is_grad_enabled()
    assert backbone.image.requires_grad
    assert backbone.norm.num_batches_tracked == 0


def test_a_second_run_computes_nothing_and_needs_no_lock(tmp_path: Path, pictures: Pictures) -> None:
    first = ask(small_store(tmp_path), pictures)
    for path in tmp_path.rglob("*.lock"):
        path.unlink()
    again = SmallBackbone()
    assert same(first, ask(small_store(tmp_path, again), pictures))
    assert again.image_passes == []
    assert not list(tmp_path.rglob("*.lock"))


def test_a_picture_is_opened_once_for_its_fourteen_views(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = benchmark.features.picture_filling.open_picture

    def counted(path: Path) -> Image.Image:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(benchmark.features.picture_filling, "open_picture", counted)
    ask(small_store(tmp_path), pictures)
    assert sorted(opened) == sorted(pictures.paths)


def test_patches_after_whole_keep_whole(tmp_path: Path, pictures: Pictures, backbone: SmallBackbone) -> None:
    store = small_store(tmp_path / "apart", backbone)
    ask(store, pictures, ("global",))
    whole_passes = len(backbone.image_passes)
    later = ask(store, pictures)
    together = SmallBackbone()
    assert same(later, ask(small_store(tmp_path / "together", together), pictures))
    assert len(backbone.image_passes) == len(together.image_passes) > whole_passes


def test_other_grids_are_another_view(tmp_path: Path, pictures: Pictures) -> None:
    store = small_store(tmp_path)
    usual = ask(store, pictures, ("patches",)).views["patches"]
    ones = ask(store, pictures, ("patches",), grids=(1,)).views["patches"]
    assert ones.shape == (COUNT, 1, WIDTH)
    assert torch.equal(usual, ask(store, pictures, ("patches",)).views["patches"])


def test_two_lists_stand_side_by_side(tmp_path: Path, pictures: Pictures) -> None:
    store = small_store(tmp_path)
    everything = ask(store, pictures)
    some = np.array([6, 3, 8, 0, 1])
    few = store.pictures("toy", "few", pictures, some, BOTH)
    assert few.rows(np.array([8, 6])).tolist() == [2, 0]
    for view in BOTH:
        torch.testing.assert_close(few.views[view], everything.views[view][everything.rows(some)])


def test_rows_refuses_what_is_not_in_the_list() -> None:
    features = PictureFeatures({}, np.array([4, 2]))
    assert features.rows(np.array([[2], [4]])).tolist() == [[1], [0]]
    for wrong in (3, 5, -1, 99, -99):
        with pytest.raises(ValueError, match=f"picture {wrong} "):
            features.rows(np.array([2, wrong]))
    assert PictureFeatures({}, np.array([], dtype=np.int64)).rows(np.array([], dtype=np.int64)).shape == (0,)


def test_an_empty_list_and_a_list_that_names_a_picture_twice(tmp_path: Path, pictures: Pictures) -> None:
    store = small_store(tmp_path)
    none = store.pictures("toy", "none", pictures, np.array([], dtype=np.int64), BOTH)
    assert none.views["patches"].shape == (0, 13, WIDTH)
    with pytest.raises(ValueError, match="twice"):
        store.pictures("toy", "two", pictures, np.array([1, 1]), ("global",))
    with pytest.raises(UserError, match="patches"):
        store.pictures("toy", "two", pictures, np.array([1]), ("patch",))


def test_a_replaced_picture_is_not_served_stale(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path / "pictures", 5)
    before = ask(small_store(tmp_path / "cache"), pictures).views["global"].clone()
    kept = pictures.paths[2].stat()
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(pictures.paths[2])
    os.utime(pictures.paths[2], ns=(kept.st_atime_ns, kept.st_mtime_ns + 1))
    after = ask(small_store(tmp_path / "cache"), pictures)
    torch.testing.assert_close(after.views["global"], plain_features(pictures)["global"], rtol=1e-5, atol=1e-4)
    assert [torch.equal(a, b) for a, b in zip(before, after.views["global"], strict=True)].count(False) == 1


@pytest.mark.parametrize(
    "change",
    [{"encoder_digest": "others"}, {"precision": "bf16"}, {"activation": "quickgelu"}, {"name": "other"}],
)
def test_whatever_changes_a_feature_has_its_own_place(tmp_path: Path, change: dict[str, str]) -> None:
    backbone = SmallBackbone(**{k: v for k, v in change.items() if k in ("activation", "name")})
    own = {"encoder_digest": "weights", "precision": "fp32"}
    own |= {k: v for k, v in change.items() if k in own}
    other = FeatureStore(tmp_path, backbone, device=torch.device("cpu"), **own)  # type: ignore[arg-type]
    assert other.folder != small_store(tmp_path).folder


def test_preprocessing_is_part_of_the_key(tmp_path: Path, pictures: Pictures) -> None:
    from benchmark.encoders.preprocessing import Preprocessing

    ask(small_store(tmp_path), pictures, ("global",))
    squared = SmallBackbone()
    squared.preprocessing = Preprocessing("squarepad", SIDE)
    ask(small_store(tmp_path, squared), pictures, ("global",))
    assert len(squared.image_passes) == 3


@pytest.mark.parametrize(
    "damage", ["cut", "longer", "flipped", "gone", "no header", "bad header", "no checksums", "bad checksum"]
)
def test_a_damaged_store_is_put_right(tmp_path: Path, pictures: Pictures, damage: str) -> None:
    first = {view: rows.clone() for view, rows in ask(small_store(tmp_path), pictures).views.items()}
    (rows,) = tmp_path.rglob("patches*.safetensors")
    sound = rows.read_bytes()
    checksums = slice(8 + int.from_bytes(sound[:8], "little"), 8 + int.from_bytes(sound[:8], "little") + 8 * 3)
    content = bytearray(sound)
    if damage == "cut":
        del content[-100:]
    elif damage == "longer":
        content += b"x" * 77
    elif damage == "flipped":
        content[checksums.stop + 1000] ^= 1
    elif damage == "no header":
        content[: checksums.start] = bytes(checksums.start)
    elif damage == "bad header":
        content[20] ^= 1
    elif damage == "no checksums":
        content[checksums] = bytes(24)
    elif damage == "bad checksum":
        content[checksums.stop - 3] ^= 1
    rows.unlink()
    if damage != "gone":
        rows.write_bytes(content)
    backbone, notes = SmallBackbone(), []
    store = small_store(tmp_path, backbone)
    again = ask(store, pictures, progress=lambda done, total, note: notes.append(note))
    assert all(torch.equal(again.views[view], first[view]) for view in BOTH)
    assert rows.read_bytes() == sound
    passes = {"cut": 1, "flipped": 2, "gone": 5, "no checksums": 5, "bad checksum": 1}
    assert len(backbone.image_passes) == passes.get(damage, 0), "only damaged blocks are computed"
    assert any("damaged" in note for note in notes) == (damage in ("cut", "flipped", "bad checksum"))


def test_an_unreadable_picture_is_named_and_what_was_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = draw_pictures(tmp_path / "pictures", COUNT)
    good = pictures.paths[9].read_bytes()
    pictures.paths[9].write_bytes(b"\0" * len(good))
    with pytest.raises(UserError, match=r"009\.png") as told:
        ask(small_store(tmp_path / "cache"), pictures, ("global",))
    assert "\n" not in str(told.value)
    pictures.paths[9].write_bytes(good)
    original = benchmark.features.picture_filling.open_picture

    def unreadable(path: Path) -> Image.Image:
        if path == pictures.paths[9]:
            raise UserError(f"{path}: the disk gave an error")
        return original(path)

    # A picture that is mended is another content and another list; one that the disk refuses for a while is not.
    with monkeypatch.context() as refused:
        refused.setattr(benchmark.features.picture_filling, "open_picture", unreadable)
        with pytest.raises(UserError, match=r"009\.png"):
            ask(small_store(tmp_path / "cache"), pictures, ("global",))
    backbone = SmallBackbone()
    ask(small_store(tmp_path / "cache", backbone), pictures, ("global",))
    assert len(backbone.image_passes) == 1


def test_missing_pictures_are_all_named_before_the_work(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path / "pictures", 40)
    for path in pictures.paths[3:33]:
        path.unlink()
    backbone = SmallBackbone()
    with pytest.raises(UserError) as told:
        ask(small_store(tmp_path / "cache", backbone), pictures)
    assert "003.png: no such picture" in str(told.value)
    assert "and 10 more" in str(told.value)
    assert backbone.image_passes == []
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_told_and_resumed(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = os.pwrite, 0

    def full(descriptor: int, content: bytes, offset: int) -> int:
        nonlocal calls
        # What is written over needs no room: checksums go where the header's writing left zeros.
        calls += len(content) > 8
        if calls > 4 and len(content) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="disk is full"):
            ask(small_store(tmp_path), pictures)
        with pytest.raises(UserError, match="disk is full"):
            small_store(tmp_path).texts(["red"])
    backbone = SmallBackbone()
    again = ask(small_store(tmp_path, backbone), pictures)
    assert same(again, ask(small_store(tmp_path / "other"), pictures))
    assert len(backbone.image_passes) < 8


def test_too_little_room_is_told_before_the_work(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(100, 99, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    backbone = SmallBackbone()
    with pytest.raises(UserError, match="--cache"):
        ask(small_store(tmp_path, backbone), pictures)
    assert backbone.image_passes == []


def test_features_that_are_not_finite_are_refused(tmp_path: Path, pictures: Pictures) -> None:
    backbone = SmallBackbone()
    with torch.no_grad():
        backbone.image[0, 0] = backbone.text[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"000\.png.*not finite"):
        ask(small_store(tmp_path, backbone), pictures)
    with pytest.raises(UserError, match="red.*not finite"):
        small_store(tmp_path, backbone).texts(["red"])


def test_writing_to_a_view_never_reaches_the_file(tmp_path: Path, pictures: Pictures) -> None:
    store = small_store(tmp_path)
    ask(store, pictures, ("global",)).views["global"].zero_()
    assert ask(store, pictures, ("global",)).views["global"].any()


def test_the_tiny_backbone_says_the_same_in_any_company(tmp_path: Path, pictures: Pictures) -> None:
    """Order, companions, threads and lists leave every bit of a feature as it is."""
    backbone = load_backbone("tiny", seed=1)
    device, digest = torch.device("cpu"), backbone.description.digest
    strings = [f"is {colour} with {n} stripes" for n in range(20) for colour in ("red", "blue")]
    threads = torch.get_num_threads()
    found = []
    try:
        for number, (order, count) in enumerate([(range(10), 1), (range(9, -1, -1), 2), ([7, 3, 8], 1)]):
            torch.set_num_threads(count)
            store = FeatureStore(tmp_path / str(number), backbone, encoder_digest=digest, device=device)
            chosen = np.array(list(order))
            features = store.pictures("toy", "any", pictures, chosen, BOTH)
            texts = store.texts([strings[i] for i in chosen])
            rows = features.rows(np.array([3, 7, 8]))
            found.append(
                [features.views[view][rows] for view in BOTH]
                + [texts.view[texts.rows([strings[i] for i in (3, 7, 8)])]]
            )
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert [torch.equal(a, b) for a, b in zip(found[0], other, strict=True)] == [True] * 3


def test_half_precision_is_stored_as_float32(tmp_path: Path, pictures: Pictures) -> None:
    backbone = load_backbone("tiny", seed=1)
    few = np.arange(3)
    stored = {}
    for precision in ("fp32", "bf16"):
        device = torch.device("cpu")
        store = FeatureStore(tmp_path, backbone, encoder_digest="tiny", device=device, precision=precision)
        stored[precision] = store.pictures("toy", "few", pictures, few, ("global",)).views["global"]
    assert stored["bf16"].dtype == torch.float32
    difference = (stored["bf16"] - stored["fp32"]).norm() / stored["fp32"].norm()
    assert 0 < difference < 0.05


def test_tf32_is_refused_where_there_is_none(tmp_path: Path) -> None:
    backbone = load_backbone("tiny", seed=1)
    with pytest.raises(UserError, match="cpu has no TF32; choose fp32 or bf16"):
        FeatureStore(tmp_path, backbone, encoder_digest="tiny", device=torch.device("cpu"), precision="tf32")


def test_a_compiled_encoder_has_features_of_its_own(tmp_path: Path) -> None:
    """Its last digits differ: they never stand in the place of the others."""
    backbone = load_backbone("tiny", seed=1)
    eager, compiled = (
        FeatureStore(tmp_path, backbone, encoder_digest="tiny", device=torch.device("cpu"), compiled=compiled)
        for compiled in (False, True)
    )
    assert eager.folder != compiled.folder


def test_bytes_needed_are_those_on_disk(tmp_path: Path, pictures: Pictures) -> None:
    store = small_store(tmp_path)
    listed = ask(store, pictures)
    texts = store.texts(["red", "blue"])
    held = sum(rows.nbytes for rows in (*listed.views.values(), texts.view))
    outputs = SmallBackbone().picture_outputs
    assert bytes_needed(outputs, pictures=COUNT, views=BOTH) + 2 * outputs["global"].bytes == held
    on_disk = sum(path.stat().st_size for kind in ("*.safetensors", "*.f32") for path in tmp_path.rglob(kind))
    assert held < on_disk < held + 4096


def test_the_file_says_what_the_rows_are_to_any_reader(tmp_path: Path, pictures: Pictures) -> None:
    features = ask(small_store(tmp_path), pictures)
    (path,) = tmp_path.rglob("patches*.safetensors")
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("rows"), features.views["patches"])
        assert file.get_slice("rows").get_shape() == [COUNT, 13, WIDTH]
        assert file.get_slice("rows").get_dtype() == "F32"
        key = json.loads(file.metadata()["key"])
    assert key["weights"] == "weights"
    assert key["preprocessing"]["grids"] == [2, 3]


class TokenBackbone(SmallBackbone):
    """Gives three tokens of a picture besides."""

    @property
    def picture_outputs(self) -> Mapping[str, Output]:
        return {**super().picture_outputs, "tokens": Output((3, 4), "float16")}

    def encode_picture_outputs(self, pixels: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        tokens = pixels.flatten(1)[:, :12].reshape(-1, 3, 4)
        return {**super().encode_picture_outputs(pixels, names), "tokens": tokens * self.scale}

    scale = 1.0


def test_another_output_of_a_backbone_is_a_view_by_its_name(tmp_path: Path, pictures: Pictures) -> None:
    features = ask(small_store(tmp_path, TokenBackbone()), pictures, ("global", "tokens"))
    assert torch.equal(features.views["global"], ask(small_store(tmp_path / "other"), pictures).views["global"])
    tokens = features.views["tokens"]
    assert tokens.shape == (COUNT, 3, 4) and tokens.dtype == torch.float16 and bool(tokens.any())
    again = TokenBackbone()
    assert torch.equal(ask(small_store(tmp_path, again), pictures, ("tokens",)).views["tokens"], tokens)
    assert again.image_passes == []
    with pytest.raises(UserError, match="unknown view 'token': did you mean tokens"):
        ask(small_store(tmp_path, again), pictures, ("token",))
    too_large = TokenBackbone()
    too_large.scale = 1e6
    with pytest.raises(UserError, match=r"000\.png.*not finite"):
        ask(small_store(tmp_path / "large", too_large), pictures, ("tokens",))


def test_features_in_an_earlier_form_are_told_once_and_not_read(tmp_path: Path, pictures: Pictures) -> None:
    store = small_store(tmp_path)
    store._earlier.mkdir(parents=True)
    (store._earlier / "encoder.json").write_text("{}")
    (store._earlier / "texts.f32").write_bytes(b"x" * 400)
    notes: list[str] = []
    for _ in range(2):
        ask(small_store(tmp_path), pictures, progress=lambda done, total, note: notes.append(note))
        small_store(tmp_path).texts(["red"], progress=lambda done, total, note: notes.append(note))
    assert [note for note in notes if note] == [
        f"{store._earlier}: in an earlier version's form, and not read; delete it to free its space"
    ]
