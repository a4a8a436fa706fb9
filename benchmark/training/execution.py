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
from benchmark.training.loss_scale import LossScaling

_NEVER = 10**9
_BUCKET = 50_000_000
"""Elements that ZeRO reduces or gathers at a time: 200 MB; DeepSpeed's default takes 2 GB of a card."""


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
            loss_scaling=file.loss_scaling if file is not None else LossScaling(),
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
