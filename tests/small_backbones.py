"""One small architecture of each family of open_clip's, with random weights, and the hub's files that it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIDE = 64
_CLIP_TEXT = {"context_length": 32, "vocab_size": 2048, "width": 32, "heads": 2, "layers": 1}
_HUB_TEXT = {**_CLIP_TEXT, "context_length": 16, "vocab_size": 600, "hf_tokenizer_name": "words"}


def _timm(model: str, pool: str, proj: str | None = "linear", side: int = SIDE) -> dict[str, Any]:
    return {"image_size": side, "timm_model_name": model, "timm_pool": pool, "timm_proj": proj}


FAMILIES: dict[str, dict[str, Any]] = {
    "siglip": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": _timm("test_vit", "map", "none"),
        "text_cfg": {**_HUB_TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
                     "norm_kwargs": {"eps": 1e-6}, "tokenizer_kwargs": {"clean": "canonicalize"}},
    },
    "siglip2": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": _timm("test_vit", "map", "none"),
        "text_cfg": {**_HUB_TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
                     "act_kwargs": {"approximate": "tanh"}, "tokenizer_kwargs": {"clean": "canonicalize"}},
    },
    "eva02": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": _timm("eva02_tiny_patch14_224", "token", side=56),
        "text_cfg": _CLIP_TEXT,
    },
    "coca": {
        "embed_dim": 48,
        "custom_text": True,
        "multimodal_cfg": {"context_length": 30, "vocab_size": 2048, "width": 32, "heads": 2, "layers": 1,
                           "attn_pooler_heads": 2},
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 16, "attentional_pool": True,
                       "attn_pooler_queries": 8, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**_CLIP_TEXT, "context_length": 30, "embed_cls": True, "output_tokens": True},
    },
    "vitamin": {"embed_dim": 48, "custom_text": True, "vision_cfg": _timm("vitamin_small_224", ""), "text_cfg": _CLIP_TEXT},
    "mobileclip": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": _timm("fastvit_t8", "avg"),
        "text_cfg": {**_CLIP_TEXT, "no_causal_mask": True},
    },
    "pe": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": _timm("vit_pe_core_tiny_patch16_384", "map"),
        "text_cfg": _CLIP_TEXT,
    },
    "convnext": {"embed_dim": 48, "vision_cfg": _timm("test_convnext", ""), "text_cfg": _CLIP_TEXT},
    "nllb": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": _timm("test_vit", "map", "none"),
        "text_cfg": {"hf_model_name": "m2m", "hf_tokenizer_name": "words", "context_length": 16,
                     "hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"},
    },
    "mt5": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"hf_model_name": "mt5", "hf_tokenizer_name": "words", "context_length": 16,
                     "hf_pooler_type": "mean_pooler"},
    },
}  # fmt: skip

TOWERS: dict[str, dict[str, Any]] = {
    "m2m": {"model_type": "m2m_100", "vocab_size": 600, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
    "mt5": {"model_type": "mt5", "vocab_size": 600, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1,
            "num_heads": 2, "pad_token_id": 0},
}  # fmt: skip


def write_backbone(family: str, folder: Path) -> Path:
    """The configuration as `--backbone FILE.json` takes it, the hub's folders beside it."""
    config = json.loads(json.dumps(FAMILIES[family]))
    text = config["text_cfg"]
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if key in text:
            text[key] = str(folder / text[key])
    if "hf_tokenizer_name" in text:
        write_tokenizer(folder / "words")
    if "hf_model_name" in text:
        write_tower(folder, Path(text["hf_model_name"]).name)
    path = folder / f"{family}.json"
    path.write_text(json.dumps(config))
    return path


def write_tower(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(TOWERS[name]))


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of letters and a few words, in the hub's form: 0 pads, 1 ends, 2 is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    pieces = ["<pad>", "</s>", "<unk>", *letters, *(f"##{letter}" for letter in letters), "red", "blue", "dress", "is"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
