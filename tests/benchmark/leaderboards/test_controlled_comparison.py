"""The tables of a controlled comparison is made of records that are seen to share its conditions, of no others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from proved_records import write_proved

from benchmark.leaderboards.book import Book
from benchmark.leaderboards.controlled_comparison import comparisons, controlled_section
from benchmark.leaderboards.leaderboard import Sources, pages, render
from benchmark.records.record import Record, read_record
from benchmark.registry import discover

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_2.json").model_dump(mode="json")
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


def in_one_line(section: str) -> str:
    return " ".join(section.split())


def official(record: Record) -> Record:
    raw = record.model_dump(mode="json")
    raw["identity"]["data"].update(label="cirr", is_demo=False, is_official=True)
    raw["results"][0]["dataset"] = "cirr"
    return Record.model_validate(raw)


def tables_of(section: str) -> list[list[dict[str, str]]]:
    """Every table, a dict per line."""
    found: list[list[list[str]]] = []
    for line in section.splitlines():
        if line.startswith("| method"):
            found.append([])
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [[dict(zip(lines[0], line, strict=True)) for line in lines[2:]] for lines in found]


def cells(section: str) -> list[dict[str, str]]:
    """The recalls, the first table, without the lines of spreads."""
    return [row for row in tables_of(section)[0] if row["method"] not in ("±", "sd")]


def test_a_row_tells_what_was_trained_and_what_it_costs() -> None:
    section = controlled_section(CIRR, [made(), untrained()], REASONS)
    assert [row["method"] for row in cells(section)] == ["SPIRIT, trained at rate 0.000167", "SUM, nothing trained"]
    spirit, picture, query, nothing, *_ = tables_of(section)[1]
    assert (spirit["method"], picture["method"], query["method"]) == ("SPIRIT", "gallery picture", "query")
    assert spirit["parameters"] == "1,145,892"
    assert (picture["passes"], query["passes"]) == ("14 + 0", "14 + 1")
    assert (picture["GFLOPs"], query["GFLOPs"]) == ("0.514", "0.543")
    assert (spirit["train, s"], spirit["tune, s"]) == ("20.2", "40.8")
    assert (picture["bytes"], query["FLOPs/pair"]) == ("512", "256")
    assert "encoder tiny, random weights" in section
    assert (nothing["method"], nothing["train, s"], nothing["tune, s"]) == ("SUM", "", "")
    assert all(len(line) <= 100 for line in section.splitlines())


def test_seeds_share_a_row_and_each_has_its_own_artefact() -> None:
    section = controlled_section(CIRR, [made(seed=seed, recall=20.0 + seed) for seed in (0, 1, 2)], {})
    (row,) = cells(section)
    assert [line["R@1"] for line in tables_of(section)[0]] == ["21.00", "2.0", "1.0"] and row["R@1"] == "21.00"
    section = in_one_line(section)
    assert "encoder artefact: 0a0a0a0a0a0a (seed 0), 1a1a1a1a1a1a (seed 1), 2a2a2a2a2a2a (seed 2)" in section
    assert "left out: " not in section and "seeds: 0, 1, 2" in section
    section = controlled_section(CIRR, [made(), made("clip4cir"), made("clip4cir", 1)], {})
    assert [row["method"].split(",")[0] for row in cells(section)] == ["CLIP4CIR", "SPIRIT"]
    assert "seeds: 0 (SPIRIT); all others 0, 1." in section or "seeds: 0, 1 (CLIP4CIR); all others 0." in section


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
        (
            {"identity.training_data": {"name": "shoes", "label": "shoes", "fingerprint": "b" * 64}},
            "trained on shoes bbbbbbbbbbbb, not its own triplets",
        ),
    ],
)
def test_a_record_of_other_conditions_is_left_out_with_the_reason(change: dict[str, Any], reason: str) -> None:
    section = controlled_section(CIRR, [made("artemis_clip"), made("clip4cir"), made("spirit", 0, change)], {})
    assert f"left out: SPIRIT, seed 0: {reason}" in in_one_line(section)
    assert [row["method"].split(",")[0] for row in cells(section)] == ["ARTEMIS_CLIP", "CLIP4CIR"]


def test_another_dataset_s_triplets_are_a_condition_that_is_told() -> None:
    elsewhere = {"identity.training_data": {"name": "shoes", "label": "shoes", "fingerprint": "b" * 64}}
    members = [made("clip4cir", 0, elsewhere), made("spirit", 0, elsewhere), untrained(change=elsewhere)]
    told = in_one_line(controlled_section(CIRR, members, {}))
    assert "; trained on shoes bbbbbbbbbbbb; " in told and "left out: " not in told
    assert "its own triplets" not in in_one_line(controlled_section(CIRR, [made()], {}))
    # Untouched weights that no method's own stage was trained behind are the same whatever the others saw.
    nothing = {"identity.stages": [], "identity.encoder.state": "untouched"}
    plain = {"identity.encoder.state": "untouched", "identity.stages.0.artefact": None, **elsewhere}
    (comparison,) = comparisons([made("clip4cir", 0, plain), untrained(change=nothing)])
    assert len(comparison.records) == 2


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


def on_backbone(name: str, flops: int, numbers: int, method: str, change: dict[str, Any] | None = None) -> Record:
    """A record on another backbone, whose gallery picture costs this much and whose encoding has so many numbers."""
    gallery = {"picture_passes": 1, "text_passes": 0, "flops": flops}
    costs = {"cost.gallery": gallery, "cost.stored_bytes": 4 * numbers, "cost.parameters": 63_000_000}
    return made(method, 0, {"identity.encoder.name": name, **costs, **(change or {})})


def test_one_table_holds_every_backbone_with_its_costs() -> None:
    small, large = (
        [on_backbone(name, flops, numbers, method) for method in ("clip4cir", "spirit")]
        for name, flops, numbers in (("ViT-B-32", 5 * 10**9, 512), ("ViT-H-14", 167 * 10**9, 32 * 256))
    )
    section = controlled_section(CIRR, [*large, *small], {})
    first = tables_of(section)[0]
    assert "#### All backbones: demo-cirr" in section and "#### ViT-H-14, random weights" in section
    assert section.index("All backbones") < section.index("#### ViT-B-32, random weights")
    assert [line["method"] for line in first if line["R@1"] or not line["method"].startswith("±")] == [
        "CLIP4CIR", "ViT-B-32, random weights", "±", "ViT-H-14, random weights", "±",
        "SPIRIT", "ViT-B-32, random weights", "±", "ViT-H-14, random weights", "±",
    ]  # fmt: skip
    rows = [line for line in first if line["GFLOPs"]]
    assert [(row["GFLOPs"], row["bytes"], row["params"]) for row in rows[:2]] == [("5", "2,048", "63M"), ("167", "32,768", "63M")]
    assert all(len(line) <= 100 for line in section.splitlines())
    # Each backbone's own comparison follows, with the costs of queries.
    assert len(tables_of(section)) == 1 + 2 * 2 and "left out: " not in section


def test_a_backbone_of_other_conditions_has_no_rows_in_the_table_of_all() -> None:
    known = [on_backbone(name, 10**9, 8, "spirit") for name in ("ViT-B-32", "ViT-L-14")]
    other = on_backbone("ViT-H-14", 10**9, 8, "spirit", {"identity.batch_size": 64})
    nothing = untrained(change={"identity.encoder.name": "ViT-g-14"})
    section = in_one_line(controlled_section(CIRR, [*known, other, nothing], {}))
    whole = section[: section.index("#### ViT-B-32")]
    assert "left out: ViT-H-14, random weights: batch 64, not 256" in whole
    assert "ViT-g-14, random weights |" in whole and "| ViT-H-14" not in whole


def test_of_two_whole_comparisons_the_later_one_stands() -> None:
    early = [made(name, 0, {"created": "2029-01-01T00:00:00Z"}) for name in ("clip4cir", "spirit")]
    late = [made(name, 0, {"identity.batch_size": 64}) for name in ("clip4cir", "spirit")]
    (comparison,) = comparisons([*early, *late])
    assert comparison.conditions["batch"] == "64"
    assert {reason for _, reason in comparison.left_out} == {"batch 256, not 64"}


def test_searches_are_told_and_a_best_rate_at_the_edge_is_marked() -> None:
    section = controlled_section(CIRR, [made()], {})
    assert (
        "SPIRIT, seed 0: held-out score 61.25 at rate 0.000167 (chosen), 60.50 at rate 0.0005, none, the loss "
        "diverged, at rate 0.0015; the best rate lies at the edge of those tried" in in_one_line(section)
    )


def test_demo_data_is_named_in_the_heading_and_in_the_caption() -> None:
    section = controlled_section(CIRR, [made(), untrained()], REASONS)
    assert section.startswith("## Controlled comparison (run --fair): demo, synthetic pictures\n")
    assert "\ndemo-cirr · val · official · single: demo, synthetic pictures, ranks no methods\n" in section
    assert "synthetic" not in controlled_section(CIRR, [official(made())], REASONS)


def test_methods_outside_are_listed_with_the_reason() -> None:
    assert "TIRG: brings a ResNet of its own" in controlled_section(CIRR, [made()], REASONS)
    assert controlled_section(CIRR, [], REASONS) == ""
    assert controlled_section(CIRR, [made("spirit", 0, {"identity.recipe": "paper"})], REASONS) == ""


def test_fair_records_stand_in_their_own_section_of_a_page_alone(tmp_path: Path) -> None:
    paper = official(made("spirit", 0, {"identity.recipe": "paper", "identity.tuning": None, "trials": []}, recall=77.0))
    for number, record in enumerate((official(made("clip4cir", recall=11.0)), paper)):
        write_proved(tmp_path / "records" / str(number), record)
    write_proved(tmp_path / "demo" / "records" / "0", made("clip4cir", recall=33.0))
    found = pages(tmp_path, {"cirr": CIRR}, REASONS)
    before, _, after = found[tmp_path / "leaderboard" / "cirr.md"].partition("## Controlled comparison")
    assert "77.00" in before and "11.00" not in before
    assert "11.00" in after and "77.00" not in after and "TIRG: brings a ResNet of its own" in after
    demo = found[tmp_path / "demo" / "cirr.md"]
    assert demo.count("33.00") == 1 and "11.00" not in demo and "synthetic pictures" in demo
    assert "## Controlled comparison" not in render(CIRR, Sources(measured=Book((paper,), {})))
