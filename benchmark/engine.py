"""DeepSpeed around one stage: the same path for one CPU process and for many GPUs.

The engine owns the optimiser's step, accumulation, precision and the averaging of gradients over
processes. What it would decide by itself is decided here: no clipping unless asked for (its own
default is 1.0), no optimiser of its own (naming one compiles C++), autocast for half precision, so
that weights stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.batches import Batch, GroupLayout
from benchmark.distributed import Process, gather_rows, quiet_deepspeed, start_process_group
from benchmark.method import Method
from benchmark.settings import TrainingSettings

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NEVER = 10**9


class _LossModule(nn.Module):
    """The method as DeepSpeed sees it: tensors of one negative group in, its loss out."""

    def __init__(self, method: Method, process_group: Any) -> None:
        super().__init__()
        self.method = method
        self._process_group = process_group

    def forward(self, batch: Batch) -> Tensor:
        queries = self.method.encode_query(batch.reference, batch.text)
        targets = self.method.encode_target(batch.target)
        queries = gather_rows(queries, self._process_group)
        targets = gather_rows(targets, self._process_group)
        return self.method.loss(queries, targets)


def deepspeed_configuration(settings: TrainingSettings, layout: GroupLayout, world_size: int) -> dict[str, Any]:
    """The configuration that a stage's settings mean; every number in it is a recipe's."""
    configuration: dict[str, Any] = {
        "train_batch_size": layout.rows_per_rank * layout.groups_per_rank * world_size,
        "train_micro_batch_size_per_gpu": layout.rows_per_rank,
        "gradient_accumulation_steps": layout.groups_per_rank,
        "gradient_clipping": settings.gradient_clip,
        "zero_optimization": {"stage": 0},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
        # It would wait for the device twice a step.
        "timers": {"throughput": {"enabled": False}},
    }
    if settings.precision != "fp32":
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[settings.precision]
        configuration["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return configuration


class StageEngine:
    """One stage's method under DeepSpeed; `close` before the next stage's engine is made."""

    def __init__(
        self,
        method: Method,
        optimiser: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        settings: TrainingSettings,
        layout: GroupLayout,
        process: Process,
    ) -> None:
        start_process_group(process)
        self._settings = settings
        self._layout = layout
        self.method = method
        self._norms = [m for m in method.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats]
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)
        self._engine, self.optimiser, _, _ = quiet_deepspeed().initialize(
            model=_LossModule(method, _group_of_this_rank(layout, process)),
            model_parameters=[p for p in method.parameters() if p.requires_grad],
            optimizer=optimiser,
            lr_scheduler=self._scheduler,
            config=deepspeed_configuration(settings, layout, process.world_size),
        )
        # One process has nothing to average: copies of all gradients into buckets and back.
        self._engine.enable_backward_allreduce = process.world_size > 1

    def training_mode(self) -> None:
        """Train mode, with batch norms as the settings say."""
        self._engine.train()
        if self._settings.batch_norm == "eval":
            for norm in self._norms:
                norm.eval()

    def accumulate(self, batch: Batch, part: int) -> Tensor:
        """Add the gradient of one negative group and give its loss (detached, on the device).

        Only the first group of an update moves the batch norms' running statistics: rank 0's do,
        as under the released data-parallel training; each group is normalised with its own.
        """
        for norm in self._norms:
            norm.track_running_stats = part == 0
        loss = self._engine(batch)
        self._engine.backward(loss)
        result: Tensor = loss.detach()
        if part < self._layout.groups_per_rank - 1:
            self._engine.step()
        return result

    def update(self) -> None:
        """Update the weights with the accumulated gradient and advance the schedule."""
        self._engine.step()
        for norm in self._norms:
            norm.track_running_stats = True

    def gradient_norm(self) -> float:
        """Norm of the last update's gradient, before clipping."""
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def learning_rate(self) -> float:
        rate: float = self.optimiser.param_groups[0]["lr"]
        return rate

    def state(self) -> dict[str, Any]:
        """Everything that a resumed stage needs of the engine, as tensors and plain values."""
        scaler = self._engine.torch_autocast_z0_gradscaler
        return {
            "module": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": {"last_epoch": self._scheduler.last_epoch},
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._scheduler.last_epoch = state["schedule"]["last_epoch"]
        rates = [group["lr"] for group in self.optimiser.param_groups]
        self._scheduler._last_lr = rates
        if self._engine.torch_autocast_z0_gradscaler is not None and state["scaler"]:
            self._engine.torch_autocast_z0_gradscaler.load_state_dict(state["scaler"])

    def close(self) -> None:
        self._engine.destroy()


def _group_of_this_rank(layout: GroupLayout, process: Process) -> Any:
    """The processes that share a negative group with this rank, None for this one alone.

    Every rank takes part in making all of them, as torch demands.
    """
    if layout.ranks_per_group == 1:
        return None
    mine = None
    for first in range(0, process.world_size, layout.ranks_per_group):
        group = torch.distributed.new_group(list(range(first, first + layout.ranks_per_group)))
        if first <= process.rank < first + layout.ranks_per_group:
            mine = group
    return mine
