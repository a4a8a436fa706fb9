"""BLIP4CIR+Bi: BLIP's files come in, texts get their marks, reversed queries their second text, stage 1 only what trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark.methods.blip4cir import Blip4Cir
from benchmark.methods.networks.layers import Combiner, normalise
from benchmark.methods.parity.blip2 import blip2_weight
from command_line import Command
from torch import Tensor

from benchmark.backbone import BackboneChoice
from benchmark.dataset import Triplets
from benchmark.encoders.blip import SIZES, Blip, BlipSizes
from benchmark.encoders.families import load_choice
from benchmark.errors import UserError
from benchmark.records.record import read_per_query, read_record
from benchmark.registry import discover
from benchmark.settings import fill
from benchmark.text_rules import text_rule
from benchmark.training.batches import epoch_table
from benchmark.weights.checkpoints import read_header, read_weights
from benchmark.weights.fit import shapes_of

TINY = "blip-tiny"


def drawn(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(blip2_weight(name, shape, prefix))) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of the release: BLIP's own, of a quarter of the patches, and what both stages leave."""
    folder = tmp_path_factory.mktemp("blip")
    with torch.device("meta"):
        shapes = shapes_of(Blip(SIZES[TINY]).state_dict())
    positions = "visual_encoder.pos_embed"
    tokens = 1 + (shapes[positions][1] - 1) // 4
    state = drawn({**shapes, positions: (1, tokens, shapes[positions][2])})
    ids = {"text_encoder.embeddings.position_ids": torch.arange(512)[None]}
    beside = {"itm_head.weight": torch.zeros(2, 64), "text_encoder_m.embeddings.LayerNorm.bias": torch.zeros(64),
              "visual_encoder_m.norm.bias": torch.zeros(64), "temp": torch.tensor(0.07)}  # fmt: skip
    torch.save({"model": {**state, **ids, **beside}}, folder / "model_base.pth")
    text = {name: shape for name, shape in shapes.items() if name.startswith(("text_encoder.", "text_proj."))}
    tuned = {"epoch": 4, "BLIPTextEncoder": {**drawn(text, "tuned."), **ids}}
    optimiser = {"optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5}]}}
    torch.save({**tuned, **optimiser}, folder / "tuned_blip_mean.pt")
    combiner = drawn(shapes_of(Combiner(32, 48, 72).state_dict()))
    torch.save({"epoch": 9, "Combiner": combiner}, folder / "combiner_mean.pt")
    return folder


def test_the_released_files_are_scored_as_their_own_arithmetic_says(
    command: Command, small_cirr: Path, released: Path
) -> None:
    given = ("--method", "blip4cir", released / "combiner_mean.pt", "--dataset", "cirr", "--backbone", TINY)
    alone = command("import", *given)
    assert alone.status == 2 and len(alone.errors) == 1 and "--clip is missing: BLIP4CIR+Bi" in alone.err
    outcome = command("import", *given, "--clip", released / "tuned_blip_mean.pt")
    assert outcome.status == 0, outcome.err
    folder = Path(next(line for line in outcome.out.splitlines() if line.startswith("written")).split()[1].rstrip(":"))
    header = read_header(folder / "weights" / "selected.safetensors")
    assert header.method_settings["projection"] == 48 and header.training_settings["text_rule"] == "directed-as-is"
    outcome = command("evaluate", "--method", "blip4cir", "--checkpoint", folder, "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    record = read_record(folder / "weights" / "evaluated-demo-cirr")
    assert record.identity.encoder is not None and record.identity.encoder.state == "finetuned"
    found, ranks = record.results[0].metrics, ranks_by_hand(released, small_cirr)
    assert {k: found[f"R@{k}"] for k in (1, 5, 10)} == pytest.approx(
        {k: 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
    )


@torch.no_grad()
def ranks_by_hand(released: Path, data: Path) -> np.ndarray:
    """Ranks of val's targets, the reference left out, from the files' tensors alone and loops over pairs."""
    from benchmark.data.pictures import open_picture
    from benchmark.encoders.wordpiece import encode

    entries = json.loads((data / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    names = list(paths)
    backbone = load_choice(BackboneChoice(TINY, str(released / "model_base.pth")))
    pixels = [backbone.preprocessing.picture(open_picture(data / paths[name])) for name in names]
    pictures = backbone.encode_image(backbone.preprocessing.normalise(torch.from_numpy(np.stack(pixels))))
    blip = Blip(SIZES[TINY]).eval()
    tuned = torch.load(released / "tuned_blip_mean.pt", weights_only=True)["BLIPTextEncoder"]
    assert blip.load_state_dict(tuned, strict=False).unexpected_keys == ["text_encoder.embeddings.position_ids"]
    combiner = Combiner(32, 48, 72).eval()
    combiner.load_state_dict(torch.load(released / "combiner_mean.pt", weights_only=True)["Combiner"])
    ranks = []
    for entry in entries:
        marked = " [forward] " + "and [forward] ".join(entry["caption"].split("and"))
        text = blip.encode_text(torch.tensor([encode(marked, 77)]))
        query = combiner(pictures[[names.index(entry["reference"])]], text)
        scores = (query @ normalise(pictures).T)[0].tolist()
        own, left = scores[names.index(entry["target_hard"])], names.index(entry["reference"])
        ranks.append(1 + sum(score > own for i, score in enumerate(scores) if i != left))
    return np.array(ranks)


def test_a_tuned_text_encoder_needs_blips_own_file_beside_it(released: Path, tmp_path: Path) -> None:
    alone = tmp_path / "tuned_blip_mean.pt"
    alone.write_bytes((released / "tuned_blip_mean.pt").read_bytes())
    with pytest.raises(UserError, match="beside it: model_base.pth .*storage.googleapis.com"):
        load_choice(BackboneChoice(TINY, str(alone)))
    loaded = load_choice(BackboneChoice(TINY, str(released / "tuned_blip_mean.pt"))).state_dict()
    tuned = torch.load(released / "tuned_blip_mean.pt", weights_only=True)["BLIPTextEncoder"]
    own = torch.load(released / "model_base.pth", weights_only=True)["model"]
    assert torch.equal(loaded["text_proj.weight"], tuned["text_proj.weight"])
    assert torch.equal(loaded["vision_proj.weight"], own["vision_proj.weight"])
    assert not torch.equal(tuned["text_proj.weight"], own["text_proj.weight"])


def test_from_pretrained_weights_stage_1_trains_the_text_alone_and_on_stored_pictures(
    command: Command, small_cirr: Path, released: Path
) -> None:
    given = ["--method", "blip4cir", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", TINY]
    given += ["--weights", released / "model_base.pth", "--set", "blip-text.epochs=1", "--set", "blip-text.batch_size=16"]
    given += ["--set", "method.hidden=0", "--set", "method.projection=0", "--epochs", "1", "--batch-size", "16"]
    outcome = command("run", *given, "--cache", "cache", "--output", "trained")
    assert outcome.status == 0, outcome.err
    identity = read_record(Path("trained")).identity
    assert identity.recipe == "paper" and [stage.name for stage in identity.stages] == ["blip-text", "bi-combiner"]
    assert identity.text_rule == "directed-as-is"
    before = load_choice(BackboneChoice(TINY, str(released / "model_base.pth"))).state_dict()
    (artefact,) = Path("cache").glob("encoders/*/weights.safetensors")
    after = read_weights(artefact)
    moved = {name for name, tensor in before.items() if not torch.equal(after[f"backbone.{name}"], tensor)}
    assert moved and all(name.startswith(("text_encoder.", "text_proj.")) for name in moved)
    assert not any("crossattention" in name for name in moved)
    still = {name for name in before.keys() - moved if name.startswith("text_")}
    assert all("crossattention" in name or name.endswith("key.bias") for name in still)
    entry = json.loads((small_cirr / "captions" / "cap.rc2.val.json").read_text())[0]
    (image,) = small_cirr.rglob(f"{entry['reference']}.png")
    asked = ["--image", image, "--text", entry["caption"], "--data-root", small_cirr]
    found = command("search", "--run", "trained", "--cache", "cache", *asked)
    assert found.status == 0, found.err
    queries = read_per_query(Path("trained"), read_record(Path("trained")))[0]
    assert queries.top is not None
    names = [line.split()[2] for line in found.out.splitlines() if line[:2].strip().isdigit()]
    listed = [queries.gallery[g] for g in queries.top[0, :10]]
    assert [name for name in names if name != entry["reference"]] == listed[: 10 - (entry["reference"] in names)]


def test_marks_stand_behind_every_lower_case_and_and_a_rule_joins_afterwards() -> None:
    rule = text_rule("directed-joined")
    assert rule.queries(("is Sandals and red.", "And WHITE")) == (
        "[forward] is sand [forward] als and [forward]  red and [FORWARD] And WHITE",
    )
    assert text_rule("directed-as-is").queries(("a",)) == (" [FORWARD] a",)
    assert rule.mode == text_rule("joined").mode


def test_both_texts_of_a_triplet_are_drawn_apart_and_the_first_as_without_the_second() -> None:
    captions = tuple((f"is {i}", f"has {i}") for i in range(400))
    triplets = Triplets(np.arange(400), np.arange(400), captions)
    table = epoch_table(triplets, text_rule("directed-joined"), 0, 0)
    plain = epoch_table(triplets, text_rule("joined"), 0, 0)
    assert plain.reversed_texts == () and len(table.reversed_texts) == 400

    def bare(text: str) -> str:
        for mark in ("[FORWARD] ", "[forward] ", "[BACKWARD] ", "[backward] "):
            text = text.replace(mark, "")
        return text.lower()

    assert [bare(text) for text in table.texts] == [text.lower() for text in plain.texts]
    assert all("backward" in text.lower() and "forward" not in text.lower() for text in table.reversed_texts)
    same = sum(bare(a) == bare(b) for a, b in zip(table.texts, table.reversed_texts, strict=True))
    assert 60 < same < 140


def test_the_weight_decides_whether_texts_bear_marks() -> None:
    stage = discover().specification("blip4cir").stages(discover().specification("blip4cir").settings(), "pretrained")[0]

    def rule(**values: object) -> str:
        return fill(stage.settings, [("recipe", values)], stage.name).text_rule

    assert rule(text_rule="joined") == rule(text_rule="directed-joined") == "directed-joined"
    assert rule(text_rule="directed-joined", reversed_weight=0.0) == "joined"
    with pytest.raises(UserError, match="text rule both-orders has no marks of direction"):
        rule(text_rule="both-orders")
    assert rule(text_rule="both-orders", reversed_weight=0.0) == "both-orders"


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_pairs_some_rows_at_a_time_are_the_pairs_of_all(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, some rows at a time computed again in the backward pass are held against the same rows kept."""
    torch.manual_seed(0)
    method = Blip4Cir(Combiner(8, 12, 16, dropout), 0.5)
    reference, target, words, back = torch.randn(4, 6, 8)
    views = ({"global": reference}, {"global": words, "reversed_global": back}, {"global": target})

    def logits_and_gradients(pairs: int) -> list[Tensor]:
        monkeypatch.setattr("benchmark.methods.blip4cir._PAIRS_AT_ONCE", pairs)
        method.zero_grad()
        torch.manual_seed(1)
        queries = method.encode_triplet(*views)
        assert isinstance(queries, dict)
        logits = method.reversed_logits(queries, method.encode_target(views[2]))
        torch.autograd.backward(logits.square().sum())
        return [logits.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)]

    in_parts = logits_and_gradients(12)
    monkeypatch.setattr("benchmark.methods.blip4cir.checkpoint", lambda how, *given, use_reentrant: how(*given))
    for one, other in zip(in_parts, logits_and_gradients(12 if dropout else 10**6), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    if dropout:
        return
    with torch.no_grad():
        rows = range(6)
        by_hand = [[100 * float(normalise(reference)[i] @ method.combiner(target[[j]], back[[i]])[0]) for j in rows] for i in rows]
    torch.testing.assert_close(in_parts[0], torch.tensor(by_hand), rtol=1e-4, atol=1e-4)


def test_the_full_size_is_the_release_s() -> None:
    with torch.device("meta"):
        blip = Blip(BlipSizes())
    count = {part: sum(p.numel() for p in blip.get_submodule(part).parameters()) for part in ("visual_encoder", "text_encoder")}
    assert count == {"visual_encoder": 86_090_496, "text_encoder": 137_258_496}
    assert len(blip.visual_encoder.state_dict()) == 150
    idle = sum(p.numel() for name, p in blip.named_parameters() if "crossattention" in name)
    assert idle == 28_366_848 and blip.width == 256
