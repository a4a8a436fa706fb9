"""Options and settings: one model however they come, all problems in one go, the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError, unknown_name
from benchmark.options import make_options, parse_assignments, parse_data_roots, read_config
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.readiness import require_trainable
from benchmark.settings import TrainingSettings, fill


def plan(small_cirr: Path, **options: Any) -> Plan:
    return make_plan(make_options(**{"method": "spirit", "dataset": "cirr", "data_root": small_cirr, **options}))


def test_assignments_are_read_as_toml_and_otherwise_as_text() -> None:
    read = parse_assignments(
        ["spirit.epochs=20", "method.grids=[2]", "encoders.learn_scale=true", "method.encoder=untouched", "a.b= x=y "]
    )
    assert read == {
        "spirit.epochs": 20, "method.grids": [2], "encoders.learn_scale": True, "method.encoder": "untouched",
        "a.b": "x=y",
    }  # fmt: skip
    for wrong in ("epochs=20", "spirit.epochs"):
        with pytest.raises(UserError, match="write it as group.key=value"):
            parse_assignments([wrong])


def test_data_roots_for_one_or_all() -> None:
    assert parse_data_roots(["/a", "cirr=/b=c"]) == {"*": "/a", "cirr": "/b=c"}
    assert parse_data_roots(["/x=y"]) == {"*": "/x=y"}


def test_all_wrong_settings_come_at_once_with_the_nearest_name(small_cirr: Path) -> None:
    wrong = {
        "spirit.epoch": 3, "spirit.batch_sise": 8, "method.grid": [2], "encoders.learning_rate": -1,
        "backbone.preprocesing": "clip", "spirt.epochs": 1, "trainer.checkpoint_seconds": "soon",
    }  # fmt: skip
    with pytest.raises(UserError) as told:
        plan(small_cirr, set=wrong)
    lines = str(told.value).splitlines()
    assert len(lines) == 7
    text = str(told.value)
    for part in (
        "unknown setting 'spirit.epoch': did you mean spirit.epochs", "spirit.batch_size", "method.grids",
        "encoders.learning_rate = -1", "backbone.preprocessing", "unknown --set group 'spirt': did you mean spirit",
        "trainer.checkpoint_seconds = 'soon'",
    ):  # fmt: skip
        assert part in text


def test_later_layers_win_and_the_source_of_a_wrong_value_is_named() -> None:
    layers: list[tuple[str, dict[str, Any]]] = [("recipe paper", {"epochs": 3, "eps": 1e-7}), ("--set", {"epochs": 5})]
    settings = fill(TrainingSettings, layers, "spirit")
    assert (settings.epochs, settings.eps) == (5, 1e-7)
    with pytest.raises(UserError, match="^recipe paper: spirit.epochs = -3: input should be greater"):
        fill(TrainingSettings, [("recipe paper", {"epochs": -3})], "spirit")


def test_options_name_every_problem() -> None:
    with pytest.raises(UserError) as told:
        make_options(method="sum", dataset="cirr", seed=-1, epochs="many", sede=3, selection="best")
    text = str(told.value)
    assert len(text.splitlines()) == 4
    assert "unknown option 'sede': did you mean seed" in text and "selection = 'best'" in text


def test_python_may_give_a_path_one_protocol_and_nested_settings(tmp_path: Path) -> None:
    options = make_options(
        method="sum", dataset="cirr", data_root=tmp_path, protocol="official", set={"spirit": {"epochs": 2}}
    )
    assert options.data_root_of("cirr") == tmp_path
    assert options.protocol == ("official",) and options.set == {"spirit.epochs": 2}


def test_a_config_file_fills_the_same_options(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'method = "spirit"\nbatch-size = 8\ndata_root = "/somewhere"\n[set]\n"spirit.epochs" = 2\n[set.method]\ngrids = [2]\n'
    )
    options = make_options(dataset="cirr", **read_config(file))
    assert options.batch_size == 8 and options.data_root == {"*": "/somewhere"}
    assert options.set == {"spirit.epochs": 2, "method.grids": [2]}
    file.write_text("bach-size = 8\n")
    with pytest.raises(UserError, match="unknown option 'bach-size': did you mean batch-size"):
        read_config(file)
    file.write_text("method = \n")
    with pytest.raises(UserError, match="not valid TOML"):
        read_config(file)
    with pytest.raises(UserError, match="no such file"):
        read_config(tmp_path / "missing.toml")


def test_near_names_and_none() -> None:
    assert "did you mean spirit?" in str(unknown_name("method", "sprit", ["spirit", "sum"]))
    assert "known: spirit, sum" in str(unknown_name("method", "zzz", ["sum", "spirit"]))
    assert "known: none" in str(unknown_name("method", "zzz", []))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "spirt"}, "unknown method 'spirt': did you mean spirit"),
        ({"dataset": "cir"}, "unknown dataset 'cir': did you mean cirr"),
        ({"text_mode": "joind"}, "unknown text mode 'joind': did you mean joined"),
        ({"recipe": "papr"}, "unknown recipe of stage spirit on cirr 'papr': did you mean paper"),
        ({"recipe": "paper"}, "--recipe paper: it fine-tunes pretrained weights, and these start at random; use"),
        ({"method": "sum", "recipe": "paper"}, "--recipe paper: it fine-tunes pretrained weights"),
        ({"demo": True}, "--demo asks for the demo data and --data-root for"),
    ],
)
def test_wrong_choices_are_told(small_cirr: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=f"^{told}"):
        plan(small_cirr, **options)


def test_what_would_stop_a_run_later_is_told_before(small_cirr: Path) -> None:
    chosen = {"spirit.text_rule": "as_is", "encoders.batch_size": 1000, "encoders.negative_group": 7}
    with pytest.raises(UserError) as told:
        require_trainable(plan(small_cirr, set=chosen))
    text = str(told.value)
    assert "unknown text rule 'as_is': did you mean as-is" in text
    assert "1000 is not a multiple of negative_group 7" in text
    assert "72 training entries are fewer than one batch of 1000" in text
    with pytest.raises(UserError, match="official"):
        require_trainable(plan(small_cirr, protocol="oficial", batch_size=8, set={"encoders.batch_size": 8}))


def test_the_demo_must_be_asked_for_in_a_job_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--demo"):
        make_plan(make_options(method="sum", dataset="cirr"))


def test_the_environment_names_data_and_the_demo_overrules_it(
    small_cirr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIR_BENCHMARK_DATA", str(small_cirr))
    assert make_options(method="sum", dataset="cirr").data_root_of("cirr") == small_cirr
    assert make_options(method="sum", dataset="cirr", demo=True).data_root_of("cirr") is None


def test_identities_tell_apart_what_gives_other_numbers(small_cirr: Path) -> None:
    base = plan(small_cirr)
    assert base.identity == plan(small_cirr).identity == plan(small_cirr, seed=1).identity
    others = [
        plan(small_cirr, set={"encoders.epochs": 1}), plan(small_cirr, limit=50), plan(small_cirr, epochs=1),
        plan(small_cirr, set={"method.grids": [2]}), plan(small_cirr, selection="last"),
        plan(small_cirr, skip_bad_images=True), plan(small_cirr, precision="bf16"),
    ]  # fmt: skip
    assert len({str(p.folder) for p in (base, *others)}) == 8
    encoders = [p.encoder_identity(p.stages[0]) for p in (base, plan(small_cirr, epochs=1), plan(small_cirr, method="sum"))]
    assert encoders[0] == encoders[1] == encoders[2]
    assert base.encoder_identity(base.stages[0]) != plan(small_cirr, seed=1).encoder_identity(base.stages[0])
    first, second = base.training_identity(base.last), others[0].training_identity(others[0].last)
    assert first != second  # another encoder, another state
