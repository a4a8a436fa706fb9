"""What puts a method that makes a word of a picture on a CLIP: its settings, its stage, and what that trains on.

The stage trains φ alone, and on no triplet: on pictures, sentences or stored features that the user names. On demo
data, where nobody names any, the training pictures and texts of the demo stand in for them, without its triplets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from benchmark.backbone import Backbone
from benchmark.data.folders import folder_pictures
from benchmark.data.trained_elsewhere import training_of
from benchmark.dataset import Dataset, Pictures
from benchmark.errors import UserError
from benchmark.facts import Initialisation
from benchmark.method import (
    BuildContext,
    FeatureInputs,
    Method,
    ParameterGroups,
    RequiredFile,
    RowsFactory,
    Specification,
    Stage,
    Transform,
    all_parameters,
)
from benchmark.settings import EncoderChoice, MethodSettings, TrainingSettings

from .clip_finetuning import behind_its_encoder
from .pseudo_words import TEXT, FrozenText, Places, PseudoWord


class PseudoWordSettings(EncoderChoice):
    """Prompt and size of φ."""

    prompt: str = Field(f"a photo of $ that {TEXT}", description="sentence of a query; {text}: the modification text")
    hidden: int = Field(0, ge=0, description="width of φ's hidden layers; 0: the release's")
    dropout: float = Field(0.5, ge=0, lt=1, description="of φ")

    @field_validator("prompt")
    @classmethod
    def _with_its_text(cls, prompt: str) -> str:
        if prompt.count(TEXT) != 1:
            raise ValueError(f"a prompt has {TEXT} once, where the modification text stands")
        return prompt


S = TypeVar("S", bound=PseudoWordSettings)


def on_clip_words(
    build: Callable[[int, int, FrozenText, S], PseudoWord],
    settings: type[S],
    rows: RowsFactory,
    *,
    name: str,
    placeholder: str,
    places: Places,
    backbone: str = "ViT-L-14",
    backbone_defaults: Mapping[str, Any],
    required_files: Callable[[MethodSettings], tuple[RequiredFile, ...]] = lambda settings: (),
    parameter_groups: Callable[[Method, TrainingSettings], ParameterGroups] = all_parameters,
    training: type[TrainingSettings] = TrainingSettings,
    train: Callable[[BuildContext], Transform | None] = lambda context: None,
) -> Specification:
    """A method of one stage, ``name``, on a frozen CLIP.

    ``build`` makes it from the widths of features and of token embeddings, the text side and its settings.
    ``training``: the stage's own settings, ``train``: see `FeatureInputs`. A CLIP that
    starts at random says nothing of a picture, and is tuned on triplets first (`--set method.encoder=untouched` leaves
    it as it is): such a run is not zero-shot. Raises UserError where the backbone's text side takes no words.
    """

    def make(context: BuildContext) -> PseudoWord:
        chosen, clip = settings.of(context.method_settings), context.backbone
        assert clip is not None
        if type(clip).token_width is Backbone.token_width:
            raise UserError(f"--backbone {clip.identity.name}: no word can be put into its texts; choose a CLIP")
        text = FrozenText(clip, placeholder, places)
        if placeholder not in chosen.prompt.replace(TEXT, ""):
            raise UserError(f"method.prompt '{chosen.prompt}': has no {placeholder}, whose place the picture takes")
        return build(context.width, clip.token_width, text, chosen)

    own = Stage(
        name=name,
        build=make,
        inputs=lambda context: FeatureInputs(text="tokenized", train=train(context)),
        settings=training,
        parameter_groups=parameter_groups,
        rows=rows,
    )

    def stages(chosen: MethodSettings, initialisation: Initialisation) -> tuple[Stage, ...]:
        return behind_its_encoder(own, settings.of(chosen), initialisation, "untouched")

    return Specification(
        stages=stages,
        settings=settings,
        default_backbone=backbone,
        backbone_defaults=backbone_defaults,
        required_files=required_files,
    )


def pictures_of(folder: str, dataset: Dataset) -> tuple[str, Pictures]:
    """A name and all pictures of `method.pictures`, or of demo data the training pictures where no folder is named.

    Raises UserError where the folder is not named, is not there, or holds no picture.
    """
    if not folder and dataset.is_demo:
        own = training_of(dataset)
        known, indices = own.pictures, own.split_pictures("train")
        chosen = Pictures(tuple(known.names[i] for i in indices), tuple(known.paths[i] for i in indices))
        return own.label, chosen
    if not folder:
        raise UserError("--set method.pictures=FOLDER is missing: it trains on pictures alone, of no dataset; name one")
    root = Path(folder).expanduser()
    return root.resolve().name, folder_pictures(root, f"--set method.pictures={folder}")
