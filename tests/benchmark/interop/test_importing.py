"""Official checkpoints in: names, shapes and nestings as released, values by the golden rule, full size once."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command
from official_files import clip_state, combiner_state, spirit_state, write_clip
from torch import Tensor

from benchmark.encoders.architectures import TINY, backbone_configuration
from benchmark.interop.exported import load
from benchmark.parity.rules import clip_images, draw_input
from benchmark.records.record import read_record
from benchmark.weights.checkpoints import read_header, read_weights

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SPIRIT's and CLIP4Cir's files at the width of `tiny`, under their released names."""
    folder = tmp_path_factory.mktemp("official")
    clip = clip_state(TINY)
    write_clip(folder / "tuned_cirr.pt", clip, "tuned")
    write_clip(folder / "tuned_clip_arithmetic.pt", clip, "tuned")
    torch.save(spirit_state(64), folder / "cirr-best.pth")
    torch.save({"epoch": 7, "Combiner": combiner_state(64)}, folder / "combiner_arithmetic.pt")
    return folder


def imported(command: Command, *arguments: object) -> Path:
    """The folder of an import that must work."""
    outcome = command("import", *arguments)
    assert outcome.status == 0, outcome.err
    line = next(line for line in outcome.out.splitlines() if line.startswith("written"))
    return Path(line.split()[1].rstrip(":"))


def refused(command: Command, *arguments: object) -> str:
    """One line, status 2, and nothing on disk that was not there before."""
    before = sorted(Path.cwd().rglob("*"))
    outcome = command("import", *arguments)
    assert outcome.status == 2 and len(outcome.errors) == 1 and "Traceback" not in outcome.err
    assert sorted(Path.cwd().rglob("*")) == before
    return outcome.errors[0]


