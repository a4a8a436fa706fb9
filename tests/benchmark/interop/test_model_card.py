"""The card beside an exported file, and what a run's numbers rest on as BibTeX."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import Command

from benchmark.cli import main
from benchmark.files import file_digest
from benchmark.interop.citations import citations_of
from benchmark.records.record import read_record
from benchmark.registry import discover

HOSTILE = "<b>bold</b> *a* [x](http://example.org) `code`"


@pytest.fixture(scope="module")
def run(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "clip4cir"
    settings = "--epochs 1 --batch-size 36 --set encoders.epochs=0 --set encoders.batch_size=24"
    line = f"run --method clip4cir --dataset cirr --data-root {small_cirr} {settings} --output {folder}"
    assert main(shlex.split(line)) == 0
    return folder


def test_a_card_lies_beside_the_file_and_tells_what_it_is(run: Path, small_cirr: Path, command: Command) -> None:
    outcome = command("export", run, "--output", "out/model.safetensors")
    assert outcome.status == 0 and "out/model.md: its model card" in outcome.out
    card, record = Path("out/model.md").read_text(), read_record(run)
    first = record.results[0]
    assert f"{first.metrics['R@10']:.2f}" in card and file_digest(Path("out/model.safetensors")) in card
    assert f"{first.composition['R@10'].gap:+.2f}" in card
    for words in ("load(\"model.safetensors\")", "Demo, synthetic pictures", "annotations MIT", "random weights", "@article"):
        assert words in card
    # Nobody's folders.
    assert str(run.parent) not in card and str(small_cirr) not in card and not re.search(r"(?<![\w.:/])/(tmp|root|home)/", card)


def test_what_somebody_typed_is_shown_as_text(run: Path, command: Command) -> None:
    raw = json.loads((run / "record.json").read_text())
    before = (run / "record.json").read_bytes()
    try:
        (run / "record.json").write_text(json.dumps({**raw, "title": HOSTILE}))
        assert command("export", run, "--output", "model.safetensors").status == 0
    finally:
        (run / "record.json").write_bytes(before)
    title = Path("model.md").read_text().splitlines()[0]
    assert "\\<b>" in title and "\\*a\\*" in title and "](http" not in title


def test_weights_without_a_record_have_a_card_without_numbers(run: Path, command: Command, tmp_path: Path) -> None:
    alone = tmp_path / "selected.safetensors"
    alone.write_bytes((run / "weights" / "selected.safetensors").read_bytes())
    assert command("export", alone, "--output", "model.safetensors").status == 0
    assert "no numbers are known" in Path("model.md").read_text()


def test_a_run_is_cited_with_its_stages_its_data_and_its_backbone(run: Path, command: Command) -> None:
    outcome = command("list", "--cite", run)
    keys = re.findall(r"@\w+\{([^,]+),", outcome.out)
    assert outcome.status == 0 and len(keys) == len(set(keys)) and "liu2021cirr" in keys
    assert {key for key in keys if key.startswith("baldrati")} and len(keys) < 5
    whole = command("list", "--cite")
    assert whole.status == 0 and len(re.findall(r"@\w+\{", whole.out)) > 5
    record = read_record(run)
    assert record.identity.encoder is not None
    for name, weights, key in (
        ("RN50x4", "openai", "radford2021learning"),
        ("ViT-B-16-SigLIP", "webli", "zhai2023sigmoid"),
        ("ViT-B-32", "laion2b_s34b_b79k", "cherti2023reproducible"),
        ("blip2-vit-g", "eva_vit_g", "li2023blip2"),
        ("EVA02-B-16", "merged2b", "sun2023eva"),
    ):
        encoder = record.identity.encoder.model_copy(update={"name": name, "weights": weights})
        other = record.model_copy(update={"identity": record.identity.model_copy(update={"encoder": encoder})})
        assert any(f"{{{key}," in entry for entry in citations_of(other, discover()))


def test_a_cited_run_that_is_none_is_one_line(tmp_path: Path, command: Command) -> None:
    for arguments in (["--cite", "nowhere"], ["methods", "--cite", "nowhere"]):
        outcome = command("list", *arguments)
        assert outcome.status == 2 and len(outcome.errors) == 1


def test_a_kind_behind_cite_is_no_run(command: Command) -> None:
    found = command("list", "--cite", "methods")
    assert found.status == 0 and found.out == command("list", "methods", "--cite").out and "@" in found.out
