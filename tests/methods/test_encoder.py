"""ENCODER against the authors' numbers, its checkpoints, and what each of its settings does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from benchmark.methods.encoder import METHOD, Encoder, EncoderTraining
from benchmark.methods.networks.encoder import EncoderSettings
from benchmark.methods.parity.encoder import RELATION, UNUSED, released_name
from command_line import Command
from torch import nn

from benchmark.backbone import BackboneChoice
from benchmark.cli import main
from benchmark.encoders.families import load_choice
from benchmark.encoding import dot_products
from benchmark.method import BuildContext, Method, PixelInputs, Views
from benchmark.records.record import read_record
from benchmark.registry import discover
from benchmark.weights.checkpoints import read_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "encoder.json"
WEIGHTS = "weights/selected.safetensors"
SMALL: dict[str, Any] = {"factors": 3, "relations": 2, "hidden": 32}


def built(training: EncoderTraining | None = None, **settings: Any) -> Encoder:
    (stage,) = METHOD.stages(EncoderSettings(), "random")
    backbone = load_choice(BackboneChoice("tiny-vit", "random", seed=1))
    sizes = EncoderSettings.model_validate({**SMALL, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        method = stage.build(BuildContext(backbone, sizes, training or EncoderTraining()))
    assert isinstance(method, Encoder)
    return method


def views(method: Method, rows: int = 4) -> tuple[Views, Views, Views]:
    generator = torch.Generator().manual_seed(2)
    reference, target = ({"pixels": torch.randn(rows, 3, 64, 64, generator=generator)} for _ in range(2))
    return reference, method.tokenize(["is red", "has longer sleeves", "is blue", "a dog that sleeps"][:rows]), target


def one_variant(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    del content["training"]
    return {**content, "variants": {name: content["variants"][name]}}


@pytest.mark.slow
def test_the_golden_file_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(GOLDEN)]) == 0
    printed = capsys.readouterr().out
    assert "TOO LARGE" not in printed and "encoder.json: every output agrees" in printed
    assert "training: changes" in printed and "training: parts of the losses" in printed


def test_one_of_its_variants_agrees_and_a_wrong_number_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = one_variant("fashioniq, shoes")
    norms = content["variants"]["fashioniq, shoes"]["eval"]["reference_tokens"]["norms"]
    norms[2][1] *= 1.0001  # an entity's, which is hundreds of times smaller than its neighbours
    (tmp_path / "encoder.json").write_text(json.dumps(content))
    assert main(["parity", str(tmp_path / "encoder.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if "TOO LARGE" in line]
    assert len(wrong) == 1 and "reference_tokens, entities" in wrong[0]
    assert any("token_by_token" in line and "| ok" in line for line in lines)


def test_the_paper_recipe_is_the_released_scripts() -> None:
    config = json.loads(GOLDEN.read_text())["training"]["config"]
    registry = discover()
    for dataset, (factors, relations) in {
        "fashioniq": (3, 2), "shoes": (3, 2), "cirr": (1, 1), "fashion200k": (1, 2)
    }.items():  # fmt: skip
        recipe = registry.recipe("encoder", dataset, "", "pretrained")
        ours = recipe.settings
        assert (recipe.name, recipe.method) == ("paper", {"factors": factors, "relations": relations})
        assert (ours["learning_rate"], ours["rates"]) == (
            config["lr_of_the_release"], {"backbone.": config["clip_lr_of_the_release"]}
        )  # fmt: skip
        assert (ours["weight_decay"], ours["milestones"], ours["epochs"]) == (config["weight_decay"], [5, 10], 20)
        assert ours["keep_last"] and ours["batch_size"] == 128 and ours["optimiser"] == config["optimiser"].lower()
        assert ours.get("evaluate_cropped", False) is (dataset == "fashioniq")
        readme = registry.recipe("encoder", dataset, "readme", "pretrained").settings
        assert (readme["learning_rate"], readme["rates"], readme["epochs"]) == (5e-5, {"backbone.": 1e-6}, 10)


def test_texts_are_padded_to_the_context_and_positions_behind_their_end_are_read() -> None:
    method = built().eval()
    alone, beside = method.tokenize(["is red"])["tokens"], method.tokenize(["is red", "has many words " * 9])["tokens"]
    assert alone.shape == (1, 32) and torch.equal(alone[0], beside[0])
    cut = method.backbone.shortened(alone)
    with torch.no_grad():
        whole = method.text_tokens({"tokens": alone})
        assert not torch.allclose(whole, method.text_tokens({"tokens": cut}), atol=1e-3)
        torch.testing.assert_close(whole[:, 0], method.backbone.encode_text(alone))


def test_the_filter_keeps_the_first_rows_or_the_most_alike_or_all() -> None:
    rows, vector = torch.zeros(1, 49, 64), torch.zeros(1, 64)
    vector[0, 0] = 1
    rows[0, :, 1] = torch.arange(1.0, 50.0)
    rows[0, 19:, 0] = 100.0  # the last thirty are the most alike
    kept = {way: built(filter=way).head._kept(vector, rows)[0, :, 1].tolist() for way in ("first", "scored", "none")}
    assert kept["first"] == list(range(1, 31)) and kept["scored"] == list(range(20, 50))
    assert kept["none"] == list(range(1, 50))
    words = torch.zeros(1, 77, 64)
    assert built().head._kept(vector, words).shape[1] == 47


def test_scale_and_shift_come_from_other_tokens_or_the_own() -> None:
    reference, text = torch.randn(2, 6, 64), torch.randn(2, 6, 64)
    mixed, own = (built(affine=way).head.affine for way in ("mixed", "token-wise"))
    told = mixed.MLP(torch.cat([reference, text], dim=-1))
    # γ of token 1 is the second half of what token 0 tells, its β the second half of what token 3 tells.
    expected = told[:, 0, 64:] * reference[:, 1] + told[:, 3, 64:] * text[:, 1]
    torch.testing.assert_close(mixed(reference, text)[:, 1], expected)
    expected = told[:, 1, :64] * reference[:, 1] + told[:, 1, 64:] * text[:, 1]
    torch.testing.assert_close(own(reference, text)[:, 1], expected)


@pytest.mark.parametrize("way", ["drawn", "trained"])
def test_the_relation_matrix_is_saved_and_moves_only_if_trained(way: str) -> None:
    method = built(relation=way)
    reference, text, target = views(method)
    queries, targets = method.encode_query(reference, text), method.encode_target(target)
    method.loss(queries, targets).backward()
    relation = method.head.binding_decoder.learnable_relation
    assert "head.binding_decoder.learnable_relation" in method.state_dict()
    assert isinstance(relation, nn.Parameter) is (way == "trained") is (relation.grad is not None)
    assert not torch.equal(relation.detach(), built(relation=way, relations=3).head.binding_decoder.learnable_relation[:2])


def test_parts_of_the_loss_have_their_weights_and_the_gallery_one_vector() -> None:
    method = built(EncoderTraining(distillation_weight=0.25, entity_weight=3.0))
    reference, text, target = views(method)
    queries, targets = method.encode_query(reference, text), method.encode_target(target)
    plain, parts = method.losses(queries, targets), method.loss_parts(queries, targets)
    assert parts["kl"] == 0.25 * plain["kl"] and parts["entity"] == 3 * plain["entity"]
    torch.testing.assert_close(method.loss(queries, targets), sum(parts.values()))
    method.eval()
    query, found = method.encode_query(reference, text), method.encode_target(target)
    assert isinstance(query, torch.Tensor) and isinstance(found, torch.Tensor) and found.shape == (4, 64)
    assert method.scores_by_dot_product and dot_products(query, found).abs().max() <= 1 + 1e-6


def test_only_recipes_that_ask_for_it_cut_references_in_evaluation() -> None:
    (stage,) = METHOD.stages(EncoderSettings(), "random")
    backbone = load_choice(BackboneChoice("tiny-vit", "random"))
    for settings in ({"evaluate_cropped": True}, {}, {"crop": False}):
        inputs = stage.inputs(BuildContext(backbone, EncoderSettings(), EncoderTraining.model_validate(settings)))
        assert isinstance(inputs, PixelInputs) and not inputs.evaluate.random
        assert (inputs.evaluate_reference is not None) is ("evaluate_cropped" in settings)
        assert inputs.train.random is ("crop" not in settings)


class Whole(nn.Module):
    """What the released training script pickles."""


def test_the_authors_checkpoint_comes_in(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    method = built()
    state = {released_name(name): tensor for name, tensor in method.state_dict().items() if "learnable" not in name}
    state["backbone.clip.logit_scale"] = state["backbone.clip.logit_scale"].reshape(())
    unused = {f"{beginning}weight": torch.ones(2, 2) for beginning in UNUSED}
    torch.save({**state, **unused}, tmp_path / "best_cirr.pt")
    given = ("--method", "encoder", "--backbone", "tiny-vit", "--dataset", "cirr")
    outcome = command("import", *given, tmp_path / "best_cirr.pt", "--output", tmp_path / "in")
    assert outcome.status == 0, outcome.err
    assert f"drawn     {RELATION}" in outcome.out and "dropped   7 tensors" in outcome.out
    (account,) = json.loads((tmp_path / "in" / "import.json").read_text())
    dropped = {tensor["name"] for tensor in account["tensors"] if tensor["use"].startswith("dropped")}
    assert dropped == set(unused)
    found = read_weights(tmp_path / "in" / WEIGHTS)
    relation = found["head.binding_decoder.learnable_relation"]
    assert relation.shape == (2, 64) and 0.7 < float(relation.std()) < 1.3
    assert torch.equal(found["head.affine.MLP.1.weight"], state["affine.MLP.1.weight"])
    method.load_state_dict(found)
    outcome = command("evaluate", "--method", "encoder", "--checkpoint", tmp_path / "in", "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    metrics = read_record(tmp_path / "in" / "weights" / "evaluated-demo-cirr").results[0].metrics
    ranks = ranks_by_hand(method.eval(), small_cirr)
    assert {k: metrics[f"R@{k}"] for k in (1, 5)} == pytest.approx({k: 100 * (ranks <= k).mean() for k in (1, 5)})
    torch.save(Whole(), tmp_path / "model_cirr.pt")
    refused = command("import", *given, tmp_path / "model_cirr.pt")
    assert refused.status == 2 and len(refused.errors) == 1 and "save the model's state dict alone" in refused.err


@torch.no_grad()
def ranks_by_hand(method: Encoder, data: Path) -> np.ndarray:
    """Ranks of val's targets, the reference left out; pictures are opened RGB first and not padded."""
    from benchmark.data.pictures import open_picture
    from benchmark.encoders.preprocessing import Preprocessing

    entries = json.loads((data / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    names, pipeline = list(paths), Preprocessing("clip", 64, rgb_first=True)
    pixels = [pipeline.picture(open_picture(data / paths[name])) for name in names]
    shown = pipeline.normalise(torch.from_numpy(np.stack(pixels)))
    reference = shown[[names.index(entry["reference"]) for entry in entries]]
    query = method.encode_query({"pixels": reference}, method.tokenize([entry["caption"] for entry in entries]))
    scores = dot_products(query, method.encode_target({"pixels": shown})).double().numpy()
    ranks = []
    for row, entry in zip(scores, entries, strict=True):
        row[names.index(entry["reference"])] = -np.inf
        ranks.append(1 + int((row > row[names.index(entry["target_hard"])]).sum()))
    return np.array(ranks)


def test_a_backbone_without_tokens_is_told(command: Command, small_cirr: Path) -> None:
    for name in ("tiny", "blip2-tiny"):
        given = ("--method", "encoder", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", name)
        outcome = command("run", *given)
        assert outcome.status == 2 and len(outcome.errors) == 1 and "gives" in outcome.err, outcome.err


def test_without_a_dictionary_its_texts_are_refused(command: Command, tmp_path: Path) -> None:
    write_demo("fashioniq", tmp_path / "data", Sizes(1, 2, 1, 2, 1, 1), workers=1)
    for file in (tmp_path / "data").rglob("correction_dict_*.json"):
        file.unlink()
    given = ("--method", "encoder", "--dataset", "fashioniq", "--data-root", tmp_path / "data")
    outcome = command("run", *given, "--backbone", "tiny-vit", "--set", "encoder.batch_size=2")
    assert outcome.status == 2 and len(outcome.errors) == 1 and "correction_dict_dress.json" in outcome.err
