"""SPRC and TME: the authors' checkpoints come in and are scored, missing files are told, tokens are stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark.methods.networks.blip2 import Blip2Sizes, PromptedStage, cleaned, text_tokens
from benchmark.methods.networks.blip2_stage import Blip2Settings, PictureTokens
from benchmark.methods.parity.blip2 import blip2_weight, complete
from benchmark.methods.sprc import METHOD, Sprc, SprcTraining
from command_line import Command
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from benchmark.backbone import BackboneChoice
from benchmark.distributed.process import Process
from benchmark.encoders.families import load_choice
from benchmark.encoding import dot_products
from benchmark.records.record import read_record
from benchmark.training.batches import Batch, GroupLayout
from benchmark.training.engine import StageEngine
from benchmark.training.execution import Execution
from benchmark.training.memory import CheckpointedBlocks, encode_in_micro_batches
from benchmark.training.optimisation import standard_optimiser
from benchmark.weights.checkpoints import read_header, read_weights
from benchmark.weights.fit import shapes_of

WEIGHTS = "weights/selected.safetensors"
STAGE = METHOD.stages(METHOD.settings(), "pretrained")[-1]
SMALL = {"width": 64, "layers": 2, "heads": 1, "inner": 128, "queries": 8, "embedding": 32}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tuned_clip_arithmetic.pt` with all names of the release, small: the ViT, and heads that nothing uses."""
    from benchmark.encoders.blip2 import SIZES

    with torch.device("meta"):
        network = complete(PromptedStage(64, Blip2Sizes(**SMALL)), SIZES["blip2-tiny"])
        shapes = shapes_of(network.state_dict())
    state = {name: torch.from_numpy(np.asarray(blip2_weight(name, shape, ""))) for name, shape in shapes.items()}
    folder = tmp_path_factory.mktemp("sprc")
    vit = {name: t.half() if t.ndim > 1 else t for name, t in state.items() if name.startswith("visual_encoder.")}
    torch.save({"epoch": 3, "Blip2QformerCirAlignPrompt": {**state, **vit}}, folder / "tuned_clip_arithmetic.pt")
    difference = {"d2t_proj.weight": torch.eye(64), "d2t_proj.bias": torch.zeros(64)}
    torch.save({**state, **vit, **difference}, folder / "best_model.pth")
    torch.save({"model": {n: t for n, t in state.items() if n not in vit and n != "prompt_tokens"}}, folder / "blip2_pretrained.pth")
    unused = {"blocks.39.norm1.weight": torch.zeros(64), "norm.weight": torch.zeros(64), "head.weight": torch.zeros(2, 64)}
    torch.save({n.removeprefix("visual_encoder."): t for n, t in vit.items()} | unused, folder / "eva_vit_g.pth")
    return folder


def imported(command: Command, released: Path, *more: object, method: str = "sprc") -> Path:
    file = released / {"sprc": "tuned_clip_arithmetic.pt", "tme": "best_model.pth"}[method]
    given = ("--method", method, file, "--dataset", "cirr", "--backbone", "blip2-tiny")
    outcome = command("import", *given, *more)
    assert outcome.status == 0, outcome.err
    return Path(next(line for line in outcome.out.splitlines() if line.startswith("written")).split()[1].rstrip(":"))


