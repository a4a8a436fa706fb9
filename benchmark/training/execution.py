"""How a stage is computed, apart from what: none of it changes a result beyond the rounding of sums.

DeepSpeed is told all that it would otherwise decide by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import UserError
from benchmark.settings import TrainerSettings, TrainingSettings
from benchmark.training.batches import GroupLayout
from benchmark.training.deepspeed_file import DeepspeedFile

_NEVER = 10**9
_BUCKET = 50_000_000
"""Elements that ZeRO reduces or gathers at a time: 200 MB; DeepSpeed's default takes 2 GB of a card."""


@dataclass(frozen=True)
class LossScaling:
    """Where the scale of a float16 loss starts and how it moves; ``dynamic`` False keeps it where it starts.

    ``hysteresis`` is the number of overflows that are borne before the scale falls.
    """

    initial: float = 2.0**16
    window: int = 2000
    hysteresis: int = 1
    smallest: float = 1.0
    dynamic: bool = True

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> LossScaling:
        """What section fp16 of a DeepSpeed file says, in DeepSpeed's names and with torch's defaults."""
        given = {key: value for key, value in section.items() if value not in ("auto", None)}
        # 0 is DeepSpeed's word for a scale that moves.
        fixed = given.get("loss_scale", 0)
        return cls(
            initial=float(fixed or 2.0 ** given.get("initial_scale_power", 16)),
            window=int(given.get("loss_scale_window", 2000)),
            hysteresis=int(given.get("hysteresis", 1)),
            smallest=float(given.get("min_loss_scale", 1)),
            dynamic=not fixed,
        )


class LossScale:
    """The current scale of one stage's loss: small gradients are kept, overflows skip an update.

    The rule is that of torch's GradScaler: halve the scale after an overflow, double it after a number of
    updates without one. GradScaler itself bears no overflow, knows no least scale (both of DeepSpeed's section
    fp16) and does not reach ZeRO's optimiser. DeepSpeed's scaler doubles an update later, and DeepSpeed uses it
    differently at each ZeRO stage: under autocast at 1 and 2 a process skips by its own share of the gradient.
    """

    def __init__(self, scaling: LossScaling) -> None:
        self._scaling = scaling
        self.value = scaling.initial
        self._good = 0
        # Overflows that are still borne; as in DeepSpeed, only a doubling refills them.
        self._borne = scaling.hysteresis

    def count(self, overflowed: bool) -> None:
        """Tell whether the gradient of an update, and with it the update, was lost to an overflow."""
        if not self._scaling.dynamic:
            return
        if not overflowed:
            self._good += 1
            if self._good % self._scaling.window == 0:
                self.value *= 2
                self._borne = self._scaling.hysteresis
            return
        self._good = 0
        self._borne -= 1
        if self._borne <= 0:
            self.value = max(self.value / 2, self._scaling.smallest)

    def state(self) -> dict[str, float]:
        return {"value": self.value, "good": self._good, "borne": self._borne}

    def load_state(self, state: Mapping[str, float]) -> None:
        self.value, self._good, self._borne = float(state["value"]), int(state["good"]), int(state["borne"])


@dataclass(frozen=True)
class Execution:
    """What trainer settings and the user's DeepSpeed file say of the computation.

    ``zero``: ZeRO stage, 0 to 2. ``micro_batch``: rows encoded at a time, 0 for all. ``deepspeed``:
    sections of the user's file that reach DeepSpeed as they stand. ``verbose``: DeepSpeed's own lines
    are shown.
    """

    zero: int = 0
    micro_batch: int = 0
    gradient_checkpointing: bool = False
    loss_scaling: LossScaling = LossScaling()
    verbose: bool = False
    deepspeed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, trainer: TrainerSettings, file: DeepspeedFile | None, verbose: bool = False) -> Execution:
        """Raises UserError where settings and file name different ZeRO stages."""
        stage = None if file is None else file.zero_stage
        if stage is not None and trainer.zero is not None and stage != trainer.zero:
            assert file is not None
            raise UserError(
                f"--deepspeed-config {file.path}: zero_optimization.stage is {stage}, but trainer.zero is "
                f"{trainer.zero}; leave one of them out"
            )
        return cls(
            zero=trainer.zero if trainer.zero is not None else stage or 0,
            micro_batch=trainer.micro_batch,
            gradient_checkpointing=trainer.gradient_checkpointing,
            loss_scaling=LossScaling.of(file.values.get("fp16", {})) if file is not None else LossScaling(),
            verbose=verbose,
            deepspeed=file.passed if file is not None else {},
        )


DEFAULT_EXECUTION = Execution()
"""Nothing split, nothing computed twice."""


def deepspeed_configuration(
    settings: TrainingSettings, layout: GroupLayout, world_size: int, execution: Execution = DEFAULT_EXECUTION
) -> dict[str, Any]:
    """The configuration that a stage's settings and the user's file mean together.

    No optimiser and no precision are named: naming an optimiser makes DeepSpeed compile C++, and its
    fp16 and bf16 cast the weights themselves, where autocast and loss scaling are the engine's.
    """
    zero = {"reduce_bucket_size": _BUCKET, "allgather_bucket_size": _BUCKET}
    passed = dict(execution.deepspeed)
    return {
        "steps_per_print": _NEVER,
        # Its timers wait for the device at every step.
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},
        **passed,
        "train_batch_size": layout.rows_per_rank * layout.groups_per_rank * world_size,
        "train_micro_batch_size_per_gpu": layout.rows_per_rank,
        "gradient_accumulation_steps": layout.groups_per_rank,
        # Left out, it would clip at 1.0.
        "gradient_clipping": settings.gradient_clip,
        # It knows its own optimisers only, and would refuse torch's at ZeRO 1 and 2.
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {**zero, **passed.get("zero_optimization", {}), "stage": execution.zero},
    }
