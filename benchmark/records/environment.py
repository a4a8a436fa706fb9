"""What a record says of the machine and the code, and whether torch can use the accelerator.

Nothing heavy is imported for it: versions come from the installed distributions, and torch is
asked only where it is loaded already, or where there is an accelerator to ask it about.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

import benchmark
from benchmark.errors import UserError
from benchmark.records.identity import Code, Environment

_CODE_FOLDERS = ("benchmark", "methods", "datasets")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia")
_DEVICE_NODES = Path("/dev")
_BUSY = 0.1
"""Share of the processor's time from which on others make a machine busy."""
_WATCHED_SECONDS = 0.5


def environment(device: str, world_size: int) -> Environment:
    """The record's environment; ``device`` is torch's name of it ("cpu", "cuda:0")."""
    return Environment(
        python=platform.python_version(),
        torch=installed_version("torch"),
        deepspeed=installed_version("deepspeed"),
        open_clip=installed_version("open_clip_torch"),
        timm=installed_version("timm"),
        numpy=installed_version("numpy"),
        pillow=installed_version("pillow"),
        platform=platform.platform(),
        device=_device_name(device),
        world_size=world_size,
        threads=_threads(),
    )


def code_version() -> Code:
    """Version of this package, and its commit where it runs from its own git checkout."""
    root = Path(benchmark.__file__).resolve().parent.parent
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        return Code(version=benchmark.__version__)
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *(f for f in _CODE_FOLDERS if (root / f).is_dir()))
    return Code(version=benchmark.__version__, commit=commit, dirty=changed != "")


def peak_memory_bytes() -> dict[str, int]:
    """Largest memory held so far: "process" (resident) and, where torch uses a GPU, "device"."""
    found = {"process": largest_resident_bytes()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["device"] = int(torch.cuda.max_memory_allocated())
    return found


def largest_resident_bytes() -> int:
    """The most memory of this process that was resident, as the system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def load_note() -> tuple[str, ...]:
    """What makes speeds measured now doubtful: other programs that want the cores; empty where none do."""
    others = psutil.cpu_percent(_WATCHED_SECONDS) / 100
    if others < _BUSY:
        return ()
    return (f"the machine was busy: others had {others:.0%} of its {os.cpu_count()} cores when the measuring began",)


def utc_now() -> str:
    """This moment as the record writes it, "2030-01-31T12:00:00Z"."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_accelerator(device: str = "") -> None:
    """Refuse to go on where there is an NVIDIA device that torch cannot use.

    ``device`` is what the user chose; "cpu", or no visible device by ``CUDA_VISIBLE_DEVICES``, is
    a choice to leave the accelerator alone. Raises UserError.
    """
    if device.startswith("cpu") or os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return
    if not nvidia_device_present():
        if device.startswith("cuda"):
            raise UserError(f"--device {device}: no NVIDIA device on this machine; leave --device out")
        return
    reason = _why_torch_cannot_use_it()
    if reason:
        raise UserError(
            f"an NVIDIA device is here (driver {driver_version()}) but torch cannot use it: {reason}; "
            "update the driver or install a torch wheel for this driver's CUDA "
            "(pytorch.org/get-started/locally), or choose the CPU with --device cpu"
        )


def nvidia_device_present() -> bool:
    """Whether the system shows an NVIDIA device, whatever torch thinks of it."""
    if any(_DEVICE_NODES.glob("nvidia[0-9]*")) or any(_NVIDIA_DRIVER.glob("gpus/*")):
        return True
    return "GPU " in (_output(["nvidia-smi", "-L"]) or "")


def _why_torch_cannot_use_it() -> str:
    """Empty where a small sum on the device succeeds."""
    import torch

    built_for = torch.version.cuda
    if built_for is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        (torch.ones(1, device="cuda") + 1).item()
    except (RuntimeError, AssertionError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
        return f"torch {torch.__version__} is built for CUDA {built_for}, and the driver says: {first_line}"
    return ""


def driver_version() -> str:
    """Of NVIDIA's driver, in words."""
    found = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return found.splitlines()[0] if found else "of unknown version"


def installed_version(distribution: str) -> str | None:
    """Version of a distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU, {models[0] if models else platform.processor() or platform.machine()}"


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else os.cpu_count() or 1


def _git(folder: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(folder), *arguments])


def _output(command: list[str]) -> str | None:
    """What a program prints, or None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
