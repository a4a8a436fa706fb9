"""A toy distribution's methods through the whole engine: everything that the contract promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TOY_PLUGIN, Command

from benchmark.options import make_options
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.run import execute
from benchmark.pipeline.stage_sources import apart_from
from benchmark.records.record import Record, read_per_query, read_record
from benchmark.weights.checkpoints import read_header, read_weights


def plan_of(method: str, data: Path, folder: Path, **options: object) -> Plan:
    chosen = {"method": method, "dataset": "cirr", "data_root": data, "limit": 40, "output": str(folder), **options}
    return make_plan(make_options(plugins=(str(TOY_PLUGIN),), **chosen))


@pytest.fixture(scope="module")
def toy(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    folder = tmp_path_factory.mktemp("toy")
    return folder, execute(plan_of("toy", small_cirr, folder))


@pytest.fixture(scope="module")
def toy_features(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """With a cache of its own, where no earlier test has left features."""
    folder = tmp_path_factory.mktemp("toy_features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIR_BENCHMARK_CACHE", str(folder / "cache"))
        return folder, execute(plan_of("toy_features", small_cirr, folder))


def test_a_method_with_its_own_networks_needs_no_backbone(toy: tuple[Path, Record]) -> None:
    folder, record = toy
    assert record.identity.encoder is None
    assert [stage.name for stage in record.identity.stages] == ["toy-base", "toy-full"]
    assert [(s.updates, s.triplets_seen) for s in record.identity.stages] == [(5, 40), (10, 80)]
    assert (record.identity.batch_size, record.identity.negative_group) == (8, 4)
    assert "its own" in (folder / "table.md").read_text()
    assert record.identity.plugins.keys() == {"method.py"}


def test_its_vocabulary_travels_with_the_weights(toy: tuple[Path, Record]) -> None:
    folder, _ = toy
    header = read_header(folder / "weights" / "selected.safetensors")
    words = header.prepared["words"]
    assert len(words) > 5 and words == sorted(words)
    assert read_weights(folder / "weights" / "selected.safetensors")["words.weight"].shape == (len(words) + 2, 12)
    assert header.earlier[0].prepared == header.prepared


def test_nothing_is_left_of_the_work(toy: tuple[Path, Record]) -> None:
    folder, _ = toy
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    assert names == {
        "run.json", "record.json", "per_query.npz", "table.md", "examples.png", "training-log.json",
        "weights/selected.safetensors", "weights/last.safetensors",
    }  # fmt: skip


def test_the_second_stage_has_the_first_one_s_weights_and_moments(
    small_cirr: Path, tmp_path: Path, toy: tuple[Path, Record]
) -> None:
    still = plan_of("toy", small_cirr, tmp_path, epochs=0)
    record = execute(still)
    weights = read_weights(tmp_path / "weights" / "selected.safetensors")
    assert torch.equal(weights["scale"], torch.ones(12))  # a tensor of the second stage alone
    assert record.identity.stages[0].updates == 5 and record.identity.stages[1].updates == 0
    trained = read_weights(toy[0] / "weights" / "last.safetensors")
    assert not torch.equal(weights["words.weight"], trained["words.weight"])
    # Batch norms in evaluation mode: the second stage keeps the statistics of the first.
    assert torch.equal(weights["cnn.1.running_mean"], trained["cnn.1.running_mean"])
    assert not torch.equal(weights["cnn.0.weight"], trained["cnn.0.weight"])


@pytest.mark.parametrize("name", ["toy", "toy_features"])
@pytest.mark.parametrize("weights", ["selected", "last"])
def test_evaluating_a_checkpoint_gives_the_run_s_own_numbers(
    name: str, weights: str, small_cirr: Path, tmp_path: Path, command: Command, request: pytest.FixtureRequest
) -> None:
    folder, record = request.getfixturevalue(name)
    outcome = command(
        "evaluate", "--plugin", TOY_PLUGIN, "--method", name, "--data-root", small_cirr, "--limit", 40,
        "--checkpoint", folder / "weights" / f"{weights}.safetensors", "--output", tmp_path / "again",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (own,) = [i for i, result in enumerate(record.results) if result.weights_from == weights]
    again = read_record(tmp_path / "again")
    found, expected = again.results[0], record.results[own]
    if not expected.composition:
        # A run asks what one modality alone finds once, beside the weights that it evaluates first.
        found = found.model_copy(update={"composition": {}})
    assert found == expected
    assert any(result.composition for result in record.results)
    ranks = [read_per_query(path, read_record(path)) for path in (folder, tmp_path / "again")]
    assert np.array_equal(ranks[0][own].rank, ranks[1][0].rank)
    assert np.array_equal(ranks[0][own].top, ranks[1][0].top)
    assert again.identity == record.identity


def test_features_are_read_and_the_recipe_sets_the_method(toy_features: tuple[Path, Record]) -> None:
    folder, record = toy_features
    assert record.identity.encoder is not None and record.identity.encoder.state == "untouched"
    assert record.identity.method_settings == {"sharpness": 5.0}
    assert any(path.is_file() for path in (folder / "cache" / "features").rglob("*"))


def test_chance_in_the_transform_does_not_depend_on_what_was_drawn_before(
    small_cirr: Path, tmp_path: Path, toy: tuple[Path, Record]
) -> None:
    again = execute(plan_of("toy", small_cirr, tmp_path))
    assert again.results == toy[1].results
    for name in ("selected", "last"):
        a, b = (read_weights(folder / "weights" / f"{name}.safetensors") for folder in (toy[0], tmp_path))
        assert all(torch.equal(a[key], b[key]) for key in a)
    other = execute(plan_of("toy", small_cirr, tmp_path / "other", seed=1))
    logs = [json.loads((f / "training-log.json").read_text())[0]["loss"] for f in (tmp_path, tmp_path / "other")]
    assert other.identity.seed == 1 and logs[0] != logs[1]


def test_a_backbone_for_a_method_without_one_is_refused(small_cirr: Path, command: Command) -> None:
    outcome = command(
        "run", "--plugin", TOY_PLUGIN, "--method", "toy", "--dataset", "cirr", "--data-root", small_cirr,
        "--backbone", "tiny",
    )  # fmt: skip
    assert outcome.status == 2 and outcome.errors == [
        "error: --backbone tiny: toy brings its own networks; leave it out"
    ]


def test_a_method_that_trains_the_backbone_does_not_change_stored_features() -> None:
    from benchmark.encoders.backbones import load_backbone
    from benchmark.method import Method

    class Keeps(Method):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

    backbone = load_backbone("tiny", "random")
    apart = apart_from(Keeps(backbone), backbone)
    assert apart is not backbone and apart is not None
    assert apart.description.digest == backbone.description.digest
    assert apart_from(Keeps(torch.nn.Linear(1, 1)), backbone) is backbone
    assert apart_from(Keeps(backbone), None) is None
