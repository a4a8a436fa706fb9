"""TME: its phases and their two optimisers, its labels, and what is told without scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.methods.networks.blip2 import Blip2Sizes
from benchmark.methods.networks.blip2_stage import PictureTokens
from benchmark.methods.networks.tme import DifferenceStage, Phase, PhasedAdamW, clean_probabilities, robust_contrast
from benchmark.methods.tme import METHOD, Tme, TmeTraining, phase_of
from command_line import Command
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import ComingEpoch
from benchmark.records.record import read_record
from benchmark.training.batches import Batch, Share, with_row_values

SMALL = {"width": 32, "layers": 2, "heads": 2, "inner": 32, "queries": 3, "embedding": 16, "dropout": 0.0}
STAGE = METHOD.stages(METHOD.settings(), "pretrained")[-1]


def small() -> Tme:
    torch.manual_seed(0)
    return Tme(DifferenceStage(24, Blip2Sizes(**SMALL)), PictureTokens(None), TmeTraining())


def epoch(number: int, groups: list[tuple[Any, ...]], kept: dict[str, Tensor] | None = None) -> ComingEpoch:
    return ComingEpoch(number, 40, 0, kept or {}, lambda: iter(groups))


def test_epochs_have_the_phases_of_the_release() -> None:
    found = [phase_of(number, (3, 2, 1)) for number in range(8)]
    assert found == ["qformer"] * 3 + ["proj"] * 2 + ["last"] + ["full"] * 2


def test_labels_are_made_in_the_last_phase_alone_and_kept_when_an_epoch_goes_on() -> None:
    method, asked = small(), []
    texts = method.tokenize([f"number {i}" for i in range(16)])

    def groups() -> Any:
        asked.append(1)
        for entries in (np.arange(0, 16), np.arange(16, 32)):
            pictures = torch.randn(16, 5, 24)
            yield entries, {"tokens": pictures}, texts, {"tokens": pictures}

    settings = TmeTraining()
    prepare = STAGE.before_epoch
    assert prepare is not None
    for number in range(6):
        assert prepare(method, settings, ComingEpoch(number, 40, 0, {}, groups)) == {} and not asked
    labels = prepare(method, settings, ComingEpoch(6, 40, 0, {}, groups))["clean"]
    assert len(asked) == 1 and labels.shape == (40,) and set(labels.tolist()) <= {0.0, 1.0}
    # The eight that no whole batch held have the smallest loss.
    assert labels[32:].all()
    kept = {"clean": torch.zeros(40)}
    assert prepare(method, settings, ComingEpoch(6, 40, 0, kept, groups)) is kept and len(asked) == 1
    assert method.phase.name == "full"


def test_noisy_rows_are_in_no_loss_but_the_differences() -> None:
    method, words = small(), {}
    words = method.tokenize(["red", "blue", "long", "short"])
    reference, target = ({"tokens": torch.randn(4, 5, 24)} for _ in range(2))
    targets = method.encode_target(target)

    def losses(clean: list[float]) -> dict[str, float]:
        triplet = method.encode_triplet(reference, {**words, "clean": torch.tensor(clean)}, target)
        assert isinstance(triplet, dict)
        return {name: float(loss) for name, loss in method.losses(triplet, targets).items()}

    every, two, none = losses([1, 1, 1, 1]), losses([1, 0, 1, 0]), losses([0, 0, 0, 0])
    assert every["lrd"] == two["lrd"] == none["lrd"] > 0
    assert all(none[name] == 0 and every[name] != two[name] for name in ("lrm", "lpm", "lsa"))


def test_two_optimisers_share_nothing() -> None:
    """Against two AdamW of torch's own that are stepped by hand."""
    phase, settings = Phase(), TmeTraining(learning_rate=0.01, betas=(0.9, 0.98), weight_decay=0.05)
    ours, plain = (([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]) for _ in range(2))
    groups: list[dict[str, Any]] = [
        {"params": [ours[0]], "phase": phase}, {"params": [ours[1]], "second_rate": 0.01, "phase": phase},
    ]  # fmt: skip
    phased = PhasedAdamW(groups, settings)
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.05}
    first, second = torch.optim.AdamW(plain, **options), torch.optim.AdamW(plain[1:], **options)
    names = ("qformer", "proj", "proj", "last", "proj", "full")
    for step, name in enumerate(names):
        phase.name = name  # type: ignore[assignment]
        for own, other in zip(ours, plain, strict=True):
            own.grad = torch.full_like(own, 0.3 * step - 0.5)
            other.grad = None if name == "qformer" and other is plain[1] else own.grad.clone()
        phased.step()
        (second if name == "proj" else first).step()
        for own, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)


def test_row_values_go_with_their_rows() -> None:
    batches = [Batch({}, {}, {"tokens": torch.zeros(2, 3)}) for _ in range(2)]
    shares = [Share(np.array([4, 1, 3, 0]), slice(2, 4)), Share(np.array([2, 5]))]
    found = [batch.text["clean"].tolist() for batch in with_row_values(batches, shares, {"clean": torch.arange(6.0)})]
    assert found == [[3.0, 0.0], [2.0, 5.0]]


def test_equal_losses_are_all_clean_and_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clean_probabilities(np.full(9, 0.4), 0).tolist() == [1.0] * 9
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(UserError, match=r"scikit-learn is not installed.*cir-benchmark\[tme\]"):
        clean_probabilities(np.arange(9.0), 0)


def test_a_certain_wrong_answer_costs_what_float32_allows() -> None:
    loss = robust_contrast(torch.tensor([[0.0, 100.0], [0.0, 100.0]]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx(15.942, abs=1e-3)


def test_a_run_goes_through_all_phases(command: Command, small_cirr: Path) -> None:
    outcome = command(
        "run", "--method", "tme", "--dataset", "cirr", "--data-root", small_cirr, "--epochs", 4,
        "--set", "tme.phases=[1,1,1]", "--set", "tme.batch_size=16", "--set", "method.picture_encoder=frozen",
        "--output", "out",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert read_record(Path("out")).results[0].metrics["R@10"] > 0