def test_the_released_checkpoint_is_scored_as_its_own_arithmetic_says(
    command: Command, small_cirr: Path, released: Path
) -> None:
    folder = imported(command, released)
    account = json.loads((folder / "import.json").read_text())[0]["tensors"]
    left = {tensor["name"] for tensor in account if tensor["use"].startswith("dropped")}
    assert all(name.startswith(("visual_encoder.", "Qformer.cls.", "itm_head.")) or "position_ids" in name for name in left)
    outcome = command("evaluate", "--method", "sprc", "--checkpoint", folder, "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    found = read_record(folder / "weights" / "evaluated-demo-cirr").results[0].metrics
    ranks = ranks_by_hand(released, small_cirr)
    assert {k: found[f"R@{k}"] for k in (1, 5, 10)} == pytest.approx(
        {k: 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
    )
    # The ViT from a file of its own is the same one.
    again = imported(command, released, "--clip", released / "eva_vit_g.pth", "--output", "again")
    assert read_header(again / WEIGHTS).start["digest"] == read_header(folder / WEIGHTS).start["digest"]
    assert json.loads((again / "import.json").read_text())[1]["file"] == "eva_vit_g.pth"


@torch.no_grad()
def ranks_by_hand(released: Path, data: Path) -> np.ndarray:
    """Ranks of val's targets, the reference left out, by the network alone and loops over pictures and tokens."""
    from benchmark.data.pictures import open_picture

    entries = json.loads((data / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    names = list(paths)
    backbone = load_choice(BackboneChoice("blip2-tiny", str(released / "eva_vit_g.pth")))
    network = PromptedStage(64, Blip2Sizes(**SMALL, dropout=0.0)).eval()
    state = torch.load(released / "tuned_clip_arithmetic.pt", weights_only=True)["Blip2QformerCirAlignPrompt"]
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    pixels = [backbone.preprocessing.picture(open_picture(data / paths[name])) for name in names]
    views = backbone.preprocessing.normalise(torch.from_numpy(np.stack(pixels)))
    tokens = backbone.encode_picture_outputs(views, ["tokens"])["tokens"].half()
    targets = network.targets(network.picture_queries(network.vision(tokens)))
    reference = tokens[[names.index(entry["reference"]) for entry in entries]]
    words = text_tokens([entry["caption"] for entry in entries])
    fused = network.joint(network.vision(reference), words)[:, :8]
    query = network.query(network.second_pass(fused, words)[:, 8])
    ranks = []
    for row, entry in zip(query, entries, strict=True):
        scores: list[float] = [max(float(row @ token) for token in target) for target in targets]
        own, left = scores[names.index(entry["target_hard"])], names.index(entry["reference"])
        ranks.append(1 + sum(score > own for i, score in enumerate(scores) if i != left))
    return np.array(ranks)


def test_tmes_checkpoint_comes_in_like_it(command: Command, small_cirr: Path, released: Path) -> None:
    folder = imported(command, released, method="tme")
    outcome = command("evaluate", "--method", "tme", "--checkpoint", folder, "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    weights = read_weights(folder / WEIGHTS)
    assert torch.equal(weights["network.d2t_proj.weight"], torch.eye(64))
    assert read_record(folder / "weights" / "evaluated-demo-cirr").results[0].metrics["R@10"] > 0


def test_pretrained_files_are_read_and_tokens_stored(command: Command, small_cirr: Path, released: Path) -> None:
    given = ["run", "--method", "sprc", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", "blip2-tiny"]
    given += ["--weights", released / "eva_vit_g.pth", "--set", "method.heads=1", "--epochs", "1", "--set", "sprc.batch_size=16"]
    outcome = command(*given, "--set", "method.qformer=blip2_pretrained.pth")
    assert outcome.status == 2 and "blip2_pretrained.pth" in outcome.err and "storage.googleapis.com" in outcome.err
    trained = command(*given, "--set", f"method.qformer={released / 'blip2_pretrained.pth'}", "--output", "trained")
    assert trained.status == 0, trained.err
    record = read_record(Path("trained"))
    assert record.identity.recipe == "paper" and record.cost.stored_bytes == 4 * 8 * 32
    # Another file in its place is told by its name, and what does not fit.
    wrong = command(*given, "--set", f"method.qformer={released / 'eva_vit_g.pth'}", "--output", "wrong")
    assert wrong.status == 2 and len(wrong.errors) == 1 and "eva_vit_g.pth" in wrong.err


def test_records_say_whether_the_picture_encoder_was_trained(
    command: Command, small_cirr: Path, released: Path
) -> None:
    given = ["--method", "sprc", "--data-root", small_cirr]
    chosen = ["--dataset", "cirr", "--backbone", "blip2-tiny", "--weights", "random", "--epochs", "1", "--batch-size", "16"]
    for name, value in SMALL.items():
        chosen += ["--set", f"method.{name}={value}"]
    outcome = command("run", *given, *chosen, "--set", "method.qformer=random", "--output", "on-pixels")
    assert outcome.status == 0, outcome.err
    assert "encoder: blip2-tiny, random weights, trained with the method;" in " ".join(outcome.out.split())
    again = command("evaluate", *given, "--checkpoint", "on-pixels", "--output", "again")
    assert again.status == 0, again.err
    folder = imported(command, released)
    assert command("evaluate", *given, "--checkpoint", folder, "--output", "stored").status == 0
    encoders = {run: read_record(Path(run)).identity.encoder for run in ("on-pixels", "again", "stored")}
    states = {run: encoder.state for run, encoder in encoders.items() if encoder is not None}
    assert states == {"on-pixels": "trained", "again": "trained", "stored": "untouched"}


def sprc(width: int, sizes: Blip2Settings) -> Sprc:
    return Sprc(PromptedStage(width, sizes), PictureTokens(None), SprcTraining()).train()


def batch_of(method: Sprc, rows: int, tokens: int, width: int) -> Batch:
    pictures = [{"tokens": torch.randn(rows, tokens, width).half()} for _ in range(2)]
    return Batch(*pictures, method.tokenize([f"is {i} times as {'very ' * (i % 5)}red" for i in range(rows)]))


def test_micro_batches_have_the_gradient_of_the_whole_where_a_stage_reads_tokens(tmp_path: Path) -> None:
    """Through the engine, by `trainer.micro_batch`: micro-batches of three and of two of a batch of eight."""
    found = []
    for micro_batch in (0, 3, 2):
        torch.manual_seed(0)
        method = sprc(24, Blip2Settings(**{**SMALL, "dropout": 0.0}))
        settings = SprcTraining(batch_size=8, learning_rate=1e-3)
        process = Process(0, 1, 0, torch.device("cpu"))
        engine = StageEngine(
            method, standard_optimiser(STAGE.parameter_groups(method, settings), settings), lambda update: 1.0,
            settings, GroupLayout.of(settings, 1), process, Execution(micro_batch=micro_batch),
        )  # fmt: skip
        engine.training_mode()
        loss = engine.accumulate(batch_of(method, 8, 5, 24), 0)
        found.append({"loss": loss, **{n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}})
        engine.close()
    largest = max(float(tensor.abs().max()) for tensor in found[0].values())
    for other in found[1:]:
        assert other.keys() == found[0].keys() and len(other) > 50
        for name, tensor in found[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6 * largest, msg=name)


def bytes_held(rows: int, micro_batch: int = 0, again: bool = False) -> int:
    """What autograd keeps for the backward pass of so many triplets at full size, weights aside, in bfloat16.

    Counted on tensors that have shapes and no memory: nothing is computed.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        method = sprc(1408, Blip2Settings())
        weights = {p.untyped_storage()._cdata for p in method.parameters()}
        if again:
            CheckpointedBlocks(method)
        alive: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()._cdata
            if storage not in weights:
                alive[storage] = tensor
            return tensor

        pictures = [{"tokens": torch.empty(rows, 257, 1408, dtype=torch.float16)} for _ in range(2)]
        text = {"tokens": torch.ones(rows, 32, dtype=torch.int64)}
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            queries = encode_in_micro_batches(method.encode_query, micro_batch, reference=pictures[0], text=text)
            targets = encode_in_micro_batches(method.encode_target, micro_batch, target=pictures[1])
            assert isinstance(queries, dict) and isinstance(targets, Tensor)
            method.loss(queries, targets)
        return sum(tensor.untyped_storage().nbytes() for tensor in alive.values())


@pytest.mark.slow
def test_a_batch_of_128_at_full_size_fits_24_gb_in_micro_batches_or_with_blocks_computed_again() -> None:
    """The release's own attention was counted at 157 MB a triplet; torch's on a CPU keeps its weights in float32, too.

    Weights, gradients, moments, and the weights cast to half take 3.3 GB.
    """
    per_triplet = (bytes_held(4) - bytes_held(2)) / 2
    assert 100e6 < per_triplet < 200e6
    # Going back, one micro-batch stands beside what all of them left.
    in_micro_batches = bytes_held(128, micro_batch=16) + bytes_held(16)
    again = bytes_held(128, again=True)
    whole = bytes_held(128)
    print(f"{per_triplet / 1e6:.0f} MB a triplet; 128: {whole / 1e9:.1f} GB; 16 at a time: {in_micro_batches / 1e9:.1f} GB; "
          f"blocks computed again: {again / 1e9:.1f} GB")  # fmt: skip
    assert in_micro_batches < whole / 4 and again < whole / 4
    assert max(in_micro_batches, again) + 3.3e9 < 24e9 < whole + 3.3e9


def test_a_backbone_without_tokens_is_told(command: Command, small_cirr: Path) -> None:
    outcome = command("run", "--method", "sprc", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", "tiny")
    assert outcome.status == 2 and len(outcome.errors) == 1 and "gives global of a picture, but 'tokens'" in outcome.err


def test_targets_of_several_tokens_are_scored_by_the_best() -> None:
    queries: Tensor = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[[0.5, 0.1], [0.2, 0.7]], [[0.1, 0.9], [-1.0, 0.0]]])
    assert dot_products(queries, targets).tolist() == [[0.5, pytest.approx(0.1)], [pytest.approx(0.7), pytest.approx(0.9)]]


@pytest.mark.parametrize(("raw", "expected"), [("", ""), ("A  *b*\n", "a b"), ("x\ty", "x\ty"), ("\n\n", ""), ("it's ~1?", "it's 1?")])
def test_texts_are_cleaned_as_blip_does(raw: str, expected: str) -> None:
    assert cleaned(raw) == expected
