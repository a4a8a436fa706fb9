"""BLIP-2's first stage and what stands on it against the authors' numbers, and the Q-Former against transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.methods.networks.blip2 import Blip2Sizes, FirstStage

from benchmark.cli import main
from benchmark.registry import discover

GOLDEN = Path(__file__).parents[1] / "golden"


def recipes() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "training_blip2.json").read_text())["recipes"]
    return found


@pytest.mark.parametrize("name", ["blip2_qformer.json", "sprc.json", "tme.json", "blip4cir.json", "training_blip2.json"])
def test_golden_files_agree(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(GOLDEN / name)]) == 0
    printed = capsys.readouterr().out
    assert "TOO LARGE" not in printed and f"{name}: every output agrees" in printed


def test_another_schedule_of_beta_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a cycle of other length, and so another beta and rate, ten steps end elsewhere."""
    content = json.loads((GOLDEN / "training_blip2.json").read_text())
    recipe = content["recipes"]["sprc_cirr"]
    recipe["config"]["epochs"] = 50
    (tmp_path / "training.json").write_text(json.dumps({**content, "recipes": {"sprc_cirr": recipe}}))
    assert main(["parity", str(tmp_path / "training.json")]) == 1
    assert "sprc_cirr: learning rates" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["fashioniq", "cirr"])
def test_golden_recipes_are_ours(dataset: str) -> None:
    config = recipes()[f"sprc_{dataset}"]["config"]
    ours = discover().recipe("sprc", dataset, "paper", "pretrained").settings
    assert (ours["schedule"], ours["optimiser"]) == ("one-cycle", config["optimiser"].lower())
    assert ours["learning_rate"] == config["lr_of_the_release"] and list(ours["betas"]) == config["betas"]
    assert (ours["eps"], ours["weight_decay"]) == (config["eps"], config["weight_decay"])
    assert (ours["warmup"], ours["cycle_start"]) == (config["pct_start"], config["div_factor"])
    assert ours.get("schedule_epochs", ours["epochs"]) == config["epochs"]
    weights = config["loss_weights"]
    assert ours.get("prompt_weight", 1.0) == weights["loss_rtc"] and ours.get("align_weight", 1.0) == weights["loss_align"]


@torch.no_grad()
def test_transformers_q_former_says_the_same() -> None:
    """All four kinds of run, with the weights under their other names; float64, so that only the arithmetic counts."""
    transformers = pytest.importorskip("transformers", reason="install the extra [hf] to compare with transformers")
    sizes = Blip2Sizes(width=48, layers=3, heads=3, inner=96, queries=5, embedding=16, dropout=0.0)
    ours = FirstStage(40, sizes).double().eval()
    config = transformers.Blip2QFormerConfig(
        vocab_size=30523, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96,
        cross_attention_frequency=2, encoder_hidden_size=40, use_qformer_text_input=True, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.Blip2QFormerModel(config).double().eval()
    renamed = {
        name.replace("embeddings.LayerNorm", "layernorm").replace("attention.self.", "attention.attention."): tensor
        for name, tensor in ours.bert.state_dict().items()
        if not name.startswith("embeddings.word") and not name.startswith("embeddings.position")
    }
    theirs.load_state_dict(renamed)
    text = torch.tensor([[101, 2417, 4377, 102, 0, 0], [101, 2304, 102, 0, 0, 0]])
    picture = torch.randn(2, 7, 40, dtype=torch.float64)

    def asked(rows: torch.Tensor, mask: torch.Tensor, queries: int, seen: torch.Tensor | None) -> torch.Tensor:
        found: torch.Tensor = theirs(
            query_embeds=rows, query_length=queries, attention_mask=mask.double(), encoder_hidden_states=seen,
        ).last_hidden_state  # fmt: skip
        return found

    words, queries = ours.bert.words(text), ours.query_tokens.expand(2, -1, -1)
    mask = torch.cat([torch.ones(2, 5, dtype=torch.bool), text != 0], dim=1)
    expected = {
        "pictures": (ours.picture_queries(picture), asked(queries, mask[:, :5], 5, picture)),
        "joint": (ours.joint(picture, text), asked(torch.cat([queries, words], 1), mask, 5, picture)),
        "second": (ours.second_pass(queries, text), asked(torch.cat([queries, words], 1), mask, 0, None)),
        "text": (ours.text_alone(text), asked(words, text != 0, 0, None)),
    }
    for name, (found, wanted) in expected.items():
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=name)
