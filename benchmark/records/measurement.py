"""What a record says beside its numbers: speeds and costs, the search for a rate, what was found out on the way."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(pattern=r"^[^\W_][\w.\-]*$", max_length=100)]
"""Of what is made a folder or a column: letters, digits, "-", "_" and ".", so that it leads nowhere else."""
NameOrNone = Annotated[str, Field(pattern=r"^([^\W_][\w.\-]*)?$", max_length=100)]

_FIRST_ENTRIES = ("value", "unit", "limit", "limit_of")


class RecordPart(BaseModel):
    """What all parts of a record have in common: unknown keys are refused, values never change, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Probe(RecordPart):
    """What a few rows said of a method's contract before the run.

    ``rows_depend_on_batch``: the method declares that, in evaluation, a row's encoding depends on the rows beside
    it. ``largest_deviation``: of a pair's scores, computed in several ways, as a share of the largest score.
    """

    rows: Count
    rows_depend_on_batch: bool
    largest_deviation: Annotated[float, Field(ge=0)]


class Selected(RecordPart):
    """The epoch whose weights a stage's selection took. ``margin``: of its score over the next best epoch's, in the
    criterion's unit; None where one epoch was scored. Epoch 0: the earlier stage's weights stand."""

    stage: str
    epoch: Count
    margin: Annotated[float, Field(ge=0)] | None = None


DOUBTFUL = "doubtful: "


class Outside(RecordPart):
    """What a file from outside is seen to be.

    Of embeddings: ``width`` and ``dtype`` as they are stored, the least and largest Euclidean ``norms`` of their
    rows, the ``score`` that ranks them. ``evidence``: what the file itself says of the protocol, a sentence each;
    what speaks against it begins with :data:`DOUBTFUL`.
    """

    width: Count | None = None
    dtype: str = ""
    norms: tuple[float, float] | None = None
    score: str = ""
    evidence: tuple[str, ...] = ()


class AspectScore(RecordPart):
    """The :data:`~benchmark.evaluation.metrics.ASPECT_METRIC` of those ``queries`` that ask for one thing; a query may
    ask for several."""

    queries: Annotated[int, Field(ge=1)]
    value: Percent
    interval: tuple[Percent, Percent]


Points = Annotated[float, Field(ge=-100, le=100)]
PercentInterval = tuple[Percent, Percent]


class ComposedRecall(RecordPart):
    """A recall of one task beside those of the picture alone and of the text alone, on the same encoder, in percent;
    or a mAP, of which what is a count of hits is None.

    ``gap``: method - max(picture, text). ``union``: solvable by one modality, of a mAP the mean of the better average
    precision; ``gap_to_union``: method - union. ``composed``: what the method alone finds; ``lost``: what one modality
    finds and the method does not. ``hard``: found by neither modality, and ``hard_recall`` the method's recall on
    those (None where there are none).
    ``p_picture, p_text``: sign-flip tests of the method against either. :mod:`benchmark.comparison.composition`
    computes them; intervals are 95 %.
    """

    picture: Percent
    text: Percent
    gap: Points
    gap_interval: tuple[Points, Points]
    union: Percent
    union_interval: PercentInterval | None = None
    gap_to_union: Points
    gap_to_union_interval: tuple[Points, Points]
    composed: Percent | None = None
    composed_interval: PercentInterval | None = None
    lost: Percent | None = None
    lost_interval: PercentInterval | None = None
    hard: Percent | None = None
    hard_recall: Percent | None = None
    hard_recall_interval: PercentInterval | None = None
    p_picture: Annotated[float, Field(ge=0, le=1)]
    p_text: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """The gap to the union is what is composed less what is lost; what no modality solves is hard."""
        if self.composed is None or self.lost is None or self.hard is None:
            if (self.composed, self.lost, self.hard) != (None, None, None):
                raise ValueError("a composition has all of composed, lost and hard, or none")
        elif abs(self.composed - self.lost - self.gap_to_union) > 0.01 or abs(self.union + self.hard - 100) > 0.01:
            raise ValueError("the shares of a composition do not add up")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a mAP does not have, and intervals that the first records did not have, so that these are
        written again as they were."""
        written: dict[str, Any] = dump(self)
        later = ("union_interval", "composed", "composed_interval", "lost", "lost_interval", "hard")
        return {name: value for name, value in written.items() if name not in later or value is not None}


class Measurement(RecordPart):
    """A speed, latency or size, beside the limit measured in the same process where there is one.

    ``low, high``: quartiles of the value over ``repeats`` samples. ``ratio``: the share of the
    limit's speed that is reached, 1 being as fast, with its quartiles; the median over samples taken
    in alternation, hence not quite value over limit. ``work``: what was done once. ``flops``:
    floating-point operations per second; ``utilisation``: their share of what the device's data sheet
    promises. ``peak_bytes, limit_peak_bytes``: the most memory held meanwhile. What was not measured
    is None here and absent from the file.
    """

    value: float
    unit: str
    limit: float | None = None
    limit_of: str = ""
    low: float | None = None
    high: float | None = None
    repeats: Annotated[int, Field(ge=1)] | None = None
    ratio: Positive | None = None
    ratio_low: Positive | None = None
    ratio_high: Positive | None = None
    work: str | None = None
    flops: Positive | None = None
    utilisation: Positive | None = None
    peak_bytes: Count | None = None
    limit_peak_bytes: Count | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name, low, middle, high in (
            ("value", self.low, self.value, self.high),
            ("ratio", self.ratio_low, self.ratio, self.ratio_high),
        ):
            if low is not None and high is not None and (middle is None or not low <= middle <= high):
                raise ValueError(f"the {name} {middle} lies outside of its quartiles, {low} to {high}")
        if self.ratio is not None and (self.limit is None or not self.limit_of):
            raise ValueError("a ratio to a limit that is not told")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The entries of the first records stand always, so that these are written again as they were."""
        written: dict[str, Any] = dump(self)
        return {name: value for name, value in written.items() if name in _FIRST_ENTRIES or value is not None}


