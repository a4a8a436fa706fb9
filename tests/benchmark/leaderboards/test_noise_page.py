"""The page of noisy triplets: blocks by share, clean rows beside them, and nothing of it on any other page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proved_records import write_proved
from test_controlled_comparison import made

import benchmark
from benchmark.facts import Variant
from benchmark.leaderboards.leaderboard import pages
from benchmark.records.record import Record
from benchmark.registry import discover

REGISTRY = discover()
CIRR = {"cirr": REGISTRY.datasets()["cirr"]}


def paper(method: str, recall: float, seed: int = 0, share: float = 0, **change: Any) -> Record:
    noise = {"share": share, "seed": 42, "scheme": "ntc", "digest": "d"} if share else None
    change = {"identity.recipe": "from-scratch", "identity.tuning": None, "trials": [], "identity.noise": noise, **change}
    return made(method, seed, change, recall)


def pages_of(folder: Path, records: list[Record], *variants: Variant) -> dict[str, str]:
    for number, record in enumerate(records):
        write_proved(folder / "demo" / "records" / "cirr" / str(number), record)
    found = pages(folder, CIRR, ablations={"spirit": (REGISTRY.methods()["spirit"], variants)})
    return {path.name: text for path, text in found.items() if path.parent.name == "demo"}


def rows_of(page: str) -> list[list[str]]:
    """Method, share and recall of every row, a name on a line of its own put before its label."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    return [cells[:3] for cells in lines if len(cells) > 2 and "%" in cells[1]]


NOISY = [
    *(paper("spirit", recall, seed) for seed, recall in enumerate((40.0, 50.0, 60.0))),
    *(paper("tme", recall, share=share) for share, recall in ((0, 30.0), (0.2, 25.0), (0.8, 20.0))),
    *(paper("spirit", recall, share=share) for share, recall in ((0.2, 35.0), (0.8, 10.0))),
    paper("sum", 15.0),
]


def test_a_block_for_each_share_and_clean_rows_of_the_same_seeds(tmp_path: Path) -> None:
    found = pages_of(tmp_path, NOISY)
    assert set(found) == {"cirr.md", "cirr-noise.md"}
    rows = rows_of(found["cirr-noise.md"])
    assert [(share, recall) for _, share, recall in rows] == [
        ("0 %", "40.00"), ("0 %", "30.00"), ("20 %", "35.00"), ("20 %", "25.00"), ("80 %", "10.00"), ("80 %", "20.00"),
    ], "SPIRIT's clean row is of seed 0 alone, as its noisy ones"  # fmt: skip
    text = " ".join(found["cirr-noise.md"].split())
    assert "SUM" not in text and "% noise)" not in text and "seeds: 0." in text
    assert "All but SPIRIT at 0 %, TME at 0 %: training triplets noisy by scheme ntc, its seed 42; so are those held out" in text
    assert max(map(len, found["cirr-noise.md"].splitlines())) <= 100
    assert "noisy" not in found["cirr.md"] and "50.00" in found["cirr.md"], "the mean over all three seeds"


def test_ties_are_those_of_one_share(tmp_path: Path) -> None:
    records = [paper(name, recall, share=share) for share, recall in ((0, 90.0), (0.5, 10.0)) for name in ("spirit", "tme")]
    text = pages_of(tmp_path, records)["cirr-noise.md"]
    assert [recall for _, _, recall in rows_of(text)] == ["90.00≈", "90.00≈", "10.00≈", "10.00≈"]


def test_noisy_and_controlled_records_enter_no_row_of_ablations(tmp_path: Path) -> None:
    half = Variant("spirit", "half", "half of it", "made up", ablation="parts")
    records = [
        paper("spirit", 40.0), made("spirit", recall=90.0), paper("spirit", 80.0, share=0.5),
        paper("spirit", 30.0, **{"identity.variant": "half"}),
    ]  # fmt: skip
    page = pages_of(tmp_path, records, half)["cirr-spirit-ablations.md"]
    assert "40.00" in page and "30.00" in page and "90.00" not in page and "80.00" not in page


def test_a_data_frame_tells_noisy_runs_apart(tmp_path: Path) -> None:
    pages_of(tmp_path, NOISY[:3] + NOISY[6:7])
    frame = benchmark.load_records(tmp_path / "demo" / "records")
    assert sorted(frame["noise"]) == [0.0, 0.0, 0.0, 0.2] and set(frame["trained_on"]) == {""}
