"""Whatever stands in an annotation file, it is read, or told in lines that name the file; nothing else comes of it."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmark.datasets.demo.circo import CircoSizes
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from benchmark.datasets.demo.fashion200k import LabelSizes

from benchmark.data.released_files import side_files_of
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.registry import discover
from benchmark.text_rules import TEXT_RULES

SMALL = Sizes(2, 3, 2, 2, 2, 2)
SIZES: dict[str, Any] = {
    "cirr": SMALL, "fashioniq": SMALL, "shoes": Sizes(3, 3, 0, 0, 3, 2), "fashion200k": LabelSizes(6, 6, 6),
    "circo": CircoSizes(3, 2, 2, 1, 2),
}
TRIES = 40
ODD: list[Any] = [
    None, True, 0, -1, 10**18, 1.5, "", " ", "x", "\ud83d", "../x.png", "/etc/passwd", "a\u0000b", "a/b", "x" * 5000,
    [], {}, [None], {"": ""}, [[[]]], ["x", "y"], ["x", 3],
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for name, sizes in SIZES.items():
        write_demo(name, root / name, sizes, workers=1)
    return root


def damaged_value(content: Any, draw: random.Random) -> Any:
    """JSON with one to three values of any depth replaced, removed or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 3)):
        place: Any = content
        while isinstance(place, dict | list) and place:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.4:
                break
            place = place[key]
        else:
            return draw.choice(ODD)
        harm = draw.randrange(4)
        if harm == 0:
            del place[key]
        elif harm == 1 and isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        elif harm == 2 and isinstance(place, dict):
            place[draw.choice([value for value in ODD if isinstance(value, str)])] = place.pop(key)
        else:
            place[key] = draw.choice(ODD)
    return content


def damage(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.6:
        value = damaged_value(json.loads(content), draw)
        path.write_bytes(json.dumps(value, ensure_ascii=draw.random() < 0.8).encode("utf-8", "surrogatepass"))
        return
    harm = draw.randrange(5)
    if harm == 0:
        content = content[: draw.randrange(len(content) + 1)]
    elif harm == 1:
        broken = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        content = bytes(broken)
    elif harm == 2:
        lines = content.split(b"\n")
        lines.insert(draw.randrange(len(lines)), draw.choice([b"", b"\0", b"x\ty", b"\xff", b"a b c d", draw.choice(lines)]))
        content = b"\n".join(lines)
    elif harm == 3:
        content = draw.choice([b"", b"\n", b"\xef\xbb\xbf", b"null", b"NaN", b"[" * 3000, b"1" * 5000, b'"\\ud800"']) + content
    else:
        content = content.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n", b" "]))
    path.write_bytes(content)


def use(dataset: Dataset, splits: tuple[str, ...]) -> None:
    """Ask for everything that a run would."""
    dataset.counts()
    if "train" in splits:
        dataset.train_triplets(1, 0)
        dataset.training_texts()
        dataset.side_texts()
    for split in splits:
        dataset.split_pictures(split)
        for protocol in dataset.protocols:
            for rule in TEXT_RULES.values():
                # Captions of pictures were released for training and the evaluation split alone.
                if rule.describes and (side_files_of(dataset) is None or split != dataset.info.evaluation_split):
                    continue
                if split in protocol.splits and rule.mode in protocol.text_modes:
                    dataset.tasks(split, protocol.name, rule.name)


@pytest.mark.parametrize("name", list(SIZES))
def test_damaged_annotations_are_read_or_told(name: str, drawn: Path, tmp_path: Path) -> None:
    draw, told = random.Random(name), 0
    files = sorted(p for p in (drawn / name).rglob("*") if p.suffix in (".json", ".txt"))
    registry = discover()
    splits = registry.dataset_module(name).present_splits(drawn / name)
    for number in range(TRIES):
        folder = tmp_path / str(number)
        shutil.copytree(drawn / name, folder, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("*.png", "*.jp*g"))
        harmed = [folder / path.relative_to(drawn / name) for path in draw.sample(files, draw.randint(1, 2))]
        for path in harmed:
            damage(path, draw)
        try:
            use(registry.load_dataset(name, folder, splits), splits)
        except UserError as error:
            told += 1
            assert str(error).strip() and str(folder) in str(error), error
        shutil.rmtree(folder)
    assert told > TRIES // 4
