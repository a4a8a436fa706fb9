"""The command line: bad input ends in one line and status 2, nothing half-written; runs and their folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from command_line import TOY_PLUGIN, Command, Outcome

from benchmark.files import folder_lock
from benchmark.records.record import read_per_query, read_record
from benchmark.weights.checkpoints import read_weights

RUN = ("run", "--dataset", "cirr", "--limit", 40)
HEAD = (*RUN, "--method", "clip4cir", "--set", "encoders.epochs=1", "--epochs", 2)


@pytest.fixture
def data(small_cirr: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_cirr, tmp_path / "data" / "cirr"))


@pytest.fixture(scope="module")
def finished(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of clip4cir, undisturbed."""
    from benchmark.cli import main

    folder = tmp_path_factory.mktemp("finished")
    assert main([str(a) for a in (*HEAD, "--data-root", small_cirr, "--output", folder)]) == 0
    return folder


def told(outcome: Outcome, *parts: str, lines: int = 1) -> None:
    """One line per problem on standard error, status 2, no traceback."""
    assert outcome.status == 2
    assert len(outcome.errors) == lines, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for part in parts:
        assert part in outcome.err


def written(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--method", "sprit"), ("unknown method 'sprit': did you mean spirit",)),
        (("--method", "spirit", "--backbone", "RN50x5"), ("unknown backbone 'RN50x5': did you mean RN50x4",)),
        (("--method", "spirit", "--protocol", "oficial"), ("unknown protocol", "did you mean official")),
        (("--method", "spirit", "--recipe", "paper"), ("--recipe paper", "start at random", "from-scratch")),
        (("--method", "spirit", "--set", "spirit.epochz=1"), ("did you mean spirit.epochs",)),
        (("--method", "spirit", "--config", "none.toml"), ("none.toml: no such file",)),
        (("--method", "spirit", "--plugin", "none.py"), ("none.py: no such file",)),
        (("--method", "spirit", "--batch-size", "1000"), ("40 training entries are fewer than one batch of 1000",)),
        (("--method", "spirit", "--weights", "none.pt"), ("none.pt",)),
        ((), ("--method is missing; known:",)),
    ],
)
def test_wrong_choices(
    command: Command, small_cirr: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    told(command(*RUN, "--data-root", small_cirr, *arguments), *parts)
    assert not written(tmp_path)


def test_unknown_dataset(command: Command) -> None:
    told(command("run", "--method", "sum", "--dataset", "cir"), "unknown dataset 'cir': did you mean cirr")


def test_wrong_data_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = command(*RUN, "--method", "sum", "--data-root", tmp_path / "empty")
    assert outcome.status == 2 and "captions/" in outcome.err and str(tmp_path / "empty") in outcome.err
    assert "Traceback" not in outcome.err
    outcome = command(*RUN, "--method", "sum", "--data-root", tmp_path / "nowhere")
    assert outcome.status == 2 and "nowhere" in outcome.err


def test_truncated_annotations(command: Command, data: Path, tmp_path: Path) -> None:
    file = data / "captions" / "cap.rc2.val.json"
    file.write_text(file.read_text()[:-40])
    outcome = command(*RUN, "--method", "sum", "--data-root", data, "--output", tmp_path / "out")
    assert outcome.status == 2 and "cap.rc2.val.json: not valid JSON at line" in outcome.err
    assert not (tmp_path / "out").exists()


def training_picture(data: Path) -> Path:
    entry = json.loads((data / "captions" / "cap.rc2.train.json").read_text())[0]
    lists = json.loads((data / "image_splits" / "split.rc2.train.json").read_text())
    return data / lists[entry["reference"]]


def gallery_picture(data: Path) -> Path:
    lists = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    return data / next(iter(lists.values()))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "no picture"])
@pytest.mark.parametrize("where", ["train", "val"])
def test_unreadable_pictures(command: Command, data: Path, tmp_path: Path, damage: str, where: str) -> None:
    picture = training_picture(data) if where == "train" else gallery_picture(data)
    content = picture.read_bytes()
    picture.unlink()
    if damage != "missing":
        picture.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "no picture": b"text"}[damage])
    run = (*HEAD, "--data-root", data, "--cache", tmp_path / "cache", "--output", tmp_path / "out")
    outcome = command(*run)
    told(outcome, picture.name, lines=len(outcome.errors))
    assert 1 <= len(outcome.errors) <= 2
    assert not (tmp_path / "out" / "record.json").exists()
    outcome = command(*run, "--skip-bad-images", "--resume")
    if where == "val":
        told(outcome, picture.name, lines=len(outcome.errors))
        return
    assert outcome.status == 0, outcome.err
    identity = read_record(tmp_path / "out").identity
    assert len(identity.skipped_pictures) == 1 and identity.skipped_triplets >= 1
    (updates,) = {stage.updates for stage in identity.stages if stage.name == "encoders"}
    assert updates >= 1