def ranks_by_hand(folder: Path, data: Path) -> list[int]:
    """Ranks of val's targets by a plain product of what the exported model says, reference left out."""
    entries = json.loads((data / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    names = list(paths)
    from benchmark.interop.export import export

    model = load(export(folder, folder / "model.safetensors"))
    gallery = model.encode_target([data / paths[name] for name in names])
    queries = model.encode_query([data / paths[e["reference"]] for e in entries], [e["caption"] for e in entries])
    scores = model.score(queries, gallery).double().numpy()
    ranks = []
    for row, entry in zip(scores, entries, strict=True):
        row[names.index(entry["reference"])] = -np.inf
        ranks.append(1 + int((row > row[names.index(entry["target_hard"])]).sum()))
    return ranks


@pytest.mark.parametrize(
    ("method", "head", "clip"),
    [
        ("spirit", "cirr-best.pth", "tuned_cirr.pt"),
        ("clip4cir", "combiner_arithmetic.pt", "tuned_clip_arithmetic.pt"),
        ("clip4cir_sum", "tuned_clip_arithmetic.pt", ""),
    ],
)
def test_official_files_are_scored(
    command: Command, small_cirr: Path, files: Path, method: str, head: str, clip: str
) -> None:
    given = ["--clip", files / clip] if clip else []
    folder = imported(command, "--method", method, files / head, *given, "--dataset", "cirr")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(
        ["import.json", "weights/selected.safetensors", *(["encoder.safetensors"] if clip else [])]
    )
    outcome = command("evaluate", "--method", method, "--checkpoint", folder, "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    record = read_record(folder / "weights" / "evaluated-demo-cirr")
    assert {result.weights_from for result in record.results} == {"imported"}
    assert set(record.identity.inputs) == {head, clip} - {""}
    assert (record.identity.recipe, record.identity.seed, record.identity.stages) == ("", None, ())
    said = " ".join(outcome.out.split())
    assert "recipe: unknown" in said and "seeds: unknown" in said
    assert "weights imported from" in outcome.out and record.identity.encoder is not None
    assert record.identity.encoder.state == "finetuned"
    ranks = np.array(ranks_by_hand(folder, small_cirr))
    found = record.results[0].metrics
    assert {k: found[f"R@{k}"] for k in (1, 5, 10)} == pytest.approx(
        {k: 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
    )


def test_every_tensor_is_accounted_for(command: Command, files: Path, tmp_path: Path) -> None:
    archive = write_clip(tmp_path / "RN.pt", clip_state(TINY), "torchscript")
    folder = imported(command, "--method", "spirit", files / "cirr-best.pth", "--clip", archive)
    head, clip = json.loads((folder / "import.json").read_text())
    assert {t["name"]: t["shape"] for t in head["tensors"]} == {n: list(t.shape) for n, t in spirit_state(64).items()}
    uses = {tensor["name"]: tensor["use"] for tensor in [*head["tensors"], *clip["tensors"]]}
    assert uses["combiner.output_layer.bias"] == "used as network.combiner.output_layer.bias"
    assert "without effect: a triplet loss" in uses["simi_loss.alpha"]
    assert "without effect: multiplies" in uses["combiner.image_mlp.0.weight"]
    dropped = {name for name, use in uses.items() if use.startswith("dropped")}
    assert dropped == {"input_resolution", "context_length", "vocab_size"}
    weights = read_weights(folder / "weights" / "selected.safetensors")
    used = {use.removeprefix("used as ").partition(",")[0] for use in uses.values() if "network." in use}
    assert weights.keys() == used
    header = read_header(folder / "weights" / "selected.safetensors")
    assert header.method_settings["encoder"] == "untouched" and header.recipe == "paper"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["tuned", "open_clip", "plain", "safetensors", "torchscript"])
def test_every_form_of_clip_gives_the_same_encoder(command: Command, files: Path, tmp_path: Path, form: str) -> None:
    ending = {"safetensors": ".safetensors", "open_clip": ".bin"}.get(form, ".pt")
    state = {n: t.half().float() if t.is_floating_point() else t for n, t in clip_state(TINY).items()}
    clip = write_clip(tmp_path / f"clip{ending}", state, form)
    asked = ["--method", "sum", "--clip", clip, "--dataset", "cirr"]
    if form in ("plain", "safetensors", "open_clip"):
        assert "nothing in it tells whether this CLIP is as published" in refused(command, *asked)
        asked += ["--set", "method.encoder=untouched"]
    folder = imported(command, *asked, "--output", tmp_path / "out")
    tensors = read_weights(folder / "encoder.safetensors")
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    assert tensors.keys() == {f"clip.{name}" for name in state}
    assert all(torch.equal(tensors[f"clip.{n}"].reshape(t.shape), t) for n, t in state.items())


def test_two_files_of_one_name_are_told_apart(command: Command, files: Path, tmp_path: Path) -> None:
    for folder, name in (("head", "cirr-best.pth"), ("clip", "tuned_cirr.pt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cirr.pt").symlink_to(files / name)
    clip = ("--clip", tmp_path / "clip" / "cirr.pt")
    folder = imported(command, "--method", "spirit", tmp_path / "head" / "cirr.pt", *clip)
    assert [file["file"] for file in json.loads((folder / "import.json").read_text())] == ["head/cirr.pt", "clip/cirr.pt"]
    assert set(read_header(folder / "weights" / "selected.safetensors").imported) == {"head/cirr.pt", "clip/cirr.pt"}
    told = refused(command, "--method", "clip4cir_sum", tmp_path / "clip" / "cirr.pt", *clip)
    assert "own file is a CLIP; leave one out" in told


def test_the_released_prefix_of_several_gpus_is_taken_off(command: Command, files: Path, tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in spirit_state(64).items()}
    torch.save({"epoch": 299, "model": state}, tmp_path / "cirr-best.pth")
    again = imported(command, "--method", "spirit", tmp_path / "cirr-best.pth", "--clip", files / "tuned_cirr.pt")
    first = imported(command, "--method", "spirit", files / "cirr-best.pth", "--clip", files / "tuned_cirr.pt")
    a, b = (read_weights(folder / "weights" / "selected.safetensors") for folder in (first, again))
    assert first != again and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_what_does_not_fit_is_refused(command: Command, files: Path, tmp_path: Path) -> None:
    head, clip = files / "cirr-best.pth", files / "tuned_cirr.pt"
    spirit = ("--method", "spirit", "--dataset", "cirr")
    assert "--clip is missing" in refused(command, *spirit, head)
    assert "FILE is missing" in refused(command, *spirit, "--clip", clip)
    assert "the names are those of BLIP4CIR+Bi or CLIP4Cir" in refused(
        command, *spirit, files / "combiner_arithmetic.pt", "--clip", clip
    )
    assert "the names are those of CLIP's encoders" in refused(command, *spirit, clip, "--clip", clip)
    assert "no CLIP with OpenAI's names" in refused(command, *spirit, head, "--clip", head)
    state = spirit_state(64)
    torch.save({n: t for n, t in state.items() if "dynamic_scalar2" not in n}, tmp_path / "part.pth")
    told = refused(command, *spirit, tmp_path / "part.pth", "--clip", clip)
    assert "4 tensors do not fit" in told and "combiner.dynamic_scalar2.0.weight is missing" in told
    torch.save(spirit_state(32), tmp_path / "narrow.pth")
    told = refused(command, *spirit, tmp_path / "narrow.pth", "--clip", clip)
    assert "made for features of width 32" in told and "gives 64" in told
    told = refused(command, "--method", "val", head, "--dataset", "cirr")
    assert "VAL has no weights of its own that can be imported; blip4cir, clip4cir, " in told and "spirit, sprc" in told
    assert "--dataset is missing" in refused(command, "--method", "sum", "--clip", files / "tuned_clip_arithmetic.pt")
    assert "unknown --set group 'methods'" in refused(command, *spirit, head, "--clip", clip, "--set", "methods.a=1")


def test_a_pickle_that_would_execute_code_is_refused(command: Command, files: Path, tmp_path: Path) -> None:
    torch.save({"epoch": 1, "Combiner": combiner_state(64), "log": Attack(tmp_path / "a")}, tmp_path / "combiner.pt")
    with (tmp_path / "raw.pt").open("wb") as stream:
        pickle.dump(Attack(tmp_path / "a"), stream)
    for name in ("combiner.pt", "raw.pt"):
        told = refused(command, "--method", "clip4cir", tmp_path / name, "--clip", files / "tuned_cirr.pt")
        assert f"would execute code: the pickle in it calls {os.name}.system" in told
    assert not (tmp_path / "a").exists()


def test_an_output_that_is_taken_is_left_alone(command: Command, files: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("x")
    ask = ("--method", "spirit", files / "cirr-best.pth", "--clip", files / "tuned_cirr.pt")
    assert "is there already" in refused(command, *ask, "--output", tmp_path / "taken")
    assert imported(command, *ask) == imported(command, *ask)


def test_an_interrupted_import_leaves_nothing(
    command: Command, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.interop.import_folder.atomic_write_json", stop)
    outcome = command("import", "--method", "spirit", files / "cirr-best.pth", "--clip", files / "tuned_cirr.pt")
    assert outcome.status == 130 and not [path for path in Path("imported").rglob("*") if path.is_file()]


def first16(found: Tensor, expected: dict[str, Any]) -> float:
    """Largest deviation of the listed entries and norms, relative to the largest."""
    listed, norms = np.array(expected["first16"]), np.array(expected["norms"])
    entries = np.abs(found[:, :16].numpy() - listed).max() / np.abs(listed).max()
    return float(max(entries, np.abs(found.norm(dim=1).numpy() - norms).max() / norms.max()))


@pytest.mark.slow
def test_full_size_files_give_the_golden_numbers(command: Command, tmp_path: Path) -> None:
    """RN50x4 and SPIRIT at width 640: 1.2 GB in, and the authors' code's own outputs out of it."""
    from benchmark.interop.export import export

    write_clip(tmp_path / "tuned_fashioniq.pt", clip_state(backbone_configuration("RN50x4")), "tuned")
    torch.save(spirit_state(640), tmp_path / "fashioniq-best.pth")
    folder = imported(
        command, "--method", "spirit", tmp_path / "fashioniq-best.pth", "--clip", tmp_path / "tuned_fashioniq.pt"
    )
    header = read_header(folder / "weights" / "selected.safetensors")
    assert header.dataset == "fashioniq" and header.width == 640 and header.start["name"] == "RN50x4"
    assert header.training_settings["text_rule"] == "joined"
    golden = json.loads((GOLDEN / "clip_encoder.json").read_text())["models"]["RN50x4"]
    sizes = golden["config"]
    model = load(export(folder, tmp_path / "model.safetensors"))
    assert model.encoder is not None
    encoder, method = model.encoder.backbone, model.method
    pixels = clip_images("RN50x4.input.reference", sizes["batch"], sizes["image_resolution"], sizes["coarse"], "")
    tokens = torch.zeros(len(golden["token_ids"]), 77, dtype=torch.int64)
    for row, numbers in enumerate(golden["token_ids"]):
        tokens[row, : len(numbers)] = torch.tensor(numbers)
    with torch.inference_mode():
        assert first16(encoder.encode_image(torch.from_numpy(pixels)), golden["eval"]["encode_image"]) < 1e-5
        assert first16(encoder.encode_text(tokens), golden["eval"]["encode_text"]) < 1e-5
    spirit = json.loads((GOLDEN / "spirit.json").read_text())
    rows, scale = spirit["config"]["batch"], spirit["config"]["input_scale"]

    def given(name: str, *shape: int) -> Tensor:
        return draw_input("", f"input.{name}", (rows, *shape), scale)

    reference = {"global": given("image", 640), "patches": given("reference_patches", 13, 640)}
    target = {"global": given("target", 640), "patches": given("target_patches", 13, 640)}
    with torch.inference_mode():
        query, found = method.encode_query(reference, {"global": given("text", 640)}), method.encode_target(target)
    assert isinstance(query, Tensor) and isinstance(found, Tensor)
    assert first16(query, spirit["eval"]["query"]) < 2e-5
    assert first16(100 * query @ found.T, spirit["eval"]["logits"]) < 2e-5
    del model, encoder, method
    combiner_of_full_size(command, tmp_path)


def combiner_of_full_size(command: Command, folder: Path) -> None:
    """CLIP4Cir's Combiner on the same CLIP."""
    from benchmark.methods.clip4cir import Clip4Cir, CombinerSettings

    torch.save({"epoch": 254, "Combiner": combiner_state(640)}, folder / "combiner.pt")
    written = imported(
        command, "--method", "clip4cir", folder / "combiner.pt", "--clip", folder / "tuned_fashioniq.pt"
    )
    assert read_header(written / "weights" / "selected.safetensors").method_settings["hidden"] == 5120
    golden = json.loads((GOLDEN / "clip4cir_combiner.json").read_text())
    method = Clip4Cir(640, CombinerSettings())
    method.load_state_dict(read_weights(written / "weights" / "selected.safetensors"))
    rows, scale = golden["config"]["batch"], golden["config"]["input_scale"]
    image, text = (draw_input("", f"input.{name}", (rows, 640), scale) for name in ("image", "text"))
    with torch.inference_mode():
        query = method.eval().encode_query({"global": image}, {"global": text})
    assert first16(query, golden["eval"]["query"]) < 2e-5
