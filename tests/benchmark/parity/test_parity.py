"""`parity`: golden files pass, whatever their prefix and sizes; a deviation gives 1, a bad file 2."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.methods.parity.clip_finetuning import SMALL, EncoderSizes, golden_backbone, golden_pixels
from made_golden import combiner_file, combiner_training_file, g, preprocessing_file

from benchmark.cli import main
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.parity.comparison import Difference, GradientTolerance, compare_gradients, compare_output, worst
from benchmark.parity.files import Rows
from benchmark.registry import discover

GOLDEN = Path(__file__).parents[2] / "golden"
Content = dict[str, Any]


def golden(name: str) -> Content:
    content: Content = json.loads((GOLDEN / name).read_text())
    return content


def status(folder: Path, content: Content) -> int:
    path = folder / "numbers.json"
    path.write_text(json.dumps(content))
    return main(["parity", str(path)])


def table(text: str) -> dict[str, list[str]]:
    """Rows of the printed table by output."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[1:]}


def part(name: str, key: str, kept: tuple[str, ...]) -> Content:
    content = golden(name)
    return {**content, key: {k: v for k, v in content[key].items() if k in kept}}


# Golden files of the released code


@pytest.mark.parametrize("name", ["preprocessing.json", "clip4cir_combiner.json", "spirit.json", "noisy_triplets.json", "corrected_text.json", "circo_metrics.json"])
def test_golden_files_agree(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(GOLDEN / name)]) == 0
    printed = capsys.readouterr().out
    assert "TOO LARGE" not in printed and f"{name}: every output agrees" in printed


def test_the_encoders_agree_and_tell_gelu_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(tmp_path, part("clip_encoder.json", "models", ("small", "small_vit"))) == 0
    rows = table(capsys.readouterr().out)
    assert float(rows["small encode_text"][0]) < 1e-5 < 1e-3 < float(rows["small encode_text"][-1].split()[0])
    assert float(rows["small_vit stage 1 gradients"][0]) < 2e-5


def test_ten_steps_of_stage_one_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(tmp_path, part("training.json", "recipes", ("clip4cir_stage1",))) == 0
    rows = table(capsys.readouterr().out)
    assert {row[2] for row in rows.values()} == {"ok"}
    assert "clip4cir_stage1: decay alone: change of positional_embedding" in rows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["training.json", "clip_encoder.json"])
def test_whole_golden_files_agree(name: str) -> None:
    assert main(["parity", str(GOLDEN / name)]) == 0


def test_training_configs_are_our_recipes() -> None:
    """The steps are taken with the file's numbers; these must be what our recipes say."""
    recipes = golden("training.json")["recipes"]
    ours = {
        "clip4cir_stage1": ("encoders", "fashioniq"),
        "clip4cir_combiner": ("combiner", "cirr"),
        "spirit_weight_decay_5e-4": ("spirit", "fashioniq"),
        "spirit_weight_decay_0": ("spirit", "cirr"),
    }
    defaults = {"eps": 1e-8, "weight_decay": 0.0, "betas": [0.9, 0.999], "schedule": "constant", "batch_norm": "train"}
    for name, (stage, dataset) in ours.items():
        settings = {**defaults, **discover().recipe(stage, dataset, "paper", "pretrained").settings}
        config = recipes[name]["config"]
        assert settings["optimiser"] == config["optimiser"].lower()
        assert settings["learning_rate"] == config.get("lr_of_the_release", config["lr"])
        assert [settings[key] for key in ("eps", "weight_decay")] == [config["eps"], config["weight_decay"]]
        assert list(settings["betas"]) == config["betas"]
        assert (settings["schedule"] == "cosine-rising") == (config["schedule"] == "CosineAnnealingLR")
        assert settings.get("schedule_epochs", 0) == config.get("t_max", 0) // 2
        assert settings["batch_norm"] == config.get("batch_norms", "train")


# Other prefixes, batches, scales


@pytest.mark.parametrize(
    "content",
    [
        combiner_file("other.", batch=3, scale=1.7),
        combiner_file("", batch=1, scale=0.05),
        combiner_training_file("x", batch=5, scale=0.3),
        combiner_training_file("y", batch=2, scale=2.0, eps=1e-4, t_max=8),
        preprocessing_file("p."),
    ],
    ids=["combiner", "batch of one", "training", "cosine", "preprocessing"],
)
def test_independent_files_agree(content: Content, tmp_path: Path) -> None:
    assert status(tmp_path, content) == 0


def test_another_prefix_is_not_the_same_numbers(tmp_path: Path) -> None:
    assert status(tmp_path, {**combiner_file("a", batch=4, scale=1.0), "seed_prefix": "b"}) == 1


