"""CLIP's own tokenizer, whole or of its first merges only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from open_clip.tokenizer import SimpleTokenizer

from benchmark.encoders.backbone_table import CLIP_VOCABULARY, LEAST_VOCABULARY

_START, _END = "<start_of_text>", "<end_of_text>"


def clip_tokenizer(vocabulary: int) -> SimpleTokenizer:
    """CLIP's tokenizer, or one of its first merges only: they are ordered by frequency.

    The end token keeps the highest number, since CLIP's text encoder finds it by that. A larger vocabulary
    (CoCa's base has one) is used as far as CLIP's goes.
    """
    return _of_size(min(vocabulary or CLIP_VOCABULARY, CLIP_VOCABULARY))


def count_tokens(texts: Sequence[str], vocabulary: int) -> list[int]:
    """Tokens of each text before it is cut, those of start and end included."""
    tokenizer = clip_tokenizer(vocabulary)
    return [len(tokenizer.encode(text)) + len((_START, _END)) for text in texts]


@lru_cache
def _of_size(vocabulary: int) -> SimpleTokenizer:
    tokenizer = SimpleTokenizer()
    if vocabulary == CLIP_VOCABULARY:
        return tokenizer
    kept = vocabulary - len((_START, _END))
    names = [*list(tokenizer.encoder)[:kept], _START, _END]
    tokenizer.encoder = {name: number for number, name in enumerate(names)}
    tokenizer.decoder = dict(enumerate(names))
    merges = vocabulary - LEAST_VOCABULARY
    tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < merges}
    tokenizer.vocab_size = vocabulary
    tokenizer.sot_token_id, tokenizer.eot_token_id = kept, kept + 1
    tokenizer.all_special_ids = [kept, kept + 1]
    return tokenizer
