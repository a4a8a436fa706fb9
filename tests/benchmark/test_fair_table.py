"""The table of a fair comparison is made of records that are seen to share its conditions, of no others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmark.leaderboards.fair_conditions import comparisons
from benchmark.leaderboards.fair_table import fair_section
from benchmark.leaderboards.leaderboard import pages, render
from benchmark.records.record import Record, read_record, write_record
from benchmark.registry import discover

GOLDEN = read_record(Path(__file__).parents[1] / "golden" / "record_version_2.json").model_dump(mode="json")
CIRR = discover().datasets()["cirr"]
REASONS = {"TIRG": "brings a ResNet of its own"}


def made(method: str = "spirit", seed: int = 0, change: dict[str, Any] | None = None, recall: float = 20.0) -> Record:
    """A fair record on the encoder of its seed; keys of ``change`` are paths such as "identity.seed"."""
    raw = copy.deepcopy(GOLDEN)
    raw.update(method=method, title=method.upper(), command=f"python -m benchmark run --method {method}")
    raw["results"] = raw["results"][:1]
    raw["results"][0].update(metrics={"R@1": recall}, intervals={"R@1": [recall - 2, recall + 2]}, ties=0)
    raw["identity"].update(recipe="fair", seed=seed, encoder={**raw["identity"]["encoder"], "digest": f"{seed}e" * 32})
    for stage in raw["identity"]["stages"]:
        stage.update(seed=seed, artefact=None)
    raw["identity"]["stages"][0]["artefact"] = f"{seed}a" * 32
    for path, value in (change or {}).items():
        *parents, last = path.split(".")
        at: Any = raw
        for step in parents:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value
    return Record.model_validate(raw)


def untrained(seed: int = 0, change: dict[str, Any] | None = None) -> Record:
    """A method that scores stage 1's encoder as it is."""
    nothing: dict[str, Any] = {
        "results.0.weights_from": "none trained",
        "identity.tuning": None,
        "trials": [],
        "identity.batch_size": None,
        "identity.negative_group": None,
        "identity.stages": made(seed=seed).model_dump(mode="json")["identity"]["stages"][:1],
        "cost.trainable_parameters": 0,
    }
    return made("sum", seed, {**nothing, **(change or {})})


def official(record: Record) -> Record:
    raw = record.model_dump(mode="json")
    raw["identity"]["data"].update(label="cirr", is_demo=False, is_official=True)
    raw["results"][0]["dataset"] = "cirr"
    return Record.model_validate(raw)


