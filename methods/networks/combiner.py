"""The Combiner as a stage on stored features: its sizes as settings, whoever trains it."""

from __future__ import annotations

from pydantic import Field

from benchmark.settings import MethodSettings

from .layers import Combiner


class CombinerSizes(MethodSettings):
    """Sizes of the Combiner; 0 takes CLIP4Cir's multiples of the backbone's width."""

    projection: int = Field(0, ge=0, description="width of the two projections; 0: 4 d")
    hidden: int = Field(0, ge=0, description="width of the hidden layers; 0: 8 d")
    dropout: float = Field(0.5, ge=0, lt=1)

    def build(self, width: int) -> Combiner:
        """The Combiner for features of width d."""
        return Combiner(width, self.projection or 4 * width, self.hidden or 8 * width, self.dropout)
