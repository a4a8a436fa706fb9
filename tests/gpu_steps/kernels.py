"""What a call is made of on its device: how many kernels, how long the device is busy, which ones take longest.

Where the device is busy for less than the call's time, it waits for the host to launch; where it is busy for all of it,
the kernels themselves are what to mend. On a CPU torch's operations stand in the place of kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_SHOWN = 8
_NAME = 60
"""Letters of a kernel's name that are shown: templates go on for lines."""


@dataclass(frozen=True)
class Kernels:
    """Of one call. ``seconds``: the device's; ``longest``: (name, seconds, launches), the longest first."""

    count: float
    seconds: float
    longest: tuple[tuple[str, float, float], ...]

    def told(self, whole: float) -> str:
        """Beside the seconds of the ``whole`` call, which were measured without the profiler."""
        parts = [f"{1e3 * seconds:.3f} ms {name[:_NAME]} ({launches:g})" for name, seconds, launches in self.longest]
        busy = f"{1e3 * self.seconds:.2f} ms in {self.count:,.0f} kernels, of {1e3 * whole:.2f} ms"
        return f"{busy}; longest: {'; '.join(parts)}"


def kernels_of(call: Callable[[], object], device: torch.device, calls: int = 4) -> Kernels:
    """Means over so many calls, behind one that warms up."""
    on_gpu = device.type == "cuda"
    call()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(calls):
            call()
        if on_gpu:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        (event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / calls, event.count / calls)
        for event in seen.key_averages()
        # A named stretch of the program stands among a GPU's kernels, too.
        if event.device_type == kind and not event.is_user_annotation
    ]
    found.sort(key=lambda kernel: -kernel[1])
    return Kernels(sum(n for _, _, n in found), sum(s for _, s, _ in found), tuple(found[:_SHOWN]))
