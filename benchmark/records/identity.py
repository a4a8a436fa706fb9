"""What a run was made with, and where it ran: everything that makes two numbers comparable or not."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from benchmark.records.measurement import Count, Name, NameOrNone, Precision, RecordPart, Tuning


class DataIdentity(RecordPart):
    """``name`` is the dataset's name on the shelf, ``label`` what outputs call this folder;
    ``fingerprint`` is the digest of all annotations read.

    ``checked``: how each annotation file was held against the official one: its digest is that one's, or, where
    none is known, the published counts are met; else it differs. Empty where nobody looked (own data, older records).
    """

    name: Name
    label: Name
    fingerprint: str
    is_demo: bool
    is_official: bool
    checked: dict[str, Literal["digest", "counts", "differs"]] = {}

    @property
    def different(self) -> list[str]:
        """Annotation files that are not the official ones."""
        return sorted(name for name, how in self.checked.items() if how == "differs")

    @model_validator(mode="after")
    def _demo_is_not_official(self) -> Self:
        if self.is_demo and self.is_official:
            raise ValueError("data cannot be demo data and official at once")
        return self


EncoderState = Literal["untouched", "finetuned", "trained"]


class EncoderIdentity(RecordPart):
    """The encoder whose features were used.

    ``weights``: the tag or file it started from. ``digest``: of the weights at that start, before
    any training here; what training made of them is the artefact of a stage. ``state`` tells
    whether the features come from the encoder as it started or as an earlier stage left it, or that the
    method itself trained it on pictures, as a part of its own weights;
    ``precision`` is that of the pass that made them. ``mean``, ``std``: by which pictures are normalised, of red,
    green and blue between 0 and 1.
    """

    name: str
    weights: str
    digest: str
    start: Literal["pretrained", "random"]
    state: EncoderState
    precision: Precision = "fp32"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class StageIdentity(RecordPart):
    """A training stage: all its settings, and what it did. ``artefact``: digest of its product."""

    name: str
    recipe: str = ""
    recipe_source: str = ""
    settings: dict[str, JsonValue]
    updates: Count
    triplets_seen: Count
    seed: int
    artefact: str | None = None


class NoiseIdentity(RecordPart):
    """How a share of the training triplets was made wrong (`benchmark.data.noise`). ``digest``: of whose parts every
    triplet then bore."""

    share: Annotated[float, Field(gt=0, lt=1)]
    seed: int
    scheme: str
    digest: str

    @property
    def words(self) -> str:
        """Such as "20 % of the training triplets noisy"."""
        return f"{100 * self.share:g} % of the training triplets noisy"


class TrainingData(RecordPart):
    """Another dataset, whose triplets were trained on. ``label`` and ``fingerprint`` as of `DataIdentity`; "" where
    weights do not tell."""

    name: Name
    label: NameOrNone = ""
    fingerprint: str = ""


class OneCategory(RecordPart):
    """The category that a model was trained on and is evaluated on, ``among`` those of its dataset; :data:`EACH` where
    records of all were joined."""

    name: Name
    among: Annotated[tuple[Name, ...], Field(min_length=1)]

    @property
    def words(self) -> str:
        """Such as "dress alone"."""
        return "a model for each category" if self.name == EACH else f"{self.name} alone"


EACH = "each"
"""In a category's place: a model of its own for each."""


class ListedQueries(RecordPart):
    """The file that an evaluation was restricted to: its name without ending, its digest, how many ids it lists."""

    name: Name
    sha256: str
    queries: Count


class Identity(RecordPart):
    """Everything that makes two numbers comparable or not.

    ``variant``: the name of the method's configuration where it has one (an ablation, a published
    version); ``recipe``, ``batch_size`` and ``negative_group`` are those of the stage that is evaluated
    (empty where nothing is trained). ``tuning``: how that stage's learning rate was searched for, where
    it was. ``limit``: what `--limit` shrank the run to. ``plugins`` and
    ``inputs``: files from outside (plug-ins; embeddings, rankings, checkpoints), name to digest.
    ``subset``: the queries that `--subset` left. ``noise``: of the training triplets, held-out ones among them.
    ``dictionaries``: the files that corrected the texts, with their sha256; ``side_texts``: those that gave captions
    of pictures and words of pairs. ``zero_shot``: no stage has seen a triplet; ``training_files``: what was trained on
    in place of them, by name with its digest. ``training_data``: where the triplets are not
    those of ``data``. ``category``: where models are trained on one alone.
    ``data`` is None only where no dataset takes part (throughput).
    """

    data: DataIdentity | None
    encoder: EncoderIdentity | None = None
    recipe: str = ""
    recipe_source: str = ""
    variant: NameOrNone = ""
    method_settings: dict[str, JsonValue] = {}
    stages: tuple[StageIdentity, ...] = ()
    tuning: Tuning | None = None
    batch_size: Count | None = None
    negative_group: Count | None = None
    selection: Literal["paper", "last", "heldout", "none"] = "none"
    selection_note: str = ""
    precision: Precision = "fp32"
    text_rule: str = ""
    seed: int | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    subset: ListedQueries | None = None
    plugins: dict[str, str] = {}
    inputs: dict[str, str] = {}
    noise: NoiseIdentity | None = None
    training_data: TrainingData | None = None
    category: OneCategory | None = None
    dictionaries: dict[str, str] | None = None
    side_texts: dict[str, str] | None = None
    zero_shot: Literal[True] | None = None
    training_files: dict[str, str] | None = None
    missing_pictures: tuple[str, ...] = ()
    skipped_pictures: tuple[str, ...] = ()
    skipped_triplets: Count = 0


class Code(RecordPart):
    """``commit`` is None where the package does not lie in its own git checkout; ``dirty`` tells
    whether the checkout's code then differed from that commit."""

    version: str
    commit: str | None = None
    dirty: bool = False


class Environment(RecordPart):
    """Where it ran; a library that is not installed is None."""

    python: str
    torch: str | None
    deepspeed: str | None
    open_clip: str | None
    timm: str | None
    numpy: str | None
    pillow: str | None
    platform: str
    device: str
    world_size: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