def test_missing_pictures_are_scored_under_a_name_of_their_own(command: Command, data: Path, tmp_path: Path) -> None:
    picture = gallery_picture(data)
    picture.unlink()
    run = (*HEAD, "--data-root", data, "--cache", tmp_path / "cache", "--output", tmp_path / "out")
    assert command(*run).status == 2
    outcome = command(*run, "--allow-missing", "--resume")
    assert outcome.status == 0, outcome.err
    record = read_record(tmp_path / "out")
    assert {result.protocol for result in record.results} == {"official-partial"}
    assert record.identity.missing_pictures == (picture.stem,)
    assert "official-partial" in outcome.out


def test_a_dry_run_tells_the_plan_and_writes_nothing(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    outcome = command(*HEAD, "--data-root", small_cirr, "--dry-run", "--cache", tmp_path / "cache")
    assert outcome.status == 0
    for part in ("CLIP4Cir", "tiny, weights random", "from-scratch", "epochs of 2 updates", "batch 20", "MiB", "runs/"):
        assert part in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_every_missing_input(command: Command, data: Path, tmp_path: Path) -> None:
    pictures = [training_picture(data), gallery_picture(data)]
    for picture in pictures:
        picture.unlink()
    outcome = command(*RUN, "--method", "spirit", "--backbone", "RN50x4", "--data-root", data, "--dry-run",
                      "--batch-size", 500)  # fmt: skip
    assert outcome.status == 2
    for part in (*(p.name for p in pictures), "RN50x4", "fewer than one batch of 500"):
        assert part in outcome.err
    assert written(tmp_path) == written(tmp_path / "data" / "..")


def test_a_folder_in_use_is_refused(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "out", "another"):
        outcome = command(*HEAD, "--data-root", small_cirr, "--output", tmp_path / "out")
    told(outcome, "in use by another run")


def test_an_output_that_cannot_be_written_is_told(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    outcome = command(*HEAD, "--data-root", small_cirr, "--output", tmp_path / "file" / "out")
    told(outcome, str(tmp_path / "file"))


def test_evaluate_gives_exactly_the_run_s_numbers(
    command: Command, small_cirr: Path, tmp_path: Path, finished: Path
) -> None:
    outcome = command("evaluate", "--method", "clip4cir", "--checkpoint", finished, "--data-root", small_cirr,
                      "--limit", 40, "--output", tmp_path / "again")  # fmt: skip
    assert outcome.status == 0, outcome.err
    run, again = read_record(finished), read_record(tmp_path / "again")
    assert again.results[0] == run.results[0] and again.identity == run.identity
    ours, theirs = read_per_query(finished, run)[0], read_per_query(tmp_path / "again", again)[0]
    assert np.array_equal(ours.rank, theirs.rank) and np.array_equal(ours.top, theirs.top)


def test_wrong_checkpoints_are_refused(command: Command, small_cirr: Path, tmp_path: Path, finished: Path) -> None:
    base = ("evaluate", "--data-root", small_cirr, "--limit", 40, "--output", tmp_path / "out")
    told(command(*base, "--method", "spirit", "--checkpoint", finished), "weights of 'clip4cir', not of method 'spirit'")
    told(command(*base, "--method", "clip4cir", "--checkpoint", tmp_path), "holds no weights/selected.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    told(command(*base, "--method", "clip4cir", "--checkpoint", tmp_path / "text.safetensors"), "not a readable")
    told(
        command(*base, "--method", "clip4cir", "--checkpoint", finished, "--encoder", tmp_path / "text.safetensors"),
        "not the encoder that",
    )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_width_is_refused(
    command: Command, small_cirr: Path, tmp_path: Path, finished: Path
) -> None:
    from dataclasses import replace

    from benchmark.weights.checkpoints import read_header, save_weights

    file = finished / "weights" / "selected.safetensors"
    save_weights(tmp_path / "w.safetensors", read_weights(file), replace(read_header(file), width=640))
    outcome = command("evaluate", "--method", "clip4cir", "--checkpoint", tmp_path / "w.safetensors",
                      "--data-root", small_cirr, "--limit", 40)  # fmt: skip
    told(outcome, "for a backbone of width 640, but tiny has 64")


def interrupt_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    from benchmark.training.engine import StageEngine

    count, original = [0], StageEngine.update

    def counted(self: StageEngine) -> None:
        original(self)
        count[0] += 1
        if count[0] == update:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StageEngine, "update", counted)


@pytest.mark.parametrize("update", [1, 4])
def test_ctrl_c_can_be_resumed(
    command: Command, small_cirr: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    """Update 1 is in the encoder's training, 4 in the head's."""
    run = (*HEAD, "--data-root", small_cirr, "--cache", tmp_path / "cache", "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt_at(patch, update)
        outcome = command(*run)
    assert outcome.status == 130 and "--resume" in outcome.err and "Traceback" not in outcome.err
    if update == 4:
        told(command(*run), "holds an unfinished run", "--resume")
        told(
            command(*run, "--resume", "--set", "combiner.learning_rate=0.1"),
            "made with other settings: combiner.learning_rate was", ", now 0.1; run with the settings as they were",
        )  # fmt: skip
        # Told before the encoder is trained with them.
        outcome = command(*run, "--resume", "--set", "encoders.learning_rate=0.1")
        told(outcome, "made with other settings: encoders.learning_rate was", ", now 0.1")
        assert "training, recipe" not in outcome.err
    assert command(*run, "--resume").status == 0
    assert read_record(tmp_path / "out").results == read_record(finished).results
    for name in ("selected", "last"):
        a, b = (read_weights(folder / "weights" / f"{name}.safetensors") for folder in (finished, tmp_path / "out"))
        assert all((a[key] == b[key]).all() for key in a)


def test_several_runs_and_one_that_fails(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from benchmark.method import Specification\nfrom benchmark.settings import MethodSettings\n"
        "def stages(settings, start):\n    raise RuntimeError('broken inside')\n"
        "METHOD = Specification(stages=stages, settings=MethodSettings)\n"
    )
    outcome = command(
        *RUN, "--method", "toy_typo", "bad", "toy", "--seed", 0, 1, "--plugin", TOY_PLUGIN, "--plugin", bad,
        "--data-root", small_cirr, "--output", tmp_path / "out",
    )  # fmt: skip
    assert outcome.status == 2
    assert outcome.errors[0] == "error: 4 of 6 runs failed" and len(outcome.errors) == 5
    assert "did you mean toy" in outcome.err and "broken inside" in outcome.err
    records = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("record.json"))
    assert records == ["cirr/toy/seed-0/record.json", "cirr/toy/seed-1/record.json"]


def test_a_run_from_python_gives_its_record(small_cirr: Path, tmp_path: Path) -> None:
    import benchmark

    record = benchmark.run(
        method="toy", dataset="cirr", data_root=small_cirr, limit=20, plugins=[str(TOY_PLUGIN)], output=str(tmp_path)
    )
    assert record.results and read_record(tmp_path).results == record.results


def test_features_are_filled_ahead(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    asked = ("features", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 20, "--cache", tmp_path / "cache")
    dry = command(*asked, "--dry-run")
    assert dry.status == 0 and "would be stored" in dry.out and not (tmp_path / "cache").exists()
    done = command(*asked)
    assert done.status == 0 and "MiB stored under" in done.out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.suffix not in ("", ".lock")}
    assert command(*asked).status == 0
    assert before and all(p.stat().st_mtime_ns == then for p, then in before.items())


def test_the_former_name_of_a_view_is_understood_and_told(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    asked = ("features", "--dataset", "cirr", "--data-root", small_cirr, "--cache", tmp_path / "cache", "--dry-run")
    former = command(*asked, "--views", "whole", "patches")
    assert former.out == command(*asked).out
    assert "--views whole: the view is called global now" in former.err
    with pytest.raises(SystemExit):
        command(*asked, "--views", "hole")


def test_backbones_without_a_line_of_their_own_are_listed_by_name(command: Command) -> None:
    listed = command("list", "backbones")
    assert "and of open_clip's own: " in listed.out and "ViT-H-14," in listed.out and "ViT-SO400M-14-SigLIP2," in listed.out


def test_heldout_and_last_selection_run(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    for selection in ("heldout", "last"):
        folder = tmp_path / selection
        outcome = command("run", "--method", "toy", "--plugin", TOY_PLUGIN, "--dataset", "cirr", "--selection", selection,
                          "--data-root", small_cirr, "--output", folder)  # fmt: skip
        assert outcome.status == 0, outcome.err
        assert read_record(folder).identity.selection == selection
    a, b = (read_weights(tmp_path / "last" / "weights" / f"{name}.safetensors") for name in ("selected", "last"))
    assert all((a[key] == b[key]).all() for key in a)


def test_no_option_is_taken_by_a_launcher() -> None:
    """torchrun reads a beginning of one of its own options as that option, even behind the module's name."""
    import argparse

    from torch.distributed.run import get_args_parser

    from benchmark.cli import run

    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    own = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    theirs = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert [o for o in own - {"--help"} if any(t.startswith(o) for t in theirs)] == []
