"""Every command of the READMEs runs: as written where that is quick, else on small data.

`DATA`, `RUN` and the like stand for a user's own paths; here they are small folders that the test
makes. A command that a README gains runs here, or must be made smaller here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark.datasets.demo import demo_data
from command_line import TOY_PLUGIN, Command

from benchmark.throughput import limits

ROOT = Path(__file__).parent.parent
READMES = [
    path
    for folder in ("", "benchmark", "benchmark/interop", "benchmark/throughput", "methods", "datasets", "results", "tests")
    if (path := ROOT / folder / "README.md").is_file()
]
GOLDEN = Path(__file__).parent / "golden"
SMALL_DEMO = demo_data.Sizes(4, 2, 2, 2, 2, 2)

BY_CI = {
    'python -m venv .venv && . .venv/bin/activate && pip install -e . && python -m benchmark run --method spirit --dataset cirr',
    '. .venv/bin/activate && pip install -e ".[test]" && pytest',
}
SMALLER = {
    "--fair --method all": "--fair untouched --method image_only concat_clip --batch-size 16 --epochs 1",
    "--fair untouched --method sum clip4cir": "--fair untouched --method sum",
    "--backbone RN50x4": "--backbone tiny",
    "--method all --dataset all": "--method image_only sum --dataset cirr",
    "--method all": "--method image_only sum",
    "--method spirit encoder --ablations": "--method spirit --variant no-patches 2x2",
    "--method tme spirit": "--method spirit",
    "--limit 200": "--limit 24",
    "--growth": "--growth leaderboard --size 2",
    "--seed 0 1 2": "--seed 0 1",
    "--set spirit.epochs=20": "--set spirit.epochs=2",
    "--config any-card": "--config any-card --set encoders.batch_norm=eval",
}


def commands() -> list[str]:
    """Lines of the bash blocks, and indented lines that start the program, each once."""
    lines: list[str] = []
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines += [line for block in blocks for line in block.splitlines() if line.strip()]
        lines += re.findall(r"^    (python -m benchmark .*)$", text, re.MULTILINE)
    return list(dict.fromkeys(line.split("   #")[0].strip() for line in lines))


@pytest.fixture(scope="module")
def finished(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN: a short run of SPIRIT on the small folder."""
    from benchmark.cli import main

    folder = tmp_path_factory.mktemp("run") / "spirit"
    run = f"run --method spirit --dataset cirr --epochs 1 --limit 24 --set encoders.epochs=1 --data-root {small_cirr} --output {folder}"
    assert main(shlex.split(run)) == 0
    return folder


def embeddings(data: Path, split: str, path: Path) -> None:
    """Random embeddings of a split's queries and gallery, in the README's format."""
    import numpy as np

    entries = json.loads((data / "captions" / f"cap.rc2.{split}.json").read_text())
    names = list(json.loads((data / "image_splits" / f"split.rc2.{split}.json").read_text()))
    rng = np.random.default_rng(0)
    np.savez(
        path,
        queries=rng.standard_normal((len(entries), 8)),
        query_ids=[str(e["pairid"]) for e in entries],
        gallery=rng.standard_normal((len(names), 8)),
        gallery_ids=names,
    )


def rankings(data: Path, folder: Path) -> None:
    """Ranked lists of val as JSON lines, and of test1 in the server's two forms."""
    for split in ("val", "test1"):
        entries = json.loads((data / "captions" / f"cap.rc2.{split}.json").read_text())
        names = list(json.loads((data / "image_splits" / f"split.rc2.{split}.json").read_text()))
        lists = {str(e["pairid"]): [n for n in names if n != e["reference"]] for e in entries}
        if split == "val":
            lines = [json.dumps({"query": q, "ranking": ranked}) for q, ranked in lists.items()]
            (folder / "mine.jsonl").write_text("\n".join(lines))
            continue
        members = {str(e["pairid"]): set(e["img_set"]["members"]) for e in entries}
        subset = {q: [n for n in ranked if n in members[q]][:3] for q, ranked in lists.items()}
        for name, metric, content in (("r", "recall", lists), ("s", "recall_subset", subset)):
            (folder / f"{name}.json").write_text(json.dumps({"version": "rc2", "metric": metric, **content}))


def official(folder: Path) -> None:
    """The authors' files under their names, small ones."""
    from official_files import clip_state, combiner_state, spirit_state, write_clip

    from benchmark.encoders.architectures import TINY

    clip = clip_state(TINY)
    for name in ("tuned_fashioniq.pt", "tuned_clip_best.pt"):
        write_clip(folder / name, clip, "tuned")
    write_clip(folder / "RN50x4.pt", clip, "torchscript")
    torch.save(spirit_state(64), folder / "fashioniq-best.pth")
    torch.save({"epoch": 1, "Combiner": combiner_state(64)}, folder / "combiner.pt")


