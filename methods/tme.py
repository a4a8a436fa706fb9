"""TME: learning from triplets of which some are wrong, on SPRC's network.

Li, He, Liu, Zhou, Peng, Hu, "Learning with Noisy Triplet Correspondence for Composed Image Retrieval", CVPR 2025.
A picture is encoded alone, whether it is a reference or a target; a query is one pass of its tokens with the text.
Triplets that a mixture of losses takes for noisy are left out of the loss, and the difference of two pictures
is trained to stand for the words between them.

Deviation from the release: embeddings and scores are float32 in half precision, too; the mixture has a seed.
Notation: B batch, n query tokens, h width of the Q-Former, e width of the embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from benchmark.encoding import Encoding, dot_products
from benchmark.method import ComingEpoch, Method, ParameterGroups, RowValues, Views
from benchmark.settings import TrainingSettings

from .networks.blip2_stage import Blip2Settings, OnFirstStage, PictureTokens, on_blip2
from .networks.tme import DifferenceStage, Phase, PhasedAdamW, PhaseName, are_clean, robust_contrast

_LEAST_TEMPERATURE = 0.01
_TRAINED_APART = ("network.d2t_proj.", "network.prompt_tokens")


class TmeTraining(TrainingSettings):
    """Phases, and the weight of the difference query's loss."""

    phases: tuple[int, int, int] = Field(
        (3, 2, 1), description="epochs of the query's loss alone, of the others alone, and of all before any labels"
    )
    difference_weight: float = Field(0.2, ge=0, description="weight of the difference query's loss")


class Tme(OnFirstStage[DifferenceStage]):
    """A query is (B, e), a target (B, n, e), all of unit norm."""

    def __init__(self, network: DifferenceStage, pictures: PictureTokens, training: TmeTraining) -> None:
        super().__init__(network, pictures)
        self.phase = Phase()
        self._difference_weight = training.difference_weight

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return self._query(self.network.picture_queries(self.seen(reference)), text["tokens"])

    def encode_triplet(self, reference: Views, text: Views, target: Views) -> Encoding:
        """Of each phase what its loss reads: "query", "prompted" and "difference" are (B, e), "read" and "words",
        means of the difference's tokens and of the words' embeddings, (B, h), "clean" (B,)."""
        network, words, phase = self.network, text["tokens"], self.phase.name
        picture = self.seen(reference)
        queries = network.picture_queries(picture)
        labels = text["clean"] if phase == "full" and "clean" in text else torch.ones(len(words), device=words.device)
        encoding = {"clean": labels.to(queries.dtype)}
        if phase != "proj":
            encoding["query"] = self._query(queries, words)
        if phase != "qformer":
            difference = network.difference(picture, self.seen(target))
            rows = network.second_pass_of_difference(queries, difference)
            encoding["difference"] = network.query(rows[:, network.queries])
            encoding["prompted"] = network.query(network.prompted(words)[:, 0])
            encoding["read"] = difference.mean(dim=1)
            # Of all L, those of padding, too; the words themselves are not drawn to the difference.
            encoding["words"] = network.bert.embeddings.word_embeddings(words).mean(dim=1).detach()
        return encoding

    def loss(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:  # type: ignore[override]
        weights = {"lrm": 1.0, "lpm": 1.0, "lsa": 1.0, "lrd": self._difference_weight}
        parts = [weights[name] * part for name, part in self.losses(queries, targets).items()]
        return torch.stack(parts).sum()

    def losses(self, queries: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Those of the phase, each alone, by the release's names."""
        clean = queries["clean"]
        with torch.no_grad():
            self.network.temp.clamp_(min=_LEAST_TEMPERATURE)

        def contrast(asking: Tensor, labels: Tensor) -> Tensor:
            return robust_contrast(dot_products(asking.float(), targets.float()) / self.network.temp.float(), labels)

        found: dict[str, Tensor] = {}
        if "query" in queries:
            found["lrm"] = contrast(queries["query"], clean)
        if "difference" in queries:
            apart = (queries["read"].float() - queries["words"].float()).square().mean(dim=1)
            found["lsa"] = (apart * clean).sum() / clean.sum().clamp(min=1)
            found["lpm"] = contrast(queries["prompted"], clean)
            found["lrd"] = contrast(queries["difference"], torch.ones_like(clean))
        return found

    def _query(self, queries: Tensor, words: Tensor) -> Tensor:
        return self.network.query(self.network.second_pass(queries, words)[:, self.network.queries])


def phase_of(epoch: int, phases: tuple[int, int, int]) -> PhaseName:
    """The phase of an epoch, counted from 0."""
    ends = np.cumsum(phases)
    names: tuple[PhaseName, ...] = ("qformer", "proj", "last", "full")
    return names[int((ends <= epoch).sum())]


def _before_epoch(method: Method, settings: TrainingSettings, epoch: ComingEpoch) -> RowValues:
    """Sets the phase; in the last one every entry gets its label from the losses of the method as it stands."""
    assert isinstance(method, Tme)
    method.phase.name = phase_of(epoch.number, TmeTraining.of(settings).phases)
    if method.phase.name != "full" or epoch.kept:
        return epoch.kept
    # What no whole batch holds keeps a loss of 0: it counts as clean, and is the smallest.
    losses = np.zeros(epoch.entries)
    method.eval()
    with torch.no_grad():
        for entries, reference, text, target in epoch.groups():
            losses[entries] = losses_of_entries(method, reference, text, target).double().cpu().numpy()
    return {"clean": torch.from_numpy(are_clean(losses, epoch.seed)).float()}


def losses_of_entries(method: Tme, reference: Views, text: Views, target: Views) -> Tensor:
    """Of each query of a batch (B,): how surprising its own target is among those of the batch."""
    scores = dot_products(method.encode_query(reference, text), method.encode_target(target))
    return -(scores.float() / method.network.temp).log_softmax(dim=1).diagonal()


def _parameter_groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    assert isinstance(method, Tme)
    apart = [p for name, p in method.named_parameters() if p.requires_grad and name.startswith(_TRAINED_APART)]
    known = set(apart)
    rest = [p for p in method.parameters() if p.requires_grad and p not in known]
    common = {"phase": method.phase}
    return [{"params": rest, **common}, {"params": apart, "second_rate": settings.learning_rate, **common}]


METHOD = on_blip2(
    "tme",
    DifferenceStage,
    Tme,
    Blip2Settings,
    TmeTraining,
    parameter_groups=_parameter_groups,
    optimiser=PhasedAdamW,
    before_epoch=_before_epoch,
)
