"""Tokenisers and vocabularies: the released codes' words and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark.methods.networks.vocabulary import Vocabulary, artemis_words, plain_words, treebank_words

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Is Blue, isn't it", ["is", "blue", ",", "is", "n't", "it"]),
        ("the dress's hem (longer)", ["the", "dress", "'s", "hem", "(", "longer", ")"]),
        ("I cannot see they're 'ford' 4:5", ["i", "can", "not", "see", "they", "'re", "'", "ford", "'", "4:5"]),
        ('has "love" on it', ["has", "``", "love", "''", "on", "it"]),
        ("red/white v-neck--no", ["red/white", "v-neck", "--", "no"]),
        ("no reddotmark", ["no", "reddotmark"]),
        ("  ", []),
    ],
)
def test_treebank_words_are_nltk_s(text: str, words: list[str]) -> None:
    assert treebank_words(text) == words


def test_plain_words_drop_punctuation_and_other_alphabets() -> None:
    assert plain_words("V-neck, women's café ") == ["vneck", "womens", "caf"]


def test_artemis_words_are_the_release_s() -> None:
    for caption, words in json.loads((GOLDEN / "artemis.json").read_text())["tokens"]:
        assert artemis_words(caption) == words


def test_first_appearance_or_alphabet_and_special_words() -> None:
    sentences = [["b", "a", "b"], ["c", "<and>", "a"]]
    assert Vocabulary.of(sentences).words == ("<UNK>", "b", "a", "c", "<and>")
    assert Vocabulary.of(sentences, order="alphabet").words == ("<UNK>", "<and>", "a", "b", "c")
    special = Vocabulary.of(sentences, special=("<pad>", "<and>", "<unk>"), unknown="<unk>")
    assert special.words == ("<pad>", "<and>", "<unk>", "b", "a", "c") and special.unknown == 2
    assert special.number("never seen") == 2


def test_rare_words_become_unknown_and_an_empty_text_has_one_word() -> None:
    vocabulary = Vocabulary.of([["red", "red", "rare"]])
    tokens, lengths = vocabulary.encode([["red", "rare"], [], ["other"]])
    assert tokens.tolist() == [[1, 2], [0, 0], [0, 0]] and lengths.tolist() == [2, 1, 1]
    assert vocabulary.encode([["red", "rare"]], least=2)[0].tolist() == [[1, 0]]


def test_it_survives_a_checkpoint() -> None:
    vocabulary = Vocabulary.of([["red", "blue"]], special=("<pad>", "<unk>"), unknown="<unk>")
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.as_json()))) == vocabulary
