"""Batch and negative group belong to the recipe: methods trained with the same groups on 1, 2 and 4 processes.

`pytest -q -s -m slow tests/benchmark/training/test_group_layouts.py` prints the table: the largest difference of any
parameter's entry from one process's, as a part of its tensor's largest entry, after five updates.
With CIR_BENCHMARK_LAYOUTS=all four processes train all methods, and not SPIRIT alone (a minute of two cores).

SGD is without momentum, in float32. With a method's own optimiser, what is zero in exact arithmetic is left
out, named below the table, and compared by the outputs: Adam divides by the gradient's size and makes full
steps of rounding. It makes visible ones of the last digits of small gradients too, and where a group spans
processes a convolution of fewer rows rounds differently. So such a group is compared in float64, and in
float32 the processes must be as near to float64 as one process is. TIRG's groups of 4 are, too: its momentum
carries the order in which gradients are added up to 1.6e-5 on some processors (2.4e-7 on others).
VAL's loss jumps where the nearest negative changes, which in float32 the last digit may decide: it is
compared in float64 as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
WORLDS = (1, 2, 4)
ALL = os.environ.get("CIR_BENCHMARK_LAYOUTS") == "all"
TOLERANCE = 1e-6
EXACT_TOLERANCE = 1e-10
"""In float64."""
JUMP_TOLERANCE = 1e-4
"""Of VAL in float32, whatever machine computes: mostly the difference is below 1e-6."""
SHARED_VECTOR_TOLERANCE = 2e-6
"""Of BLIP's ViT in float32: its class token takes the gradient of every picture, in another order (1.004e-6 was seen)."""
ROUNDINGS = 3
"""How much further from float64 than one process is, several may be where a group spans them, own optimiser."""
STATISTICS_TOLERANCE = 5e-6
"""Running means may be much smaller than what they are means of."""

LAYOUTS = {"4 groups of 4": (16, 4), "2 groups of 8": (16, 8), "1 group of 8": (8, 8)}
METHODS: dict[str, dict[str, Any]] = {
    "SPIRIT": {"method": "spirit", "method_settings": {"projection": 32, "hidden": 32, "dropout": 0}},
    "CLIP4Cir stage 1": {"method": "clip4cir", "stage": "encoders"},
    "CLIP4Cir stage 2": {"method": "clip4cir", "method_settings": {"projection": 32, "hidden": 32, "dropout": 0}},
    "BLIP4CIR stage 1": {"method": "blip4cir", "stage": "blip-text"},
    "BLIP4CIR stage 2": {"method": "blip4cir", "method_settings": {"projection": 32, "hidden": 32, "dropout": 0}},
    "VAL": {
        "method": "val",
        "method_settings": {"cnn": "tiny", "word_width": 16, "lstm_width": 32, "text_width": 32, "dropout": 0},
    },
    "TIRG": {
        "method": "tirg", "dataset": "fashion200k",
        "method_settings": {"cnn": "tiny", "width": 32, "word_width": 16, "dropout": 0, "loss": "soft_triplet"},
    },
    "ARTEMIS": {
        "method": "artemis", "dataset": "cirr",
        "method_settings": {"cnn": "tiny", "width": 32, "word_width": 16, "dropout": 0},
    },
    "SPIRIT, dropout": {"method": "spirit", "method_settings": {"projection": 32, "hidden": 32}},
    "SPIRIT, ZeRO 1": {
        "method": "spirit", "method_settings": {"projection": 32, "hidden": 32, "dropout": 0}, "execution": {"zero": 1},
    },
    "SPIRIT, ZeRO 2": {
        "method": "spirit", "method_settings": {"projection": 32, "hidden": 32, "dropout": 0}, "execution": {"zero": 2},
    },
}  # fmt: skip
RATES = {
    "SPIRIT": 1e-3, "CLIP4Cir stage 1": 2e-6, "CLIP4Cir stage 2": 3e-3, "BLIP4CIR stage 1": 1e-5,
    "BLIP4CIR stage 2": 3e-4, "VAL": 3e-4, "TIRG": 5e-5, "ARTEMIS": 1e-5,
}  # fmt: skip
"""Of SGD: small enough that a network of random weights does not blow up the last digit."""
OWN_RATES = {"VAL": 2e-5, "TIRG": 1e-3, "ARTEMIS": 1e-5}
"""Of the own optimiser, for the same reason: less than the recipe's where the network is trained from pixels."""
BASE = [method for method in METHODS if method in RATES]
SPANNING = "1 group of 8"

