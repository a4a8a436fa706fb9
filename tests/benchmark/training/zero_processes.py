"""Small stages trained by as many processes as started this, in the ways that its argument names.

Rank 0 leaves what came out in the folder that is the second argument.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from small_training import WIDTH, Small, Vectors, small_job
from test_adaptation import OnAttending
from torch import Tensor, nn

from benchmark.distributed.process import this_process
from benchmark.method import Method, Views
from benchmark.settings import TrainingSettings
from benchmark.training.execution import Execution
from benchmark.training.job import Interrupted, Trained
from benchmark.training.pauses import Pauses
from benchmark.training.trainer import train

ROWS = 40


class Block(nn.Module):
    """What gradient checkpointing computes again: a batch norm that trains and dropout within."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = x + self.dropout(torch.relu(self.norm(self.layer(x))))
        return mixed


class Scaled(Small):
    """With a parameter that has no dimension, as every logit scale is, in front of the others."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def loss(self, queries: Any, targets: Any) -> Tensor:
        return super().loss(self.scale * queries, targets)


class Deep(Small):
    """Three blocks, through which reference and target pass."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        torch.manual_seed(3)
        self.blocks = nn.Sequential(Block(), Block(), Block())

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        deep: Tensor = self.blocks(super().encode_query(reference, text))
        return deep

    def encode_target(self, target: Views) -> Tensor:
        deep: Tensor = self.blocks(target["global"])
        return deep


def settings(**changed: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {
            "epochs": 2, "batch_size": 8, "negative_group": 4, "optimiser": "sgd", "learning_rate": 0.05,
            "weight_decay": 0.01, "schedule": "cosine", **changed,
        }
    )  # fmt: skip


def adam(**changed: Any) -> TrainingSettings:
    return settings(optimiser="adamw", average_decay=0.6, learning_rate=0.01, **changed)


def trained(
    folder: Path,
    chosen: TrainingSettings,
    execution: Execution,
    resume: bool = False,
    stop_after: int = 0,
    method: Method | None = None,
) -> Trained | None:
    """A stage, by default without batch norm and dropout, with a scale; None where it was stopped after so many updates."""
    from benchmark.training import pauses

    method = method or Scaled()
    job = small_job(folder, chosen, Vectors(ROWS), method=method, execution=execution)
    counted, original = [0], Pauses.after_update

    def after_update(self: Pauses) -> pauses.Pause:
        counted[0] += 1
        self._stop.requested = self._stop.requested or counted[0] == stop_after and this_process("cpu").is_main
        return original(self)

    Pauses.after_update = after_update  # type: ignore[method-assign]
    try:
        return train(job, resume=resume)
    except Interrupted:
        return None
    finally:
        Pauses.after_update = original  # type: ignore[method-assign]


def low_rank() -> TrainingSettings:
    return adam(lora=2, lora_alpha=4.0)


def attending() -> Method:
    """Over one row alone a softmax is constant: queries and keys would get rounding, of which Adam makes whole steps."""
    return OnAttending(rows=2)


def stages(folder: Path) -> dict[str, Any]:
    """Each ZeRO stage, undisturbed, in three precisions."""
    results = {}
    for zero in (0, 1, 2):
        for name, chosen in (
            ("sgd", settings()), ("clipped", settings(gradient_clip=0.1)), ("adam", adam()),
            ("bf16", adam(precision="bf16")), ("fp16", adam(precision="fp16")),
        ):  # fmt: skip
            done = trained(folder / f"{name}-{zero}", chosen, Execution(zero=zero))
            assert done is not None
            norms = [entry.gradient_norm for entry in done.log]
            results[f"{name} {zero}"] = {"last": done.last, "norms": norms, "moments": done.moments}
        for name, rows in (("whole", 0), ("micro-batches", 3)):
            execution = Execution(zero=zero, micro_batch=rows, gradient_checkpointing=bool(rows))
            done = trained(folder / f"{name}-{zero}", settings(negative_group=0), execution)
            assert done is not None
            results[f"{name} {zero}"] = {"last": done.last}
    for zero in (0, 1):
        done = trained(folder / f"lora-{zero}", low_rank(), Execution(zero=zero), method=attending())
        assert done is not None
        results[f"lora {zero}"] = {"last": done.last}
    for again in (False, True):
        execution = Execution(gradient_checkpointing=again)
        done = trained(folder / f"deep-{again}", settings(negative_group=0), execution, method=Deep())
        assert done is not None
        results["deep again" if again else "deep"] = {"last": done.last}
    return results


def stopped(folder: Path) -> dict[str, Any]:
    """Stopped by rank 0 alone after seven updates, in folders of their own."""
    for zero in (0, 1, 2):
        for name, chosen in (("adam", adam()), ("fp16", adam(precision="fp16"))):
            assert trained(folder / f"{name}-{zero}", chosen, Execution(zero=zero), stop_after=7) is None
    for zero in (0, 1):
        given = (folder / f"lora-{zero}", low_rank(), Execution(zero=zero))
        assert trained(*given, stop_after=7, method=attending()) is None
    return {}


def resumed(folder: Path) -> dict[str, Any]:
    """What `stopped` left, gone on with; "next" changes the stage, too."""
    results = {}
    for zero in (0, 1, 2):
        for name, chosen in (("adam", adam()), ("fp16", adam(precision="fp16"))):
            now = zero if sys.argv[3] == "same" else (zero + 1) % 3
            done = trained(folder / f"{name}-{zero}", chosen, Execution(zero=now), resume=True)
            assert done is not None and done.updates == 10
            results[f"{name} {zero}"] = {"last": done.last, "losses": [entry.loss for entry in done.log]}
    for zero in (0, 1):
        now = zero if sys.argv[3] == "same" else 1 - zero
        execution = Execution(zero=now)
        done = trained(folder / f"lora-{zero}", low_rank(), execution, resume=True, method=attending())
        assert done is not None and done.updates == 10
        results[f"lora {zero}"] = {"last": done.last}
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("RANK", "0")
    what, where = sys.argv[1], Path(sys.argv[2])
    found = {"stages": stages, "stopped": stopped, "resumed": resumed}[what](where)
    if this_process("cpu").is_main:
        torch.save(found, where / f"{what}.pt")
