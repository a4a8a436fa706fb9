"""The training loop: resume to the last bit, selection, moments taken over, stops and failures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import Small, Vectors, same, small_job, small_stage
from torch import Tensor

from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.settings import TrainingSettings
from benchmark.training.execution import Execution
from benchmark.training.job import Interrupted, Trained
from benchmark.training.selection import Score
from benchmark.training.stage_state import StageState
from benchmark.training.trainer import train

ROWS = 40  # five updates of eight per epoch


def adam(**changed: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {
            "epochs": 3, "batch_size": 8, "negative_group": 4, "learning_rate": 0.05, "weight_decay": 0.01,
            "schedule": "cosine", "average_decay": 0.6, **changed,
        }
    )  # fmt: skip


class Killed(BaseException):
    pass


def killed_at(batch: int, rows: int = ROWS) -> Vectors:
    def check(served: int) -> None:
        if served == batch:
            raise Killed

    return Vectors(rows, on_batch=check)


@pytest.mark.parametrize(
    ("precision", "batch"), [("fp32", 4), ("fp32", 11), ("fp32", 14), ("fp32", 30), ("bf16", 14), ("fp16", 14)]
)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(tmp_path: Path, precision: str, batch: int) -> None:
    settings = adam(precision=precision)
    undisturbed = train(small_job(tmp_path / "a", settings, Vectors(ROWS)), resume=False)
    with pytest.raises(Killed):
        train(small_job(tmp_path / "b", settings, killed_at(batch), every=0), resume=False)
    source = Vectors(ROWS)
    resumed = train(small_job(tmp_path / "b", settings, source, every=0), resume=True)
    assert source.served < 30
    assert same(resumed.last, undisturbed.last)
    assert same(resumed.selected, undisturbed.selected)
    assert (resumed.updates, resumed.triplets_seen) == (undisturbed.updates, undisturbed.triplets_seen) == (15, 120)
    assert [(e.epoch, e.loss, e.score) for e in resumed.log] == [(e.epoch, e.loss, e.score) for e in undisturbed.log]


def test_a_kept_last_batch_is_trained_on_counted_and_resumed(tmp_path: Path) -> None:
    settings = adam(negative_group=0, keep_last=True, epochs=2)
    undisturbed = train(small_job(tmp_path / "a", settings, Vectors(42)), resume=False)
    assert (undisturbed.updates, undisturbed.triplets_seen) == (12, 84)
    with pytest.raises(Killed):
        train(small_job(tmp_path / "b", settings, killed_at(6, 42), every=0), resume=False)
    resumed = train(small_job(tmp_path / "b", settings, Vectors(42), every=0), resume=True)
    assert same(resumed.last, undisturbed.last) and resumed.triplets_seen == 84
    with pytest.raises(UserError, match="last batch of one entry, which batch norms"):
        train(small_job(tmp_path / "c", settings, Vectors(41)), resume=False)


def test_patience_ends_training_and_a_resumed_run_ends_where_it_would_have(tmp_path: Path) -> None:
    scores = [1.0, 3.0, 2.0, 3.0, 2.5, 9.0]  # two without a new best behind the second: an equal one is none

    def validations(begun: int = 0) -> Callable[[Method], Score]:
        coming = iter(scores[begun:])
        return lambda method: Score("made up", next(coming))

    settings = adam(epochs=6, patience=2)
    undisturbed = train(small_job(tmp_path / "a", settings, Vectors(ROWS), validate=validations()), resume=False)
    assert [entry.score for entry in undisturbed.log] == [1.0, 3.0, 2.0, 3.0] and undisturbed.updates == 20
    assert (undisturbed.selected_epoch, undisturbed.best) == (2, 3.0)
    with pytest.raises(Killed):  # in the third epoch, of five updates with two groups each
        train(small_job(tmp_path / "b", settings, killed_at(26), every=0, validate=validations()), resume=False)
    resumed = train(small_job(tmp_path / "b", settings, Vectors(ROWS), validate=validations(2)), resume=True)
    assert same(resumed.last, undisturbed.last) and resumed.updates == 20
    again = train(small_job(tmp_path / "b", settings, Vectors(ROWS), validate=validations(4)), resume=True)
    assert same(again.selected, undisturbed.selected) and len(again.log) == 4, "it has ended"
    whole = train(small_job(tmp_path / "c", adam(epochs=6), Vectors(ROWS), validate=validations()), resume=False)
    assert len(whole.log) == 6 and whole.selected_epoch == 6


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first = train(small_job(tmp_path, adam(), Vectors(ROWS)), resume=False)
    source = Vectors(ROWS)
    again = train(small_job(tmp_path, adam(), source), resume=True)
    assert source.served == 0
    assert same(first.selected, again.selected) and same(first.last, again.last)
    assert again.moments.keys() == first.moments.keys()


def test_two_runs_are_equal_and_the_seed_matters(tmp_path: Path) -> None:
    a, b = (train(small_job(tmp_path / n, adam(), Vectors(ROWS)), resume=False) for n in "ab")
    assert same(a.last, b.last)
    job = small_job(tmp_path / "c", adam(), Vectors(ROWS))
    object.__setattr__(job, "seed", 1)
    assert not same(a.last, train(job, resume=False).last)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(small_job(tmp_path, adam(), killed_at(14), every=0), resume=False)
    with pytest.raises(UserError, match='made with other settings: name was "this run", now "another"; run with'):
        train(small_job(tmp_path, adam(), Vectors(ROWS), identity={"name": "another"}), resume=True)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "pointer"])
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    with pytest.raises(Killed):
        train(small_job(tmp_path, adam(), killed_at(14), every=0), resume=False)
    (state,) = tmp_path.glob("resume-*.pt")
    content = state.read_bytes()
    if damage == "truncate":
        state.write_bytes(content[:-10])
    elif damage == "flip":
        state.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "remove":
        state.unlink()
    else:
        (tmp_path / "resume.json").write_text("[]\n")
    with pytest.raises(UserError, match="damaged"):
        train(small_job(tmp_path, adam(), Vectors(ROWS)), resume=True)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The state that lies there, changed, with a pointer that fits it."""
    pointer = json.loads((folder / "resume.json").read_text())
    path = folder / pointer["file"]
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    content = path.read_bytes()
    changed = {**pointer, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "resume.json").write_text(json.dumps(changed))


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.pop(name)


