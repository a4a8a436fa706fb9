"""What data sheets promise of GPUs: dense floating-point operations per second, by precision.

Sources: NVIDIA's data sheets of each product, without sparsity, half precision accumulating in
float32 where the sheet tells both. Model FLOPs utilisation is measured against these; a device that
is not listed is held against a bare matrix product alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.records.measurement import Precision

_TERA = 1e12


@dataclass(frozen=True)
class Peaks:
    """TFLOP/s; 0 where the device lacks the precision."""

    fp32: float
    tf32: float
    bf16: float
    fp16: float

    def of(self, precision: Precision) -> float | None:
        """FLOP/s in this precision, None where the device has none."""
        promised: float = getattr(self, precision)
        return promised * _TERA or None


_DEVICES: tuple[tuple[str, Peaks], ...] = (
    ("H200", Peaks(67, 494.7, 989.4, 989.4)),
    ("H100 NVL", Peaks(60, 417.5, 835.5, 835.5)),
    ("H100 PCIe", Peaks(51.2, 378, 756, 756)),
    ("H100", Peaks(66.9, 494.7, 989.4, 989.4)),
    ("A100", Peaks(19.5, 156, 312, 312)),
    ("A40", Peaks(37.4, 74.8, 149.7, 149.7)),
    ("A10", Peaks(31.2, 62.5, 125, 125)),
    ("L40S", Peaks(91.6, 183, 362, 362)),
    ("L4", Peaks(30.3, 60, 121, 121)),
    ("V100-SXM2", Peaks(15.7, 0, 0, 125)),
    ("V100-PCIE", Peaks(14, 0, 0, 112)),
    ("T4", Peaks(8.1, 0, 0, 65)),
    ("RTX 4090", Peaks(82.6, 82.6, 165.2, 165.2)),
    ("RTX 3090", Peaks(35.6, 35.6, 71, 71)),
)
"""By a part of the name that torch gives the device; the first that fits holds."""


def promised_flops(device_name: str, precision: Precision) -> float | None:
    """FLOP/s that the data sheet promises, None for a CPU, an unlisted device or a precision it lacks."""
    words = device_name.replace("-", " ").split()
    for name, peaks in _DEVICES:
        wanted = name.replace("-", " ").split()
        if any(words[i : i + len(wanted)] == wanted for i in range(len(words))):
            return peaks.of(precision)
    return None
