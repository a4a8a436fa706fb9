"""The kinds of hostile inputs: the valid ones that they are made of, and the command that reads each."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_mutations as mutations
import numpy as np
import torch

ENCODER = ("--backbone", "tiny", "--weights", "random", "--set", "method.encoder=untouched")
SETTINGS = """method = "sum"
dataset = "cirr"
seed = 3
backbone = "tiny"
weights = "random"
selection = "last"
[set.method]
encoder = "untouched"
[set.trainer]
checkpoint_seconds = 60
"""
PLUGIN = """import torch
from torch import Tensor, nn

from benchmark.method import Method, Views
from benchmark.methods.networks.clip_finetuning import on_clip_features
from benchmark.methods.networks.layers import contrastive_loss, normalise
from benchmark.settings import EncoderChoice


class Plain(Method):
    def __init__(self, width: int, settings: EncoderChoice) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return normalise(reference["global"] + text["global"])

    def encode_target(self, target: Views) -> Tensor:
        return normalise(target["global"])

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:
        return contrastive_loss(self.scale * queries.float(), targets.float(), scale=1.0)


METHOD = on_clip_features(Plain, EncoderChoice)
"""
STATEMENTS = (
    "raise RuntimeError('no')", "raise SystemExit(0)", "exit(3)", "return None", "return 3", "1 / 0", "import nothing_here",
    "return torch.zeros(1)", "return torch.zeros(2, 3, 4)", "return reference", "torch.manual_seed(0)", "while_ = (",
    "return torch.full((4, 64), torch.nan)", "torch.set_default_dtype(torch.float64)", "raise KeyboardInterrupt",
    "__import__('os').environ.clear()", "__import__('sys').stdout.close()", "raise MemoryError", "raise OSError(28, 'full')",
    "def score(self, queries, targets): return torch.softmax(queries @ targets.T, 0)", "print('words ' * 1000)",
)  # fmt: skip

Make = Callable[[Path, Path, random.Random], list[Any]]
"""(the valid inputs, an empty folder, chance) to the words of the command line on an input in that folder."""


def prepare(base: Path) -> None:
    """The valid inputs that bad ones are made of: small CIRR data, a run on it, files from outside."""
    from benchmark.datasets.demo.demo_data import Sizes, write_demo
    from official_files import clip_state, write_clip
    from safetensors.numpy import save_file

    from benchmark.cli import main
    from benchmark.encoders.architectures import TINY

    write_demo("cirr", base / "data", Sizes(4, 3, 4, 3, 2, 2), workers=1)
    words = ["run", "--method", "clip4cir", "--dataset", "cirr", "--data-root", base / "data", *ENCODER,
             "--epochs", "1", "--batch-size", "8", "--output", base / "run"]  # fmt: skip
    if main([str(word) for word in words]):
        raise SystemExit("the valid run failed")
    write_clip(base / "clip.pt", clip_state(TINY), "tuned")
    entries = json.loads((base / "data/captions/cap.rc2.val.json").read_text())
    names = list(json.loads((base / "data/image_splits/split.rc2.val.json").read_text()))
    rng, ids = np.random.default_rng(0), [str(entry["pairid"]) for entry in entries]
    matrices = {"queries": rng.standard_normal((len(ids), 8)), "gallery": rng.standard_normal((len(names), 8))}
    np.savez(base / "mine.npz", **matrices, query_ids=ids, gallery_ids=names)
    listed = {"query_ids": json.dumps(ids), "gallery_ids": json.dumps(names)}
    save_file({name: matrix.astype(np.float32) for name, matrix in matrices.items()}, base / "mine.safetensors", listed)
    lists = {query: [name for name in names if name != e["reference"]] for query, e in zip(ids, entries, strict=True)}
    (base / "mine.json").write_text(json.dumps({"version": "rc2", "metric": "recall", **lists}))
    (base / "mine.jsonl").write_text("\n".join(json.dumps({"query": q, "ranking": r}) for q, r in lists.items()))
    rows = (f"{q} Q0 {name} {i} {1 / i} me" for q, ranked in lists.items() for i, name in enumerate(ranked, 1))
    (base / "mine.trec").write_text("\n".join(rows))


def pictures(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    data = _data(base, folder)
    mutations.spoil_picture(rng.choice(sorted((data / "dev").rglob("*.png"))), rng)
    if rng.random() < 0.4:
        return ["data", "verify", "cirr", "--data-root", data]
    missing = ["--allow-missing"] * (rng.random() < 0.3)
    return ["run", "--method", "image_only", "--dataset", "cirr", "--data-root", data, *ENCODER, "--output", "o", *missing]


def annotations(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    data = _data(base, folder)
    _replace_json(rng.choice(sorted(data.rglob("*.json"))), rng)
    return rng.choice((
        ["data", "verify", "cirr", "--data-root", data],
        ["data", "export-queries", "cirr", "--data-root", data, "--output", "q.jsonl"],
        ["run", "--method", "sum", "--dataset", "cirr", "--data-root", data, *ENCODER, "--dry-run"],
    ))  # fmt: skip


def options(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    words = ["run", "--method", "spirit", "--dataset", "cirr", "--data-root", base / "data", *ENCODER, "--dry-run",
             "--seed", "0", "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--limit", "8", "--precision", "fp32",
             "--selection", "last", "--protocol", "official", "--set", "spirit.learning_rate=1e-3",
             "--set", "spirit.betas=[0.9,0.98]", "--output", "o"]  # fmt: skip
    for _ in range(rng.choice((1, 1, 2))):
        at, hostile = rng.randrange(1, len(words)), rng.choice(mutations.HOSTILE_WORDS)
        word = str(words[at])
        if "=" in word:
            words[at] = rng.choice((word.partition("=")[0] + "=" + hostile, hostile + "=" + word.partition("=")[2]))
        elif rng.random() < 0.2:
            words.insert(at, rng.choice((word, hostile)))
        else:
            words[at] = hostile
    if "--dry-run" not in words:
        words.append("--dry-run")
    return words


def settings(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    content = mutations.spoil_text(SETTINGS, rng)
    if rng.random() < 0.5:
        lines = SETTINGS.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if "=" in line])
        hostile = rng.choice(("5", "true", "[1, 2]", "{a = 1}", '"x"', "1e999", "nan", "1979-05-27", '""', "-1", '"../x"'))
        key = lines[at].partition("=")[0] if rng.random() < 0.8 else rng.choice(("lr ", "x.y ", '"" ', "method "))
        lines[at] = f"{key}= {hostile}"
        content = "\n".join(lines).encode()
    (folder / "mine.toml").write_bytes(content)
    return ["run", "--config", "mine.toml", "--data-root", base / "data", "--output", "o", "--dry-run"]


def weights(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    if rng.random() < 0.3:
        state = torch.load(base / "clip.pt", weights_only=True)["CLIP"]
        mutations.write_spoilt_state(folder / "clip.pt", state, rng)
        return rng.choice((
            ["import", "--method", "sum", "--clip", "clip.pt", "--dataset", "cirr", "--output", "o"],
            ["run", "--method", "sum", "--dataset", "cirr", "--data-root", base / "data", "--backbone", "tiny",
             "--weights", "clip.pt", "--set", "method.encoder=untouched", "--output", "o"],
        ))  # fmt: skip
    run = Path(shutil.copytree(base / "run", folder / "run"))
    file = run / "weights" / "selected.safetensors"
    file.write_bytes(mutations.spoil_safetensors(file.read_bytes(), rng))
    if rng.random() < 0.7:
        # Away from the record, whose digest would refuse whatever was changed.
        (run / "record.json").unlink()
        (run / "run.json").unlink()
    return rng.choice((
        ["evaluate", "--method", "clip4cir", "--checkpoint", "run", "--data-root", base / "data", "--output", "o"],
        ["export", "run", "--output", "m.safetensors"],
        ["submit", file, "--data-root", base / "data", "--output", "o"],
    ))  # fmt: skip


def records(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    run = Path(shutil.copytree(base / "run", folder / "run"))
    if rng.random() < 0.7:
        _replace_json(run / "record.json", rng)
    else:
        (run / "per_query.npz").write_bytes(mutations.spoil_bytes((run / "per_query.npz").read_bytes(), rng))
    return rng.choice((
        ["leaderboard", "--results", "results", "--add", "run"],
        ["leaderboard", "--results", "results", "--runs", "run"],
        ["compare", "run", base / "run"],
        ["submit", "run", "--data-root", base / "data", "--output", "o"],
    ))  # fmt: skip


def embeddings(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    if rng.random() < 0.7:
        with np.load(base / "mine.npz") as arrays:
            name = "mine.npz"
            mutations.write_spoilt_npz(folder / name, dict(arrays), rng)
    else:
        name = "mine.safetensors"
        (folder / name).write_bytes(mutations.spoil_safetensors((base / name).read_bytes(), rng))
    return ["evaluate", "--embeddings", name, "--dataset", "cirr", "--data-root", base / "data", "--output", "o"]


def rankings(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    name = rng.choice(("mine.jsonl", "mine.trec", "mine.json"))
    text = (base / name).read_text()
    if name == "mine.jsonl" and rng.random() < 0.5:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(mutations.spoil_tree(json.loads(lines[at]), rng))
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        content = mutations.spoil_json(text, rng) if name == "mine.json" else mutations.spoil_text(text, rng)
    (folder / name).write_bytes(content)
    return ["evaluate", "--rankings", name, "--dataset", "cirr", "--data-root", base / "data", "--output", "o"]


def plugins(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    lines = PLUGIN.splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if line.strip()])
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    change = rng.choice(("gone", "instead", "instead", "before", "name"))
    if change == "gone":
        del lines[at]
    elif change == "instead":
        lines[at] = indent + rng.choice(STATEMENTS)
    elif change == "before":
        lines.insert(at, indent + rng.choice(STATEMENTS))
    else:
        lines[at] = re.sub(r"\w+", lambda word: word[0] if rng.random() < 0.7 else "x", lines[at])
    (folder / "plain.py").write_text("\n".join(lines))
    return ["run", "--plugin", "plain.py", "--method", "plain", "--dataset", "cirr", "--data-root", base / "data", *ENCODER,
            "--epochs", "1", "--batch-size", "8", "--output", "o"]  # fmt: skip


def json_files(base: Path, folder: Path, rng: random.Random) -> list[Any]:
    """The other JSON files that commands read: DeepSpeed's, the server's numbers, golden numbers."""
    which = rng.choice(("deepspeed", "server", "golden"))
    if which == "deepspeed":
        text = json.dumps({"zero_optimization": {"stage": 1}, "train_batch_size": "auto", "wall_clock_breakdown": False})
        words = ["run", "--method", "spirit", "--dataset", "cirr", "--data-root", base / "data", *ENCODER,
                 "--deepspeed-config", "x.json", "--output", "o", "--dry-run"]  # fmt: skip
    elif which == "server":
        shutil.copytree(base / "run", folder / "run")
        text = json.dumps({"R@1": 40.1, "R@2": 50.0, "R@5": 60.5, "R_subset@1": 70.2})
        words = ["submit", "run", "--server-numbers", "x.json"]
    else:
        text = (Path(__file__).parent / "golden" / "preprocessing.json").read_text()
        words = ["parity", "x.json"]
    (folder / "x.json").write_bytes(mutations.spoil_json(text, rng))
    return words


KINDS: dict[str, Make] = {
    "pictures": pictures,
    "annotations": annotations,
    "options": options,
    "settings": settings,
    "weights": weights,
    "records": records,
    "embeddings": embeddings,
    "rankings": rankings,
    "plugins": plugins,
    "json": json_files,
}


def _data(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base / "data", folder / "data"))


def _replace_json(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutations.spoil_json(path.read_text(encoding="utf-8"), rng))
