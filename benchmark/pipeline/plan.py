"""The plan of a run: recipe, settings, backbone, data and protocols, as `benchmark.pipeline.planning` resolves them.

The same plan is printed by `--dry-run` and carried out by `benchmark.pipeline.run`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.backbone import BackboneChoice, BackboneFamily
from benchmark.data.dictionaries import dictionary_digests
from benchmark.data.partial import SUFFIX
from benchmark.data.protocols import tasks_of_rule
from benchmark.data.released_files import side_digests, side_files_of, side_note
from benchmark.data.trained_elsewhere import TrainedElsewhere, column_selected_on, stored_as, training_of
from benchmark.data.wrapped import Noise, noise_of
from benchmark.dataset import Dataset, IntArray, Pictures, Task, Triplets
from benchmark.encoders.backbone_table import backbone_label
from benchmark.errors import unknown_name
from benchmark.evaluation.query_subset import QuerySubset
from benchmark.facts import Initialisation, MethodInfo, Recipe, Variant
from benchmark.features.picture_digests import picture_digests
from benchmark.files import digest_of
from benchmark.method import Specification, Stage, TrainingRows
from benchmark.options import RunOptions
from benchmark.pipeline.controlled_comparison import FAIR
from benchmark.settings import BackboneSettings, MethodSettings, TrainerSettings, TrainingSettings
from benchmark.text_rules import TextRule, rule_of, text_rule
from benchmark.training.batches import SEED_SCHEME, stage_seed
from benchmark.training.deepspeed_file import DeepspeedFile
from benchmark.training.execution import Execution
from benchmark.training.monitoring import Sections
from benchmark.training.selection import Heldout, heldout_task, selection_note
from benchmark.weights.assets import RequiredAsset

RATE_FACTORS = (1.0, 1 / 3, 3.0)
"""What `--lr-sweep` multiplies the recipe's learning rate by; of two with the same score the earlier one is taken."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its settings as recipe and user fill them; no recipe where nothing is trained."""

    stage: Stage
    settings: TrainingSettings
    recipe: Recipe | None

    @property
    def file_name(self) -> str:
        """Name of the file that declares the stage."""
        return Path(getattr(sys.modules.get(self.stage.build.__module__), "__file__", None) or "").name

    def identity(self) -> dict[str, Any]:
        return {"stage": self.stage.name, "settings": self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class Plan:
    """A run that can start. ``backbone`` is "" for a method that brings its own networks.

    ``backbone_families``: those that files from outside bring. ``training_rows``: by its name what a stage trains on
    in place of triplets; ``training_files``: what these were read from, by name with its digest. ``trained_on``: where
    another dataset's triplets are trained on, its name, label and fingerprint, as far as they are known.
    """

    options: RunOptions
    method: MethodInfo
    specification: Specification
    dataset: Dataset
    backbone: str
    weights: str
    weights_digest: str
    initialisation: Initialisation
    method_settings: MethodSettings
    backbone_settings: BackboneSettings
    backbone_families: Sequence[BackboneFamily]
    trainer: TrainerSettings
    stages: tuple[PlannedStage, ...]
    plugins: Mapping[str, str]
    variant: Variant | None = None
    deepspeed: DeepspeedFile | None = None
    execution: Execution = Execution()
    monitors: Sections = field(default_factory=dict)
    required_files: tuple[RequiredAsset, ...] = ()
    subset: QuerySubset | None = None
    training_rows: Mapping[str, TrainingRows] = field(default_factory=dict)
    training_files: Mapping[str, str] = field(default_factory=dict)
    trained_on: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What tables call the run's row: the method, and the configuration where it has a name."""
        return f"{self.method.title} ({self.variant.label})" if self.variant else self.method.title

    @property
    def backbone_choice(self) -> BackboneChoice:
        """What a family loads the backbone by."""
        options = self.options
        return BackboneChoice(self.backbone, self.weights, self.backbone_settings, options.assets, options.seed)

    @property
    def backbone_family(self) -> BackboneFamily:
        """What loads the backbone."""
        # Only here: open_clip takes long to import.
        from benchmark.encoders.families import family_of

        return family_of(self.backbone, self.backbone_families)

    @property
    def noise(self) -> Noise | None:
        """What was done to the training triplets; a method that trains nothing has none."""
        return None if self.is_zero_shot else noise_of(self.dataset)

    @property
    def last(self) -> PlannedStage:
        return self.stages[-1]

    @property
    def rule(self) -> TextRule:
        """By which the evaluated queries are asked: the last stage's where these have such texts."""
        own, info = text_rule(self.last.settings.text_rule), self.dataset.info
        if not self.trained_on:
            return own
        fits = any(own.mode in protocol.text_modes for protocol in self.dataset.protocols)
        return rule_of(self.options.text_mode) if self.options.text_mode else own if fits else text_rule(info.text_rule)

    @property
    def training_rule(self) -> TextRule:
        """By which the queries that pick an epoch are asked."""
        here = not self.trained_on or (self.last.stage.trains and self.last.stage.rows is None)
        return text_rule(self.last.settings.text_rule if here else training_of(self.dataset).info.text_rule)

    @property
    def trained(self) -> tuple[PlannedStage, ...]:
        return tuple(planned for planned in self.stages if planned.stage.trains)

    @property
    def has_encoder_stage(self) -> bool:
        """Whether a stage fine-tunes the encoder that the last one's features come from."""
        return any(planned.stage.output == "encoder" for planned in self.stages)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What every output says of the method's settings, and of texts that are others than the released ones."""
        read, both = self.side_texts, (training_of(self.dataset), self.dataset)
        side = {file.file: file for each in both if (files := side_files_of(each)) for file in files.all}
        told = side_note(file for name, file in side.items() if name in read)
        return (*self.specification.remarks(self.method_settings), *told)

    @property
    def selection(self) -> Literal["paper", "last", "heldout", "none"]:
        return self.options.selection if self.trained or self.last.stage.fit is not None else "none"

    @property
    def selection_note(self) -> str:
        """What a person is told of the selection; "" where nothing is trained."""
        if self.trained_on and self.selection == "paper" and self.last.stage.rows is None:
            return f"best epoch on the evaluation split of {self.trained_on.get('label', self.trained_on['name'])}"
        if not self.trained and self.selection == "heldout":
            return "chosen on a held-out part of the training triplets"
        return selection_note(self.selection, any(planned.settings.picks_an_epoch for planned in self.trained[-1:]))

    def encoder_identity(self, planned: PlannedStage) -> dict[str, Any]:
        """What makes two encoder artefacts the same; a stage of a plug-in changes with its file."""
        selects = self.options.selection != "last"
        return {
            "after": [stage.identity() for stage in self._before(planned) if stage.stage.output == "encoder"],
            **planned.identity(),
            "backbone": self.backbone_identity,
            "data": {
                "name": training_of(self.dataset).label,
                "fingerprint": training_of(self.dataset).fingerprint,
                "training pictures": "" if planned.stage.rows else self._training_pictures,
                **self._category_identity,
            },
            **({"training files": dict(self.training_files)} if planned.stage.rows else {}),
            "selection": self.options.selection,
            "selected on": [column_selected_on(task) for task in self.selection_tasks] if selects else [],
            "plugin": self.plugins.get(planned.file_name, ""),
            "seed": self.options.seed,
            "stage seed": self.seed_of(planned),
            "stage seeds": SEED_SCHEME,
            "skip": self.options.skip_bad_images,
            **self._noise_identity,
            **({"dictionaries": self._dictionaries(planned)} if self._dictionaries(planned) else {}),
            **({"side texts": self.side_texts_of(planned)} if self.side_texts_of(planned) else {}),
        }

    def seed_of(self, planned: PlannedStage) -> int:
        """The seed of everything that a stage draws."""
        return stage_seed(self.options.seed, [stage.stage.name for stage in self._before(planned)])

    @cached_property
    def _training_pictures(self) -> str:
        """Digest of names and contents of the training pictures: replaced ones make another encoder."""
        names, paths = self.dataset.pictures.names, self.dataset.pictures.paths
        there = [i for i in self.dataset.split_pictures("train").tolist() if paths[i].is_file()]
        there_alone = Pictures(tuple(names[i] for i in there), tuple(paths[i] for i in there))
        return digest_of_pictures(there_alone, self.options.cache_root)

    def training_identity(self, planned: PlannedStage) -> dict[str, Any]:
        """What makes a resumable state of a stage one of this run: all stages up to it.

        An encoder's can be continued by any method that asks for the same encoder.
        """
        if planned.stage.output == "encoder":
            return self.encoder_identity(planned)
        upto = (*self._before(planned), planned)
        return {
            "stages": [self.encoder_identity(stage) for stage in upto],
            "method": {"name": self.method.name, "settings": self.method_settings.model_dump(mode="json")},
            "plugins": dict(self.plugins),
        }

    def _before(self, planned: PlannedStage) -> tuple[PlannedStage, ...]:
        """The stages before one; it may have another learning rate than the plan's own."""
        names = [stage.stage.name for stage in self.stages]
        return self.stages[: names.index(planned.stage.name)]

    @property
    def backbone_identity(self) -> dict[str, Any]:
        if not self.backbone:
            return {}
        return {
            "name": self.backbone,
            "weights": self.weights,
            "digest": self.weights_digest,
            # Of the user's own architecture the path does not tell what it holds.
            **({"configuration": backbone_label(self.backbone)} if self.backbone.endswith(".json") else {}),
            "settings": self.backbone_settings.model_dump(mode="json"),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the numbers depend on but the seed; its digest names the run's folder."""
        return {**self.configuration, "variant": self.variant.name if self.variant else ""}

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The identity without the configuration's name: runs equal in it are the same experiment."""
        return {
            "method": self.method.name,
            "method_settings": self.method_settings.model_dump(mode="json"),
            "backbone": self.backbone_identity,
            "stages": [planned.identity() for planned in self.stages],
            "data": [self.dataset.label, self.dataset.fingerprint],
            "protocols": [str(task.key) for task in self.tasks],
            "selection": self.selection,
            **self._category_identity,
            "limit": self.options.limit,
            "skip": self.options.skip_bad_images,
            "plugins": dict(self.plugins),
            **({"subset": self.subset.digest} if self.subset else {}),
            **({"training data": dict(self.trained_on)} if self.trained_on else {}),
            **self._noise_identity,
            **({"dictionaries": self.dictionaries} if self.dictionaries else {}),
            **({"side texts": self.side_texts} if self.side_texts else {}),
            **({"training files": dict(self.training_files)} if self.training_files else {}),
            **({"recipe": FAIR} if self.options.fair else {}),
            **({"learning rates": RATE_FACTORS} if self.sweeps else {}),
        }

    @property
    def dictionaries(self) -> dict[str, str]:
        """The files that correct the texts of any stage, or of the evaluated queries, with their sha256."""
        asked = dictionary_digests(self.dataset) if self.rule.corrects else {}
        return asked | {file: digest for planned in self.stages for file, digest in self._dictionaries(planned).items()}

    @property
    def side_texts(self) -> dict[str, str]:
        """The files of captions of pictures and words of pairs that any stage, or the evaluated queries, show, with
        their sha256."""
        asked = side_digests(self.dataset, texts=self.rule.describes, notes=self.last.stage.shows_notes)
        return asked | {file: digest for planned in self.stages for file, digest in self.side_texts_of(planned).items()}

    def side_texts_of(self, planned: PlannedStage) -> dict[str, str]:
        """Those that one stage trains on. Raises UserError where one is missing."""
        describes = text_rule(planned.settings.text_rule).describes
        return side_digests(training_of(self.dataset), texts=describes, notes=planned.stage.shows_notes)

    def _dictionaries(self, planned: PlannedStage) -> dict[str, str]:
        """Those that correct what one stage trains on."""
        corrects = text_rule(planned.settings.text_rule).corrects
        return dictionary_digests(training_of(self.dataset)) if corrects else {}

    @property
    def _category_identity(self) -> dict[str, Any]:
        """Likewise nothing without one."""
        return {"category": self.options.category} if self.options.category else {}

    @property
    def _noise_identity(self) -> dict[str, Any]:
        """Without noise nothing, so that earlier digests stay."""
        return {} if self.noise is None else {"noise": asdict(self.noise)}

    @property
    def is_zero_shot(self) -> bool:
        """Whether no stage has seen a triplet, nor was chosen on held-out ones."""
        return self.selection != "heldout" and all(
            planned.stage.rows is not None if planned.stage.trains else planned.stage.fit is None
            for planned in self.stages
        )

    @property
    def picture_splits(self) -> tuple[str, ...]:
        """Splits whose pictures are read: of the evaluated queries, of another dataset's that pick an epoch, and of
        triplets."""
        elsewhere = self.selection_tasks if self.trained_on and self.selection == "paper" else ()
        splits = [self.dataset.info.evaluation_split, *(task.key.split for task in elsewhere)]
        return tuple(dict.fromkeys(splits if self.is_zero_shot else [*splits, "train"]))

    @property
    def sweeps(self) -> bool:
        """Whether the last stage's learning rate is searched for."""
        return self.options.lr_sweep and self.last.stage.trains and self.last.stage.output == "method"

    @property
    def folder(self) -> Path:
        """`--output`, or ./runs/<dataset>/<method>/<digest>/seed-<n>."""
        if self.options.output:
            return Path(self.options.output)
        digest = digest_of(self.identity)[:12]
        return Path("runs") / self.dataset.label / self.method.name / digest / f"seed-{self.options.seed}"

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every task that is reported: the protocols asked for, or all that the text rule fits."""
        return tasks_of_rule(self.dataset, self.dataset.info.evaluation_split, self.options.protocol, self.rule)

    @cached_property
    def selection_tasks(self) -> tuple[Task, ...]:
        """The tasks that pick an epoch: the recipe's protocol's, or the default one's, or the held-out triplets."""
        if self.options.selection == "heldout":
            named, _ = stored_as(self.dataset, "train")
            return (heldout_task(named, self._heldout(self.last).triplets, self.training_rule),)
        if isinstance(self.dataset, TrainedElsewhere):
            return self.dataset.selection_tasks(self.training_rule.name)
        asked, known = self.last.settings.selection_protocol, [info.name for info in self.dataset.protocols]
        if asked and asked not in known:
            raise unknown_name(f"selection_protocol of {self.dataset.label}", asked, known)
        default = asked or self.dataset.info.default_protocol
        own = [task for task in self.tasks if task.key.text_mode == self.rule.mode]
        chosen = [task for task in own if task.key.protocol.removesuffix(SUFFIX) == default]
        return tuple(chosen or [task for task in own if task.key.protocol == own[0].key.protocol])

    def _heldout(self, planned: PlannedStage) -> Heldout:
        # By the run's seed: what is held out is held out of all stages.
        first = self.dataset.train_triplets(0, self.options.seed, planned.settings.pair_sampling)
        return Heldout.of(first, self.dataset.pictures.names)

    def rows(self, planned: PlannedStage) -> TrainingRows | None:
        """What a stage trains on in place of triplets; None where it trains on these."""
        return self.training_rows.get(planned.stage.name)

    def training_entries(self, planned: PlannedStage) -> int:
        """Rows of a stage's first epoch, or entries that its text rule makes of the triplets."""
        if (rows := self.rows(planned)) is not None:
            return len(rows)
        rule = text_rule(planned.settings.text_rule)
        return sum(len(rule.entries(captions)) for captions in self.triplets(planned, frozenset())(0).captions)

    def triplets(self, planned: PlannedStage, unreadable: frozenset[int]) -> Callable[[int], Triplets]:
        """The training triplets of each epoch, without held-out ones and unreadable pictures."""
        heldout = self._heldout(planned) if self.options.selection == "heldout" else None
        seed = self.seed_of(planned)

        def of_epoch(epoch: int) -> Triplets:
            triplets = self.dataset.train_triplets(epoch, seed, planned.settings.pair_sampling)
            if heldout is not None:
                triplets = triplets.take(heldout.trained(triplets))
            return triplets.take(readable(triplets, unreadable)) if unreadable else triplets

        return of_epoch


def digest_of_pictures(pictures: Pictures, cache_root: Path) -> str:
    """Of names and contents."""
    contents = picture_digests(cache_root).of(list(pictures.paths))
    return digest_of([[name, content] for name, content in zip(pictures.names, contents, strict=True)])


def readable(triplets: Triplets, unreadable: frozenset[int]) -> IntArray:
    """Indices of the triplets with neither picture among the unreadable ones."""
    bad = np.asarray(sorted(unreadable), dtype=np.int64)
    return np.flatnonzero(~(np.isin(triplets.reference_picture, bad) | np.isin(triplets.target_picture, bad)))