Case = dict[str, Any]
Results = dict[int, dict[str, Any]]


def case(method: str, layout: str, optimiser: str, dtype: str = "float32") -> Case:
    batch, group = LAYOUTS[layout]
    settings: dict[str, Any] = {"batch_size": batch, "negative_group": group}
    rates = RATES if optimiser == "sgd" else OWN_RATES
    if (rate := rates.get(method.split(", ")[0])) is not None:
        settings["learning_rate"] = rate
    worlds = WORLDS if method == "SPIRIT" or ALL else WORLDS[:2]
    return {
        "name": f"{method} / {optimiser}, {dtype} / {layout}", "optimiser": optimiser, "dtype": dtype,
        "settings": settings, "worlds": worlds, **METHODS[method],
    }  # fmt: skip


CASES = [
    *(case(method, layout, "sgd") for method in BASE for layout in ("4 groups of 4", "1 group of 8")),
    *(case(method, layout, "own") for method in BASE for layout in ("4 groups of 4", SPANNING)),
    *(case(method, SPANNING, "own", "float64") for method in BASE),
    case("TIRG", "4 groups of 4", "own", "float64"),
    case("VAL", SPANNING, "sgd", "float64"),
    case("SPIRIT", "2 groups of 8", "sgd"),
    case("SPIRIT, dropout", "1 group of 8", "sgd"),
    case("SPIRIT, ZeRO 1", "4 groups of 4", "sgd"),
    case("SPIRIT, ZeRO 2", "4 groups of 4", "sgd"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("layouts")
    (folder / "cases.json").write_text(json.dumps(CASES))
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "layout_processes.py"), str(folder / "cases.json"), str(folder), *map(str, WORLDS)],
        capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {world: torch.load(folder / f"{world}.pt", weights_only=True) for world in WORLDS}


@pytest.fixture(scope="module")
def zeros() -> dict[str, dict[str, Tensor]]:
    """Where the gradient is zero in exact arithmetic, by method and parameter."""
    import layout_cases

    return {method: layout_cases.without_gradient(case(method, "1 group of 8", "sgd")) for method in BASE}


def deviation(one: dict[str, Tensor], other: dict[str, Tensor], left_out: dict[str, Tensor]) -> float:
    """Largest difference as a part of its tensor's largest entry."""
    assert one.keys() == other.keys()
    found = [0.0]
    for name, tensor in one.items():
        difference = (tensor.double() - other[name].double()).abs()
        if name in left_out:
            difference = difference.masked_fill(left_out[name], 0.0)
        found.append(float(difference.max() / tensor.abs().max().clamp(min=1e-30)))
    return max(found)


