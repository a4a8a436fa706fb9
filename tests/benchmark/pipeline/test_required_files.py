"""What methods need from outside: listed, found or told before any work, never fetched; and what is said without it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Command
from official_files import clip_state, write_clip
from safetensors.torch import save_file

from benchmark.backbone import BackboneChoice
from benchmark.encoders import clip_tokens
from benchmark.encoders.architectures import TINY, backbone_configuration
from benchmark.encoders.backbone_table import BACKBONES, CLIP_VOCABULARY
from benchmark.encoders.backbones import build_clip
from benchmark.encoders.clip_tokens import clip_tokenizer
from benchmark.encoders.families import load_choice
from benchmark.method import BuildContext
from benchmark.pipeline.required_files import CLIP
from benchmark.records.record import read_record
from benchmark.registry import discover
from benchmark.weights.assets import find_asset

LAION = ("laion2b_s32b_b79k", "laion2b_s34b_b79k")
MOBILENET = "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors"
VAL = ("run", "--method", "val", "--dataset", "cirr", "--limit", 12, "--set", "method.cnn=mobilenetv1_100",
       "--set", "method.image_side=64")  # fmt: skip
SMALL = ("--recipe", "adapted", "--epochs", 1, "--batch-size", 6, "--set", "val.augmentation=none")
VECTORS = ("--set", "method.word_vectors=glove.txt", "--set", "method.word_width=3")


@pytest.fixture(autouse=True)
def nothing_in_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A folder with random weights under MobileNet's published name, and word vectors."""
    import timm

    folder = tmp_path / "assets"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model("mobilenetv1_100", pretrained=False).state_dict(), folder / MOBILENET)
    (folder / "glove.txt").write_text("red 1 2 3\nblue 4 5 6\n")
    return folder


def test_every_need_is_declared_and_every_declared_file_is_needed() -> None:
    registry = discover()
    named = {name for method in registry.methods().values() for name in method.required_files} - {CLIP, *BACKBONES}
    assert named == registry.assets().keys()
    for name, info in registry.methods().items():
        specification = registry.specification(name)
        asked = {need.asset for need in specification.required_files(specification.settings())}
        if specification.own_networks is not None:
            assert asked and asked <= set(info.required_files)
        else:
            default = specification.default_backbone
            stages = specification.stages(specification.settings(), "pretrained")
            # Which of these is read, and where it lies, is the dataset's to say.
            texts = {"dqu-cir-texts"} if any(stage.shows_notes for stage in stages) else set()
            assert set(info.required_files) == {CLIP if default == "RN50x4" else default, *asked, *texts}


@pytest.mark.parametrize("method", sorted(discover().methods()))
def test_a_file_is_named_for_the_settings_that_ask_for_it_and_no_others(method: str) -> None:
    registry = discover()
    specification = registry.specification(method)
    for name, conditions in registry.methods()[method].required_with.items():
        given = conditions["word_vectors"]

        def asks(values: dict[str, Any], name: str = name, given: str = given) -> bool:
            needs = specification.required_files(specification.settings.model_validate(values))
            return any((need.asset, need.given) == (name, given) for need in needs)

        assert asks(dict(conditions))
        for left_out in conditions:
            assert not asks({key: value for key, value in conditions.items() if key != left_out})


def test_the_list_tells_which_methods_ask_with_which_settings(command: Command) -> None:
    told = command("list", "methods", "--needs").out
    vectors = told[told.index("glove.840B.300d.txt") : told.index("glove.42B")]
    assert "for      artemis (with method.word_vectors=FILE; words start at random without)" in vectors
    assert (
        "for      tirg, tirg_lastconv, concat (with method.implementation=artemis and method.word_vectors=FILE)" in vectors
    )


