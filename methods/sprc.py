"""SPRC: a query's words and its reference become a prompt of sentence level in BLIP-2's Q-Former.

Bai, Xu, Liu, Khan, Khan, Zuo, Goh, Feng, "Sentence-level Prompts Benefit Composed Image Retrieval", ICLR 2024.
The Q-Former reads reference and text together; its fused tokens, the prompt, go through it a second time with the
text alone. A query's score of a target is the best of its products with the target's n tokens.

Deviation from the release: embeddings and scores are float32 in half precision, too, not rounded to float16.
Notation: B batch, n query tokens, h width of the Q-Former, e width of the embeddings.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmark.encoding import Encoding, dot_products
from benchmark.method import Views
from benchmark.settings import TrainingSettings

from .networks.blip2 import PromptedStage
from .networks.blip2_stage import Blip2Settings, OnFirstStage, PictureTokens, on_blip2


class SprcTraining(TrainingSettings):
    """Weights of the two losses beside the query's own."""

    prompt_weight: float = Field(1.0, ge=0, description="weight of the prompt query's loss")
    align_weight: float = Field(1.0, ge=0, description="weight of the fused tokens' distance from the prompts")


class Sprc(OnFirstStage[PromptedStage]):
    """A query is (B, e), a target (B, n, e), all of unit norm."""

    def __init__(self, network: PromptedStage, pictures: PictureTokens, training: SprcTraining) -> None:
        super().__init__(network, pictures)
        self._prompt_weight, self._align_weight = training.prompt_weight, training.align_weight

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """In evaluation the query alone; in training "prompted" (B, e) and "fused", a mean (B, h), beside it."""
        network, words = self.network, text["tokens"]
        fused = network.joint(self.seen(reference), words)[:, : network.queries]
        query = network.query(network.second_pass(fused, words)[:, network.queries])
        if not self.training:
            return query
        return {"query": query, "prompted": network.query(network.prompted(words)[:, 0]), "fused": fused.mean(dim=1)}

    def loss(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:  # type: ignore[override]
        losses = self.losses(queries, targets)
        return losses["itc"] + self._prompt_weight * losses["rtc"] + self._align_weight * losses["align"]

    def losses(self, queries: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """The three, each alone, by the release's names; from query to target only."""
        temperature, right = self.network.temp.float(), torch.arange(len(targets), device=targets.device)

        def contrast(asking: Tensor) -> Tensor:
            return cross_entropy(dot_products(asking.float(), targets.float()) / temperature, right)

        # Towards one constant vector, the same for all queries; the prompts themselves are not drawn by it.
        prompt = self.network.prompt_tokens[0].mean(dim=0).detach()
        return {
            "itc": contrast(queries["query"]),
            "rtc": contrast(queries["prompted"]),
            "align": (queries["fused"].float() - prompt).square().mean(),
        }


METHOD = on_blip2("sprc", PromptedStage, Sprc, Blip2Settings, SprcTraining)
