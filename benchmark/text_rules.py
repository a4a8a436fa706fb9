"""Text rules: how raw captions become the strings that a text encoder sees.

A rule says three things: how a triplet's captions become training entries, what string an entry
shows in an epoch (it may draw), and which strings a query is asked with in evaluation. Its *mode*
is part of a table's column, since it changes what is measured (`joined`, `per-caption`,
`both-orders`, `single`, `template`, `corrected`). Marks of direction are a method's own and leave the mode as it is.

Sources: CLIP4Cir's and SPIRIT's releases for `joined` and the caption cleaning, VAL's for
`per-caption` and the punctuation words, ARTEMIS' for `both-orders`, TG-CIR's and DQU-CIR's for `corrected`,
DQU-CIR's for what stands behind a caption of the reference, Bi-Blip4CIR's for `directed-…`, MagicLens' and
BGE-VL's templates for `with-concept`, Pic2Word's for `last-first`, SEARLE's and LinCIR's for `averaged-orders`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.dataset import Captions, CategoryCaptions, ConceptCaptions, SideTexts
from benchmark.errors import Inapplicable, UserError, unknown_name

CORRECTED = "corrected"
"""The name of the rule whose texts depend on dictionaries."""

_EDGES = ".?, "
_PUNCTUATION_WORDS = ((".", "dotmark"), ("?", "questionmark"), ("&", "andmark"), ("*", "starmark"))


_DIRECTED = "directed-"
_FORWARD, _BACKWARD = "FORWARD", "BACKWARD"
_MARKED = ("as-is", "capitalised", "template", "joined")
"""Rules that have a form with marks of direction."""

_SIGNS_AS_BLANKS = str.maketrans(dict.fromkeys(string.punctuation, " "))


@dataclass(frozen=True)
class TextRule:
    """``entries``: captions → training entries; ``draw``: entry → string; ``queries``: captions → strings.

    ``beside``: another rule by whose queries the same weights are evaluated, too. ``describes``: a caption of the
    reference picture is part of the text; ``corrects``: words are replaced by a dictionary. ``draw_reversed``: entry →
    string that asks the target for the reference, drawn apart from the other; only training reads it.
    """

    name: str
    mode: str
    summary: str
    entries: Callable[[Captions], tuple[Captions, ...]]
    draw: Callable[[Captions, np.random.Generator], str]
    queries: Callable[[Captions], tuple[str, ...]]
    beside: str = ""
    describes: bool = False
    draw_reversed: Callable[[Captions, np.random.Generator], str] | None = None

    @property
    def corrects(self) -> bool:
        return self.mode == CORRECTED


def trim(caption: str) -> str:
    """Remove the characters `.?, ` at both ends (CLIP4Cir's cleaning)."""
    return caption.strip(_EDGES)


def punctuation_words(caption: str) -> str:
    """Strip blanks and spell out `.`, `?`, `&`, `*` in place (TIRG's and VAL's cleaning)."""
    caption = caption.strip()
    for sign, word in _PUNCTUATION_WORDS:
        caption = caption.replace(sign, word)
    return caption


def joined(first: str, second: str) -> str:
    """"A and b": both trimmed, the first one capitalised in Python's sense (the rest is lowered)."""
    return f"{trim(first).capitalize()} and {trim(second)}"


def corrected(caption: str, words: Mapping[str, str]) -> str:
    """Lower-cased, ASCII's punctuation as blanks, each whole word replaced once by what the dictionary says."""
    return " ".join(words.get(word, word) for word in caption.lower().translate(_SIGNS_AS_BLANKS).split())


def _corrected(captions: Captions) -> str:
    """All captions, corrected, joined by " and "; an empty one stays. Raises UserError without a dictionary."""
    if not isinstance(captions, CategoryCaptions) or captions.dictionary is None:
        raise UserError("text rule corrected: these captions have no dictionary; use it with FashionIQ or Shoes")
    return " and ".join(corrected(caption, captions.dictionary.words) for caption in captions)


def side_texts_of(captions: Captions) -> SideTexts:
    """What is known of a pair beside its captions. Raises Inapplicable where nothing is."""
    if not isinstance(captions, CategoryCaptions) or captions.side is None:
        raise Inapplicable(
            "the texts of this data or split come without captions of their pictures and words to show; no released "
            "files have them; choose another one, or a text rule without a caption"
        )
    return captions.side


def _with_concept(name: str, mode: str, template: str) -> TextRule:
    """Queries say what reference and target share, a hint that other modes do not have; training triplets have none,
    and show the caption as it stands."""

    def queries(captions: Captions) -> tuple[str, ...]:
        if not isinstance(captions, ConceptCaptions):
            raise UserError(f"text rule {name}: these captions have no shared concept; use it with CIRCO")
        return (template.format(concept=captions.concept, caption=captions[0]),)

    summary = f"'{template}', with what reference and target share"
    return TextRule(name, mode, summary, _whole, lambda captions, _: captions[0], queries)


SENTENCES = " <or> "
"""Between the sentences of one query that a method encodes one by one and averages."""


def sentences_of(text: str) -> tuple[str, ...]:
    """The sentences of a query's string, one unless a rule made several."""
    return tuple(text.split(SENTENCES))


def _last_first(captions: Captions) -> str:
    return " and ".join(reversed(captions))


def _averaged_orders(captions: Captions) -> str:
    trimmed = [trim(caption) for caption in captions]
    orders = (trimmed, trimmed[::-1]) if len(trimmed) > 1 else (trimmed,)
    return SENTENCES.join(" and ".join(order) for order in orders)


def marked(caption: str, mark: str) -> str:
    """The mark in front of the caption and behind every lower-case "and" in it, inside words, too."""
    return "and".join(f" [{mark}] {piece}" for piece in caption.split("and"))


def directed(rule: TextRule) -> TextRule:
    """The rule on captions that bear the mark of their direction (Bi-Blip4CIR).

    Captions are marked before the rule cleans and joins them, so that no " and " of a rule's own is followed by one.
    """

    def of(mark: str, captions: Captions) -> Captions:
        return tuple(marked(caption, mark) for caption in captions)

    return TextRule(
        f"{_DIRECTED}{rule.name}", rule.mode, f"{rule.summary}; captions marked [{_FORWARD}], reversed [{_BACKWARD}]",
        rule.entries,
        lambda captions, rng: rule.draw(of(_FORWARD, captions), rng),
        lambda captions: rule.queries(of(_FORWARD, captions)),
        draw_reversed=lambda captions, rng: rule.draw(of(_BACKWARD, captions), rng),
    )  # fmt: skip


def with_marks(name: str) -> str:
    """The name of a rule's form with marks of direction; "" where it has none."""
    found = name if name.startswith(_DIRECTED) else f"{_DIRECTED}{name}"
    return found if found in TEXT_RULES else ""


def without_marks(name: str) -> str:
    return name.removeprefix(_DIRECTED)


def _whole(captions: Captions) -> tuple[Captions, ...]:
    return (captions,)


def _each(captions: Captions) -> tuple[Captions, ...]:
    """Each caption up to its first `;`, spelt out; what is empty then is left out."""
    cut = (punctuation_words(caption.split(";")[0]) for caption in captions)
    return tuple((caption,) for caption in cut if caption)


def _both_orders(captions: Captions) -> tuple[Captions, ...]:
    return (captions, captions[::-1]) if len(captions) == 2 else (captions,)


def _capitalised(caption: str) -> str:
    return trim(caption).capitalize()


def _draw_joined(captions: Captions, rng: np.random.Generator) -> str:
    """One of "A and b", "B and a", "A", "B" with equal chance."""
    if len(captions) == 1:
        return _capitalised(captions[0])
    a, b = captions[:2]
    forms = (joined(a, b), joined(b, a), _capitalised(a), _capitalised(b))
    return forms[int(rng.integers(4))]


def _joined_queries(captions: Captions) -> tuple[str, ...]:
    if len(captions) == 1:
        return (_capitalised(captions[0]),)
    return (joined(captions[0], captions[1]),)


def _ordered_pair(captions: Captions) -> str:
    return " <and> ".join(captions)


def _of_one_caption(name: str, mode: str, summary: str, cleaned: Callable[[str], str]) -> TextRule:
    """Training and evaluation alike show the first caption, cleaned."""
    return TextRule(
        name, mode, summary,
        _whole, lambda captions, _: cleaned(captions[0]), lambda captions: (cleaned(captions[0]),),
    )  # fmt: skip


def _behind_a_caption(
    name: str, mode: str, summary: str, joint: str, modification: Callable[[Captions], str]
) -> TextRule:
    """DQU-CIR's unification of the query as a text; the same in training and evaluation."""

    def unified(captions: Captions) -> str:
        return f"{side_texts_of(captions).picture_text}{joint}{modification(captions)}"

    return TextRule(
        name, mode, summary, _whole, lambda captions, _: unified(captions), lambda captions: (unified(captions),),
        describes=True,
    )  # fmt: skip


_PLAIN = (
    _of_one_caption("as-is", "single", "the caption as it stands", str),
    _of_one_caption("capitalised", "single", "trimmed of `.?, ` and capitalised", _capitalised),
    _of_one_caption(
        "punctuation-words", "single", "the caption with `.?&*` spelt out as words", punctuation_words
    ),
    _of_one_caption("template", "template", "'replace a with b' as it stands", str),
    TextRule(
        "joined", "joined", "training draws 'A and b', 'B and a', 'A' or 'B'; evaluation asks 'A and b'",
        _whole, _draw_joined, _joined_queries,
    ),
    TextRule(
        "per-caption", "per-caption", "every non-empty caption is a triplet and a query of its own",
        _each, lambda captions, _: captions[0], lambda captions: tuple(entry[0] for entry in _each(captions)),
    ),
    TextRule(
        "both-orders", "both-orders", "both captions in either order, two triplets and two queries per entry",
        _both_orders,
        lambda captions, _: _ordered_pair(captions),
        lambda captions: tuple(_ordered_pair(entry) for entry in _both_orders(captions)),
        beside="file-order",
    ),
    TextRule(
        "file-order", "joined", "both-orders in training; evaluation asks with both captions in file order alone",
        _both_orders,
        lambda captions, _: _ordered_pair(captions),
        lambda captions: (_ordered_pair(captions),),
    ),
    TextRule(
        "last-first", "joined", "both captions as they stand, the second one first (Pic2Word)",
        _whole, lambda captions, _: _last_first(captions), lambda captions: (_last_first(captions),),
    ),
    TextRule(
        "averaged-orders", "joined", "both captions in either order, two sentences of one query that are averaged",
        _whole, lambda captions, _: _averaged_orders(captions), lambda captions: (_averaged_orders(captions),),
    ),
)

_READ_FILES = (
    TextRule(
        CORRECTED, CORRECTED, "lower case, no punctuation, words by a released dictionary, file order; no draw",
        _whole, lambda captions, _: _corrected(captions), lambda captions: (_corrected(captions),),
    ),
    _behind_a_caption("caption-corrected", CORRECTED, "a caption of the reference, ', but ' and the corrected "
                      "text", ", but ", _corrected),
    # No blank behind "but": so does DQU-CIR's release on CIRR, and the tokens are others then.
    _behind_a_caption("caption-as-is", "single", "a caption of the reference, ', but' and, without a blank, the "
                      "caption as it stands", ", but", lambda captions: captions[0]),
    _behind_a_caption("caption-template", "template", "the reference's description, ', but ' and 'replace a with "
                      "b'", ", but ", lambda captions: captions[0]),
    _with_concept("with-concept", "with-concept-magiclens", "find {concept} but {caption}"),
    _with_concept("with-concept-bge-vl", "with-concept-bge-vl", "Find a picture that also {concept}, but {caption}."),
)  # fmt: skip

# What reads files that a user may not have comes last, so that no mode's name stands for it.
TEXT_RULES: dict[str, TextRule] = {
    rule.name: rule for rule in (*_PLAIN, *(directed(rule) for rule in _PLAIN if rule.name in _MARKED), *_READ_FILES)
}


def text_rule(name: str) -> TextRule:
    """The rule of that name; raises UserError naming the nearest."""
    if name not in TEXT_RULES:
        raise unknown_name("text rule", name, TEXT_RULES)
    return TEXT_RULES[name]


def rule_of(name: str) -> TextRule:
    """The rule of that name, or the first one of that mode; raises UserError naming the nearest."""
    by_mode = {rule.mode: rule for rule in reversed(TEXT_RULES.values())}
    if name not in TEXT_RULES and name not in by_mode:
        raise unknown_name("text mode", name, {*TEXT_RULES, *by_mode})
    return TEXT_RULES.get(name) or by_mode[name]