def test_the_list_names_file_size_source_licence_and_whether_it_is_here(command: Command, assets: Path) -> None:
    told = command("list", "methods", "--needs", "--assets-root", assets)
    assert told.status == 0
    for part in ("RN50x4.pt", "420 MB", "MIT (OpenAI CLIP)", "https://openaipublic.azureedge.net", MOBILENET,
                 f"here     {assets / MOBILENET}", "glove.840B.300d.txt", "word vectors, optional",
                 "public domain (PDDL)", "https://nlp.stanford.edu/data/glove.42B.300d.zip"):  # fmt: skip
        assert part in told.out
    assert told.out.count("not found") == told.out.count("\n  here     ") - 1 >= 9, "one file is here, of all"
    needs = json.loads(command("list", "methods", "--needs", "--json", "--assets-root", assets).out)
    found = {(need["method"], need["name"]) for need in needs if need["found"]}
    assert found == {("val", "mobilenetv1_100")}
    assert all(need["file"] and need["megabytes"] and need["source"] and need["licence"] for need in needs)
    assert command("list", "datasets", "--needs").status == 2


def test_a_file_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    asset = discover().assets()["resnet18"]
    assert find_asset(asset, None) is None and find_asset(asset, tmp_path) is None
    for name in ("timm/resnet18.tv_in1k/model.safetensors", "resnet18.tv_in1k/model.safetensors", asset.file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        assert find_asset(asset, tmp_path) == tmp_path / name


def test_a_dry_run_and_a_run_tell_all_that_is_missing(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    for further in (("--dry-run",), ("--output", tmp_path / "out")):
        outcome = command(*VAL, *SMALL, *VECTORS, "--data-root", small_cirr, *further)
        assert outcome.status == 2 and len(outcome.errors) == 2, outcome.err
        for part in (MOBILENET, "17 MB", "Apache-2.0", "huggingface.co/timm/mobilenetv1_100", "--assets-root",
                     "word vectors glove.txt: no such file", "glove.42B.300d.txt"):  # fmt: skip
            assert part in outcome.err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name != ".lock"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("glove.txt", b"red 1 2\nblue 4 5\n", "glove.txt, line 1: 2 numbers instead of 3"),
        (MOBILENET, b"no weights", MOBILENET),
    ],
)
def test_a_dry_run_reads_what_the_files_hold(
    name: str, content: bytes, problem: str, command: Command, small_cirr: Path, assets: Path
) -> None:
    (assets / name).write_bytes(content)
    told = command(*VAL, *SMALL, *VECTORS, "--data-root", small_cirr, "--assets-root", assets, "--dry-run")
    assert told.status == 2 and problem in told.err and len(told.errors) == 1 and not told.out


@pytest.mark.slow
def test_a_dry_run_tells_what_was_found(command: Command, small_cirr: Path, assets: Path, tmp_path: Path) -> None:
    told = command(*VAL, *SMALL, *VECTORS, "--data-root", small_cirr, "--assets-root", assets, "--dry-run").out
    assert f"{MOBILENET} (17 MB, Apache-2.0 (timm), trained on ImageNet)" in told
    assert f"found at {assets / MOBILENET}" in told and f"found at {assets / 'glove.txt'}" in told
    assert "note       words start from glove.txt" in told
    without = command(*VAL, *SMALL, "--data-root", small_cirr, "--assets-root", assets, "--dry-run").out
    assert "optional, not given" in without and "note       words start at random: no word vectors given" in without
    clip = write_clip(assets / "RN50x4.pt", clip_state(TINY), "tuned")
    spirit = ("run", "--method", "spirit", "--dataset", "cirr", "--data-root", small_cirr, "--dry-run")
    real = (*spirit, "--backbone", "RN50x4", "--batch-size", 24, "--negative-group", 24, "--set", "encoders.batch_size=24")
    other = command(*real, "--assets-root", assets)
    assert other.status == 2 and "RN50x4.pt as RN50x4: " in other.err and "tensors do not fit" in other.err
    with torch.device("meta"):
        state = build_clip(backbone_configuration("RN50x4"), "quickgelu").state_dict()
    # One number stands for all of a tensor, in the file as well.
    torch.save({"CLIP": {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in state.items()}}, clip)
    told = command(*real, "--assets-root", assets)
    assert told.status == 0, told.err
    assert "RN50x4.pt (420 MB, MIT (OpenAI CLIP)), https://openaipublic" in told.out and f"found at {clip}" in told.out
    assert "nothing from outside" in command(*spirit, "--limit", 24).out


