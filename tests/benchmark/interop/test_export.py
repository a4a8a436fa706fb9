"""One file of a trained method gives the benchmark's own encodings and ranks, from pictures and strings."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import TOY_PLUGIN, Command
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmark.cli import main
from benchmark.distributed.job import join_job
from benchmark.encoding import Encoding, rows
from benchmark.errors import UserError
from benchmark.interop.export import export
from benchmark.interop.exported import Model, load
from benchmark.pipeline.checkpoint_evaluation import load_checkpoint, plan_of
from benchmark.pipeline.run_folder import checked_weights
from benchmark.records.record import read_per_query, read_record
from benchmark.weights.checkpoints import read_header, read_weights, save_weights

# What trains fast and still differs in kind: a head on whole pictures and patches, a score that is no dot
# product, networks of its own with a vocabulary, an encoder that is read and not held, nothing trained at all, and an encoder
# alone.
PICTURE = Image.new("RGB", (40, 60), (200, 30, 30))
STAGE_1 = "--set encoders.epochs=1 --set encoders.batch_size=24"
RUNS = {
    "spirit": f"--epochs 1 --batch-size 36 {STAGE_1}",
    "artemis_clip": f"--epochs 1 --batch-size 36 {STAGE_1}",
    "val": "--epochs 1",
    "lincir": "--epochs 1 --batch-size 8 --set method.encoder=untouched",
    "artemis": "--epochs 1",
    "blip4cir": "--epochs 1 --batch-size 36 --set blip-text.epochs=1 --set blip-text.batch_size=24",
    "sum": STAGE_1,
    "image_only": "--set method.encoder=untouched",
    "clip4cir_sum": STAGE_1,
}


@pytest.fixture(scope="module")
def runs(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each kind; those on CLIP share its stage 1."""
    folder = tmp_path_factory.mktemp("runs")
    for method, further in RUNS.items():
        line = f"run --method {method} --dataset cirr --data-root {small_cirr} {further} --output {folder / method}"
        assert main(shlex.split(line)) == 0
    return {method: folder / method for method in RUNS}