def split(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and the batch norms' running statistics."""
    running = {name: tensor for name, tensor in weights.items() if ".running_" in name or "num_batches" in name}
    return {name: tensor for name, tensor in weights.items() if name not in running}, running


def tolerances(c: Case) -> tuple[float, float]:
    """Of parameters, and of running statistics and outputs."""
    if c["dtype"] == "float64":
        return EXACT_TOLERANCE, EXACT_TOLERANCE
    if c["method"] == "val":
        return JUMP_TOLERANCE, 10 * JUMP_TOLERANCE
    return SHARED_VECTOR_TOLERANCE if c.get("stage") == "blip-text" else TOLERANCE, STATISTICS_TOLERANCE


def by_rounding(c: Case) -> bool:
    """Whether a case is held against float64 instead of one process in float32."""
    exact = c["name"].replace("float32", "float64")
    return c["optimiser"] == "own" and c["dtype"] == "float32" and any(other["name"] == exact for other in CASES)


def from_float64(results: Results, zeros: dict[str, dict[str, Tensor]], c: Case, world: int) -> tuple[float, ...]:
    """How far a case's parameters, running statistics and outputs are from those of one process in float64."""
    exact, found = results[1][c["name"].replace("float32", "float64")], results[world][c["name"]]
    (parameters, running), (others, others_running) = split(exact["weights"]), split(found["weights"])
    return (
        deviation(parameters, others, left_out(c, zeros)),
        deviation(running, others_running, {}),
        deviation(exact["outputs"], found["outputs"], {}),
    )


def left_out(c: Case, zeros: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """SGD makes nothing of a gradient's rounding: nothing is left out."""
    return zeros[c["name"].split(" / ")[0]] if c["optimiser"] == "own" else {}


@pytest.mark.parametrize(
    ("c", "world"),
    [pytest.param(c, world, id=f"{c['name']} / {world} processes") for c in CASES for world in c["worlds"][1:]],
)
def test_every_layout_trains_what_one_process_trains(
    results: Results, zeros: dict[str, dict[str, Tensor]], c: Case, world: int
) -> None:
    one, other = results[1][c["name"]], results[world][c["name"]]
    (parameters, running), (others, others_running) = split(one["weights"]), split(other["weights"])
    of_parameters, of_others = tolerances(c)
    if by_rounding(c):
        of_one, of_several = (from_float64(results, zeros, c, number) for number in (1, world))
        least = (of_parameters, of_others, of_others)
        assert all(s < ROUNDINGS * max(o, t) for s, o, t in zip(of_several, of_one, least, strict=True))
    else:
        assert deviation(parameters, others, left_out(c, zeros)) < of_parameters
        assert deviation(running, others_running, {}) < of_others
        assert deviation(one["outputs"], other["outputs"], {}) < of_others
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert other["gradient norms"] == pytest.approx(one["gradient norms"], rel=1e-3)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c["name"])
def test_the_updates_are_far_larger_than_the_tolerance(results: Results, c: Case) -> None:
    one = results[1][c["name"]]
    moved = {name: deviation({name: t}, {name: one["start"][name]}, {}) for name, t in one["weights"].items()}
    assert max(moved.values()) > 100 * TOLERANCE


def test_the_number_of_groups_matters(results: Results) -> None:
    few, many = (results[1][f"SPIRIT / sgd, float32 / {layout}"]["weights"] for layout in ("2 groups of 8", "4 groups of 4"))
    assert deviation(few, many, {}) > 100 * TOLERANCE


def test_zero_trains_what_one_whole_copy_trains(results: Results) -> None:
    whole = split(results[1]["SPIRIT / sgd, float32 / 4 groups of 4"]["weights"])[0]
    for world in WORLDS if ALL else WORLDS[:2]:
        for stage in (1, 2):
            parts = split(results[world][f"SPIRIT, ZeRO {stage} / sgd, float32 / 4 groups of 4"]["weights"])[0]
            assert deviation(whole, parts, {}) < TOLERANCE


def test_the_table(results: Results, zeros: dict[str, dict[str, Tensor]]) -> None:
    width = max(len(c["name"]) for c in CASES)
    print(f"\n{'method / optimiser / groups of an update':{width}}  moved    2 proc.  4 proc.  outputs  statistics  1, 2, 4 proc. from float64")
    for c in CASES:
        one = results[1][c["name"]]
        parameters, running = split(one["weights"])
        moved = deviation(parameters, {name: one["start"][name] for name in parameters}, {})
        others = [results[world][c["name"]] for world in c["worlds"][1:]]
        columns = [deviation(parameters, split(o["weights"])[0], left_out(c, zeros)) for o in others]
        shown = [f"{moved:.1e}", *(f"{column:.1e}" for column in columns), *["-"] * (3 - len(c["worlds"]))]
        shown.append(f"{max(deviation(one['outputs'], o['outputs'], {}) for o in others):.1e}")
        shown.append(f"{max(deviation(running, split(o['weights'])[1], {}) for o in others):.1e}")
        if by_rounding(c):
            shown += ["", *(f"{from_float64(results, zeros, c, world)[0]:.1e}" for world in c["worlds"])]
        print(f"{c['name']:{width}}  " + "  ".join(f"{value:7}" for value in shown))
    for method, found in zeros.items():
        names = [name if mask.all() else f"{int(mask.sum())} entries of {name}" for name, mask in found.items() if mask.any()]
        print(f"{method}: gradient zero in exact arithmetic: {', '.join(names) or 'nowhere'}")
