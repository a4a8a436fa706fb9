"""What ranks must have alike, how a difference is told, and a group that no device holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import Small, Vectors, small_job
from torch import Tensor

from benchmark.distributed.membership import Membership, difference
from benchmark.errors import UserError, described
from benchmark.pipeline.agreement import program_digest
from benchmark.settings import TrainingSettings
from benchmark.training.trainer import train


def test_a_difference_names_the_fact_and_both_values() -> None:
    first = ["the start", {"--seed": "0", "torch": "2.9"}]
    assert difference(first, ["the start", {"--seed": "0", "torch": "2.9"}]) == ""
    other = ["the start", {"--seed": "1", "torch": "2.9", "plug-in a.py": "ab…"}]
    assert difference(first, other) == (
        "--seed is 0 on rank 0 and 1 on rank RANKS, plug-in a.py is unknown on rank 0 and ab… on rank RANKS"
    )
    assert difference(first, ["the end", {}]) == "rank 0 is at the start, RANKS at the end"
    many = ["the start", {str(n): "x" for n in range(9)}]
    assert difference(["the start", {}], many).endswith(", and 4 more")


class Answers(Membership):
    """Rank 0 of three, the others' answers being given."""

    def __init__(self, *others: Any) -> None:
        self._others = others

    def tell(self, subject: str, value: Any) -> list[Any]:
        return [value, *self._others]


def test_ranks_that_differ_alike_are_told_together() -> None:
    same, other = ["start", {"a": "1"}], ["start", {"a": "2"}]
    Answers(same, same).agree("start", {"a": "1"})
    with pytest.raises(UserError, match="^the processes of this job disagree: a is 1 on rank 0 and 2 on rank 1, 2;"):
        Answers(other, other).agree("start", {"a": "1"})


def test_the_program_s_digest_is_one_value() -> None:
    assert program_digest() == program_digest() and len(program_digest()) == 12


def test_failures_that_need_no_traceback_have_a_message_and_a_status() -> None:
    assert described(UserError("x")) == ("x", 2)
    assert described(SystemExit(2)) == ("", 2)
    interrupted = described(KeyboardInterrupt())
    assert interrupted is not None and interrupted[1] == 130
    full = described(OSError(28, "No space left on device", "/a/b"))
    assert full is not None and full[1] == 2 and "/a/b" in full[0]
    assert described(ValueError("x")) is None


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
    with pytest.raises(UserError, match=r"out of memory: cpu cannot hold a negative group of 4 pairs; .*trainer.piece=1"):
        train(small_job(tmp_path, settings, Vectors(16), method=TooLarge(error)), resume=False)


def test_another_error_of_the_step_is_not_taken_for_memory(tmp_path: Path) -> None:
    method = TooLarge(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(small_job(tmp_path, TrainingSettings(batch_size=8), Vectors(16), method=method), resume=False)