@pytest.fixture(scope="module")
def sum_model(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(export(runs["sum"], tmp_path_factory.mktemp("sum") / "model.safetensors"))


def entries_and_names(data: Path) -> tuple[list[dict[str, str]], dict[str, Path]]:
    entries = json.loads((data / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    return entries, {name: data / path for name, path in paths.items()}


def parts(encoding: Encoding) -> dict[str, Tensor]:
    return encoding if isinstance(encoding, dict) else {"": encoding}


@pytest.mark.parametrize("method", list(RUNS))
def test_an_export_gives_the_benchmark_s_own_encodings_and_ranks(
    method: str, runs: dict[str, Path], small_cirr: Path, tmp_path: Path
) -> None:
    file = checked_weights(runs[method])
    header = read_header(file)
    plan = plan_of(header, "cirr", {"data_root": {"*": str(small_cirr)}})
    job = join_job(plan.options.device, plan.options.cache_root)
    loaded = load_checkpoint(file, header, plan, "", job)
    (expected,) = loaded.encode(plan.tasks[:1])
    model = load(export(runs[method], tmp_path / "model.safetensors"))
    entries, paths = entries_and_names(small_cirr)
    by_id = {str(entry["pairid"]): entry for entry in entries}
    asked = [by_id[query] for query in expected.task.queries.ids]
    gallery = [plan.dataset.pictures.names[i] for i in expected.task.gallery]
    queries = model.encode_query([Image.open(paths[e["reference"]]) for e in asked], [e["caption"] for e in asked])
    targets = model.encode_target([paths[name] for name in gallery])
    for found, own in ((queries, expected.queries), (targets, expected.gallery)):
        for name, tensor in parts(own).items():
            torch.testing.assert_close(parts(found)[name], tensor, rtol=0, atol=1e-5)
    scores = model.score(queries, targets).double().numpy()
    positive = np.array([gallery.index(entry["target_hard"]) for entry in asked])
    others = np.array([gallery.index(entry["reference"]) for entry in asked])
    scores[np.arange(len(asked)), others] = -np.inf
    least = scores[np.arange(len(asked)), positive][:, None]
    surely, maybe = (scores > least + 1e-5).sum(axis=1), (scores > least - 1e-5).sum(axis=1)
    ranks = read_per_query(runs[method], read_record(runs[method]))[0]
    assert list(ranks.ids) == list(expected.task.queries.ids)
    assert ((1 + surely <= ranks.rank) & (ranks.rank <= maybe)).all()


def test_one_row_at_a_time_is_the_same(runs: dict[str, Path], small_cirr: Path, tmp_path: Path) -> None:
    model = load(export(runs["spirit"], tmp_path / "model.safetensors"))
    entries, paths = entries_and_names(small_cirr)
    pictures = [paths[entry["reference"]] for entry in entries[:3]]
    texts = [entry["caption"] for entry in entries[:3]]
    whole = model.encode_query(pictures, texts)
    single = [model.encode_query([p], [t]) for p, t in zip(pictures, texts, strict=True)]
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(whole, torch.cat([s for s in single if isinstance(s, Tensor)]), rtol=0, atol=1e-5)


def test_the_file_is_whole_in_itself(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(runs["artemis"], tmp_path / "model.safetensors")
    monkeypatch.setenv("CIR_BENCHMARK_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    model = load(file)
    picture = Image.new("RGB", (50, 70), (200, 30, 30))
    queries = model.encode_query([picture], ["the same, in a word never seen"])
    assert model.score(queries, model.encode_target([picture] * 3)).shape == (1, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.md", "model.safetensors"]


def test_a_deep_grey_picture_in_memory_is_the_one_of_its_file(runs: dict[str, Path], tmp_path: Path) -> None:
    """Pillow's own conversion makes white of all that is above 255."""
    grey = np.random.default_rng(0).integers(0, 2**16, (40, 40)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    model = load(export(runs["spirit"], tmp_path / "model.safetensors"))
    with Image.open(tmp_path / "deep.png") as opened:
        in_memory, of_file = model.encode_target([opened]), model.encode_target([tmp_path / "deep.png"])
    white = model.encode_target([Image.new("RGB", (40, 40), (255, 255, 255))])
    assert isinstance(in_memory, Tensor) and isinstance(of_file, Tensor) and isinstance(white, Tensor)
    assert torch.equal(in_memory, of_file) and not torch.allclose(in_memory, white)


def with_text_rule(file: Path, rule: str, to: Path) -> Model:
    header = read_header(file)
    settings = {**header.training_settings, "text_rule": rule}
    save_weights(to, read_weights(file), replace(header, training_settings=settings))
    return load(to)


def test_captions_go_through_the_run_s_text_rule(runs: dict[str, Path], tmp_path: Path) -> None:
    file = export(runs["spirit"], tmp_path / "model.safetensors")
    joined, plain = with_text_rule(file, "joined", tmp_path / "joined.safetensors"), load(file)
    picture = Image.new("RGB", (64, 64), (20, 30, 90))
    pair = joined.encode_query([picture], [("is Red.", "has no belt, ")])
    assert torch.equal(pair, plain.encode_query([picture], ["Is red and has no belt"]))  # type: ignore[arg-type]
    several = with_text_rule(file, "both-orders", tmp_path / "orders.safetensors")
    with pytest.raises(UserError, match="'both-orders' makes 2 queries"):
        several.encode_query([picture], [("red", "no belt")])


def test_what_cannot_be_encoded_is_told(runs: dict[str, Path], tmp_path: Path) -> None:
    model = load(export(runs["image_only"], tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="1 pictures for 2 texts"):
        model.encode_query([Image.new("RGB", (8, 8))], ["a", "b"])
    with pytest.raises(UserError, match="at least one picture"):
        model.encode_target([])
    with pytest.raises(UserError, match="no such picture"):
        model.encode_target([tmp_path / "none.png"])


@pytest.mark.parametrize(
    ("pictures", "texts", "problem"),
    [
        (PICTURE, "red", "encode_query: a Image where a list of pictures is expected"),
        ([PICTURE], "red", "encode_query: 'red' where a list of texts is expected"),
        ([PICTURE] * 3, "red", "encode_query: 'red' where a list of texts is expected"),
        ("red", ["red"], "encode_query: 'red' where a list of pictures is expected"),
        (Path("a.png"), ["red"], "where a list of pictures is expected"),
        (None, ["red"], "a NoneType where a list of pictures is expected"),
        ([PICTURE], None, "a NoneType where a list of texts is expected"),
        ([PICTURE], {"a": "red"}, "a dict where a list of texts is expected"),
        ((picture for picture in [PICTURE]), ["red"], "a generator where a list of pictures is expected"),
        ([None], ["red"], "a NoneType is no picture"),
        ([PICTURE], [None], "None is no text"),
        ([PICTURE], [5], "5 is no text"),
        ([PICTURE], [[]], r"\[\] is no text"),
        ([PICTURE], [["red", 5]], "is no text"),
    ],
)
def test_what_is_no_list_of_pictures_or_texts_is_refused_by_name(
    pictures: Any, texts: Any, problem: str, sum_model: Model
) -> None:
    with pytest.raises(UserError, match=problem):
        sum_model.encode_query(pictures, texts)
    if texts == ["red"]:
        with pytest.raises(UserError, match=problem.replace("encode_query", "encode_target")):
            sum_model.encode_target(pictures)


def test_an_export_whose_header_is_damaged_is_a_model_or_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    file = export(runs["sum"], tmp_path / "model.safetensors")
    tensors, whole = read_weights(file), asdict(read_header(file))
    damaged, refused = tmp_path / "damaged.safetensors", 0
    paths = [(key,) for key in whole] + [(outer, key) for outer in ("backbone", "start") for key in whole[outer]]
    paths += [("start", "preprocessing", key) for key in whole["start"]["preprocessing"]]
    for path in paths:
        for value in (None, "x", -7, {"x": [1]}):
            header = copy.deepcopy(whole)
            within = header
            for key in path[:-1]:
                within = within[key]
            within[path[-1]] = value
            save_file(tensors, damaged, metadata={"benchmark": json.dumps(header)})
            try:
                load(damaged)
            except UserError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1, (path, value, str(error))
    assert refused > len(paths)


def test_what_cannot_be_exported_or_loaded_is_told(command: Command, runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["spirit"], tmp_path / "run"))
    file = run / "weights" / "selected.safetensors"
    with pytest.raises(UserError, match="a checkpoint, no export"):
        load(file)
    assert command("export", run, "--output", "model.safetensors").status == 0
    told = command("evaluate", "--method", "spirit", "--checkpoint", "model.safetensors")
    assert told.status == 2 and "an export, for use outside" in told.err
    assert "an export already" in command("export", "model.safetensors").err
    Path("model.safetensors").unlink()
    for name in ("record.json", "run.json"):  # which know the weights that the run made
        (run / name).unlink()
    for changed, part in (
        ({"encoder_file": "gone.safetensors"}, "needs the encoder gone.safetensors"),
        ({"method": "spirits"}, "unknown method 'spirits'"),
    ):
        save_weights(file, read_weights(file), replace(read_header(file), **changed))
        outcome = command("export", run, "--output", "model.safetensors")
        assert outcome.status == 2 and len(outcome.errors) == 1 and part in outcome.err
    assert "gone" in command("export", tmp_path / "gone").err
    assert not Path("model.safetensors").exists()


def test_a_plugin_s_method_is_exported(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    run = ("--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--plugin", TOY_PLUGIN)
    assert command("run", "--method", "toy", *run, "--output", "toy").status == 0
    assert command("export", "toy", "--plugin", TOY_PLUGIN, "--output", "toy.safetensors").status == 0
    model = load("toy.safetensors", plugins=[TOY_PLUGIN])
    assert model.header.method == "toy"
    assert rows(model.encode_target([Image.new("RGB", (64, 64))] * 3)) == 3
