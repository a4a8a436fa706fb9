"""The demo data: the same bytes always, CIRR's layout exactly, one right answer to every text."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL
import pytest
import resvg_py
from benchmark.datasets.demo import demo_data as demo
from benchmark.datasets.demo.drawing import draw, draw_nuisance
from benchmark.datasets.demo.groups import DemoSplit, draw_split
from benchmark.datasets.demo.studio import SEED, Layout
from benchmark.datasets.demo.subjects import GARMENTS, Garment, differing, is_held_out, random_subject, settle
from benchmark.datasets.demo.texts import modification_text
from benchmark.datasets.demo.twin_layouts import cirr_splits
from PIL import Image

from benchmark.errors import UserError

TINY = demo.Sizes(train_groups=10, train_pairs=6, val_groups=6, val_pairs=4, test_groups=4, test_pairs=3)
SPLITS = ("train", "val", "test1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("demo") / "cirr"
    demo.write_demo("cirr", target, TINY, workers=1)
    return target


def captions(folder: Path, split: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / f"captions/cap.rc2.{split}.json").read_text())
    return entries


def pictures(folder: Path, split: str) -> dict[str, str]:
    paths: dict[str, str] = json.loads((folder / f"image_splits/split.rc2.{split}.json").read_text())
    return paths


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def drawn_splits() -> dict[str, DemoSplit[Garment]]:
    return {s.name: s for s in cirr_splits(TINY, np.random.default_rng(SEED))}


def tiny_layouts() -> dict[str, demo.Demo[Any]]:
    return {"cirr": demo.Demo(demo._LAYOUTS["cirr"].write, TINY)}


def test_bytes_do_not_depend_on_process_hash_seed_or_workers(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, json; sys.path[:] = json.loads(sys.argv[2])\n"
        "from pathlib import Path\n"
        "from benchmark.datasets.demo import demo_data as demo\n"
        f"demo.write_demo('cirr', Path(sys.argv[1]), demo.{TINY!r}, workers=2)\n"
    )
    path = json.dumps([str(Path(entry).resolve()) for entry in sys.path])
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "other"), path],
        check=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert digests(tmp_path / "other") == digests(folder)


@pytest.mark.parametrize("split", SPLITS)
def test_layout_is_the_official_one(folder: Path, split: str) -> None:
    paths = pictures(folder, split)
    entries = captions(folder, split)
    hidden = split == "test1"
    assert len({entry["pairid"] for entry in entries}) == len(entries) > 0
    for entry in entries:
        target_keys = set() if hidden else {"target_hard", "target_soft"}
        assert set(entry) == {"pairid", "reference", "caption", "img_set"} | target_keys
        ranks = set() if hidden else {"reference_rank", "target_rank"}
        assert set(entry["img_set"]) == {"id", "members"} | ranks
        members = entry["img_set"]["members"]
        assert len(set(members)) == 6
        assert set(members) <= set(paths)
        assert entry["reference"] in members
        if not hidden:
            assert entry["target_soft"] == {entry["target_hard"]: 1.0}
            assert entry["target_hard"] in members
            assert entry["target_hard"] != entry["reference"]
    start = {"train": "./train/", "val": "./dev/dev-", "test1": "./test1/test1-"}[split]
    assert all(path == f"{path[: path.rindex('/')]}/{name}.png" for name, path in paths.items())
    assert all(path.startswith(start) for path in paths.values())


def test_every_picture_is_there_and_nothing_else(folder: Path) -> None:
    listed = {(folder / path).resolve() for split in SPLITS for path in pictures(folder, split).values()}
    assert {path.resolve() for path in folder.rglob("*.png")} == listed
    for path in listed:
        with Image.open(path) as picture:
            assert picture.size == (120, 160)
            assert picture.mode == "RGB"


def test_manifest_counts_what_the_files_hold(folder: Path) -> None:
    manifest = json.loads((folder / "dataset.json").read_text())
    assert manifest["name"] == "demo-cirr"
    assert manifest["drawn"] is True
    for split in SPLITS:
        words = ("triplets", "pictures") if split == "train" else ("queries", "gallery")
        counted = dict(zip(words, (len(captions(folder, split)), len(pictures(folder, split))), strict=True))
        assert manifest["counts"][split] == counted


def test_pair_ids_and_sets_do_not_repeat_across_splits(folder: Path) -> None:
    entries = {split: captions(folder, split) for split in SPLITS}
    for key in (lambda e: e["pairid"], lambda e: e["img_set"]["id"]):
        found = [{key(entry) for entry in entries[split]} for split in SPLITS]
        assert sum(map(len, found)) == len(set.union(*found))


def test_no_garment_occurs_twice_and_pairs_differ_in_one_or_two_facets() -> None:
    splits = drawn_splits().values()
    garments = [garment for split in splits for members in split.subjects for garment in members]
    assert len(set(garments)) == len(garments)
    for split in splits:
        for pair in split.pairs:
            members = split.subjects[pair.group]
            assert 1 <= len(differing(members[pair.reference], members[pair.target])) <= 2


def test_validation_shows_only_combinations_that_training_never_shows() -> None:
    looks = {
        name: {(garment.kind, garment.colour, garment.pattern) for members in split.subjects for garment in members}
        for name, split in drawn_splits().items()
    }
    assert looks["val"].isdisjoint(looks["train"])
    assert looks["test1"].isdisjoint(looks["train"])


def test_training_sees_every_kind_in_every_colour_and_pattern() -> None:
    """What is held out is the combination, never a part of it."""
    split = draw_split("t", 240, 1, GARMENTS, lambda g: not is_held_out(g), set(), np.random.default_rng(0))
    seen = [(garment.kind, garment.colour, garment.pattern) for members in split.subjects for garment in members]
    assert len({(kind, colour) for kind, colour, _ in seen}) == 60
    assert len({(kind, pattern) for kind, _, pattern in seen}) == 24
    assert len({(colour, pattern) for _, colour, pattern in seen}) == 40


def test_annotations_belong_to_the_garments_drawn(folder: Path) -> None:
    """Read back from the files: a picture redrawn from its garment is the one its name leads to."""
    split = drawn_splits()["val"]
    paths = pictures(folder, "val")
    layout = Layout()
    layout.add("val", list(paths.values()), split.flat)
    for pair, entry in zip(split.pairs[::4], captions(folder, "val")[::4], strict=True):
        for role, member in (("reference", pair.reference), ("target_hard", pair.target)):
            shot = layout.shots[pair.group * 6 + member]
            again = draw(split.subjects[pair.group][member], draw_nuisance(np.random.default_rng(shot.seed)))
            assert shot.path == paths[entry[role]]
            with Image.open(folder / shot.path) as stored:
                assert np.array_equal(np.asarray(stored), np.asarray(again))


_WORDS = {
    "sleeves": ("sleeve",), "length": ("long", "length", "short"), "belt": ("belt",), "pocket": ("pocket",),
    "buttons": ("button",), "neck": ("neck", "collar", "bow", "lapels", "hood"),
    "place": ("chest", "hem", "skirt"), "print": ("heart", "star"),
    "pattern": ("plain", "stripes", "dots", "checks", "squares"),
}  # fmt: skip


def test_texts_name_everything_that_changed() -> None:
    rng = np.random.default_rng(3)
    split = draw_split("t", 60, 12, GARMENTS, lambda _: True, set(), rng)
    for pair in split.pairs:
        reference, target = (split.subjects[pair.group][i] for i in (pair.reference, pair.target))
        text = modification_text(reference, target, rng)
        for facet in differing(reference, target):
            expected = _WORDS.get(facet) or (getattr(target, facet),)
            assert any(word in text for word in expected), (text, facet, reference, target)
        if target.second and target.second != reference.second:
            assert target.second in text, (text, reference, target)


def test_texts_vary_and_follow_their_rng() -> None:
    reference = settle(Garment("skirt", "red", length="long"), np.random.default_rng(0))
    target = Garment("skirt", "blue", length="long", belt=True)
    texts = [modification_text(reference, target, np.random.default_rng(i)) for i in range(100)]
    assert texts == [modification_text(reference, target, np.random.default_rng(i)) for i in range(100)]
    assert len(set(texts)) > 40
    with pytest.raises(ValueError, match="nothing to say"):
        modification_text(reference, reference, np.random.default_rng(0))


@pytest.mark.parametrize("kind", GARMENTS)
def test_every_attribute_can_be_seen_at_64_pixels(kind: str) -> None:
    """Same nuisance, one facet changed: some patch of the small picture must change clearly."""
    rng = np.random.default_rng(5)
    nuisance = draw_nuisance(np.random.default_rng(1))
    split = draw_split("t", 4, 12, (kind,), lambda _: True, set(), rng)
    for pair in split.pairs:
        small = [
            np.asarray(draw(split.subjects[pair.group][i], nuisance).resize((48, 64)), dtype=np.float64)
            for i in (pair.reference, pair.target)
        ]
        assert (np.abs(small[0] - small[1]).max(axis=2) > 25).sum() >= 4


def test_drawings_fill_their_picture_without_being_cut_off() -> None:
    """The wall shows on every side: nothing of the garment touches the border."""
    rng = np.random.default_rng(2)
    for kind in GARMENTS:
        for _ in range(6):
            picture = np.asarray(draw(random_subject(kind, rng), draw_nuisance(rng)), dtype=np.float64)
            for side in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
                assert np.abs(np.diff(side.mean(axis=1))).max() < 12


def test_a_failure_half_way_leaves_no_folder(tmp_path: Path) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.write_demo("cirr", tmp_path / "cirr", TINY, progress=interrupted, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_folder_and_the_next_call_clears_its_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_LAYOUTS", tiny_layouts())
    script = (
        "import sys, json, os; sys.path[:] = json.loads(sys.argv[2])\n"
        "from pathlib import Path\n"
        "from benchmark.datasets.demo import demo_data as demo\n"
        f"demo._LAYOUTS['cirr'] = demo.Demo(demo._LAYOUTS['cirr'].write, demo.{TINY!r})\n"
        "die = lambda *_: os.kill(os.getpid(), 9)\n"
        "demo.demo_folder('cirr', Path(sys.argv[1]), progress=die, workers=1)\n"
    )
    path = json.dumps([str(Path(entry).resolve()) for entry in sys.path])
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path), path], cwd=tmp_path)
    assert killed.returncode == -9
    shelf = tmp_path / "demo"
    assert [entry.name for entry in shelf.iterdir() if not entry.name.startswith(".")] == []
    assert len(list(shelf.glob(".*.partial"))) == 1
    done = demo.demo_folder("cirr", tmp_path)
    assert (done / "dataset.json").is_file()
    assert list(shelf.glob(".*.partial")) == []


def test_the_cache_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_LAYOUTS", tiny_layouts())
    seen: list[tuple[int, int]] = []
    first = demo.demo_folder("cirr", tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (120, 120)
    stamp = (first / "dataset.json").stat().st_mtime_ns
    assert demo.demo_folder("cirr", tmp_path) == first
    assert (first / "dataset.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("changed", ["drawing.py", "texts.toml", "pictures/dress.svg"])
def test_a_change_of_any_file_that_decides_bytes_names_another_folder(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stale picture is served: whatever lies beside the generator is in the folder's name."""
    copied = tmp_path / "demo"
    shutil.copytree(Path(demo.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    real = demo._version(TINY)
    monkeypatch.setattr(demo, "__file__", str(copied / "demo_data.py"))
    assert demo._version(TINY) == real
    with (copied / changed).open("a") as file:
        file.write("\n")
    assert demo._version(TINY) != real


@pytest.mark.parametrize("library", [PIL, resvg_py])
def test_another_version_of_what_draws_names_another_folder(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    real = demo._version(TINY)
    monkeypatch.setattr(library, "__version__", "0.0")
    assert demo._version(TINY) != real


def test_bad_requests_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown demo data 'cir': did you mean cirr"):
        demo.demo_folder("cir", tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="already exists"):
        demo.write_demo("cirr", tmp_path / "full", TINY)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot be written"):
        demo.write_demo("cirr", tmp_path / "file" / "cirr", TINY)