def shortened(line: str, data: Path, run: Path) -> list[str]:
    """A README line as arguments of the program, on small data."""
    for written, smaller in SMALLER.items():
        line = line.replace(written, smaller)
    for name in ("IMAGE_ONLY_RUN", "TEXT_ONLY_RUN", "OTHER"):
        line = line.replace(name, str(run.with_name(name.lower().removesuffix("_run"))))
    line = line.replace("--runs runs", f"--runs {run}")
    # Drawing demo data takes longer than what is tested here.
    line = line.replace(" --demo", " --dry-run" if "benchmark run" in line else " --demo")
    line = line.replace("--data-root DATA", f"--data-root {data}").replace("WEIGHTS", str(data)).replace("RUN", str(run))
    picture = sorted((data / "dev").glob("*.png"))[0]
    line = line.replace("PICTURE.png", str(picture)).replace("FOLDER", str(picture.parent))
    line = line.replace("my_method.py", str(TOY_PLUGIN)).replace("--method my_method", "--method toy")
    line = line.replace("tests/golden", str(GOLDEN)).replace(f"{GOLDEN}/spirit.json ", "")
    before, _, after = line.partition(" benchmark ")
    words = shlex.split(after)
    if not before.startswith("python"):
        # What a launcher starts is told by one process here; the launchers have tests of their own.
        words = [word.replace("fashioniq", "cirr") for word in words] + ["--dry-run"] * (words[0] == "run")
    if words[0] in ("run", "features") and "--data-root" not in words:
        words += ["--data-root", str(data)]
    if words[0] == "throughput":
        words += ["--data-root", str(data), "--limit", "16", "--seconds", "0"]
    if words[0] == "evaluate" and "--data-root" not in words:
        words += ["--data-root", str(data), "--limit", "24"]
    if "IMPORTED" in words:
        words += ["--dataset", "cirr", "--limit", "24"]
    if words[0] == "run":
        # Too little is held out of a limited run for a search.
        words += [] if "--limit" in words or "--fair" in words else ["--limit", "24"]
        words += [] if "toy" in words or "image_only" in words else ["--set", "encoders.epochs=1"]
    return words


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] if "--growth" in line else [])
        for line in commands()
        if line not in BY_CI
    ],
)
def test_a_command_of_the_readme_runs(
    line: str, command: Command, small_cirr: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "spirit"))
    for name in ("image_only", "text_only", "other"):
        alike = Path(shutil.copytree(finished, tmp_path / name)) / "record.json"
        alike.write_text(alike.read_text().replace('"method": "spirit"', f'"method": "{name}"'))
    embeddings(small_cirr, "val", tmp_path / "mine.npz")
    embeddings(small_cirr, "test1", tmp_path / "test1.npz")
    rankings(small_cirr, tmp_path)
    entries = json.loads((small_cirr / "captions" / "cap.rc2.val.json").read_text())
    (tmp_path / "listed.txt").write_text("\n".join(str(entry["pairid"]) for entry in entries[:5]))
    words = shortened(line, small_cirr, run)
    if words[0] == "import" or "IMPORTED" in words:
        official(tmp_path)
    if "IMPORTED" in words:
        files = ("fashioniq-best.pth", "--clip", "tuned_fashioniq.pt", "--output", "IMPORTED")
        assert command("import", "--method", "spirit", *files).status == 0
    if "--from-record" in words:
        # A run inside of a test has no command line.
        record = json.loads((run / "record.json").read_text())
        record["command"] = "python -m benchmark run --method spirit --dataset cirr"
        (run / "record.json").write_text(json.dumps(record))
    monkeypatch.setitem(demo_data._LAYOUTS, "cirr", replace(demo_data._LAYOUTS["cirr"], sizes=SMALL_DEMO))
    monkeypatch.setitem(limits._PRODUCT_SIDE, "cpu", 256)
    outcome = command(*words)
    if words[:2] in (["leaderboard", "--add"], ["leaderboard", "--runs"]):
        assert outcome.status == 2
        assert "limit" in outcome.err or "drawn" in outcome.err
    elif "--server-numbers" in words:
        assert outcome.status == 2
        assert "numbers.json" in outcome.err or "submission" in outcome.err
    else:
        assert outcome.status == 0, outcome.err


def test_the_set_up_commands_are_those_that_ci_runs() -> None:
    assert set(commands()) >= BY_CI
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep -m1 '^python -m venv .venv' README.md" in script


def test_the_manifest_of_the_datasets_page_is_read(small_cirr: Path, tmp_path: Path, command: Command) -> None:
    """A folder with it is data of one's own, whose counts are compared: the small folder has others."""
    page = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    (manifest,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    data = Path(shutil.copytree(small_cirr, tmp_path / "cirr"))
    (data / "dataset.json").write_text(manifest, encoding="utf-8")
    outcome = command("run", "--method", "sum", "--dataset", "cirr", "--data-root", str(data), "--dry-run")
    assert outcome.status == 2
    assert "2,000 are stated in dataset.json" in outcome.err


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name or "root")
def test_links_of_a_readme_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing
