"""A method that breaks its contract is refused before anything is trained or scored, in one line."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.pipeline.contract_probe import probe
from benchmark.pipeline.probed_rows import ROWS, ProbedRows
from benchmark.records.record import read_record
from benchmark.training.batches import Batch

WIDTH = 6
DATA = torch.from_numpy(np.random.default_rng(0).standard_normal((3, ROWS, WIDTH), dtype=np.float32))


def views(rows: Sequence[int]) -> Batch:
    reference, target, text = DATA[:, list(rows)]
    return Batch({"global": reference}, {"global": target}, {"global": text})


SAMPLE = ProbedRows(ROWS, views)


class Sound(Method):
    """Keeps its contract, with everything that a probe could leave changed: a batch norm, dropout, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def encode_query(self, reference: Any, text: Any) -> Any:
        both = self.layer(torch.cat([reference["global"], text["global"]], dim=1))
        return normalize(self.dropout(self.norm(both)), dim=1)

    def encode_target(self, target: Any) -> Any:
        return normalize(target["global"], dim=1)

    def loss(self, queries: Any, targets: Any) -> Any:
        # The idiom of CLIP's code: the weight itself is moved.
        self.scale.data.clamp_(0, 0.5)
        scores = self.scale.exp() * queries @ targets.T
        return nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def broken(**functions: Callable[..., Any]) -> Method:
    """A sound method in which these functions are others."""
    kind = type("Broken", (Sound,), functions)
    made: Method = kind()
    return made.eval()


def around(name: str, change: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """A function of the sound method whose result is changed."""
    sound = getattr(Sound, name)
    return {name: lambda self, *given: change(self, sound(self, *given))}


def leave(*_: Any) -> None:
    sys.exit(0)


def refuse(*_: Any) -> None:
    raise KeyError("patches")


def _count(method: Any, encoding: Tensor) -> Tensor:
    method.norm.num_batches_tracked += 1
    return encoding


def _set(function: Callable[[], Any], encoding: Tensor) -> Tensor:
    function()
    return encoding


ENCODINGS: dict[str, tuple[Callable[..., Any], str]] = {
    "of nothing": (lambda m, e: None, "gives nothing; expected: a tensor, or a dict of tensors"),
    "of a list": (lambda m, e: [e], "gives a list; expected: a tensor, or a dict of tensors"),
    "an empty dict": (lambda m, e: {}, "gives a dict; expected: a tensor, or a dict of tensors"),
    "a dict of lists": (lambda m, e: {"a": [1]}, "gives a dict; expected: a tensor, or a dict of tensors"),
    "one row too few": (lambda m, e: e[1:], f"gives a tensor ({ROWS - 1}, 6) of float32 for {ROWS} rows"),
    "a mean of all": (lambda m, e: e.mean(), f"gives a tensor () of float32 for {ROWS} rows"),
    "whole numbers": (lambda m, e: e.long(), "gives a tensor (4, 6) of int64; expected: floating-point"),
    "not finite": (lambda m, e: e / 0, "gives values that are not finite"),
    "centred in its batch": (lambda m, e: e - e.mean(0), "gives other scores in a batch and alone"),
    "sorted in its batch": (lambda m, e: e.sort(dim=0).values, "gives other scores in a batch and alone"),
    "by place": (lambda m, e: e * (1 + torch.arange(len(e)))[:, None], "gives other scores in a batch and alone"),
    "by chance": (lambda m, e: e + torch.rand_like(e), "gives other scores once and again"),
    "with a state": (lambda m, e: _count(m, e), "changes norm.num_batches_tracked; expected: evaluation changes no"),
    "of another type alone": (lambda m, e: e.double() if len(e) > 1 else e, "other names, shapes or types alone"),
}  # fmt: skip


@pytest.mark.parametrize("function", ["encode_query", "encode_target"])
@pytest.mark.parametrize("fault", ENCODINGS)
def test_an_encoding_is_a_row_s_own(function: str, fault: str) -> None:
    change, told = ENCODINGS[fault]
    refused(broken(**around(function, change)), told, "an encoding" if "changes" in told else function)


SCORES: dict[str, tuple[Callable[..., Any], str]] = {
    "a softmax over queries": (lambda m, q, t: (q @ t.T).softmax(0), "gives other scores in a block and as a single pair"),
    "a softmax over targets": (lambda m, q, t: (q @ t.T).softmax(1), "gives other scores in a block and as a single pair"),
    "ranks": (lambda m, q, t: (q @ t.T).argsort(1).double(), "gives other scores in a block and as a single pair"),
    "the right answers": (lambda m, q, t: torch.eye(len(q), len(t)), "gives other scores in a block and as a single pair"),
    "of pairs": (lambda m, q, t: (q * t).sum(1), "gives a tensor (4,) of float64; expected: scores of shape (4, 4)"),
    "transposed": (lambda m, q, t: (t @ q.T)[:, :1], "gives a tensor (4, 1) of float64"),
    "whole numbers": (lambda m, q, t: (q @ t.T).long(), "gives a tensor (4, 4) of int64"),
    "not finite": (lambda m, q, t: (q @ t.T) / 0, "gives values that are not finite; expected: finite scores"),
    "nothing": (lambda m, q, t: None, "gives nothing; expected: scores"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SCORES)
def test_a_score_is_a_pair_s_own(fault: str) -> None:
    change, told = SCORES[fault]
    refused(broken(score=change), told, "score")


LOSSES: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda m, q, t: None, "gives nothing; expected: a finite scalar with a gradient"),
    "a number": (lambda m, q, t: 1.0, "gives a float; expected"),
    "of each row": (lambda m, q, t: (q * t).sum(1), "gives a tensor (4,) of float32; expected"),
    "not a number": (lambda m, q, t: (q * t).sum() * torch.nan, "is nan on 4 rows; expected"),
    "detached": (lambda m, q, t: (q * t).sum().detach(), "has no gradient; expected"),
    "of nothing trained": (lambda m, q, t: torch.zeros((), requires_grad=True), "depends on no parameter that trains"),
    "a root at zero": (lambda m, q, t: ((q - q.detach()) ** 2).sum().sqrt(), "has a gradient that is not finite, of layer.weight"),
}  # fmt: skip


@pytest.mark.parametrize("fault", LOSSES)
def test_a_loss_is_a_finite_scalar_with_a_gradient(fault: str) -> None:
    change, told = LOSSES[fault]
    refused(broken(loss=change), told, "loss")


@pytest.mark.parametrize("function", ["encode_query", "encode_target", "score", "loss"])
@pytest.mark.parametrize(("body", "told"), [(leave, "raised SystemExit"), (refuse, "raised KeyError: 'patches'")])
def test_what_a_method_s_own_code_raises_is_told_with_its_function(function: str, body: Any, told: str) -> None:
    refused(broken(**{function: body}), told, function)


@pytest.mark.parametrize("function", ["encode_query", "encode_target", "loss"])
def test_a_function_that_is_not_there_is_named(function: str) -> None:
    missing = getattr(Method, function)
    refused(broken(**{function: missing}), f"must define {function}", function)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: torch.set_default_dtype(torch.float64), "torch's default type"),
        (lambda: torch.set_num_threads(2), "torch's number of threads"),
        (lambda: os.chdir("/"), "the working directory"),
    ],
)
def test_settings_of_the_whole_program_are_told_and_put_back(change: Callable[[], Any], told: str) -> None:
    before = (torch.get_default_dtype(), torch.get_num_threads(), os.getcwd())
    method = broken(**around("encode_target", lambda m, e: _set(change, e)))
    refused(method, f"a function changes {told}")
    assert (torch.get_default_dtype(), torch.get_num_threads(), os.getcwd()) == before


def refused(method: Method, told: str, function: str = "") -> None:
    kept = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with pytest.raises(UserError) as error:
        probe("mine", method, SAMPLE, "train")
    message = str(error.value)
    assert message.startswith(f"method mine: {function}") and told in message and "\n" not in message
    assert all(torch.equal(tensor, kept[name]) for name, tensor in method.state_dict().items())


def test_a_sound_method_is_left_as_it_was() -> None:
    method = Sound().eval()
    method.norm.train()
    kept = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    generators = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    method.norm.eval()
    found = probe("mine", method, SAMPLE, "train")
    assert found.rows == ROWS and 0 <= found.largest_deviation < 1e-5
    assert all(torch.equal(tensor, kept[name]) for name, tensor in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.random.get_state()[1].tolist() == generators[1] and random.getstate() == generators[2]  # type: ignore[index]
    assert not any(module.training for module in method.modules()) and method.layer.weight.grad is None


def test_dependence_on_the_batch_may_be_declared() -> None:
    kind = {**around("encode_query", lambda m, e: e - e.mean(0)), "rows_depend_on_batch": property(lambda self: True)}
    assert probe("mine", broken(**kind), SAMPLE, "train").rows_depend_on_batch


def test_a_loss_that_is_content_with_the_rows_is_no_fault() -> None:
    probe("mine", broken(loss=lambda m, q, t: ((q @ t.T) - 2).relu().sum()), SAMPLE, "train")


@pytest.mark.parametrize("seed", range(5))
def test_rounding_of_large_scores_is_no_fault(seed: int) -> None:
    """Features as CLIP gives them, of norms far from 1: what float32 loses grows with them."""
    torch.manual_seed(seed)
    method = broken(**around("encode_query", lambda m, e: 300 * e), **around("encode_target", lambda m, e: 300 * e))
    probe("mine", method, SAMPLE, "train")


PLUGIN = '''
import torch
from benchmark.method import FeatureInputs, Method, Specification, Stage

class Mine(Method):
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)

    def encode_query(self, reference, text):
        return self.layer(reference["global"] + text["global"])

    def encode_target(self, target):
        return target["global"]

    def loss(self, queries, targets):
        return torch.nn.functional.cross_entropy(queries @ targets.T, torch.arange(len(queries)))

STAGES = lambda one: (one,)
BODY

METHOD = Specification(
    stages=lambda settings, start: STAGES(Stage("mine", build=lambda c: Mine(c.width), inputs=lambda c: FeatureInputs())),
)
'''
RUN = ("--method", "mine", "--dataset", "cirr", "--backbone", "tiny", "--weights", "random", "--set", "mine.epochs=1", "--set", "mine.batch_size=8")


BEHIND_AN_ENCODER = "from benchmark.methods.networks.clip_finetuning import FINETUNING\nSTAGES = lambda one: (FINETUNING, one)\n"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("Mine.score = lambda self, q, t: (q @ t.T).softmax(0)", "score gives other scores in a block and as a single pair"),
        ("Mine.loss = lambda self, q, t: exit(0)", "loss ends the program"),
        ("Mine.__init__ = lambda self, width: 1 / 0", "build raises ZeroDivisionError"),
        (BEHIND_AN_ENCODER + "Mine.score = lambda self, q, t: (q @ t.T).softmax(0)", "score gives other scores in a block"),
        (BEHIND_AN_ENCODER + "Mine.encode_query = lambda self, r, t: r['global'] - r['global'].mean(0)", "encode_query"),
        ("STAGES = lambda one: (one, one)", "has several stages of one name (mine, mine)"),
        ("STAGES = lambda one: ()", "stages gives a tuple; expected: a tuple of one or more Stage"),
    ],
)
def test_a_run_of_a_broken_plug_in_ends_in_one_line_before_it_trains(
    body: str, told: str, command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("BODY", body))
    further = ("--set", "encoders.batch_size=24") if "FINETUNING" in body else ()
    outcome = command("run", "--plugin", "mine.py", *RUN, *further, "--data-root", small_cirr, "--output", "out")
    assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err
    assert "method mine" in outcome.errors[0] and told in outcome.errors[0]
    assert not (tmp_path / "out" / "record.json").exists() and "epoch 1" not in outcome.err


def test_a_record_tells_what_the_probe_found_and_a_checkpoint_is_probed_as_well(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("BODY", ""))
    assert command("run", "--plugin", "mine.py", *RUN, "--data-root", small_cirr, "--output", "out").status == 0
    record = read_record(tmp_path / "out" / "record.json")
    assert record.probe is not None and record.probe.rows == ROWS and not record.probe.rows_depend_on_batch
    assert record.timings["probe"] < 5
    score = "Mine.score = lambda self, q, t: (q @ t.T).softmax(0)"
    again = PLUGIN.replace("BODY", score).replace("METHOD = Specification(", "METHODS = {}\nMETHODS['mine'] = Specification(")
    (tmp_path / "again.py").write_text(again)
    outcome = command("evaluate", "--plugin", "again.py", "--method", "mine", "--checkpoint", "out", "--data-root", small_cirr)
    assert outcome.status == 2 and "score gives other scores" in outcome.err, outcome.err
