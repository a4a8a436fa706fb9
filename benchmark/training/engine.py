"""DeepSpeed around one stage: the same path for one CPU process and for many GPUs.

DeepSpeed owns the optimiser's step, accumulation, clipping and the averaging of gradients over
processes, at ZeRO stages 0 to 2. Half precision is autocast around the method, as the released methods
train, so that weights and sums stay float32 at every stage; the loss is scaled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.distributed.process import Process
from benchmark.distributed.process_group import quiet_deepspeed, start_process_group
from benchmark.encoding import Encoding
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch, GroupLayout
from benchmark.training.execution import DEFAULT_EXECUTION, Execution, LossScale, deepspeed_configuration
from benchmark.training.group_layers import GroupLayers, gather_rows
from benchmark.training.memory import CheckpointedBlocks, encode_in_micro_batches, enough_memory
from benchmark.training.optimisation import Moments, give_moments, is_split

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _LossModule(nn.Module):
    """The method as DeepSpeed sees it: tensors of one negative group in, its loss out."""

    def __init__(
        self, method: Method, process_group: Any, precision: str, micro_batch: int, device: torch.device
    ) -> None:
        super().__init__()
        self.method = method
        self._process_group = process_group
        self._autocast: AbstractContextManager[Any] = (
            torch.autocast(device.type, dtype=_AUTOCAST[precision]) if precision in _AUTOCAST else nullcontext()
        )
        self._micro_batch, self._device = micro_batch, device
        self.parts: dict[str, Tensor] = {}

    def forward(self, batch: Batch) -> Tensor:
        with self._autocast:
            method, rows, device = self.method, self._micro_batch, self._device
            asked = {"reference": batch.reference, "text": batch.text}
            how: Callable[..., Encoding] = method.encode_query
            if method.encodes_triplets:
                how, asked = method.encode_triplet, {**asked, "target": batch.target}
            queries = encode_in_micro_batches(how, rows, device, **asked)
            targets = encode_in_micro_batches(method.encode_target, rows, device, target=batch.target)
            queries = gather_rows(queries, self._process_group)
            targets = gather_rows(targets, self._process_group)
            parts = method.loss_parts(queries, targets)
            self.parts = {name: part.detach() for name, part in parts.items()}
            return reduce(add, parts.values())


class StageEngine:
    """One stage's method under DeepSpeed; `close` before the next stage's engine is made.

    ``schedule`` gives the factor of the learning rate at update n, from 0, of all groups of parameters but those that
    say ``"scheduled": False``; ``momentum`` Adam's β₁ or SGD's momentum, None where it stays as it is.
    """

    def __init__(
        self,
        method: Method,
        optimiser: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        settings: TrainingSettings,
        layout: GroupLayout,
        process: Process,
        execution: Execution = DEFAULT_EXECUTION,
        momentum: Callable[[int], float] | None = None,
    ) -> None:
        start_process_group(process)
        self._settings = settings
        self._layout = layout
        self._execution = execution
        self.method = method
        self._norms = [m for m in method.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._process = process
        group = None
        if layout.ranks_per_group > 1:
            # Ranks that share a negative group follow one another; every rank takes part in making all groups.
            group, _ = torch.distributed.new_subgroups(layout.ranks_per_group)
        self._group_layers = None if group is None else GroupLayers(method, group)
        self._checkpointed = CheckpointedBlocks(method) if execution.gradient_checkpointing else None
        self.loss_scale = LossScale(execution.loss_scaling) if settings.precision == "fp16" else None
        self._losses = _LossModule(method, group, settings.precision, execution.micro_batch, process.device)
        with _refusals_in_one_line(execution), _scalars_broadcast(method, process):
            self._engine, self.optimiser, _, _ = quiet_deepspeed(execution.verbose).initialize(
                # It would take the GPU of LOCAL_RANK's number: another one than `--device cuda:1` without a
                # launcher, and none where srun shows each rank its own GPU alone.
                args=SimpleNamespace(device_rank=process.device.index or 0),
                model=self._losses,
                model_parameters=[p for p in method.parameters() if p.requires_grad],
                # Torch's: an optimiser that the configuration names would be compiled from C++. Its schedule
                # stays here as well, since DeepSpeed's would not advance on an update that overflowed.
                optimizer=optimiser,
                config=deepspeed_configuration(settings, layout, process.world_size, execution),
            )
        self._parameters = list(method.parameters())
        self._engine.clip_fp32_gradients = self._clip
        # One process has nothing to average, and DeepSpeed would still copy all gradients into buckets and back.
        # ZeRO must: it cuts them there.
        self._engine.enable_backward_allreduce = process.world_size > 1 or execution.zero > 0
        self._schedule, self._momentum = schedule, momentum
        self._rates: list[float] = [group["lr"] for group in optimiser.param_groups]
        self._updates = 0
        self._norm: Tensor | float = float("nan")
        self._set_rates()
        self._tell_scale()

    def training_mode(self) -> None:
        """Train mode, with batch norms as the settings say.

        Raises UserError where a batch norm would see a micro-batch instead of its negative group.
        """
        self._engine.train()
        if self._settings.batch_norm == "eval":
            for norm in self._norms:
                norm.eval()
        micro_batch, group = self._execution.micro_batch, self._layout.rows_per_rank
        training = [name for name, m in self.method.named_modules() if isinstance(m, _BatchNorm) and m.training]
        if training and 0 < micro_batch < group:
            raise UserError(
                f"trainer.micro_batch is {micro_batch}, but batch norms train ({training[0]}) on the {group} rows of a "
                "negative group, and micro-batches would change their statistics; leave trainer.micro_batch out "
                "(--set trainer.gradient_checkpointing=true saves memory here), or set the stage's batch_norm=eval"
            )

    def accumulate(self, batch: Batch, part: int) -> Tensor:
        """Add the gradient of one negative group and give its loss (detached, on the device).

        Each group is normalised with its own statistics. Only the first group of an update moves the
        batch norms' running ones, as rank 0's does under the released data-parallel training; ranks
        that have no part in it get them by `share_buffers`. Raises UserError where the device cannot
        hold the group.
        """
        for norm in self._norms:
            # In train mode such a norm normalises by the batch all the same, and leaves its buffers alone.
            norm.track_running_stats = self._layout.group_of(self._process.rank, part) == 0
        # DeepSpeed would count calls of `step`, which here come once an update and not once a group.
        self._engine.set_gradient_accumulation_boundary(part == self._layout.groups_per_rank - 1)
        with enough_memory(self._process, self._settings, self._layout):
            loss = self._engine(batch)
            # ZeRO's optimiser multiplies by the scale that it was told.
            scaled = loss if self.loss_scale is None or is_split(self.optimiser) else loss * self._whole_scale()
            self._engine.backward(scaled)
        result: Tensor = loss.detach()
        return result

    def update(self) -> None:
        """Update the weights with the accumulated gradient and advance the schedule.

        In float16 an update whose gradient overflowed is left out, on all processes alike.
        """
        if not self._engine.enable_backward_allreduce:
            for parameter in self._parameters:
                if parameter.requires_grad and parameter.grad is None:
                    # What takes no part in the loss decays nevertheless. DeepSpeed's averaging fills its gradient
                    # with zeros; a lone process, whose averaging is off, must as well.
                    parameter.grad = torch.zeros_like(parameter)
        if self.loss_scale is None:
            self._engine.step()
        else:
            self.loss_scale.count(not self._scaled_step(self._whole_scale()))
            self._tell_scale()
        # An update that was left out counts, too: the schedule is the recipe's, whatever overflows.
        self._updates += 1
        self._set_rates()
        for norm in self._norms:
            # As it was built: the next stage's engine asks for it.
            norm.track_running_stats = True

    def _scaled_step(self, scale: float) -> bool:
        """The step on a gradient of a scaled loss; False where it overflowed and nothing was updated."""
        if is_split(self.optimiser):
            # ZeRO divides by the scale and asks all processes for an overflow itself.
            self._engine.step()
            return not self.optimiser.overflow
        # Before the step, since the engine clips what it finds in `.grad`; alike on all ranks, which hold the
        # averaged gradient: they skip together without asking one another.
        gradients = self._gradients()
        norm = torch.nn.utils.get_total_norm(gradients) / scale
        if not bool(torch.isfinite(norm)):
            self._engine.zero_grad()
            return False
        torch._foreach_mul_(gradients, 1.0 / scale)
        self._norm = norm
        self._engine.step()
        return True

    def _tell_scale(self) -> None:
        if self.loss_scale is not None and is_split(self.optimiser):
            # In float32, which DeepSpeed takes this for, ZeRO would not look for overflows.
            self.optimiser.check_grad_overflow = True
            self.optimiser.override_loss_scale(self._whole_scale())

    def _whole_scale(self) -> float:
        """The factor of the loss that scales each group's gradient alike on any number of processes.

        DeepSpeed divides by the number of accumulated groups; the gather adds up its processes.
        """
        assert self.loss_scale is not None
        return self.loss_scale.value * self._layout.groups_per_rank / self._layout.ranks_per_group

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]

    def _clip(self) -> None:
        """The gradient to the settings' norm, in DeepSpeed's arithmetic at ZeRO 0, alike on all ranks.

        DeepSpeed's own sends two numbers to the device, for which the host waits at every update, and its factor has
        one entry, which a single number's gradient has no dimension for.
        """
        gradients = [g.view(1) if g.ndim == 0 else g for g in self._gradients()]
        norm = torch.stack(torch._foreach_norm(gradients)).square().sum().sqrt()
        # Not by a number's division, which is a product with the reciprocal.
        factor = torch.full_like(norm, self._settings.gradient_clip) / (norm + 1e-6)
        torch._foreach_mul_(gradients, factor.clamp(max=1.0))

    def _set_rates(self) -> None:
        factor = self._schedule(self._updates)
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * (factor if group.get("scheduled", True) else 1.0)
            if self._momentum is not None:
                moved = self._momentum(self._updates)
                key, value = ("betas", (moved, *group["betas"][1:])) if "betas" in group else ("momentum", moved)
                group[key] = value

    def measure_gradient(self) -> None:
        """Keep the norm of the gradient that the next `update` applies, without waiting for the device."""
        if not is_split(self.optimiser) and self.loss_scale is None:
            self._norm = torch.nn.utils.get_total_norm(self._gradients())

    def gradient_norm(self) -> float:
        """Norm of the gradient last measured, before clipping; ZeRO measures every update's."""
        # ZeRO has cut the gradient up by now; what it measured for clipping is kept under this name alone.
        norm = self.optimiser._global_grad_norm if is_split(self.optimiser) else self._norm
        return float(norm)

    def loss_parts(self) -> dict[str, float]:
        """Those of the last group that this process computed, by name; a loss of one part has none."""
        parts = self._losses.parts
        return {name: float(part) for name, part in parts.items()} if len(parts) > 1 else {}

    def mean_over_ranks(self, values: Tensor) -> Tensor:
        """The mean of what all ranks hold; all must call it."""
        if self._process.world_size > 1:
            # Every rank has a mean over as many groups, or over its group's whole loss: the means weigh alike.
            torch.distributed.all_reduce(values)
            values = values / self._process.world_size
        return values

    def share_buffers(self) -> None:
        """Give every rank rank 0's buffers, the running statistics; all ranks must call it."""
        if self._process.world_size > 1:
            for buffer in self.method.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def learning_rate(self) -> float:
        rate: float = self.optimiser.param_groups[0]["lr"]
        return rate

    def load_state(
        self, module: Mapping[str, Tensor], moments: Moments, updates: int, scale: Mapping[str, float]
    ) -> None:
        """Go on after so many updates, from weights, moments and (unless empty) loss scale as they stood then."""
        self.method.load_state_dict(module)
        if is_split(self.optimiser):
            # ZeRO steps on flat copies of the weights, which do not know that these were loaded.
            self.optimiser.refresh_fp32_params()
        give_moments(self.optimiser, self.method, moments)
        self._updates = updates
        self._set_rates()
        if self.loss_scale is not None and scale:
            self.loss_scale.load_state(scale)
            self._tell_scale()

    def close(self) -> None:
        if self._group_layers is not None:
            self._group_layers.close()
        if self._checkpointed is not None:
            self._checkpointed.restore()
        self._engine.destroy()


@contextmanager
def _refusals_in_one_line(execution: Execution) -> Iterator[None]:
    """Raises UserError for what DeepSpeed itself finds wrong with a user's configuration."""
    try:
        yield
    except (AssertionError, ValueError) as error:
        if not execution.deepspeed:
            raise
        told = " ".join(str(error).split()) or "without a word"
        raise UserError(f"DeepSpeed refuses the configuration: {told}; change --deepspeed-config") from error


@contextmanager
def _scalars_broadcast(method: Method, process: Process) -> Iterator[None]:
    """Give every process rank 0's parameters that have no dimension (a logit scale), in DeepSpeed's place.

    It broadcasts parameters as bytes, and torch has no such view of a single number.
    """
    scalars = [parameter for parameter in method.parameters() if parameter.ndim == 0]
    for scalar in scalars:
        if process.world_size > 1:
            torch.distributed.broadcast(scalar.data, src=0)
        # DeepSpeed leaves out parameters that ZeRO 3 has elsewhere, and reads this from them.
        vars(scalar)["ds_status"] = None
    try:
        yield
    finally:
        for scalar in scalars:
            del vars(scalar)["ds_status"]
