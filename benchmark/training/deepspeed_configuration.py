"""What DeepSpeed is told of a stage: what it would decide by itself is decided here.

No clipping unless asked for (its own default is 1.0), no optimiser of its own (naming one compiles
C++), float32 for weights and sums (autocast and loss scaling are the engine's), no timers that wait
for the device.
"""

from __future__ import annotations

from typing import Any

from benchmark.settings import TrainingSettings
from benchmark.training.batches import GroupLayout
from benchmark.training.execution import DEFAULT_EXECUTION, Execution

_NEVER = 10**9
_BUCKET = 50_000_000
"""Elements that ZeRO reduces or gathers at a time: 200 MB; DeepSpeed's default takes 2 GB of a card."""


def deepspeed_configuration(
    settings: TrainingSettings, layout: GroupLayout, world_size: int, execution: Execution = DEFAULT_EXECUTION
) -> dict[str, Any]:
    """The configuration that a stage's settings and the user's file mean together."""
    zero = {"reduce_bucket_size": _BUCKET, "allgather_bucket_size": _BUCKET}
    passed = dict(execution.deepspeed)
    return {
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},
        **passed,
        "train_batch_size": layout.rows_per_rank * layout.groups_per_rank * world_size,
        "train_micro_batch_size_per_gpu": layout.rows_per_rank,
        "gradient_accumulation_steps": layout.groups_per_rank,
        "gradient_clipping": settings.gradient_clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {**zero, **passed.get("zero_optimization", {}), "stage": execution.zero},
    }