def cells(section: str) -> list[dict[str, str]]:
    """The first table, a dict per row."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    end = next((n for n, line in enumerate(lines[1:], 1) if line.startswith("| method")), len(lines))
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]
    return [dict(zip(split[0], row, strict=True)) for row in split[2:]]


def test_a_row_tells_what_was_trained_and_what_it_costs() -> None:
    rows = cells(fair_section(CIRR, [made(), untrained()], REASONS))
    spirit = next(row for row in rows if row["method"].startswith("SPIRIT"))
    assert spirit["trained"] == "at rate 0.000167"
    assert spirit["trainable parameters"] == "1,145,892"
    assert (spirit["passes per gallery picture"], spirit["passes per query"]) == ("14 pictures", "14 pictures + 1 text")
    assert (spirit["GFLOPs per gallery picture"], spirit["GFLOPs per query"]) == ("0.514", "0.543")
    assert (spirit["training"], spirit["tuning"]) == ("20.2 s", "40.8 s")
    assert (spirit["bytes per gallery picture"], spirit["weights"]) == ("512", "CLIP tiny, random")
    nothing = next(row for row in rows if row["method"].startswith("SUM"))
    assert (nothing["trained"], nothing["training"], nothing["tuning"]) == ("nothing", "", "")


def test_seeds_share_a_row_and_each_has_its_own_artefact() -> None:
    section = fair_section(CIRR, [made(seed=seed, recall=20.0 + seed) for seed in (0, 1, 2)], {})
    (row,) = cells(section)
    assert row["R@1"] == "21.00 (sd 1.0) ± 2.0"
    assert "encoder artefact: 0a0a0a0a0a0a (seed 0), 1a1a1a1a1a1a (seed 1), 2a2a2a2a2a2a (seed 2)" in section
    assert "left out: " not in section and "seeds: 0, 1, 2" in section
    rows = cells(fair_section(CIRR, [made(), made("clip4cir"), made("clip4cir", 1)], {}))
    assert [(row["method"].split()[0], row["seeds"]) for row in rows] == [("CLIP4CIR", "0, 1"), ("SPIRIT", "0")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"identity.stages.0.artefact": "ff" * 32}, "encoder artefact ffffffffffff, not 0a0a0a0a0a0a"),
        ({"identity.text_rule": "capitalised"}, "text rule capitalised, not as-is"),
        ({"identity.selection": "last"}, "selection last, not heldout"),
        ({"identity.stages.1.triplets_seen": 15000}, "triplets seen 15,000, not 15,360"),
        ({"identity.batch_size": 64}, "batch 64, not 256"),
        ({"identity.negative_group": 64}, "negative group 64, not 256"),
        ({"identity.tuning.factors": [1.0]}, "tuning learning rate × 1, by"),
        ({"identity.stages.1.settings.schedule": "step"}, "schedule step, not None"),
        ({"identity.data.fingerprint": "00" * 32}, "data 000000000000, not a1a1a1a1a1a1"),
        ({"identity.limit": 24}, "shortened to 24, not nothing"),
    ],
)
def test_a_record_of_other_conditions_is_left_out_with_the_reason(change: dict[str, Any], reason: str) -> None:
    section = fair_section(CIRR, [made("artemis_clip"), made("clip4cir"), made("spirit", 0, change)], {})
    assert f"left out: SPIRIT, seed 0: {reason}" in section
    assert [row["method"].split(" ")[0] for row in cells(section)] == ["ARTEMIS_CLIP", "CLIP4CIR"]


def test_a_method_that_trains_nothing_needs_the_same_encoder_alone() -> None:
    members = [made("clip4cir"), made("spirit")]
    (comparison,) = comparisons([*members, untrained()])
    assert len(comparison.records) == 3
    other = {"identity.stages": [{**untrained().model_dump(mode="json")["identity"]["stages"][0], "artefact": "ff" * 32}]}
    (comparison,) = comparisons([*members, untrained(change=other)])
    assert [reason for _, reason in comparison.left_out] == ["encoder artefact ffffffffffff, not 0a0a0a0a0a0a"]


def test_untouched_weights_and_stage_1_are_compared_apart() -> None:
    untouched = {"identity.encoder.state": "untouched", "identity.stages.0.artefact": None}
    found = comparisons([made("clip4cir"), made("spirit", 0, untouched), made("clip4cir", 0, untouched)])
    assert [comparison.encoder for comparison in found] == ["untouched", "finetuned"]
    assert found[0].artefacts == {0: ("0e" * 32)[:12]} and len(found[0].records) == 2


def test_of_two_whole_comparisons_the_later_one_stands() -> None:
    early = [made(name, 0, {"created": "2029-01-01T00:00:00Z"}) for name in ("clip4cir", "spirit")]
    late = [made(name, 0, {"identity.batch_size": 64}) for name in ("clip4cir", "spirit")]
    (comparison,) = comparisons([*early, *late])
    assert comparison.conditions["batch"] == "64"
    assert {reason for _, reason in comparison.left_out} == {"batch 256, not 64"}


def test_searches_are_told_and_a_best_rate_at_the_edge_is_marked() -> None:
    section = fair_section(CIRR, [made()], {})
    assert (
        "SPIRIT, seed 0: held-out score 61.25 at rate 0.000167 (chosen), 60.50 at rate 0.0005, none, the loss "
        "diverged, at rate 0.0015; the best rate lies at the edge of those tried" in section
    )


def test_demo_data_is_named_in_every_line() -> None:
    section = fair_section(CIRR, [made(), untrained()], REASONS)
    lines = [line for line in section.splitlines() if line.startswith(("#", "- ", "| S"))]
    assert lines and all("drawn pictures" in line.lower() for line in lines)
    assert "drawn" not in fair_section(CIRR, [official(made())], REASONS)


def test_methods_outside_are_listed_with_the_reason() -> None:
    assert "TIRG: brings a ResNet of its own" in fair_section(CIRR, [made()], REASONS)
    assert fair_section(CIRR, [], REASONS) == ""
    assert fair_section(CIRR, [made("spirit", 0, {"identity.recipe": "paper"})], REASONS) == ""


def test_fair_records_stand_in_their_own_section_of_a_page_alone(tmp_path: Path) -> None:
    paper = official(made("spirit", 0, {"identity.recipe": "paper", "identity.tuning": None, "trials": []}, recall=77.0))
    for number, record in enumerate((official(made("clip4cir", recall=11.0)), paper)):
        write_record(tmp_path / "records" / str(number), record)
    write_record(tmp_path / "runs", made("clip4cir", recall=33.0))
    found = pages(tmp_path, {"cirr": CIRR}, [tmp_path / "runs"], REASONS)
    before, _, after = found[tmp_path / "leaderboard" / "cirr.md"].partition("## Fair comparison")
    assert "77.00" in before and "11.00" not in before
    assert "11.00" in after and "77.00" not in after and "TIRG: brings a ResNet of its own" in after
    demo = found[tmp_path / "demo" / "cirr.md"]
    assert demo.count("33.00") == 1 and "11.00" not in demo and "drawn pictures" in demo
    assert "## Fair comparison" not in render(CIRR, [paper])
