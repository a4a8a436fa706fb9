"""How a stage is computed, apart from what: none of it changes a result beyond the rounding of sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import UserError
from benchmark.settings import TrainerSettings
from benchmark.training.deepspeed_file import DeepspeedFile
from benchmark.training.loss_scale import LossScaling


@dataclass(frozen=True)
class Execution:
    """What trainer settings and the user's DeepSpeed file say of the computation.

    ``zero``: ZeRO stage, 0 to 2. ``piece``: rows encoded at a time, 0 for all. ``deepspeed``: sections
    of the user's file that reach DeepSpeed as they stand. ``verbose``: DeepSpeed's own lines are shown.
    """

    zero: int = 0
    piece: int = 0
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
            piece=trainer.piece,
            gradient_checkpointing=trainer.gradient_checkpointing,
            loss_scaling=file.loss_scaling if file is not None else LossScaling(),
            verbose=verbose,
            deepspeed=file.passed if file is not None else {},
        )


DEFAULT_EXECUTION = Execution()
"""Nothing split, nothing computed twice."""