class EncodingCost(RecordPart):
    """Of one picture of the gallery, or of one query whose reference was not seen before.

    ``picture_passes``, ``text_passes``: how often a picture or text encoder is run (SPIRIT: the whole
    picture and 13 patches). ``flops``: of these passes and of the method's own layers, a multiply-add
    counted as two.
    """

    picture_passes: Count
    text_passes: Count = 0
    flops: Count


class Cost(RecordPart):
    """Of a trained method in use, counted by `benchmark.pipeline.cost`, and the time that training it took.

    ``trainable_parameters``: those of the stage that is evaluated; ``parameters``: all that a query and a picture pass
    through, the encoder's among them (None in older records). ``pair_flops``: of one query's
    score with one picture. ``stored_bytes``: of one gallery picture's encoding in float32.
    ``training_seconds``: by stage, without validation, of the training whose weights are reported;
    an encoder taken from an earlier run has the time that it took then.
    """

    trainable_parameters: Count
    parameters: Count | None = None
    gallery: EncodingCost
    query: EncodingCost
    pair_flops: Count
    stored_bytes: Count
    training_seconds: dict[str, Seconds] = {}

    @model_serializer(mode="wrap")
    def _as_it_was_read(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the entry that older records lack, so that these are written again as they were."""
        written: dict[str, Any] = dump(self)
        return {name: value for name, value in written.items() if name != "parameters" or value is not None}


class Tuning(RecordPart):
    """How a stage's learning rate was chosen: the best of ``base`` times each of ``factors`` by ``criterion``."""

    stage: str
    base: Positive
    factors: tuple[Positive, ...]
    criterion: str


class Trial(RecordPart):
    """One training of a search: its rate, the best value of the criterion (None: the loss diverged), its cost."""

    learning_rate: Positive
    score: float | None
    epoch: Count = 0
    triplets_seen: Count = 0
    seconds: Seconds = 0.0
    chosen: bool = False

    @model_validator(mode="after")
    def _the_chosen_one_has_a_score(self) -> Self:
        if self.chosen and self.score is None:
            raise ValueError("a training whose loss diverged cannot be the chosen one")
        return self


def format_passes(cost: EncodingCost) -> str:
    """Such as "14 pictures + 1 text"."""
    pictures, texts = cost.picture_passes, cost.text_passes
    parts = [f"{pictures} picture{'s' if pictures > 1 else ''}"] * bool(pictures)
    return " + ".join([*parts, *[f"{texts} text"] * bool(texts)])


def format_gigaflops(flops: int) -> str:
    return f"{flops / 1e9:.3g}"


def format_cost(cost: Cost) -> str:
    """All that is counted, in one sentence without a full stop."""
    gallery, query = cost.gallery, cost.query
    among = f" of {cost.parameters:,}" if cost.parameters is not None else ""
    return (
        f"{cost.trainable_parameters:,} trainable parameters{among}; per gallery picture: encoder passes "
        f"{format_passes(gallery)}, {format_gigaflops(gallery.flops)} GFLOPs, {cost.stored_bytes:,} bytes stored; "
        f"per query: encoder passes {format_passes(query)}, {format_gigaflops(query.flops)} GFLOPs, "
        f"{cost.pair_flops:,} FLOPs for each picture scored"
    )