@pytest.mark.slow
def test_a_checkpoint_needs_none_of_what_its_run_needed(
    command: Command, small_cirr: Path, assets: Path, tmp_path: Path
) -> None:
    run = (*VAL, *SMALL, *VECTORS, "--data-root", small_cirr, "--assets-root", assets, "--output", tmp_path / "val")
    outcome = command(*run)
    assert outcome.status == 0, outcome.err
    assert "VAL: words start from glove.txt" in outcome.err and "words start from glove.txt." in outcome.out
    notes = [note for result in read_record(tmp_path / "val").results for note in result.notes]
    assert "words start from glove.txt" in notes
    for file in assets.iterdir():
        file.unlink()
    evaluate = ("evaluate", "--method", "val", "--checkpoint", tmp_path / "val", "--data-root", small_cirr)
    outcome = command(*evaluate, "--limit", 12)
    assert outcome.status == 0, outcome.err
    assert command("export", tmp_path / "val").status == 0
    a, b = (read_record(f) for f in (tmp_path / "val", tmp_path / "val" / "weights" / "evaluated-demo-cirr"))
    assert a.results[0].metrics == b.results[0].metrics


def test_a_fine_tuned_encoder_needs_not_the_clip_that_it_started_from(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "start.pt", clip_state(TINY), "tuned")
    data = ("--data-root", small_cirr, "--limit", 24)
    run = ("run", "--method", "clip4cir", "--dataset", "cirr", "--backbone", "tiny", "--weights", clip, *data)
    outcome = command(*run, "--epochs", 1, "--set", "encoders.epochs=1", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    clip.unlink()
    outcome = command("evaluate", "--method", "clip4cir", "--checkpoint", tmp_path / "run", *data)
    assert outcome.status == 0, outcome.err
    a, b = (read_record(f) for f in (tmp_path / "run", tmp_path / "run" / "weights" / "evaluated-demo-cirr"))
    assert a.results[0].metrics == b.results[0].metrics
    assert a.identity.encoder == b.identity.encoder


def test_words_that_start_at_random_are_told_in_every_output(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    run = ("run", "--method", "artemis", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--epochs", 1)
    outcome = command(*run, "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    remark = "words start at random: no word vectors given"
    assert remark in outcome.err and remark in outcome.out
    assert remark in (tmp_path / "out" / "table.md").read_text()
    assert all(remark in " ".join(result.notes) for result in read_record(tmp_path / "out").results)


def test_no_tokeniser_needs_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    clip_tokens._of_size.cache_clear()
    text = "is Red, isn't striped; V-neck & 3/4 sleeves"
    for vocabulary in (CLIP_VOCABULARY, int(TINY["text_cfg"]["vocab_size"])):
        assert clip_tokenizer(vocabulary)([text], context_length=32).shape == (1, 32)
    registry = discover()
    for name in registry.methods():
        specification = registry.specification(name)
        settings = specification.settings(**specification.demo_settings)
        stage = specification.stages(settings, "random")[-1]
        backbone = load_choice(BackboneChoice(specification.demo_backbone, "random"))
        method = stage.build(BuildContext(backbone, settings, stage.settings(), weights_follow=True))
        method.build_extra_state([text])
        if specification.own_networks is not None:
            assert method.tokenize([text])["tokens"].shape[1] > 5
    known = ("random", "openai", "eva_vit_g", "model_base", *LAION)
    assert all(info.default_weights in known for info in BACKBONES.values())