def test_the_encoders_weights_and_images_depend_on_the_prefix() -> None:
    sizes = EncoderSizes.model_validate({**SMALL, "batch": 2, "coarse": 8})
    state = golden_backbone("small", sizes, "q.", "quickgelu").openai_state_dict()
    torch.testing.assert_close(state["text_projection"], g("q.", "text_projection", 128, 64) / 128**0.5)
    level, coarse = g("q.", "small.input.level", 2, 3, 1, 1), g("q.", "small.input.coarse", 2, 3, 8, 8)
    enlarged = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    expected = 2 * level + enlarged + 0.5 * g("q.", "small.input.fine", 2, 3, 64, 64)
    torch.testing.assert_close(golden_pixels("q.", "small.input", sizes), expected)


# Deviations


def scaled(content: Content, at: tuple[Any, ...], factor: float = 1.0, plus: float = 0.0) -> Content:
    """A copy with one number changed."""
    content = copy.deepcopy(content)
    entry = content
    for key in at[:-1]:
        entry = entry[key]
    entry[at[-1]] = entry[at[-1]] * factor + plus
    return content


@pytest.mark.parametrize(
    ("at", "output"),
    [
        (("eval", "query", "norms", 2), "eval query"),
        (("eval", "query", "first16", 1, 9), "eval query"),
        (("eval", "logits", 0, 1), "eval logits"),
        (("train_dropout_off", "loss"), "train loss"),
        (("train_dropout_off", "grad_norms", "output_layer.bias"), "train gradients"),
        (("state_dict", 3, "shape", 0), "state dict"),
    ],
)
def test_one_wrong_number_of_a_head_is_found(
    at: tuple[Any, ...], output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = combiner_file("z", batch=4, scale=0.4)
    assert status(tmp_path, scaled(content, at, 1 + 2e-3 if at[0] != "state_dict" else 2)) == 1
    rows = table(capsys.readouterr().out)
    assert [name for name, row in rows.items() if row[2] == "TOO LARGE"] == [output]


def test_the_report_names_the_worst_parameter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = scaled(combiner_file("z", 4, 0.4), ("train_dropout_off", "grad_norms", "dynamic_scalar.0.weight"), 1.01)
    assert status(tmp_path, content) == 1
    row = table(capsys.readouterr().out)["train gradients"]
    assert row[3] == "dynamic_scalar.0.weight" and float(row[0]) == pytest.approx(0.0099, rel=0.02)


TRAINING = ("recipes", "clip4cir_combiner")


@pytest.mark.parametrize(
    ("at", "change", "output"),
    [
        (("loss", 5), {"factor": 1 + 1e-4, "plus": 1e-4}, "losses"),
        (("learning_rate", 3), {"factor": 1 + 1e-5}, "learning rates"),
        (("parameters", "output_layer.weight", 0), {"factor": 1 + 1e-5}, "norms"),
        (("parameters", "output_layer.weight", 1), {"plus": 0.05}, "sums, of the change"),
        (("parameters", "output_layer.weight", 2), {"factor": 1 + 1e-3}, "changes"),
    ],
)
def test_one_wrong_number_of_training_is_found(
    at: tuple[Any, ...], change: dict[str, float], output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = scaled(combiner_training_file("x", batch=5, scale=0.3), (*TRAINING, *at), **change)
    assert status(tmp_path, content) == 1
    rows = table(capsys.readouterr().out)
    assert [n for n, row in rows.items() if row[2] == "TOO LARGE"] == [f"clip4cir_combiner: {output}"]


def test_a_gradient_or_movement_where_there_must_be_none_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = combiner_training_file("x", batch=5, scale=0.3)
    for entry in ("no_gradient", "exact_zero_gradient", "unchanged"):
        content["recipes"]["clip4cir_combiner"][entry] = ["output_layer.bias"]
    assert status(tmp_path, content) == 1
    assert sum(row[2] == "TOO LARGE" for row in table(capsys.readouterr().out).values()) == 3


@pytest.mark.parametrize("key", ["padded_size", "resized_size", "uint8_pixels", "uint8_sha256", "uint8_sums"])
def test_one_wrong_pixel_is_found(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = preprocessing_file("p.")
    result = content["pictures"][1]["squarepad"]
    if key == "uint8_sha256":
        result[key] = "0" * 64
    elif key == "uint8_pixels":
        result["uint8_sha256"], result[key][0][3] = "0" * 64, result[key][0][3] + 9
    else:
        result[key][0] += 1
    assert status(tmp_path, content) == 1
    rows = table(capsys.readouterr().out)
    wrong = {name: row for name, row in rows.items() if row[2] == "TOO LARGE"}
    assert list(wrong) == [f"squarepad: {'sizes' if 'size' in key else 'pixels'}"]
    assert next(iter(wrong.values()))[3] == "tall"


@pytest.mark.parametrize(("off", "expected"), [(1, 0), (2, 1)])
def test_another_pillow_may_move_listed_pixels_by_one(off: int, expected: int, tmp_path: Path) -> None:
    content = preprocessing_file("p.")
    content["versions"]["Pillow"] = "5.0"
    for picture in content["pictures"]:
        picture["clip"]["uint8_sha256"] = "0" * 64
        picture["clip"]["uint8_pixels"][0][2] += off
    assert status(tmp_path, content) == expected


def test_converting_to_rgb_first_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = Preprocessing.picture
    monkeypatch.setattr(Preprocessing, "picture", lambda self, image, rng=None: right(self, image.convert("RGB"), rng))
    assert main(["parity", str(GOLDEN / "preprocessing.json")]) == 1
    assert "palette is converted to RGB first; rgba is converted to RGB first" in capsys.readouterr().out


# Comparisons


def test_no_gradient_and_zeros_are_equal() -> None:
    gradients = {"none": None, "zeros": torch.zeros(3), "some": torch.full((4,), 0.5)}
    tolerance = GradientTolerance(2e-5)
    for expected in ({"none": 0.0, "zeros": 0.0, "some": 1.0}, {"some": 1.0}):
        assert all(d.ok for d in compare_gradients("", lambda dtype: gradients, expected, tolerance))
    for wrong in ({"none": 1e-6, "some": 1.0}, {"zeros": 0.0}, {"some": 1.0, "another": 0.0}):
        assert not all(d.ok for d in compare_gradients("", lambda dtype: gradients, wrong, tolerance))


def test_a_rectifier_on_its_edge_may_be_met_in_double_precision() -> None:
    def gradients(dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
        return {"weight": torch.tensor([1.0 if dtype == torch.float64 else 1.01])}

    (found,) = compare_gradients("", gradients, {"weight": 1.0}, GradientTolerance(2e-5))
    assert found.ok and "float64" in found.note
    (found,) = compare_gradients("", gradients, {"weight": 1.02}, GradientTolerance(2e-5))
    assert not found.ok and found.value == pytest.approx(0.01 / 1.02)


def test_noise_may_be_larger_where_the_gradient_vanishes_in_double_precision() -> None:
    tolerance = GradientTolerance(2e-5)
    largest, listed = torch.full((1,), 30.0), {"largest": 30.0, "noise": 6e-8}
    for value, expected in ((0.0, True), (1e-3, False)):
        noise = torch.full((1,), value)
        found = compare_gradients(
            "", lambda dtype, noise=noise: {"largest": largest, "noise": noise}, listed, tolerance
        )
        assert all(deviation.ok for deviation in found) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_deviates_infinitely(bad: float) -> None:
    assert not worst("", [Difference("", bad, 1.0, 1e9)]).ok
    rows = Rows(norms=[1.0, 1.0], first16=[[1.0], [1.0]])
    assert not compare_output("", torch.tensor([[1.0], [bad]]), rows, 0.1).ok
    assert not compare_output("", torch.tensor([[1.0], [1.0], [1.0]]), rows, 0.1).ok


# Bad files


def truncated(folder: Path) -> Path:
    path = folder / "truncated.json"
    path.write_text((GOLDEN / "spirit.json").read_text()[:5000])
    return path


def written(content: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "numbers.json"
        path.write_text(json.dumps(content))
        return path

    return write


def without(content: Content, *keys: str) -> Content:
    content = copy.deepcopy(content)
    entry = content
    for key in keys[:-1]:
        entry = entry[key]
    del entry[keys[-1]]
    return content


COMBINER = combiner_file("z", 2, 1.0)
STEPS = combiner_training_file("z", 2, 1.0)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "missing.json", "no such file"),
        (lambda folder: folder, "a folder, not a file"),
        (truncated, "not valid JSON at line"),
        (written([1, 2]), "no golden numbers"),
        (written({"method": "spirt", "seed_prefix": ""}), "did you mean spirit or "),
        (written(without(COMBINER, "seed_prefix")), "seed_prefix"),
        (written(without(COMBINER, "config", "clip_dim")), "entry 'config.clip_dim'"),
        (written(without(COMBINER, "train_dropout_off", "grad_norms")), "entry 'train_dropout_off.grad_norms'"),
        (written({**COMBINER, "eval": {"answer": [[1.0]]}}), "'eval.answer'"),
        (written({**COMBINER, "eval": {"logits": [[1.0], [1.0, 2.0]]}}), "entry 'eval.logits"),
        (written(scaled(COMBINER, ("config", "batch"), -1)), "entry 'config.batch'"),
        (written(scaled(STEPS, ("steps",), 2)), "12 losses and learning rates"),
        (written(without(STEPS, *TRAINING, "config", "lr")), "entry 'recipes.clip4cir_combiner.config.lr'"),
        (written({**STEPS, "recipes": {"val_resnet": STEPS["recipes"]["clip4cir_combiner"]}}), "unknown recipe"),
        (written(without(golden("clip_encoder.json"), "models", "small", "names_sha256")), "names_sha256"),
        (written(without(golden("preprocessing.json"), "dim")), "entry 'dim'"),
    ],
)
def test_a_bad_file_is_one_line_and_status_2(
    make: Callable[[Path], Path], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    assert main(["parity", str(path)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and problem in lines[0] and str(path) in lines[0]
    assert not captured.out
