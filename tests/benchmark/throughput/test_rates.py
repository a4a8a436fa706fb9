"""From rounds to measurements: rates, ratios, latencies, utilisation by the data sheet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmark.throughput.timing import Rounds, Setting, latencies, promised_flops, quartiles

ROUNDS = Rounds(
    {"ours": np.array([0.2, 0.4, 0.2, 0.8]), "bare loop": np.array([0.1, 0.3, 0.1, 0.2])}, {"ours": 70, "bare loop": 50}
)
CPU = Setting(torch.device("cpu"), "fp32", 0.0)


def test_quartiles_stand_around_the_median():
    assert quartiles(np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == (2.0, 3.0, 4.0)


def test_a_rate_is_amount_over_seconds_and_the_quartiles_change_places():
    rounds = Rounds({"ours": np.array([1.0, 2.0, 3.0, 4.0, 100.0])}, {})
    found = CPU.rate(rounds, "ours", 12, "pictures", "")
    assert (found.value, found.low, found.high, found.repeats) == (4.0, 3.0, 6.0, 5)
    assert found.limit is None and found.ratio is None


def test_the_ratio_is_taken_round_by_round():
    """The machine was three times slower in the second round: the ratio does not see it."""
    rounds = Rounds({"ours": np.array([2.0, 6.0, 2.0]), "bare": np.array([1.0, 3.0, 1.0])}, {})
    found = CPU.rate(rounds, "ours", 1, "updates", "", "bare")
    assert (found.ratio, found.ratio_low, found.ratio_high) == (0.5, 0.5, 0.5)


def test_a_rate_is_beside_its_limit_and_faster_is_more():
    found = CPU.rate(ROUNDS, "ours", 30, "pictures", "30 pictures", "bare loop")
    assert found.value == pytest.approx(100) and found.unit == "pictures/s" and found.repeats == 4
    assert found.limit == pytest.approx(200) and found.limit_of == "bare loop"
    assert found.ratio == pytest.approx(0.5)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    assert (found.peak_bytes, found.limit_peak_bytes) == (70, 50)
    assert found.flops is None and found.utilisation is None


def test_latencies_are_milliseconds_and_their_ratio_says_how_near_they_are_to_the_limit():
    found = latencies(ROUNDS, "ours", "bare loop", "one query")
    assert found["p50"].value == pytest.approx(300) and found["p50"].limit == pytest.approx(150)
    assert found["p50"].ratio == pytest.approx(0.5)
    assert found["p95"].value == pytest.approx(1e3 * np.quantile([0.2, 0.4, 0.2, 0.8], 0.95))
    assert found["p95"].ratio == pytest.approx(found["p95"].limit / found["p95"].value)


def test_utilisation_is_the_model_s_operations_over_those_promised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    gpu = Setting(torch.device("cuda"), "bf16", 0.0)
    found = gpu.rate(ROUNDS, "ours", 1, "updates", "", flops=int(0.3 * 494.7e12))
    assert found.flops == pytest.approx(494.7e12) and found.utilisation == pytest.approx(0.5)
    in_tf32 = replace(gpu, precision="tf32").rate(ROUNDS, "ours", 1, "updates", "", flops=10**12)
    assert in_tf32.utilisation == pytest.approx(1e12 / 0.3 / 494.7e12)
    assert CPU.rate(ROUNDS, "ours", 1, "updates", "", flops=10**12).utilisation is None


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 80GB HBM3", "fp32", 66.9),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA A10", "fp16", 125),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
    ],
)
def test_devices_are_told_apart_by_whole_words(name, precision, tera):
    assert promised_flops(name, precision) == pytest.approx(tera * 1e12)


def test_what_is_not_listed_or_lacking_has_no_promise():
    assert promised_flops("NVIDIA A1000", "fp32") is None
    assert promised_flops("Tesla T4", "bf16") is None


def test_single_calls_are_not_repeated_within_a_sample():
    made = []
    setting = Setting(CPU.device, "fp32", 0.05)
    rounds = setting.rounds({"a": lambda: made.append(1)}, least=5, sample_seconds=0)
    assert len(made) == 2 + len(rounds.seconds["a"]) >= 7
