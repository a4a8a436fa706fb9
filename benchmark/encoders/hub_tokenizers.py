"""Tokenizers and text towers' configurations of Hugging Face's hub that open_clip's architectures name: from disk only.

SigLIP, CLIPA, NLLB, mT5 and others read texts by a tokenizer of the hub, and some have a text tower whose sizes
stand in a `config.json` there. Both are folders of files, looked for under ``--assets-root`` (by the repository's
name, or owner and name) and in the hub's cache. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.backbone import BackboneFile
from benchmark.errors import UserError
from benchmark.options import assets_root as named_root

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json",
)  # fmt: skip
_CONFIGURATION = ("config.json",)
_READ = (
    *_TOKENIZER_FILES, *_CONFIGURATION, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "merges.txt",
)  # fmt: skip


@dataclass(frozen=True)
class HubFolder:
    """A folder of files of the hub's repository ``name``, or a folder of the user's own.

    ``what``: it is for; ``files``: any one of them has to be there.
    """

    name: str
    what: str
    files: tuple[str, ...]

    def find(self, assets_root: Path | None) -> Path | None:
        """The folder; None where it is not on this machine."""
        from huggingface_hub import try_to_load_from_cache

        own = [Path(self.name).expanduser()]
        roots = [root for root in (assets_root, named_root()) if root is not None]
        beneath = [root / name for root in roots for name in (self.name, self.name.rpartition("/")[2])]
        for place in (*own, *beneath):
            if any((place / file).is_file() for file in self.files):
                return place
        if self.name.count("/") != 1 or own[0].is_absolute():
            return None
        kept = (try_to_load_from_cache(self.name, file) for file in self.files)
        return next((Path(file).parent for file in kept if isinstance(file, str)), None)

    def listed(self, assets_root: Path | None) -> BackboneFile:
        """As a file that is read from outside."""
        found = self.find(assets_root)
        source = f"https://huggingface.co/{self.name}"
        root = assets_root or named_root()
        looked = f"in {root / self.name}" if root else "no --assets-root is given"
        missing = (
            f"{self.what}: {' or '.join(self.files)} of {self.name} is not on this machine ({looked}, nor in the "
            f"Hugging Face cache); get the small files of {source} and put them into {self.name}/ under --assets-root"
        )
        return BackboneFile(f"{self.what}, {source}", found, "" if found else missing)

    def small_files(self, assets_root: Path | None) -> dict[str, Path]:
        """What is read of it, by the place under an assets folder where it would be found again."""
        place = self.name.rpartition("/")[2] if Path(self.name).is_absolute() else self.name
        folder = self.require(assets_root)
        return {f"{place}/{name}": folder / name for name in _READ if (folder / name).is_file()}

    def require(self, assets_root: Path | None) -> Path:
        """The folder. Raises UserError where it is not on this machine."""
        found = self.listed(assets_root)
        if found.path is None:
            raise UserError(found.missing)
        return found.path


def hub_folders(name: str, config: Mapping[str, Any]) -> Iterator[HubFolder]:
    """What an architecture of open_clip's form reads of the hub beside its weights."""
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name"):
        yield HubFolder(text["hf_tokenizer_name"], f"tokenizer of {name}", _TOKENIZER_FILES)
    if text.get("hf_model_name"):
        yield HubFolder(text["hf_model_name"], f"sizes of the text tower of {name}", _CONFIGURATION)


def require_transformers(name: str) -> None:
    """Raises UserError where the package that reads the hub's tokenizers and towers is not installed."""
    if find_spec("transformers") is None:
        raise UserError(
            f"--backbone {name}: its texts are read by the package transformers, which is not installed; "
            "pip install 'cir-benchmark[hf]'"
        )


@dataclass(frozen=True)
class HubTokenizer:
    """Texts to tokens by a hub's tokenizer, which is read when first used."""

    folder: HubFolder
    architecture: str
    context: int
    arguments: tuple[tuple[str, Any], ...]
    assets_root: Path | None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64, padded to the context; longer texts are cut."""
        tokens: Tensor = self._loaded()(list(texts), context_length=self.context)
        return tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before it is cut."""
        tokenizer = self._loaded()
        clean: Callable[[str], str] = tokenizer.clean_fn
        return [len(tokenizer.tokenizer(clean(text)).input_ids) for text in texts]

    def _loaded(self) -> Any:
        require_transformers(self.architecture)
        return _read_tokenizer(_found(self.folder, self.assets_root), self.context, self.arguments)


@lru_cache
def _found(folder: HubFolder, assets_root: Path | None) -> Path:
    """Looked for once, not for every batch."""
    return folder.require(assets_root)


@lru_cache
def _read_tokenizer(folder: Path, context: int, arguments: tuple[tuple[str, Any], ...]) -> Any:
    from open_clip.tokenizer import HFTokenizer

    try:
        return HFTokenizer(str(folder), context_length=context, **dict(arguments))
    except Exception as error:  # damaged files make tokenizers and sentencepiece raise almost anything
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: no tokenizer can be read ({type(error).__name__}: {told}); get it again") from None
