"""What would stop a run later on, looked for before any work: all of it in one go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from benchmark.errors import UserError, gathered
from benchmark.pipeline.encoder_artefact import WORK
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.run_folder import Owner, require_free
from benchmark.pipeline.run_settings import by_namespace
from benchmark.records.rows import AVERAGE
from benchmark.settings import Settings, with_present_names
from benchmark.text_rules import side_texts_of
from benchmark.training.batches import GroupLayout, require_batches
from benchmark.training.resumable_state import ResumableState


def owner_of(plan: Plan) -> Owner:
    """Whose the run's folder is: everything that its numbers depend on."""
    return Owner("run", {"seed": plan.options.seed, **plan.identity})


def require_trainable(plan: Plan) -> None:
    """Raise UserError with all that would stop the run's training or evaluation later on, missing files too."""
    problems = list(_settings_without_effect(plan))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    with gathered(problems):
        # The evaluated queries first: what this dataset cannot have is told before any file that is missing.
        problems += doubled_columns(plan)
        for task in plan.tasks if plan.last.stage.shows_notes else ():
            side_texts_of(next(iter(task.queries.captions), ()))
        _ = plan.selection_tasks if plan.selection in ("paper", "heldout") else ()
    if plan.last.stage.fit is not None and plan.selection != "heldout":
        problems.append(
            f"--selection {plan.selection}: {plan.method.name} chooses on held-out triplets alone; give --selection "
            "heldout, or settings that choose nothing"
        )
    for planned in plan.trained:
        with gathered(problems):
            layout = GroupLayout.of(planned.settings, world_size)
            if plan.deepspeed is not None:
                brings = planned.stage.optimiser is not None
                problems += plan.deepspeed.contradictions(planned.stage.name, planned.settings, layout, brings)
        with gathered(problems):
            require_batches(plan.training_entries(planned), planned.settings, world_size)
    problems += filter(None, (need.problem(plan.options.assets) for need in plan.required_files))
    with gathered(problems):
        _require_weights(plan)
    with gathered(problems):
        require_free(plan.folder, owner_of(plan), plan.options.resume, plan.options.overwrite)
    if problems:
        raise UserError.collect(dict.fromkeys(problems))


def _settings_without_effect(plan: Plan) -> Iterator[str]:
    """What `--set` gives and nothing reads: a record would tell of it as if it had made the numbers."""
    groups: dict[str, Settings] = {planned.stage.name: planned.settings for planned in plan.stages}
    groups |= {"method": plan.method_settings, "backbone": plan.backbone_settings, "trainer": plan.trainer}
    own_ways = {
        planned.stage.name: [part for part in ("optimiser", "schedule") if getattr(planned.stage, part) is not None]
        for planned in plan.stages
    }
    for group, given in by_namespace(plan.options.set).items():
        settings = groups.get(group)
        if settings is None:
            continue
        defaults = type(settings).model_fields
        chosen = [n for n in with_present_names(type(settings), given) if getattr(settings, n) != defaults[n].default]
        for name, needed in settings.without_effect(chosen, own_ways.get(group, ())):
            yield f"--set {group}.{name}: has no effect here, only with {group}.{needed}; leave one of the two out"


def doubled_columns(plan: Plan) -> Iterator[str]:
    """The columns that the record will have, where two are the same: it would be refused when all is computed."""
    columns = [str(task.key) for task in plan.tasks]
    averages = {str(replace(task.key, category=AVERAGE)) for task in plan.tasks if task.key.category}
    for column, count in Counter([*columns, *averages]).items():
        if count > 1:
            yield f"{plan.dataset.label}: gives {count} tasks for the column {column}; each needs a name of its own"


def _require_weights(plan: Plan) -> None:
    """Raise UserError for a backbone that is not known, and for weights that are not on this machine."""
    if not plan.backbone:
        return
    for file in plan.backbone_family.files(plan.backbone_choice):
        if file.path is None:
            raise UserError(file.missing)


def require_own_states(plan: Plan) -> None:
    """Raises UserError where a stage's state is one of other settings: before those in front of it are trained.

    An encoder's own folder knows its settings.
    """
    for planned in plan.trained:
        if planned.stage.output == "method":
            folder = plan.folder / (WORK if planned is plan.last else f"{WORK}-{planned.stage.name}")
            ResumableState(folder, plan.training_identity(planned)).require_same_settings()
