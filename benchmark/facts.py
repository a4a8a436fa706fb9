"""Facts: what is said of methods and datasets beside their code, as plain typed data.

Titles, papers and BibTeX, files from outside, recipes and variants, where to get data.
:mod:`benchmark.facts_file` reads them from TOML.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmark.errors import UserError, unknown_name

Initialisation = Literal["pretrained", "random"]
"""Where a method's networks start: weights trained before, or a draw by the run's seed."""


@dataclass(frozen=True)
class Asset:
    """A file from outside that methods need. It is looked for on disk, and never fetched by a run.

    ``file``: its name under `--assets-root`; ``megabytes``: of what is to be downloaded; ``source``:
    where. ``hub``: repository and file (``owner/name/file``) in Hugging Face's cache, "" for none;
    ``cache``: a folder below the user's home where another program keeps it. ``when``: which settings
    ask for it. ``optional``: a run does without it, and says so.
    """

    name: str
    summary: str
    file: str
    megabytes: int
    source: str
    licence: str
    hub: str = ""
    cache: str = ""
    when: str = ""
    optional: bool = False


@dataclass(frozen=True)
class MethodInfo:
    """One line of `list methods`, the citation, and which files a method needs from outside.

    ``title``: by default the name. ``required_files``: names of assets, of which settings choose; "clip"
    is the backbone's weights. ``required_with``: of a file, the settings of this method under which alone it is
    asked for, where these are others than the asset says. ``outside_fair``: why the method has no honest
    adaptation to the encoder that a controlled comparison gives to all; "" for one that takes part.
    """

    name: str
    title: str = ""
    summary: str = ""
    paper: str = ""
    citation: str = ""
    required_files: tuple[str, ...] = ()
    required_with: dict[str, Any] = field(default_factory=dict)
    outside_fair: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)


@dataclass(frozen=True)
class Recipe:
    """A named set of a stage's settings, keyed by stage, dataset and the weights' initialisation.

    ``dataset`` "*" serves every dataset without a recipe of its own. ``name``: "paper" where the
    paper has one, "adapted" where none has, "from-scratch" for random weights; others may stand
    beside them. ``source`` says where the numbers come from. ``method`` holds settings of the
    method itself. ``one_category``: it trains a model for each category of its dataset, on that one alone.
    """

    stage: str
    dataset: str
    name: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    initialisation: Initialisation = "pretrained"
    one_category: bool = False

    def as_trained(self, category: str) -> Recipe:
        """Itself for a run on one ``category``, or on all together (""); a paper's that trains otherwise is adapted."""
        if self.name != "paper" or self.one_category == bool(category):
            return self
        here = "one category alone" if category else "all categories together"
        return replace(self, name="adapted", source=f"{self.source}; here on {here}")