def _with(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.update({name: value})


def _cut(*names: str) -> Callable[[dict[str, Any]], Any]:
    """Half of the first tensor that lies there."""

    def change(state: dict[str, Any]) -> None:
        inner = state
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = inner[names[-1]][:1]

    return change


FIELDS = tuple(StageState.model_fields)
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"without {name}": _without(name) for name in FIELDS if StageState.model_fields[name].is_required()},
    **{f"{name} a word": _with(name, "word") for name in FIELDS if name != "criterion"},
    **{f"{name} nothing": _with(name, None) for name in FIELDS if name != "best"},
    **{f"{name} negative": _with(name, -1) for name in ("epoch", "position", "update", "triplets_seen")},
    "one entry more": _with("further", 1),
    "an epoch's line of another form": _with("log", [{"epoch": 1}]),
    "a weight cut": _cut("module", "layer.weight"),
    "a selected weight cut": _cut("selected", "layer.weight"),
    "a moment cut": _cut("moments", "layer.weight", "exp_avg"),
    "weights of another network": lambda state: state.update(module={"other": torch.zeros(1)}),
    "moments of another network": lambda state: state.update(moments={"other": {"exp_avg": torch.zeros(3)}}),
    "an average of another network": lambda state: state.update(average={"other": torch.zeros(3)}),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        train(small_job(folder, adam(), killed_at(14), every=0), resume=False)
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_of_another_form_or_other_shapes_is_refused_in_one_line(tmp_path: Path, killed: Path, change: str) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    rewritten(tmp_path, CHANGES[change])
    refused_in_one_line(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda pointer: pointer.pop("form"), lambda pointer: pointer.update(form=1), lambda pointer: pointer.pop("sha256"),
        lambda pointer: pointer.update(file="../../x.pt"), lambda pointer: pointer.update(bytes="9"),
        lambda pointer: pointer.update(further=1),
    ],
)  # fmt: skip
def test_a_pointer_of_another_form_is_refused_in_one_line(tmp_path: Path, killed: Path, change: Any) -> None:
    """The first is what older versions wrote."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    pointer = json.loads((tmp_path / "resume.json").read_text())
    change(pointer)
    (tmp_path / "resume.json").write_text(json.dumps(pointer))
    refused_in_one_line(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 50])
def test_a_pointer_that_was_cut_is_refused_in_one_line(tmp_path: Path, killed: Path, length: int) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "resume.json").write_bytes((killed / "resume.json").read_bytes()[:length])
    refused_in_one_line(tmp_path)


def refused_in_one_line(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        train(small_job(folder, adam(), Vectors(ROWS)), resume=True)
    assert "\n" not in str(error.value) and str(error.value).endswith(f"delete {folder} and run again"), error.value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_state_that_can_be_continued(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(served: int) -> None:
        if served == 13:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    undisturbed = train(small_job(tmp_path / "a", adam(), Vectors(ROWS)), resume=False)
    with pytest.raises(Interrupted, match="stage small, epoch 2"):
        train(small_job(tmp_path / "b", adam(), Vectors(ROWS, on_batch=interrupt)), resume=False)
    assert signal.getsignal(number) is before
    source = Vectors(ROWS)
    resumed = train(small_job(tmp_path / "b", adam(), source), resume=True)
    assert source.served == 30 - 14
    assert same(resumed.last, undisturbed.last)


def test_a_signal_in_the_last_validation_is_not_lost(tmp_path: Path) -> None:
    def validate(method: Any) -> Any:
        from small_training import validated

        os.kill(os.getpid(), signal.SIGINT)
        return validated(method)

    with pytest.raises(Interrupted):
        train(small_job(tmp_path, adam(epochs=1), Vectors(ROWS), validate=validate), resume=False)


def test_a_loss_that_is_not_finite_stops_with_its_update(tmp_path: Path) -> None:
    source = Vectors(ROWS)
    source.target[:] = torch.nan
    source.target[:] = source.target  # every batch is bad from the first update on
    with pytest.raises(UserError, match=r"stage small: the loss is nan at update 1 of 15 \(epoch 1\).*--set small"):
        train(small_job(tmp_path, adam(), source), resume=False)
    assert not list(tmp_path.glob("resume*"))


def test_a_failure_leaves_the_engine_usable(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(small_job(tmp_path / "a", adam(), killed_at(3)), resume=False)
    assert train(small_job(tmp_path / "b", adam(), Vectors(ROWS)), resume=False).updates == 15


def test_selection_keeps_the_best_epoch_and_the_last(tmp_path: Path) -> None:
    from benchmark.training.selection import Score

    scores, seen = iter([1.0, 3.0, 2.0]), []

    def validate(method: Any) -> Score:
        seen.append({name: t.clone() for name, t in method.state_dict().items()})
        assert not method.training
        return Score("made up", next(scores))

    trained = train(small_job(tmp_path, adam(), Vectors(ROWS), validate=validate), resume=False)
    assert trained.selected_epoch == 2 and trained.best == 3.0 and trained.margin == 1.0
    assert same(trained.selected, seen[1]) and same(trained.last, seen[2])
    assert [entry.score for entry in trained.log] == [1.0, 3.0, 2.0]


def test_without_validation_the_last_weights_are_selected(tmp_path: Path) -> None:
    trained = train(small_job(tmp_path, adam(), Vectors(ROWS), validate=None), resume=False)
    assert same(trained.selected, trained.last) and trained.selected_epoch == 3


def test_the_average_is_validated_and_the_raw_weights_go_on(tmp_path: Path) -> None:
    averaged = train(small_job(tmp_path / "a", adam(average_decay=0.9), Vectors(ROWS)), resume=False)
    raw = train(small_job(tmp_path / "b", adam(average_decay=0.0), Vectors(ROWS)), resume=False)
    assert [e.loss for e in averaged.log] == [e.loss for e in raw.log]
    assert not same(averaged.last, raw.last)


def earlier(tmp_path: Path) -> tuple[Small, Trained]:
    method = Small()
    trained = train(small_job(tmp_path / "first", adam(average_decay=0), Vectors(ROWS), method=method), resume=False)
    method.load_state_dict(trained.selected)
    return method, trained


def test_moments_and_best_score_of_an_earlier_stage_are_taken_over_but_not_its_rate(tmp_path: Path) -> None:
    method, before = earlier(tmp_path)
    before.best = 1e9
    stage = small_stage(initialise_from="weights and optimiser")
    settings = adam(epochs=1, learning_rate=0.003, schedule="constant")
    job = small_job(tmp_path / "second", settings, Vectors(ROWS), method=method, stage=stage, earlier=before)
    after = train(job, resume=False)
    assert after.log[0].learning_rate == 0.003
    assert after.moments["layer.weight"]["step"] == before.moments["layer.weight"]["step"] + 5 == 20
    assert after.selected_epoch == 0 and after.best == 1e9 and after.log[0].score is not None
    assert after.margin == 1e9 - after.log[0].score
    assert same(after.selected, before.selected)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_parameters_that_were_frozen_before_start_with_fresh_moments(tmp_path: Path, zero: int) -> None:
    """ZeRO keeps one count of updates for a group of parameters: those are cut up."""
    method, before = earlier(tmp_path)
    before.moments.pop("layer.weight")
    stage = small_stage(initialise_from="weights and optimiser")
    job = small_job(tmp_path / "b", adam(epochs=1), Vectors(ROWS), method=method, stage=stage, earlier=before)
    after = train(replace(job, execution=Execution(zero=zero)), resume=False)
    assert after.moments["layer.weight"]["step"] == 5
    assert after.moments["layer.bias"]["step"] == 20


class TooLarge(Small):
    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self._error = error

    def loss(self, queries: Any, targets: Any) -> Tensor:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_a_group_that_the_device_cannot_hold_is_told(tmp_path: Path, error: RuntimeError) -> None:
    settings = TrainingSettings(batch_size=8, negative_group=4)
    with pytest.raises(UserError, match=r"out of memory: cpu cannot hold a negative group of 4 pairs; .*trainer.micro_batch=1"):
        train(small_job(tmp_path, settings, Vectors(16), method=TooLarge(error)), resume=False)


def test_another_error_of_the_step_is_not_taken_for_memory(tmp_path: Path) -> None:
    method = TooLarge(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(small_job(tmp_path, TrainingSettings(batch_size=8), Vectors(16), method=method), resume=False)
