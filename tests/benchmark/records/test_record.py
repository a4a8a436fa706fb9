"""The record: what is written is read back, what is not a record is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmark.errors import UserError
from benchmark.evaluation.per_query import PerQuery
from benchmark.records import environment, record
from benchmark.records.record import (
    Record,
    identity_key,
    read_per_query,
    read_record,
    run_key,
    write_record,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "record_version_4.json"
FIRST, SECOND, THIRD = (GOLDEN.with_name(f"record_version_{version}.json") for version in (1, 2, 3))
FIRST_RUN_KEY = "59ec5e3d14ec7321fabb4e3272f20db390537141bad52af31856b754b646b596"


def raw_record() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return raw


def made(change: dict[str, Any]) -> Record:
    """The golden record with entries changed; keys are paths, "identity.seed" or "results.0.ties"."""
    raw = {**raw_record(), "schema_version": record.SCHEMA_VERSION}
    for path, value in change.items():
        *parents, last = path.split(".")
        at: Any = raw
        for step in parents:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value
    return Record.model_validate(raw)


def per_query(queries: int = 400, gallery: int = 480) -> PerQuery:
    rng = np.random.default_rng(0)
    return PerQuery(
        ids=tuple(f"é{n}" for n in range(queries)),
        group=np.arange(queries) // 3,
        rank=rng.integers(1, gallery, queries),
        subset_rank=rng.integers(1, 6, queries),
        top=rng.integers(-1, gallery, (queries, 50)),
        gallery=tuple(f"dev-{n}" for n in range(gallery)),
    )


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_committed_file_of_this_version_is_read_and_written_alike(tmp_path: Path) -> None:
    """The files are frozen: they are what the program of that version wrote."""
    found = read_record(GOLDEN)
    assert found.results[0].metrics["R@1"] == 24.5
    assert found.cost is not None and found.cost.gallery.picture_passes == 14
    assert [trial.chosen for trial in found.trials] == [False, True, False]
    assert found.probe is not None and not found.probe.rows_depend_on_batch
    assert [(chosen.stage, chosen.margin) for chosen in found.selected] == [("clip4cir-encoders", None), ("spirit", 0.25)]
    write_record(tmp_path, found)
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == raw_record()


def test_a_committed_file_of_version_1_is_still_read_and_has_no_costs(tmp_path: Path) -> None:
    found = read_record(FIRST)
    assert found.results[0].metrics["R@1"] == 24.5
    assert found.results[0].key.protocol == "official"
    write_record(tmp_path, found)
    written = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert written["schema_version"] == record.SCHEMA_VERSION
    assert_within({**json.loads(FIRST.read_text(encoding="utf-8")), "schema_version": record.SCHEMA_VERSION}, written)
    assert found.identity.variant == "" and found.identity.tuning is None and found.cost is None and found.trials == ()


@pytest.mark.parametrize("file", [SECOND, THIRD])
def test_committed_files_of_versions_2_and_3_are_still_read(tmp_path: Path, file: Path) -> None:
    found = read_record(file)
    write_record(tmp_path, found)
    written = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert_within({**json.loads(file.read_text(encoding="utf-8")), "schema_version": record.SCHEMA_VERSION}, written)
    assert found.identity.data is not None and found.identity.data.checked == {}
    assert (found.probe, found.selected, found.outside, found.weights) == (None, (), None, {})


def test_settings_that_older_records_call_otherwise_are_the_same_settings(tmp_path: Path) -> None:
    """"drawing" and "frame" before version 3: an old run and a new one of the same settings share a row."""
    renamed = dict(zip(("pair_sampling", "implementation"), ("drawing", "frame"), strict=True))
    old, new = raw_record(), raw_record()
    for raw, names in ((old, renamed), (new, {})):
        value = "released" if names else "original"
        raw["identity"]["method_settings"] = {"grids": [2], names.get("implementation", "implementation"): value}
        raw["identity"]["stages"][1]["settings"] = {names.get("pair_sampling", "pair_sampling"): "one-per-image"}
        raw["identity"]["tuning"] = None
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for file, raw, version in zip(files, (old, new), (1, record.SCHEMA_VERSION), strict=True):
        file.write_text(json.dumps({**raw, "schema_version": version}), encoding="utf-8")
    before, now = map(read_record, files)
    assert before.identity == now.identity and run_key(before) == run_key(now)
    assert before.identity.stages[1].settings == {"pair_sampling": "one-per-image"}
    for broken in ({"identity": []}, {"identity": {**old["identity"], "stages": [1]}}):
        files[0].write_text(json.dumps({**old, **broken, "schema_version": 1}), encoding="utf-8")
        with pytest.raises(UserError, match="not a valid record"):
            read_record(files[0])


def assert_within(old: Any, new: Any) -> None:
    """Every entry of the old one stands in the new one, alike."""
    if isinstance(old, dict):
        for name, value in old.items():
            assert_within(value, new[name])
    elif isinstance(old, list):
        assert len(old) == len(new)
        for one, other in zip(old, new, strict=True):
            assert_within(one, other)
    else:
        assert new == old


def test_an_upgraded_record_keeps_its_name_in_the_book_of_results() -> None:
    """Entries that later versions add change no digest while they are at their default."""
    assert run_key(read_record(FIRST)) == FIRST_RUN_KEY


def test_round_trip_with_per_query_results(tmp_path: Path) -> None:
    ours = per_query()
    written = write_record(tmp_path, made({}), {0: ours})
    assert read_record(tmp_path) == written == read_record(tmp_path / "record.json")
    assert written.files["per_query"].size == (tmp_path / "per_query.npz").stat().st_size
    (index, theirs), = read_per_query(tmp_path, written).items()
    assert index == 0 and theirs.ids == ours.ids and theirs.gallery == ours.gallery
    for name in ("group", "rank", "subset_rank", "top"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["per_query.npz", "record.json"]


def test_a_crash_between_the_two_files_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path, made({}), {0: per_query()})

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "atomic_write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, made({}), {0: per_query()})
    with pytest.raises(UserError, match="no such file"):
        read_record(tmp_path)


def test_per_query_results_of_another_run_are_refused(tmp_path: Path) -> None:
    written = write_record(tmp_path / "a", made({}), {0: per_query()})
    write_record(tmp_path / "b", made({}), {0: per_query(gallery=479)})
    (tmp_path / "b" / "per_query.npz").replace(tmp_path / "a" / "per_query.npz")
    with pytest.raises(UserError) as error:
        read_per_query(tmp_path / "a", written)
    one_line(error, "per_query.npz", "run again")
    (tmp_path / "a" / "per_query.npz").unlink()
    with pytest.raises(UserError, match="missing beside its record"):
        read_per_query(tmp_path / "a", written)


def test_per_query_arrays_must_fit_their_result(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="399 rows"):
        write_record(tmp_path, made({}), {0: per_query(queries=399)})
    wrong = per_query()
    with pytest.raises(ValueError, match="outside the gallery"):
        write_record(tmp_path, made({}), {0: PerQuery(wrong.ids, wrong.group, wrong.rank, wrong.top, ("x",))})


def test_older_versions_pass_through_every_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up versions: -1 called the title "name", 0 had no `command`."""
    old = raw_record()
    old["schema_version"] = -1
    old["name"] = old.pop("title")
    del old["command"]
    file = tmp_path / "record.json"
    file.write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(UserError, match="never released"):
        read_record(file)

    def rename(raw: dict[str, Any]) -> dict[str, Any]:
        return {("title" if key == "name" else key): value for key, value in raw.items()}

    monkeypatch.setitem(record.UPGRADES, -1, rename)
    monkeypatch.setitem(record.UPGRADES, 0, lambda raw: {**raw, "command": "unknown"})
    found = read_record(file)
    assert (found.title, found.command, found.schema_version) == ("SPIRIT", "unknown", record.SCHEMA_VERSION)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({**raw_record(), "schema_version": record.SCHEMA_VERSION + 1}), ["newer version", "update"]),
        (GOLDEN.read_text(encoding="utf-8")[:900], ["not valid JSON", "truncated"]),
        ("[]", ["not a record"]),
        ("{}", ["not a record"]),
        (json.dumps({**raw_record(), "metods": 1}), ["metods"]),
        (json.dumps({**raw_record(), "kind": "ran", "created": "today"}), ["kind", "1 more"]),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "record.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_record(tmp_path)
    one_line(error, str(file), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"results.0.metrics": {"R@1": 101.0}}, "less than or equal to 100"),
        ({"results.0.metrics": {"R@1": float("nan")}}, "finite"),
        ({"results.0.intervals": {"R@7": [1.0, 2.0]}}, "no metric"),
        ({"results.0.intervals": {"R@1": [3.0, 2.0]}}, "before it begins"),
        ({"results.0.metrics": {"R@1": 40.0, "R@5": 39.9}, "results.0.intervals": {}}, "R@5 is 39.9, less than R@1, 40"),
        ({"results.0.metrics": {"R_subset@3": 40.0, "R_subset@2": 41.0}, "results.0.intervals": {}}, "R_subset@3 is 40"),
        (
            {"results.0.metrics": {"R@5": 40.0, "R_subset@1": 20.0, "(R@5+R_subset@1)/2": 31.0}, "results.0.intervals": {}},
            "its parts give 30.00",
        ),
        ({"results.0.metrics": {"<b>R@1</b>": 40.0}, "results.0.intervals": {}}, "pattern"),
        ({"weights": {"../w.safetensors": "c3" * 32}}, "inside the record's folder"),
        ({"results.1.weights_from": "selected"}, "two results for the same column"),
        ({"results.1.dataset": "cirr"}, "called otherwise"),
        ({"results": []}, "needs a dataset and results"),
        ({"identity.data.is_official": True}, "demo data and official"),
        ({"files": {"x": {"name": "../x", "size": 1, "sha256": ""}}}, "inside the record's folder"),
        ({"created": "2030-01-31 12:00"}, "pattern"),
        ({"trials.1.score": None}, "cannot be the chosen one"),
        ({"cost.pair_flops": -1}, "greater than or equal to 0"),
    ],
)
def test_the_schema_refuses_what_would_mislead(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        made(change)


BAD_NAMES = ("", "../../x", "/etc", "..", ".hidden", "a/b", "a\\b", "a b", "a\nb", "<b>", "`x`", "a|b", "-x", "x" * 101, "\0")
NAMED = (
    ("method",),
    ("identity.data.name",),
    ("identity.data.label", "results.0.dataset", "results.1.dataset"),
    *((f"results.{n}.{name}",) for n in (0, 1) for name in ("split", "protocol", "text_mode")),
)


@pytest.mark.parametrize("paths", NAMED, ids=lambda paths: paths[0])
def test_names_that_become_folders_and_columns_obey_one_pattern(paths: tuple[str, ...], tmp_path: Path) -> None:
    for name in BAD_NAMES:
        with pytest.raises(ValidationError, match=r"pattern|at most 100"):
            made({path: name for path in paths})
    assert made({path: "Örtliche-daten_2.1" for path in paths})
    for path in ("identity.variant", "results.0.category"):
        with pytest.raises(ValidationError, match="pattern"):
            made({path: "../x"})


def test_other_kinds_need_no_training_and_no_data() -> None:
    external = made(
        {
            "kind": "embeddings",
            "identity.encoder": None,
            "identity.stages": [],
            "identity.selection": "none",
            "identity.seed": None,
            "identity.inputs": {"queries.npz": "e5" * 32},
            "results.0.weights_from": "external",
            "results.1.weights_from": "external",
            "results.1.measured_by": "server",
        }
    )
    assert external.results[1].measured_by == "server"
    assert made({"kind": "throughput", "results": [], "identity.data": None}).throughput


def test_only_the_seed_and_what_follows_from_it_leave_the_row_alone() -> None:
    one = made({})
    key = identity_key(one, one.results[0])
    same_row: dict[str, Any] = {
        "identity.seed": 1,
        "identity.stages.0.seed": 1,
        "identity.stages.0.artefact": "ff" * 32,
        "identity.stages.1.triplets_seen": 15000,
        "identity.stages.1.updates": 119,
        "identity.encoder.digest": "ee" * 32,
        "created": "2031-01-01T00:00:00Z",
        "environment.world_size": 8,
        "results.0.ties": 9,
        "identity.stages.1.settings.learning_rate": 0.0003,
        "trials.1.score": 12.5,
        "cost.trainable_parameters": 7,
    }
    other = made(same_row)
    assert identity_key(other, other.results[0]) == key
    other_rows: dict[str, Any] = {
        "method": "clip4cir",
        "kind": "rankings",
        "identity.data.fingerprint": "00" * 32,
        "identity.data.is_demo": False,
        "identity.encoder.name": "RN50x4",
        "identity.encoder.state": "untouched",
        "identity.recipe": "paper",
        "identity.stages.0.settings": {"batch_size": 64},
        "identity.method_settings": {},
        "identity.negative_group": 128,
        "identity.selection": "last",
        "identity.precision": "bf16",
        "identity.limit": 50,
        "identity.tuning": None,
        "identity.tuning.base": 0.001,
        "identity.stages.0.settings.learning_rate": 0.0003,
        "identity.plugins": {"mine.py": "aa" * 32},
        "identity.missing_pictures": ["dev-1"],
        "results.0.protocol": "official-partial",
        "results.0.measured_by": "server",
    }
    keys = {identity_key(r, r.results[0]) for r in (made({k: v}) for k, v in other_rows.items())}
    assert len(keys | {key}) == len(other_rows) + 1
    assert identity_key(one, one.results[1]) != key


def test_a_pretrained_encoder_is_known_by_its_digest() -> None:
    start = {"identity.encoder.start": "pretrained"}
    assert run_key(made(start)) != run_key(made({**start, "identity.encoder.digest": "ee" * 32}))


@pytest.mark.parametrize(("percent", "told"), [(3.0, False), (40.0, True)])
def test_a_machine_on_which_others_compute_is_called_busy(
    monkeypatch: pytest.MonkeyPatch, percent: float, told: bool
) -> None:
    monkeypatch.setattr(environment.psutil, "cpu_percent", lambda interval: percent)
    assert [f"{percent:.0f}%" in note for note in environment.load_note()] == [True] * told


def test_environment_and_code_are_told_without_torch() -> None:
    here = environment.environment("cpu", world_size=2)
    assert here.world_size == 2 and here.threads >= 1 and here.device.startswith("CPU")
    assert here.numpy == np.__version__ and here.torch
    assert environment.code_version().version
    assert environment.peak_memory_bytes()["process"] > 10_000_000
    assert made({"created": environment.utc_now()})


def test_an_installed_package_inside_somebodys_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_git", lambda *_: str(tmp_path))
    assert environment.code_version().commit is None


def _device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool) -> None:
    (tmp_path / "dev").mkdir()
    if present:
        (tmp_path / "dev" / "nvidia0").touch()
    monkeypatch.setattr(environment, "_DEVICE_NODES", tmp_path / "dev")
    monkeypatch.setattr(environment, "_NVIDIA_DRIVER", tmp_path / "none")
    monkeypatch.setattr(environment, "_output", lambda command: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_an_accelerator_that_torch_cannot_use_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def too_old(*_: object, **__: object) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nMore")

    _device(tmp_path, monkeypatch, present=True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "ones", too_old)
    with pytest.raises(UserError) as error:
        environment.check_accelerator()
    one_line(error, "too old", "CUDA 13.0", "--device cpu", "update the driver")
    environment.check_accelerator("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment.check_accelerator()


def test_a_wheel_without_cuda_beside_an_accelerator_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    _device(tmp_path, monkeypatch, present=True)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="built without CUDA"):
        environment.check_accelerator("cuda")


def test_without_an_accelerator_the_cpu_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _device(tmp_path, monkeypatch, present=False)
    environment.check_accelerator()
    with pytest.raises(UserError, match="no NVIDIA device"):
        environment.check_accelerator("cuda:0")