@dataclass(frozen=True)
class Variant:
    """A named configuration of a method: what `--variant NAME` stands for.

    ``settings``: as `--set` takes them ("method.encoder", "combiner.epochs"); {} names the method as
    it is by default. ``title`` stands in brackets behind the method's in every table, so that no row
    of a variant reads like the method itself. ``source``: where the configuration comes from.
    ``ablation``: the block of the method's ablation table that it belongs to, "" for a version in
    its own right; ``without``: the parts that the ablation takes away, a column of ticks each.
    """

    method: str
    name: str
    title: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    ablation: str = ""
    without: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The title as tables show it."""
        return f"ablation: {self.title}" if self.ablation else self.title


@dataclass(frozen=True)
class Part:
    """A part of a network: beginnings of its parameters' names, and how many a paper or release has there.

    ``within``: how far the published number may be rounded. ``remark``: why ours may be another.
    """

    title: str
    names: tuple[str, ...]
    published: int
    within: int = 0
    remark: str = ""


@dataclass(frozen=True)
class PublishedSizes:
    """Published numbers of parameters of one form of a method's network.

    Counted on the last stage's network with these settings, ``words`` different words of training
    texts, and a backbone of this width ("" for a method that has no part in the backbone).
    """

    method: str
    form: str
    parts: tuple[Part, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    width: int = 640
    backbone: str = ""
    words: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """One line of `list datasets`, where to get the data, and the defaults of a run on it.

    ``folders``: names that the dataset's folder usually has under a data root. ``text_rule``: how
    captions become strings where a recipe does not say. ``equal_captions_answer``: every picture
    with the target's own caption (its side text) is a right answer, not the target alone.
    ``official_files``: sha256 of the published annotation files, by name. ``dictionaries``: of corrected words, by
    category ("" where there are none), file and sha256. ``train_dataset``: whose triplets methods are trained on, where
    the dataset has none of its own. ``picture_texts``, ``pair_notes``: the released captions of pictures and words of
    pairs, by split or category, with the digest's first digits; ``released_folder``: where all of these lie in the
    release's folder `data`.
    """

    name: str
    title: str
    summary: str
    licence: str
    obtain: str
    citation: str
    folders: tuple[str, ...] = ()
    default_protocol: str = "official"
    text_rule: str = "as-is"
    evaluation_split: str = "val"
    equal_captions_answer: bool = False
    train_dataset: str = ""
    official_files: dict[str, Any] = field(default_factory=dict)
    dictionaries: dict[str, Any] = field(default_factory=dict)
    picture_texts: dict[str, Any] = field(default_factory=dict)
    pair_notes: dict[str, Any] = field(default_factory=dict)
    released_folder: str = ""


@dataclass(frozen=True)
class WeightsSource:
    """Where a weights file comes from: ``file`` is its usual name, ``megabytes`` its rough size."""

    tag: str
    file: str
    url: str
    mirror: str
    megabytes: int
    licence: str


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone that is listed by name.

    ``width``: d of its global vector, 0 where it gives none. ``image_size``: side of the input in pixels.
    ``family``: what loads it (`benchmark.encoders.families`). ``mean``, ``std``: of each colour, what pixels of 0…1
    are normalised with; by default CLIP's.
    """

    name: str
    summary: str
    width: int
    image_size: int
    default_weights: str
    sources: tuple[WeightsSource, ...] = ()
    family: str = "open_clip"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class BackboneDescription:
    """What a backbone is. ``weights``: a tag, a file's stem or "random"; ``digest``: of all its tensors.

    ``width``: d of its global vector, ``context_length``: tokens of a text; both 0 where it has none.
    ``activation``: "" where the architecture leaves no choice. ``configuration``: of an architecture of the user's
    own, which no name stands for. ``family``: what builds it again.
    """

    name: str
    weights: str
    width: int
    image_size: int
    context_length: int
    activation: str
    digest: str
    preprocessing: dict[str, Any]
    parameters: int
    configuration: dict[str, Any] = field(default_factory=dict)
    family: str = "open_clip"


@dataclass(frozen=True)
class Facts:
    """All that one file says."""

    methods: tuple[MethodInfo, ...] = ()
    assets: tuple[Asset, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    variants: tuple[Variant, ...] = ()
    sizes: tuple[PublishedSizes, ...] = ()
    dataset: DatasetInfo | None = None


def own_recipe_of(recipes: Iterable[Recipe], stage: str, dataset: str, initialisation: str) -> Recipe | None:
    """The user's recipe that fits a stage, the dataset's own before the general one; None where none does."""
    of_the_stage = [r for r in recipes if (r.stage, r.initialisation) == (stage, initialisation)]
    fitting = [r for r in of_the_stage if r.dataset in (dataset, "*")]
    return min(fitting, key=lambda r: r.dataset == "*", default=None)


def choose_recipe(
    recipes: Iterable[Recipe], stage: str, dataset: str, name: str, initialisation: str
) -> Recipe:
    """The recipe of a stage on a dataset; ``name`` "" takes the default for this initialisation.

    A dataset's own comes before the general one. Random weights under a recipe for pretrained ones are refused.
    """
    mine = [r for r in recipes if r.stage == stage and r.dataset in (dataset, "*")]
    mine.sort(key=lambda r: r.dataset == "*")
    if name:
        named = [r for r in mine if r.name == name]
        if not named:
            raise unknown_name(f"recipe of stage {stage} on {dataset}", name, {r.name for r in mine})
        if initialisation == "random" and named[0].initialisation != "random":
            raise UserError(
                f"--recipe {name}: it fine-tunes pretrained weights, and these start at random; "
                "use --recipe from-scratch, or give weights with --weights"
            )
        return named[0]
    for recipe in mine:
        if recipe.initialisation == initialisation and recipe.name in ("paper", "adapted", "from-scratch"):
            return recipe
    known = ", ".join(sorted({f"{r.name} ({r.dataset})" for r in mine})) or "none"
    raise UserError(f"no recipe of stage {stage} on {dataset} for {initialisation} weights; known: {known}")
