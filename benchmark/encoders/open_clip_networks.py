"""open_clip's families beyond plain CLIP, for methods on global features: SigLIP, EVA, CoCa, ViTamin, MobileCLIP, PE, …

Notation: B batch, S input side, L context length, d embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_clip.coca_model import CoCa
from open_clip.convert import convert_state_dict
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from benchmark.backbone import Backbone, BackboneIdentity, TextContext
from benchmark.encoders.clip_tokens import clip_tokenizer, count_tokens
from benchmark.encoders.hub_tokenizers import HubTokenizer, hub_folders, require_transformers
from benchmark.encoders.preprocessing import Preprocessing

_CONTEXT = 77


class OpenClipBackbone(Backbone):
    """Any network of open_clip's with an image and a text encoder; ``clip`` has open_clip's names inside."""

    preprocessing: Preprocessing

    def __init__(
        self,
        clip: nn.Module,
        config: Mapping[str, Any],
        preprocessing: Preprocessing,
        identity: BackboneIdentity,
        assets_root: Path | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.preprocessing = preprocessing
        self.identity = identity
        self._config, self._assets_root = config, assets_root

    def digested_state(self) -> Mapping[str, Tensor]:
        return open_clip_state(self.clip)

    @property
    def width(self) -> int:
        """d."""
        return int(self._config["embed_dim"])

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, d), not normalised."""
        encoded: Tensor = self.clip.encode_image(pixels, normalize=False)  # type: ignore[operator]
        return encoded

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, d), not normalised."""
        encoded: Tensor = self.clip.encode_text(tokens, normalize=False)  # type: ignore[operator]
        return encoded

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64, padded to the context; longer texts are cut. Raises UserError where files are missing."""
        hub = self._hub_tokenizer
        if hub is not None:
            return hub(texts)
        tokens: Tensor = clip_tokenizer(self._vocabulary)(list(texts), context_length=self._context_length)
        return tokens

    @property
    def text_context(self) -> TextContext:
        hub = self._hub_tokenizer
        vocabulary = self._vocabulary
        count = hub.count if hub is not None else lambda texts: count_tokens(texts, vocabulary)
        return TextContext(self.identity.name, self._context_length, count)

    @property
    def files_beside(self) -> Mapping[str, Path]:
        folders = hub_folders(self.identity.name, self._config)
        return {place: path for f in folders for place, path in f.small_files(self._assets_root).items()}

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """The picture side is `visual`, the text side `text` or all that is no picture's; CoCa's decoder is neither."""
        if hasattr(self.clip, "text"):
            return {"image": ("clip.visual.",), "text": ("clip.text.",)}
        names = [name for name, _ in self.clip.named_parameters()]
        text = (f"clip.{name}" for name in names if not name.startswith(("visual.", "logit_")))
        return {"image": ("clip.visual.",), "text": tuple(text)}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Scale and shift of the pretraining's loss, and CoCa's decoder of captions."""
        still = ("clip.logit_scale", "clip.logit_bias", "clip.text_decoder.")
        names = [name for name, _ in self.named_parameters()]
        return tuple(beginning for beginning in still if any(name.startswith(beginning) for name in names))

    @property
    def _context_length(self) -> int:
        return int(self._config["text_cfg"].get("context_length", _CONTEXT))

    @property
    def _vocabulary(self) -> int:
        return int(self._config["text_cfg"].get("vocab_size", 0))

    @property
    def _hub_tokenizer(self) -> HubTokenizer | None:
        name, text = self.identity.name, self._config["text_cfg"]
        if not text.get("hf_tokenizer_name"):
            return None
        folder = next(iter(hub_folders(name, self._config)))
        arguments = tuple(sorted(text.get("tokenizer_kwargs", {}).items()))
        if text.get("tokenizer_mode"):
            arguments = (*arguments, ("tokenizer_mode", text["tokenizer_mode"]))
        return HubTokenizer(folder, name, self._context_length, arguments, self._assets_root)


def open_clip_state(clip: nn.Module) -> dict[str, Tensor]:
    """The state dict with scale and shift as the scalars that they are in published files."""
    state: dict[str, Tensor] = clip.state_dict()
    return {name: t.reshape(()) if name in ("logit_scale", "logit_bias") else t for name, t in state.items()}


def build_network(
    name: str, config: Mapping[str, Any], quick_gelu: bool, assets_root: Path | None
) -> CLIP | CustomTextCLIP | CoCa:
    """The network of a configuration, float32, its weights by torch's generator; scale and shift have one entry.

    Raises UserError where the sizes of a text tower have to be read and are not on disk.
    """
    parts = {key: dict(config[key]) for key in ("vision_cfg", "text_cfg", "multimodal_cfg") if key in config}
    # Weights come from one file alone, and nothing is fetched.
    parts["vision_cfg"]["timm_model_pretrained"] = False
    hub_tower = parts["text_cfg"].get("hf_model_name")
    if hub_tower:
        require_transformers(name)
        *_, folder = hub_folders(name, config)
        parts["text_cfg"] |= {"hf_model_name": str(folder.require(assets_root)), "hf_model_pretrained": False}
    common: dict[str, Any] = {
        "embed_dim": config["embed_dim"],
        **parts,
        "quick_gelu": quick_gelu,
        "nonscalar_logit_scale": True,
        **{key: config[key] for key in ("init_logit_scale", "init_logit_bias") if key in config},
    }
    kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP if config.get("custom_text") or hub_tower else CLIP
    network: CLIP | CustomTextCLIP | CoCa = kind(**common)
    _resize_input(network.visual, parts["vision_cfg"]["image_size"])
    return network


def _resize_input(visual: nn.Module, side: int | list[int]) -> None:
    """timm's networks start at a size of their own, whatever the configuration asks for."""
    if not isinstance(visual, TimmModel) or not hasattr(visual.trunk, "set_input_size"):
        return
    wanted = (side, side) if isinstance(side, int) else tuple(side)
    if tuple(visual.trunk.default_cfg["input_size"][-2:]) != wanted:
        visual.set_input_size(wanted)


def with_own_names(clip: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the network's names: MobileCLIP's release, and CLIPs whose text tower lay at the top."""
    converted: dict[str, Tensor] = convert_state_dict(clip, dict(state))
    if "positional_embedding" in converted and hasattr(clip, "text"):
        converted = convert_to_custom_text_state_dict(converted)
    expected = clip.state_dict().keys()
    # A buffer of numbers in order, which older files of transformers' towers hold.
    return {n: t for n, t in converted.items() if n in expected or not n.endswith(".position_ids")}
