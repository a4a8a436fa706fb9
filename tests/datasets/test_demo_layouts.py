"""The demo data of FashionIQ, Shoes and Fashion200k: official layouts that the loaders read, learnable and honest."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resvg_py
from benchmark.datasets import circo, fashion200k, fashioniq, shoes
from benchmark.datasets.demo import demo_data as demo
from benchmark.datasets.demo.circo import CircoSizes, write_circo_layout
from benchmark.datasets.demo.drawing import PICTURES, draw, draw_nuisance
from benchmark.datasets.demo.fashion200k import LabelSizes, described, description
from benchmark.datasets.demo.groups import DemoSplit, Pair, Sizes, draw_split
from benchmark.datasets.demo.subjects import (
    COLOURS,
    GARMENTS,
    PATTERNS,
    SHOES,
    Garment,
    Shoe,
    differing,
    facets,
    is_held_out,
    options,
    random_subject,
    values,
)
from benchmark.datasets.demo.texts import relative_caption, relative_captions
from benchmark.datasets.demo.twin_layouts import fashioniq_splits
from PIL import Image

from benchmark.data.annotated import require_counts
from benchmark.data.folders import require_pictures

SIZES: dict[str, Any] = {
    "fashioniq": Sizes(3, 6, 2, 4, 1, 3),
    "shoes": Sizes(10, 6, 0, 0, 10, 4),
    "fashion200k": LabelSizes(train_looks=6, test_looks=6, queries=25),
    "circo": CircoSizes(6, 3, 3, 2, 6),
}
SPLITS = {
    "fashioniq": (fashioniq, ("train", "val", "test")),
    "shoes": (shoes, ("train", "test")),
    "fashion200k": (fashion200k, ("train", "test")),
    "circo": (circo, ("val", "test")),
}
CATEGORIES = ("dress", "shirt", "toptee")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("demo")
    for name, sizes in SIZES.items():
        demo.write_demo(name, base / name, sizes, workers=1)
    return {name: base / name for name in SIZES}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SIZES)
def test_bytes_do_not_depend_on_the_number_of_workers(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    demo.write_demo(name, tmp_path / name, SIZES[name], workers=2)

    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(tmp_path / name) == digests(folders[name])


@pytest.mark.parametrize("name", SIZES)
def test_the_loader_reads_it_and_finds_every_count_of_the_manifest(folders: dict[str, Path], name: str) -> None:
    module, splits = SPLITS[name]
    dataset = module.load(folders[name], splits=splits)
    require_counts(dataset)
    assert (dataset.label, dataset.is_demo, dataset.is_official) == (f"demo-{name}", True, False)
    counted = {(c.split, c.what): c.expected for c in dataset.counts() if c.expected is not None}
    manifest = read(folders[name] / "dataset.json")["counts"]
    assert counted == {(split, what): n for split, numbers in manifest.items() for what, n in numbers.items()}
    assert module.present_splits(folders[name]) == splits
    require_pictures(dataset, np.arange(len(dataset.pictures.names)))
    assert {path.resolve() for path in dataset.pictures.paths} == {
        path.resolve() for path in folders[name].rglob("*") if path.suffix in (".png", ".jpg", ".jpeg")
    }


@pytest.mark.parametrize("name", SIZES)
def test_every_query_has_an_answer_that_is_not_its_reference(folders: dict[str, Path], name: str) -> None:
    module, splits = SPLITS[name]
    dataset = module.load(folders[name], splits=splits)
    info = dataset.info
    for task in dataset.tasks(info.evaluation_split, info.default_protocol, info.text_rule):
        assert len(task.queries.ids) > 0
        for i, reference in enumerate(task.queries.reference_in_gallery.tolist()):
            start, end = task.queries.positives.offsets[i : i + 2]
            positives = task.queries.positives.values[start:end].tolist()
            assert positives
            assert reference not in positives


def test_fashioniq_has_the_official_files_and_keys(folders: dict[str, Path]) -> None:
    root = folders["fashioniq"]
    assert {path.name for path in root.iterdir()} == {"captions", "image_splits", "images", "dataset.json"}
    for category in CATEGORIES:
        for split in ("train", "val", "test"):
            names = read(root / f"image_splits/split.{category}.{split}.json")
            entries = read(root / f"captions/cap.{category}.{split}.json")
            assert len(set(names)) == len(names) == 6 * {"train": 3, "val": 2, "test": 1}[split]
            assert all(re.fullmatch(r"B00[0-9A-Z]{7}", name) for name in names)
            assert all((root / f"images/{name}.png").is_file() for name in names)
            for entry in entries:
                assert set(entry) == {"candidate", "captions"} | (set() if split == "test" else {"target"})
                assert len(entry["captions"]) == 2
                assert all(caption.startswith(("is ", "has ", "shows ", "does ", "wears ")) for caption in entry["captions"])
    assert len(list((root / "captions").glob("cap.*"))) == len(list((root / "image_splits").iterdir())) == 9
    beside = {path.name: read(path) for path in (root / "captions").iterdir() if not path.name.startswith("cap.")}
    dictionaries = {name: content for name, content in beside.items() if name.startswith("correction_")}
    assert dictionaries == {f"correction_dict_{category}.json": {} for category in CATEGORIES}
    described = {f"image_captions_{category}_{split}.json" for category in CATEGORIES for split in ("train", "val")}
    assert beside.keys() == dictionaries.keys() | described | {f"keywords_in_mods_{c}.json" for c in CATEGORIES}


_WORDS = {
    "sleeves": ("sleeve",), "length": ("long", "short"), "belt": ("belt",), "pocket": ("pocket",), "print": ("heart", "star"),
    "buttons": ("button",), "neck": ("neck", "collar", "bow"), "place": ("chest", "hem", "skirt"),
    "pattern": ("plain", "stripes", "dots", "checks", "squares"),
}  # fmt: skip


def test_two_captions_together_name_all_that_changed() -> None:
    rng = np.random.default_rng(1)
    for category in CATEGORIES:
        for split in fashioniq_splits(category, Sizes(12, 12, 4, 6, 0, 0), rng):
            for pair in split.pairs:
                reference, target = (split.subjects[pair.group][i] for i in (pair.reference, pair.target))
                captions = relative_captions(reference, target, rng)
                for facet in differing(reference, target):
                    words = _WORDS.get(facet) or (getattr(target, facet),)
                    assert any(word in caption for word in words for caption in captions), (captions, facet)


def test_shoes_has_the_official_files_and_keys(folders: dict[str, Path]) -> None:
    root = folders["shoes"]
    assert {path.name for path in root.iterdir()} == {
        "relative_captions_shoes.json", "train_im_names.txt", "eval_im_names.txt", "dataset.json",
        "correction_dict_shoes.json", "image_captions_shoes.json", "keywords_in_mods_shoes.json", *(f"womens_{kind}" for kind in SHOES),
    }  # fmt: skip
    assert read(root / "correction_dict_shoes.json") == {}
    lists = {split: (root / f"{split}_im_names.txt").read_text().splitlines() for split in ("train", "eval")}
    assert len(set(lists["train"]) | set(lists["eval"])) == len(lists["train"]) + len(lists["eval"]) == 120
    for kind in SHOES:
        for path in (root / f"womens_{kind}").rglob("*.jpg"):
            assert re.fullmatch(rf"womens_{kind}/\d+/img_womens_{kind}_\d+\.jpg", path.relative_to(root).as_posix())
    for entry in read(root / "relative_captions_shoes.json"):
        assert set(entry) == {"ImageName", "ReferenceImageName", "RelativeCaption"}
        both = {entry["ImageName"], entry["ReferenceImageName"]}
        assert len(both) == 2
        assert both <= set(lists["train"]) or both <= set(lists["eval"])


def shoe_split(groups: int, kinds: tuple[str, ...] = (), seed: int = 0) -> DemoSplit[Shoe]:
    return draw_split("t", groups, 12, kinds or SHOES, lambda _: True, set(), np.random.default_rng(seed))


def both(split: DemoSplit[Shoe], pair: Pair) -> tuple[Shoe, Shoe]:
    return split.of(pair)


_SHOE_WORDS = {
    "sole": ("sole",), "heel": ("heel",), "shaft": ("taller", "shorter", "shaft", "knee", "ankle", "cut", "top"),
    "fastening": ("laces", "strap", "bow", "buckle"), "toe": ("toe",), "platform": ("thicker", "thinner"),
    "pattern": ("plain", "stripes", "dots", "checks", "squares"),
}  # fmt: skip


def test_shoe_captions_name_all_that_changed() -> None:
    rng, split = np.random.default_rng(3), shoe_split(60)
    for pair in split.pairs:
        reference, target = both(split, pair)
        text = relative_caption(reference, target, rng)
        for facet in differing(reference, target):
            words = _SHOE_WORDS.get(facet) or (getattr(target, facet),)
            assert any(word in text for word in words), (text, facet, reference, target)
        if target.second not in ("", reference.second):
            assert target.second in text, (text, reference, target)
    with pytest.raises(ValueError, match="nothing to say"):
        relative_caption(target, target, rng)


def test_no_shoe_occurs_twice_and_every_one_is_possible() -> None:
    split = shoe_split(60)
    assert len(set(split.flat)) == len(split.flat)
    for shoe in split.flat:
        assert shoe.colour not in (shoe.second, shoe.sole)
        assert bool(shoe.second) == (shoe.pattern != "plain" or bool(shoe.fastening))
        for facet in facets(shoe):
            assert getattr(shoe, facet) not in options(shoe, facet)


def test_training_sees_every_type_in_every_colour_and_pattern_that_it_can_have() -> None:
    allowed = [
        (kind, colour, pattern)
        for kind in SHOES
        for colour in values(kind, "colour")
        for pattern in values(kind, "pattern")
        if not is_held_out(Shoe(kind, colour, pattern=pattern))
    ]
    assert {(kind, colour) for kind, colour, _ in allowed} == {(k, c) for k in SHOES for c in values(k, "colour")}
    assert {(kind, pattern) for kind, _, pattern in allowed} == {(k, p) for k in SHOES for p in values(k, "pattern")}


@pytest.mark.parametrize("kind", SHOES)
def test_every_change_of_a_shoe_can_be_seen_at_64_pixels(kind: str) -> None:
    nuisance = draw_nuisance(np.random.default_rng(1))
    split = shoe_split(4, (kind,))
    small = {s: np.asarray(draw(s, nuisance).resize((64, 64)), dtype=np.float64) for s in split.flat}
    for pair in split.pairs:
        reference, target = both(split, pair)
        assert (np.abs(small[reference] - small[target]).max(axis=2) > 25).sum() >= 6, (reference, target)


def test_shoes_fill_their_picture_without_being_cut_off() -> None:
    rng = np.random.default_rng(2)
    for kind in SHOES:
        for _ in range(6):
            picture = draw(random_subject(kind, rng), draw_nuisance(rng))
            assert (picture.size, picture.mode) == ((144, 144), "RGB")
            pixels = np.asarray(picture, dtype=np.float64)
            for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
                assert np.abs(np.diff(side.mean(axis=1))).max() < 12, kind


def test_fashion200k_has_the_official_files(folders: dict[str, Path]) -> None:
    root = folders["fashion200k"]
    assert {path.name for path in root.iterdir()} == {"labels", "women", "test_queries.txt", "dataset.json"}
    assert {path.name for path in (root / "labels").iterdir()} == {
        f"{category}_{split}_detect_all.txt"
        for category in ("dress", "jacket", "pants", "skirt", "top")
        for split in ("train", "test")
    }
    for path in (root / "labels").iterdir():
        for line in path.read_text().splitlines():
            name, score, caption = line.split("\t")
            assert re.fullmatch(r"women/[a-z_]+/[a-z_-]+/(\d{8})/\1_\d\.jpeg", name)
            assert 0 < float(score) <= 1
            assert 4 <= len(caption.split()) <= 5


def test_fashion200k_queries_change_one_visible_word_and_have_rivals(folders: dict[str, Path]) -> None:
    dataset = fashion200k.load(folders["fashion200k"], splits=("train", "test"))
    (task,) = dataset.tasks("test", "tirg", "template")
    texts = [re.fullmatch(r"replace (\S+) with (\S+)", text) for text in task.queries.texts]
    assert all(found is not None and found[1] != found[2] for found in texts)
    sizes = task.queries.positives.sizes()
    assert sizes.max() > 1
    triplets = dataset.train_triplets(0, 0)
    assert len(triplets.reference_picture) == len(dataset.split_pictures("train"))


def test_descriptions_are_one_to_one_and_training_knows_every_word() -> None:
    words: dict[bool, set[str]] = {True: set(), False: set()}
    seen: dict[tuple[str, ...], Garment] = {}
    for kind in GARMENTS:
        for colour in COLOURS:
            for pattern in PATTERNS:
                for garment in described(kind, colour, pattern):
                    assert seen.setdefault(description(garment), garment) == garment
                    words[is_held_out(garment)] |= set(description(garment))
    assert len(seen) == 40 * (6 + 6 + 4 + 4 + 4 + 4)
    assert words[True] == words[False]


def test_every_word_of_a_description_can_be_seen_at_64_pixels() -> None:
    nuisance = draw_nuisance(np.random.default_rng(1))
    for kind in GARMENTS:
        small = [
            np.asarray(draw(garment, nuisance).resize((48, 64)), dtype=np.float64)
            for garment in described(kind, "red", "plain")
        ]
        for i, one in enumerate(small):
            for other in small[:i]:
                assert (np.abs(one - other).max(axis=2) > 25).sum() >= 4, kind


@pytest.mark.parametrize("kind", (*GARMENTS, *SHOES))
def test_a_template_is_a_picture_as_it_stands(kind: str) -> None:
    """In a browser, too: without a style sheet it shows a whole garment or shoe, and one part of each choice."""
    svg = (PICTURES / f"{kind}.svg").read_text(encoding="utf-8")
    with Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))) as picture:
        assert picture.size == ((120, 160) if kind in GARMENTS else (144, 144))
        assert np.asarray(picture)[..., 3].mean() > 20
    shown = set(re.findall(r'<(?:g|use) class="([a-z]+-[a-z]+)"(?![^>]*display="none")', svg))
    facets_shown = [part.partition("-")[0] for part in shown]
    assert len(set(facets_shown)) == len(facets_shown), shown


def test_pictures_are_of_the_format_that_their_name_says(folders: dict[str, Path]) -> None:
    for name, (pattern, form) in {
        "fashioniq": ("*.png", "PNG"), "shoes": ("*.jpg", "JPEG"), "fashion200k": ("*.jpeg", "JPEG"),
        "circo": ("*.jpg", "JPEG"),
    }.items():  # fmt: skip
        with Image.open(next(folders[name].rglob(pattern))) as picture:
            assert (picture.format, picture.mode) == (form, "RGB")


def test_circo_s_answers_are_all_that_have_what_is_shared_and_said(tmp_path: Path) -> None:
    layout = write_circo_layout(tmp_path, CircoSizes(val_queries=24, test_queries=4, others=30))
    subjects = {int(Path(shot.path).stem): shot.subject for shot in layout.shots}
    assert len(subjects) == len(set(subjects.values())) and all(map(is_held_out, subjects.values()))
    info = read(tmp_path / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json")
    assert [image["id"] for image in info["images"]] == list(subjects) != sorted(subjects)
    entries, hidden = (read(tmp_path / "annotations" / f"{split}.json") for split in ("val", "test"))
    for entry in entries:
        reference, target = subjects[entry["reference_img_id"]], subjects[entry["target_img_id"]]
        assert isinstance(reference, Garment) and isinstance(target, Garment)
        said = set(differing(reference, target))
        fixed = said | ({"colour", "pattern"} - said) | ({"second"} if reference.second != target.second else set())
        right = {
            i for i, s in subjects.items()
            if s.kind == target.kind and all(getattr(s, facet) == getattr(target, facet) for facet in fixed)
        }  # fmt: skip
        assert entry["gt_img_ids"][0] == entry["target_img_id"] and set(entry["gt_img_ids"]) == right
        assert target.kind in entry["shared_concept"] and all(
            getattr(target, facet) in entry["shared_concept"] for facet in {"colour", "pattern"} - said
        )
        assert entry["semantic_aspects"]
    assert max(len(entry["gt_img_ids"]) for entry in entries) > 3
    assert all(set(entry) == {"id", "reference_img_id", "relative_caption", "shared_concept"} for entry in hidden)
