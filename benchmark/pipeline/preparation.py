"""What a run needs before its stages: data drawn, ranks that agree, a backbone, methods, pictures that can be read."""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import benchmark
from benchmark.backbone import Backbone
from benchmark.data.folders import require_pictures
from benchmark.data.pictures import UnreadablePicture, bad_pictures
from benchmark.distributed.job import Job
from benchmark.distributed.process import this_process
from benchmark.distributed.shards import own_span
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.progress import counting
from benchmark.records.environment import installed_version
from benchmark.registry import Registry
from benchmark.stage_building import BuiltStage, build_stage, rebuild_stage
from benchmark.text_rules import text_rule
from benchmark.training.batches import all_training_strings

_PACKAGES = ("benchmark", "benchmark.methods", "benchmark.datasets")
_LIBRARIES = ("torch", "deepspeed", "open_clip_torch", "timm", "numpy")
_SHOWN_DIGITS = 12


def draw_demo_data(options: RunOptions, registry: Registry, job: Job) -> None:
    """Where several processes will read the demo data, the first rank of every cache folder draws it."""
    asked = options.demo and options.dataset in registry.datasets()
    if asked and job.process.world_size > 1:
        if job.cache.is_first:
            other = options.train_dataset or registry.datasets()[options.dataset].train_dataset
            for name in filter(registry.datasets().get, (options.dataset, other)):
                registry.demo_folder(name, options.cache_root)
        job.barrier.wait("drawing demo pictures")


def backbone_of(plan: Plan) -> Backbone | None:
    """The plan's backbone as it starts, on this process's device; None for methods without one."""
    if not plan.backbone:
        return None
    return plan.backbone_family.load(plan.backbone_choice).to(this_process(plan.options.device).device)


def build_planned(
    plan: Plan, planned: PlannedStage, backbone: Backbone | None, earlier: Mapping[str, Method] | None = None
) -> BuiltStage:
    """A planned stage as it starts; see `build_stage`."""
    rule = text_rule(planned.settings.text_rule)
    return build_stage(
        planned.stage,
        backbone,
        plan.method_settings,
        planned.settings,
        assets_root=plan.options.assets,
        texts=lambda: all_training_strings(plan.dataset.training_texts(), rule),
        seed=plan.seed_of(planned),
        earlier=earlier,
    )


def rebuild_planned(
    plan: Plan,
    planned: PlannedStage,
    backbone: Backbone | None,
    extra_state: Mapping[str, Any] | None = None,
    earlier: Mapping[str, Method] | None = None,
) -> BuiltStage:
    """A planned stage whose weights are loaded next; see `rebuild_stage`."""
    return rebuild_stage(
        planned.stage, backbone, plan.method_settings, planned.settings, extra_state=extra_state, earlier=earlier
    )


@contextmanager
def advice_on_pictures(plan: Plan) -> Iterator[None]:
    """Around work that decodes pictures: one that cannot be read is told with what can be done about all of them."""
    try:
        yield
    except UnreadablePicture as error:
        of_rows = {path for rows in plan.training_rows.values() for path in rows.pictures.paths}
        if any(str(error).startswith(f"{path}: ") for path in of_rows.difference(plan.dataset.pictures.paths)):
            raise UserError(f"{error}, or take it out of its folder") from error
        raise UserError(
            f"{error}; `data verify {plan.dataset.info.name}` finds all such pictures, --skip-bad-images trains "
            "without them, --allow-missing scores what is left"
        ) from error


def check_pictures(plan: Plan, job: Job) -> frozenset[int]:
    """Raise for missing pictures; give unreadable training ones with `--skip-bad-images`.

    Evaluation never skips a picture. The ranks of the job share the decoding.
    """
    dataset, splits, skips = plan.dataset, plan.picture_splits, plan.options.skip_bad_images
    for split in splits:
        if split != "train" or not skips:
            require_pictures(dataset, dataset.split_pictures(split))
    if "train" not in splits or not skips:
        return frozenset()
    training, phase = dataset.split_pictures("train"), "checking training pictures"
    start, stop = own_span(len(training), job)
    with counting(phase, stop - start) as progress:
        bad = bad_pictures(dataset.pictures, training[start:stop], job.cores, progress)
    return frozenset(index for found in job.barrier.share(phase, sorted(bad)) for index in found)


def facts_of(plan: Plan, device: str) -> dict[str, str]:
    """Program, libraries, data and every setting by a name that a person reads; ``device`` is torch's kind."""
    facts = {
        "the program": f"version {benchmark.__version__}, digest {program_digest()}",
        "Python": platform.python_version(),
        **{library: installed_version(library) or "not installed" for library in _LIBRARIES},
        "the kind of device": device,
        "--seed": str(plan.options.seed),
        "--resume": str(plan.options.resume),
        "the run's folder": str(plan.folder),
        "the data's fingerprint": f"{plan.dataset.fingerprint[:_SHOWN_DIGITS]}…",
        **{f"plug-in {name}": f"{digest[:_SHOWN_DIGITS]}…" for name, digest in plan.plugins.items()},
        **_flat("trainer.", plan.trainer.model_dump(mode="json")),
        **_flat("--deepspeed-config: ", plan.deepspeed.values if plan.deepspeed else {}),
        "--monitors": " ".join(plan.monitors) or "none",
    }
    for planned in plan.stages:
        facts |= _flat(f"{planned.stage.name}.", planned.settings.model_dump(mode="json"))
    identity = {name: value for name, value in plan.identity.items() if name not in ("stages", "data", "plugins")}
    return facts | _flat("", identity)


@cache
def program_digest() -> str:
    """Digest of the program's own files, as they are found by this process."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        folder = Path(importlib.import_module(package).__path__[0])
        # Recipes are part of the program as well.
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.toml")]):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:_SHOWN_DIGITS]


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return flat
