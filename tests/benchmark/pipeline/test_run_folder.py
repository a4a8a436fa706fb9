"""A folder belongs to one run: who may begin in it, continue it, replace it; whose weights are read from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import TOY_PLUGIN, Command, Outcome

from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.pipeline.run_folder import MARK, Kind, Owner, checked_weights, held_folder
from benchmark.records.record import read_record

ONE, OTHER = {"method": "a", "seed": 0}, {"method": "a", "seed": 1}
TRACES = ("training/resume.json", "weights/selected.safetensors", "per_query.npz")


def begin(folder: Path, identity: dict[str, Any] = ONE, kind: Kind = "run", **how: bool) -> bool:
    with held_folder(folder, Owner(kind, identity), **how) as finished:
        return finished


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def contents(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", MARK)}


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_an_empty_folder_is_begun_whatever_was_asked(tmp_path: Path, how: dict[str, bool]) -> None:
    assert not begin(tmp_path / "new", **how)
    assert json.loads((tmp_path / "new" / MARK).read_text())["identity"] == ONE


def test_a_folder_in_which_nothing_was_made_yet_is_anybody_s(tmp_path: Path) -> None:
    begin(tmp_path)
    begin(tmp_path, OTHER, resume=True)
    assert json.loads((tmp_path / MARK).read_text())["identity"] == OTHER


@pytest.mark.parametrize("trace", TRACES)
def test_an_unfinished_run_is_continued_or_replaced_by_word_alone(tmp_path: Path, trace: str) -> None:
    begin(tmp_path)
    put(tmp_path, trace)
    with pytest.raises(UserError, match="holds an unfinished run.*--resume.*--overwrite"):
        begin(tmp_path)
    assert not begin(tmp_path, resume=True)
    assert contents(tmp_path) == {trace}
    begin(tmp_path, overwrite=True)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("how", [{}, {"resume": True}])
@pytest.mark.parametrize("trace", TRACES)
def test_another_run_s_folder_is_refused_and_left_as_it_is(tmp_path: Path, trace: str, how: dict[str, bool]) -> None:
    begin(tmp_path)
    put(tmp_path, trace, "notes.txt")
    with pytest.raises(UserError, match="made with other settings: seed was 0, now 1;.*--overwrite"):
        begin(tmp_path, OTHER, **how)
    assert contents(tmp_path) == {trace, "notes.txt"}
    assert json.loads((tmp_path / MARK).read_text())["identity"] == ONE


def test_replaced_is_all_that_a_run_leaves_and_nothing_else(tmp_path: Path) -> None:
    begin(tmp_path)
    theirs = {"notes.txt", "weights/mine.safetensors", "figures/a.png", "submission/remarks.json", "training-data/resume.pdf"}
    put(
        tmp_path, *theirs, *TRACES, "table.md", "examples.png", "training-log.json", "weights/last.safetensors",
        "training-first/resume-00000004.pt", "monitor/csv/loss.csv", "submission/cirr-test1-recall.json",
        "submission/submission.json", "weights/evaluated-cirr/table.md", "weights/evaluated-cirr/.lock",
    )  # fmt: skip
    begin(tmp_path, OTHER, overwrite=True)
    assert contents(tmp_path) == theirs
    assert not (tmp_path / "training").exists() and not (tmp_path / "monitor").exists()


def test_a_linked_folder_s_files_are_not_removed(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    put(tmp_path / "disk", "selected.safetensors")
    (tmp_path / "run" / "weights").symlink_to(tmp_path / "disk")
    begin(tmp_path / "run", OTHER, overwrite=True)
    assert (tmp_path / "disk" / "selected.safetensors").is_file()


@pytest.mark.parametrize("how", [{}, {"overwrite": True}])
def test_what_nobody_s_record_speaks_of_is_never_written_over(tmp_path: Path, how: dict[str, bool]) -> None:
    """Imported weights, say: no run of ours has begun there."""
    put(tmp_path, "weights/selected.safetensors", "import.json")
    with pytest.raises(UserError, match="holds weights/selected.safetensors.*choose another --output"):
        begin(tmp_path, **how)
    (tmp_path / "other").mkdir()
    put(tmp_path / "other", "thesis.tex", ".7.partial.thesis.tex")
    begin(tmp_path / "other", **how)
    begin(tmp_path / "other", OTHER, overwrite=True)
    assert "thesis.tex" in contents(tmp_path / "other")


@pytest.mark.parametrize("kind", ["evaluation", "embeddings", "rankings"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_other_kind_takes_over_a_run_s_folder(tmp_path: Path, kind: Kind, overwrite: bool) -> None:
    begin(tmp_path)
    put(tmp_path, "weights/selected.safetensors")
    with pytest.raises(UserError, match="holds a folder of another kind"):
        begin(tmp_path, ONE, kind, overwrite=overwrite)


def test_a_strange_mark_is_nobody_s_to_replace(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text('{"name": "my job"}')
    with pytest.raises(UserError, match="run.json: not of this program"):
        begin(tmp_path, overwrite=True)


RUN = ("run", "--method", "toy", "--plugin", TOY_PLUGIN, "--dataset", "cirr", "--limit", 40)


def refused(outcome: Outcome, *parts: str) -> None:
    assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err
    assert all(part in outcome.err for part in parts), outcome.err


@pytest.fixture(scope="module")
def finished(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmark.cli import main

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main([str(a) for a in (*RUN, "--data-root", small_cirr, "--output", folder)]) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_record_knows_its_weights(finished: Path) -> None:
    weights = read_record(finished).weights
    assert weights == {
        f"weights/{name}.safetensors": file_digest(finished / "weights" / f"{name}.safetensors")
        for name in ("selected", "last")
    }
    for given in (finished, finished / "weights", finished / "weights" / "selected.safetensors"):
        assert checked_weights(given) == finished / "weights" / "selected.safetensors"


@pytest.mark.parametrize("how", ["flipped", "of an older version's record"])
def test_weights_that_are_not_the_record_s_are_read_by_nobody(
    command: Command, small_cirr: Path, folder: Path, how: str
) -> None:
    file = folder / "weights" / "selected.safetensors"
    if how == "flipped":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        values = json.loads((folder / "record.json").read_text())
        del values["weights"]
        (folder / "record.json").write_text(json.dumps(values | {"method": "sum"}))
    plugin = ("--plugin", TOY_PLUGIN)
    for arguments in (
        ("export", folder, *plugin),
        ("submit", folder, "--data-root", small_cirr, *plugin),
        ("evaluate", "--method", "toy", "--checkpoint", folder, "--data-root", small_cirr, *plugin),
        ("evaluate", "--method", "toy", "--checkpoint", file, "--data-root", small_cirr, *plugin),
    ):
        refused(command(*arguments), "not the weights that", "record.json was made with")


def test_other_settings_and_other_commands_are_refused(command: Command, small_cirr: Path, folder: Path) -> None:
    before = contents(folder)
    run = (*RUN, "--data-root", small_cirr, "--output", folder)
    refused(command(*run, "--seed", 1), "seed was 0, now 1", "--overwrite")
    refused(command(*run, "--epochs", 3), "epochs was", "--overwrite")
    refused(command("run", "--method", "image_only", *run[3:]), 'method was "toy", now "image_only"')
    evaluate = ("evaluate", "--method", "toy", "--plugin", TOY_PLUGIN, "--checkpoint", folder, "--limit", 40)
    evaluate = (*evaluate, "--data-root", small_cirr, "--output", folder)
    refused(command(*evaluate), "holds a folder of another kind (run)")
    refused(command(*evaluate, "--overwrite"), "holds a folder of another kind (run)")
    assert contents(folder) == before


def test_the_same_finished_run_again_is_a_whole_replacement(command: Command, small_cirr: Path, folder: Path) -> None:
    first = read_record(folder)
    put(folder, "training-old/resume.json", "submission/cirr-test1-recall.json")
    assert command(*RUN, "--data-root", small_cirr, "--output", folder).status == 0
    again = read_record(folder)
    assert again.results == first.results and again.weights == first.weights
    assert not {"training-old/resume.json", "submission/cirr-test1-recall.json"} & contents(folder)


def test_resume_of_a_finished_run_leaves_it(command: Command, small_cirr: Path, folder: Path) -> None:
    record = (folder / "record.json").read_bytes()
    put(folder, "training/resume-00000004.pt")
    outcome = command(*RUN, "--data-root", small_cirr, "--output", folder, "--resume")
    assert outcome.status == 0 and "is finished" in outcome.err and "| method" in outcome.out
    assert (folder / "record.json").read_bytes() == record
    assert not (folder / "training").exists()
    (folder / "weights" / "last.safetensors").unlink()
    assert command(*RUN, "--data-root", small_cirr, "--output", folder, "--resume").status == 0
    assert read_record(folder).weights.keys() == {"weights/selected.safetensors", "weights/last.safetensors"}
    assert (folder / "weights" / "last.safetensors").is_file()


def test_overwrite_takes_the_old_record_first(
    command: Command, small_cirr: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails after it was begun leaves nothing of the one before."""
    from benchmark.pipeline import run

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    put(folder, "notes.txt")
    monkeypatch.setattr(run, "check_pictures", fail)
    outcome = command(*RUN, "--data-root", small_cirr, "--output", folder, "--seed", 1, "--overwrite")
    assert outcome.status == 1 and "in the middle" in outcome.err
    assert contents(folder) == {"notes.txt"}


def test_an_unfinished_run_s_weights_are_not_taken_by_its_folder(command: Command, folder: Path) -> None:
    (folder / "record.json").unlink()
    refused(command("export", folder, "--plugin", TOY_PLUGIN), "holds an unfinished run", "--resume")
