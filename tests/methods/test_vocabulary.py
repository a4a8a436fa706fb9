"""Tokenisers and vocabularies: the released codes' words and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark.methods.networks.vocabulary import (
    Vocabulary,
    artemis_words,
    plain_words,
    read_word_vectors,
    treebank_words,
)

from benchmark.errors import UserError

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


def lines(*words: str, width: int = 3) -> str:
    return "".join(f"{word} " + " ".join(f"{number}.5" for number in range(width)) + "\n" for word in words)


@pytest.mark.parametrize(
    "text",
    [
        lines(",", "red", ". . .", "to name@domain.com", "at name@domain.com", "red x@y.com"),
        "4 3\n" + lines("red", "blue"),
        "2000000 3\r\n" + lines("a", "red").replace("\n", " \r\n"),
        lines("a\x85b", "c\xa0d", "\u2028", "red"),
        lines("5", "red", "7 8"),
    ],
    ids=["GloVe's words with blanks", "word2vec's header", "fastText's", "odd blanks", "numbers as words"],
)
def test_word_vectors_are_read_in_every_text_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(text.encode())
    found = read_word_vectors(str(tmp_path / "v.txt"), ("<unk>", "red", "to", "at", "4", "."), 3)
    assert {word: vector.tolist() for word, vector in found.items()} == {"red": [0.5, 1.5, 2.5]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (lines("red", width=4), "line 1: 4 numbers instead of 3; .*method.word_width"),
        ("1 4\n" + lines("blue", width=4), "line 2: 4 numbers instead of 3"),
        (lines("red", width=2), "line 1: 2 numbers instead of 3"),
        (lines("blue") + lines("red", width=2), "line 2: 2 numbers instead of 3"),
        (lines("blue") + "red 1 2 x\n", "line 2: a word and numbers are expected"),
        (lines("blue") + "red 1 nan 2\n", "line 2: a number is not finite"),
        ("\x00\x01\x02", "line 1: "),
        ("1 3\n\x00\x01", "line 2: "),
    ],
)
def test_word_vectors_of_another_width_or_form_are_told_with_their_line(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_word_vectors(str(tmp_path / "v.txt"), ("red",), 3)
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_vocabulary_is_told() -> None:
    good = Vocabulary.of([["red", "blue"]]).as_json()
    assert Vocabulary.from_json(good).as_json() == good
    for wrong in ({}, {**good, "words": None}, {**good, "counts": [1]}, {**good, "unknown": 9}, {**good, "more": 1}):
        with pytest.raises(UserError, match="the vocabulary beside the weights: .*damaged"):
            Vocabulary.from_json(wrong)
