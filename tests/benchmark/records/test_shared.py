"""What is given away names nobody's machine: no absolute path, host or account in a committed record or page."""

from __future__ import annotations

import copy
import getpass
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmark.records.record import Record, read_record
from benchmark.records.shared import shareable

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")
RESULTS = Path(__file__).parents[3] / "results"
FOLDERS = re.compile(r"(?<![\w.])(?:/(?:home|root|Users|tmp|mnt|data|scratch|work|opt|var|etc)/|[A-Za-z]:\\\\?[A-Za-z])")


def made(**changes: Any) -> Record:
    return Record.model_validate({**copy.deepcopy(GOLDEN), **changes})


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python -m benchmark run --data-root /somebody/DATA --seed 1", "python -m benchmark run --data-root DATA --seed 1"),
        ("python -m benchmark run --data-root cirr=/mnt/a/b/", "python -m benchmark run --data-root cirr=b"),
        ("python -m benchmark run --data-root='/somebody/my data/x y'", "python -m benchmark run '--data-root=x y'"),
        ("python -m benchmark run --weights ~/w/RN50x4.pt", "python -m benchmark run --weights RN50x4.pt"),
        (r"python -m benchmark run --weights 'C:\Users\me\w.pt'", "python -m benchmark run --weights w.pt"),
        ("python -m benchmark run --output /somebody/runs --demo", "python -m benchmark run --demo"),
        ("python -m benchmark run --set spirit.epochs=20", "python -m benchmark run --set spirit.epochs=20"),
        ("python -m benchmark run --data-root 'x", "python -m benchmark run --data-root 'x"),
    ],
)
def test_a_command_keeps_the_last_part_of_its_paths(command: str, shown: str) -> None:
    assert shareable(made(command=command)).command == shown


def test_every_text_of_a_record_is_looked_at_and_nothing_else_is_changed() -> None:
    raw = copy.deepcopy(GOLDEN)
    raw["identity"]["encoder"]["weights"] = "/somebody/weights/RN50x4.pt"
    raw["identity"]["inputs"] = {"/somebody/mine.npz": "ab"}
    raw["results"][0]["notes"] = ["read from /somebody/lists/a.json, 3/4 of it (R@5+R_subset@1)/2 at https://example.org/a/b"]
    found = shareable(Record.model_validate(raw))
    assert found.identity.encoder is not None and found.identity.encoder.weights == "RN50x4.pt"
    assert found.identity.inputs == {"mine.npz": "ab"}
    assert found.results[0].notes == ("read from a.json, 3/4 of it (R@5+R_subset@1)/2 at https://example.org/a/b",)
    assert shareable(found) == found
    assert shareable(made()) == made()


def test_nothing_committed_names_a_folder_a_host_or_an_account() -> None:
    files = [path for path in RESULTS.rglob("*") if path.suffix in (".json", ".md", ".csv", ".html", ".toml")]
    assert len(files) > 100
    own = {socket.gethostname(), getpass.getuser(), Path.home().name, os.environ.get("HOSTNAME", "")}
    names = re.compile(r"\b(?:" + "|".join(re.escape(n) for n in own if len(n) > 4) + r")\b") if any(len(n) > 4 for n in own) else None
    for file in files:
        text = file.read_text(encoding="utf-8")
        found = FOLDERS.search(text)
        assert found is None, f"{file}: {text[max(0, found.start() - 40) : found.end() + 40]}"
        assert names is None or not names.search(text), file
        if file.name == "record.json":
            record = read_record(file)
            assert shareable(record) == record, file
