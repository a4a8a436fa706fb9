"""A measured speed, latency or size beside its limit, as a record holds it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Positive = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=0)]

_FIRST_ENTRIES = ("value", "unit", "limit", "limit_of")


class Measurement(BaseModel):
    """A speed, latency or size, beside the limit measured in the same process where there is one.

    ``low, high``: quartiles of the value over ``repeats`` samples. ``ratio``: the share of the
    limit's speed that is reached, 1 being as fast, with its quartiles; the median over samples taken
    in alternation, hence not quite value over limit. ``work``: what was done once. ``flops``:
    floating-point operations per second; ``utilisation``: their share of what the device's data sheet
    promises. ``peak_bytes, limit_peak_bytes``: the most memory held meanwhile. What was not measured
    is None here and absent from the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    peak_bytes: Bytes | None = None
    limit_peak_bytes: Bytes | None = None

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
