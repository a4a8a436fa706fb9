"""A stage is built in one place: the folder of weights files reaches it whichever command asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import Command

from benchmark.weights.checkpoints import read_header, read_weights

SETTINGS = (
    "method.cnn=tiny", "method.width=16", "method.word_width=3", "method.word_vectors=small-vectors.txt",
    "artemis.batch_size=8",
)  # fmt: skip


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder named by the environment, with vectors of words that the drawn captions have."""
    folder = tmp_path / "assets"
    folder.mkdir()
    words = ("is", "has", "the", "with", "and", "same", "but", "a", "make", "it", "in", "to", "of", "dog", "one")
    lines = [f"{word} {number}.5 -{number}.25 0.125" for number, word in enumerate(words, start=1)]
    (folder / "small-vectors.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("CIR_BENCHMARK_ASSETS", str(folder))
    return folder


def test_the_environment_s_folder_of_weights_files_reaches_every_command(
    assets: Path, small_cirr: Path, tmp_path: Path, command: Command
) -> None:
    data = ("--data-root", small_cirr, "--limit", 24)
    chosen = [argument for setting in SETTINGS for argument in ("--set", setting)]
    asked = ("run", "--method", "artemis", "--dataset", "cirr", *data, *chosen, "--epochs", 0)
    assert command(*asked, "--dry-run").status == 0
    outcome = command(*asked, "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    file = tmp_path / "run" / "weights" / "selected.safetensors"
    words = read_header(file).prepared["words"]
    table = read_weights(file)["encoders.txt_enc.embed.weight"]
    read = [line.split() for line in (assets / "small-vectors.txt").read_text().splitlines()]
    known = {word: torch.tensor([float(number) for number in numbers]) for word, *numbers in read if word in words}
    assert known and all(torch.equal(table[words.index(word)], vector) for word, vector in known.items())
    # None of these reads the vectors again; they look for the file in the same folder.
    outcome = command("evaluate", "--method", "artemis", "--checkpoint", tmp_path / "run", *data)
    assert outcome.status == 0, outcome.err
    outcome = command("export", tmp_path / "run", "--output", tmp_path / "export.safetensors")
    assert outcome.status == 0, outcome.err
    outcome = command(
        "throughput", "--method", "artemis", "--dataset", "cirr", *data, *chosen, "--seconds", 0.05, "--output", "speed"
    )
    assert outcome.status == 0, outcome.err


def test_a_file_that_is_not_there_is_told_before_the_work(
    assets: Path, small_cirr: Path, command: Command
) -> None:
    (assets / "small-vectors.txt").unlink()
    chosen = [argument for setting in SETTINGS for argument in ("--set", setting)]
    outcome = command("run", "--method", "artemis", "--dataset", "cirr", "--data-root", small_cirr, *chosen)
    assert outcome.status == 2 and "small-vectors.txt" in outcome.err and str(assets) in outcome.err
