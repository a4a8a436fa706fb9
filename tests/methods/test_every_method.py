"""What every method of the registry has to keep, one shared set of tests.

A method that joins the shelf is tested without a line here. So is a plug-in:
`pytest tests/methods/test_every_method.py --method-file my_method.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from contract import (
    ROWS,
    TEXTS,
    Case,
    cases_of,
    encodings_of,
    loss_of,
    losses_in_float64,
    plugins_of,
    rows_of,
    same_state,
    scores_of,
    state_of,
    train,
    trained_by_the_engine,
)
from placement import CaseOnGpu, check_evaluation, check_training_pass, check_updates, waits_of_updates
from torch import nn

from benchmark.encoding import Encoding, dot_products
from benchmark.errors import UserError
from benchmark.method import FeatureInputs, Method
from benchmark.pipeline.contract_probe import ABSOLUTE, RELATIVE, probe
from benchmark.registry import Registry, discover
from benchmark.training.job import Interrupted
from benchmark.weights.checkpoints import WeightsHeader, read_header, read_weights, save_weights
from benchmark.weights.fit import load_into

_STEPS = 150
_HALF = 2e-2


@cache
def shelf(*further: str) -> tuple[Registry, tuple[str, ...]]:
    """The registry, and the plug-ins that were added to it."""
    registry = discover()
    return registry, plugins_of(registry, list(further))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    registry, files = shelf(*metafunc.config.getoption("--method-file"))
    names = [(name, "") for name in registry.methods()]
    if "any_network" in metafunc.fixturenames:
        # A variant that changes the method's settings is another network, an equal one is not.
        names += [(v.method, v.name) for v in registry.variants() if any(k.startswith("method.") for k in v.settings)]
    if "named" in metafunc.fixturenames:
        ids = [f"{name}-{variant}" if variant else name for name, variant in names]
        metafunc.parametrize("named", [(registry, files, *name) for name in names], ids=ids, scope="module")


@pytest.fixture(scope="module")
def cases(named: tuple[Registry, tuple[str, ...], str, str], small_cirr: Path) -> list[Case]:
    registry, files, method, variant = named
    return list(cases_of(registry, method, variant, small_cirr, files))


@pytest.fixture(scope="module")
def any_network(cases: list[Case]) -> list[Case]:
    """The cases of the variants, too."""
    return cases


@pytest.fixture
def trained(cases: list[Case]) -> list[Case]:
    found = [case for case in cases if case.planned.stage.trains]
    if not found:
        pytest.skip("it declares that it trains nothing")
    return found


def tensors_of(encoding: Encoding) -> Iterator[torch.Tensor]:
    yield from [encoding] if isinstance(encoding, torch.Tensor) else encoding.values()


def test_a_method_that_trains_nothing_declares_it_and_no_other_does(cases: list[Case]) -> None:
    for case in cases:
        asked = [name for name, p in case.build().named_parameters() if p.requires_grad]
        assert bool(asked) == case.planned.stage.trains
        assert (case.planned in case.plan.trained) == case.planned.stage.trains


def test_any_number_of_rows_and_any_width(any_network: list[Case]) -> None:
    for case in any_network:
        on_features = isinstance(case.inputs, FeatureInputs) and case.planned.stage.output == "method"
        for width in (0, 24, 36) if on_features else (0,):
            sized = Case(case.plan, case.planned, width)
            method = sized.build().eval()
            queries, targets = sized.triplets(method, 7), sized.triplets(method, 5, 3)
            with torch.no_grad():
                query, target = encodings_of(method, queries, targets)
                scores = method.score(query, target)
            assert (rows_of(query), rows_of(target), scores.shape) == ({7}, {5}, (7, 5))
            assert scores.isfinite().all()
            if method.scores_by_dot_product:
                assert isinstance(query, torch.Tensor) and isinstance(target, torch.Tensor)
                torch.testing.assert_close(scores, dot_products(query, target))


def test_a_row_alone_is_encoded_as_in_a_batch(cases: list[Case]) -> None:
    for case in cases:
        method = case.build()
        whole = case.triplets(method)
        together = scores_of(method, whole, whole)
        alone = torch.cat([scores_of(method, case.triplets(method, 1, i), whole) for i in (0, 7, 19)])
        torch.testing.assert_close(alone, together[[0, 7, 19]], rtol=RELATIVE, atol=ABSOLUTE)
        one = case.triplets(method, 1, 4)
        torch.testing.assert_close(scores_of(method, whole, one)[:, 0], together[:, 4], rtol=RELATIVE, atol=ABSOLUTE)


def test_the_probe_of_every_run_passes_and_changes_nothing(any_network: list[Case]) -> None:
    for case in any_network:
        trains = case.planned.stage.trains
        method = case.build(dropout=True).eval()
        before, drawn = state_of(method), torch.get_rng_state()
        batch_norm = case.planned.settings.batch_norm if trains else None
        found = probe("any", method, case.sample(method), batch_norm)
        assert found.rows == 4 and not found.rows_depend_on_batch
        assert same_state(state_of(method), before) and torch.equal(torch.get_rng_state(), drawn)
        assert not method.training and all(p.grad is None for p in method.parameters())


def test_a_training_batch_of_one_trains_or_says_in_one_line_why_not(trained: list[Case]) -> None:
    for case in trained:
        method = case.build()
        try:
            loss = loss_of(method, case.triplets(method, 1))
        except UserError as refusal:
            assert "\n" not in str(refusal) and "batch norm" in str(refusal)
        else:
            assert loss.isfinite()


def test_a_seed_decides_start_loss_and_gradient(trained: list[Case]) -> None:
    for case in trained:
        outcomes = []
        for seed in (1, 1, 2):
            method = case.build(seed, dropout=True)
            start = state_of(method)
            torch.manual_seed(seed)
            loss = loss_of(method, case.triplets(method, 6))
            torch.autograd.backward(loss)
            gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
            outcomes.append((start, loss, gradients))
        (start, loss, gradients), again, other = outcomes
        assert same_state(start, again[0]) and torch.equal(loss, again[1]) and same_state(gradients, again[2])
        assert not same_state(start, other[0])


def test_evaluation_changes_no_state(any_network: list[Case]) -> None:
    for case in any_network:
        method = case.build().eval()
        before, triplets = state_of(method), case.triplets(method, 5)
        first = scores_of(method, triplets, triplets)
        with torch.no_grad():
            drawn = method.explain(triplets.reference, triplets.text)
        assert all(tensor.isfinite().all() and len(tensor) == 5 for tensor in drawn.values())
        assert torch.equal(scores_of(method, triplets, triplets), first)
        assert same_state(state_of(method), before)
        assert all(p.grad is None for p in method.parameters())


def moved_once(method: Method, case: Case) -> None:
    """One step: some weights that start at zero stop the gradient of others."""
    asked = [p for p in method.parameters() if p.requires_grad]
    torch.autograd.backward(loss_of(method, case.triplets(method, 6).to(torch.float64)))
    torch.optim.SGD(asked, lr=1e-3).step()
    method.zero_grad()


def test_the_loss_moves_every_parameter_but_those_declared(any_network: list[Case]) -> None:
    """In float64, where a gradient that is zero in exact arithmetic stands apart from a small one."""
    for case in any_network:
        if not case.planned.stage.trains:
            continue
        method = case.build().double()
        with losses_in_float64():
            moved_once(method, case)
            torch.autograd.backward(loss_of(method, case.triplets(method, 6).to(torch.float64)))
        largest = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in method.named_parameters()}
        floor = 1e-12 * max(largest.values())
        still = {name for name, value in largest.items() if value <= floor}
        declared = method.without_gradient
        covered = {name for name in largest if any(name == d or (d.endswith(".") and name.startswith(d)) for d in declared)}
        assert still == covered, (sorted(still - covered), sorted(covered - still))
        unknown = [d for d in declared if not any(name == d or name.startswith(d) for name in largest)]
        assert not unknown
        groups = case.planned.stage.parameter_groups(method, case.planned.settings)
        grouped = [id(p) for group in groups for p in group["params"] if p.requires_grad]
        assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_the_engine_updates_it(any_network: list[Case], tmp_path: Path) -> None:
    """DeepSpeed, the stage's optimiser and its groups take every parameter as it is, single numbers too.

    What is interrupted within the epoch goes on to the same bits: what a network holds beside its weights is drawn
    again as it was, or comes from the state. No update makes the host wait.
    """
    for number, case in enumerate(any_network):
        if not case.planned.stage.trains:
            continue
        method = case.build(dropout=True)
        start = state_of(method)
        with waits_of_updates() as found:
            trained = trained_by_the_engine(case, method, tmp_path / str(number))
        check_updates(method, found)
        assert trained.updates == 2 and all(math.isfinite(entry.loss) for entry in trained.log)
        assert {name: tensor.shape for name, tensor in trained.last.items()} == {n: t.shape for n, t in start.items()}
        assert all(tensor.isfinite().all() for tensor in trained.last.values())
        assert not same_state(trained.last, start)
        if case.plan.variant is None:
            folder = tmp_path / f"{number}-interrupted"
            with pytest.raises(Interrupted):
                trained_by_the_engine(case, case.build(dropout=True), folder, interrupted=True)
            resumed = trained_by_the_engine(case, case.build(dropout=True), folder, resume=True)
            assert same_state(resumed.last, trained.last) and resumed.updates == 2
            assert [entry.loss for entry in resumed.log] == [entry.loss for entry in trained.log]


def test_passes_stay_on_the_gpu(cases: list[Case]) -> None:
    """A tensor made on the host in the middle of a step raises, and what is sent between the two is counted."""
    for case in map(CaseOnGpu.of, cases):
        if case.planned.stage.trains:
            check_training_pass(*case.placed(), half=False)
        else:
            check_evaluation(*case.placed())


@pytest.mark.slow
def test_passes_of_variants_and_in_half_precision_stay_on_the_gpu(any_network: list[Case]) -> None:
    for case in map(CaseOnGpu.of, any_network):
        method, batch = case.placed()
        if case.planned.stage.trains:
            check_training_pass(method, batch, half=True)
        check_evaluation(method, batch)


@pytest.mark.slow
def test_an_update_in_half_precision_never_makes_the_host_wait(trained: list[Case], tmp_path: Path) -> None:
    for number, case in enumerate(trained):
        method, changed = case.build(dropout=True), {"precision": "bf16", "gradient_clip": 1.0, "average_decay": 0.9}
        with waits_of_updates() as found:
            trained_by_the_engine(case, method, tmp_path / str(number), **changed)
        check_updates(method, found)
        assert found.calls["aten::_foreach_lerp_.Scalar"], "the moving average"


def test_weights_and_what_was_prepared_come_back(cases: list[Case], tmp_path: Path) -> None:
    for case in cases:
        method = case.build(1)
        if case.planned.stage.trains:
            loss_of(method, case.triplets(method))
        triplets = case.triplets(method, 6)
        expected = scores_of(method, triplets, triplets)
        header = WeightsHeader(
            method="any", stage=case.planned.stage.name, dataset="cirr", method_settings={}, training_settings={},
            backbone={}, width=0, seed=1, prepared=dict(method.extra_state()),
        )  # fmt: skip
        save_weights(tmp_path / "weights.safetensors", method.state_dict(), header)
        other = case.build(2)
        other.load_extra_state(json.loads(json.dumps(read_header(tmp_path / "weights.safetensors").prepared)))
        load_into(other, read_weights(tmp_path / "weights.safetensors"), "the file")
        again = case.triplets(other, 6)
        assert torch.equal(scores_of(other, again, again), expected)


def test_bfloat16_trains_near_float32(trained: list[Case]) -> None:
    for case in trained:
        losses, norms = [], []
        for half in (False, True):
            method = case.build()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = loss_of(method, case.triplets(method, 8))
            torch.autograd.backward(loss.float())
            gradients = [p.grad.float() for p in method.parameters() if p.grad is not None]
            assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
            losses.append(float(loss))
            norms.append(float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()))
        assert losses[1] == pytest.approx(losses[0], rel=0.1, abs=0.1)
        assert norms[1] == pytest.approx(norms[0], rel=0.5)


def test_twenty_triplets_are_learnt_by_heart(trained: list[Case]) -> None:
    """R@1 of 100 % in evaluation mode, dropout off; gradients are clipped where the recipe clips them."""
    case = trained[-1]
    if case.planned.stage.rows is not None:
        pytest.skip("it trains on no triplet: what a text asks for is not what it learns (test_pseudo_words.py)")
    clip = case.planned.settings.gradient_clip or math.inf
    method = case.build()
    whole = case.triplets(method)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    for step in range(_STEPS):
        optimiser.zero_grad()
        torch.autograd.backward(loss_of(train(method, case.planned.settings.batch_norm), whole))
        nn.utils.clip_grad_norm_(method.parameters(), clip)
        optimiser.step()
        if step % 10 == 9 and right(method, case) == ROWS:
            break
    assert right(method, case) == ROWS


def right(method: Method, case: Case) -> int:
    """Queries whose own target alone scores highest."""
    whole = case.triplets(method)
    scores = scores_of(method, whole, whole)
    best = scores.diagonal()[:, None] > scores
    return int((best.sum(dim=1) == ROWS - 1).sum())


def test_the_twenty_texts_are_different() -> None:
    assert len(set(TEXTS)) == ROWS
