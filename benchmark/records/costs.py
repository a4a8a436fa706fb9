"""What a record says of costs: of a method in use, and of the search for its learning rate."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from benchmark.records.part import Count, RecordPart

Seconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


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

    ``trainable_parameters``: those of the stage that is evaluated. ``pair_flops``: of one query's
    score with one picture. ``stored_bytes``: of one gallery picture's encoding in float32.
    ``training_seconds``: by stage, without validation, of the training whose weights are reported;
    an encoder taken from an earlier run has the time that it took then.
    """

    trainable_parameters: Count
    gallery: EncodingCost
    query: EncodingCost
    pair_flops: Count
    stored_bytes: Count
    training_seconds: dict[str, Seconds] = {}


class Tuning(RecordPart):
    """How a stage's learning rate was chosen: the best of ``base`` times each of ``factors`` by ``criterion``."""

    stage: str
    base: Rate
    factors: tuple[Rate, ...]
    criterion: str


class Trial(RecordPart):
    """One training of a search: its rate, the best value of the criterion (None: the loss diverged), its cost."""

    learning_rate: Rate
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
