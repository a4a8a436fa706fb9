"""Loss scaling for half precision in float16: gradients too small for it are kept, overflows skip an update.

The rule is that of torch's GradScaler: halve the scale after an overflow, double it after a number of
updates without one. It is kept here since GradScaler bears no overflow and knows no least scale, which
DeepSpeed's section fp16 asks for, and does not reach ZeRO's optimiser; and since DeepSpeed's own differs by
ZeRO stage: under autocast at stages 1 and 2 every process skips by its own share of the gradient alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LossScaling:
    """Where the scale starts and how it moves; ``dynamic`` False keeps it where it starts.

    ``hysteresis`` is the number of overflows that are borne before the scale falls.
    """

    initial: float = 2.0**16
    window: int = 2000
    hysteresis: int = 1
    smallest: float = 1.0
    dynamic: bool = True


class LossScale:
    """The current scale of one stage's loss."""

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

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "good": self._good, "borne": self._borne}

    def load_state(self, state: dict[str, Any]) -> None:
        self.value, self._good, self._borne = float(state["value"]), int(state["good"]), int(state["borne"])
