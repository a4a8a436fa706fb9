"""Text becomes values in one place: what is no JSON or TOML, or out of bounds, is one line with file and place."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from benchmark.errors import UserError
from benchmark.structured_files import (
    DEEPEST,
    DoubledKey,
    NotWellFormed,
    OutOfBounds,
    parse_json,
    parse_toml,
    read_json,
    read_text,
    read_toml,
    typed,
)

IN_BOUNDS = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(some.characters()),  # lone surrogates among them
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(IN_BOUNDS)
@settings(max_examples=150, deadline=None)
def test_what_is_in_bounds_comes_back_as_it_was(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False, indent=1)) == value


@given(some.text(max_size=60) | some.text('{}[]":,0123456789eE+-.\\ntrufalse ', max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_values_or_one_line(text: str) -> None:
    for parse, theirs in ((parse_json, json.loads), (parse_toml, tomllib.loads)):
        try:
            found = parse(text)
        except NotWellFormed as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert found == theirs(text)


OUT_OF_BOUNDS = {
    "deep lists": ("[" * 100_000 + "]" * 100_000, "more than 100 levels"),
    "lists that Python reads and digests cannot": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "more than 100 levels"),
    "deep objects": ('{"a":' * 50_000 + "1" + "}" * 50_000, "more than 100 levels"),
    "5,000 digits": ('{"name": "1",\n "seed": ' + "9" * 5000 + "}", "beyond 64 bits at line 2, column 10"),
    "digits in a text": ('["' + "9" * 5000 + '", -' + "9" * 5000 + "]", "beyond 64 bits at line 1, column 5006"),
    "65 bits": ('{"a": {"b": [1, 18446744073709551616]}}', "beyond 64 bits at entry 'a.b.1'"),
    "NaN": ('[{"lr": NaN}]', "nan at entry '0.lr' is no finite number"),
    "infinity": ("-Infinity", "-inf at the top is no finite number"),
    "a number that overflows": ('{"lr": 1e999}', "inf at entry 'lr' is no finite number"),
}


@pytest.mark.parametrize(("text", "problem"), OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_json_out_of_bounds_is_told_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(file)
    told = str(caught.value)
    assert told.startswith(f"{file}: ") and problem in told and len(told.splitlines()) == 1 and len(told) < 400
    with pytest.raises(OutOfBounds):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1, "a": 1}', "line 1, column 1"),
        ('[1,\n {"b": [{"c": 1, "c": 2}]}]', "line 2, column 9"),
        ('{"1": ["a"],\n "x": {"k": {}, "l": 1, "k": 2}}', "line 2, column 7"),
    ],
)
def test_a_key_that_stands_twice_is_told_with_its_object(text: str, where: str) -> None:
    with pytest.raises(DoubledKey, match=rf"the object at {where} has the key '.' twice"):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\na = 2\nb = 1", "not valid TOML .*overwrite.*line 2"),
        ("a = nan", "nan at entry 'a' is no finite number"),
        ("[b]\na = [1.0, -inf]", "-inf at entry 'b.a.1'"),
        ("a = " + "[" * 50_000, "more than 100 levels"),
        (".".join("a" * 3000) + " = 1", "more than 100 levels"),
        ("x = 1\na = " + "9" * 5000, "beyond 64 bits at line 2, column 5"),
        ("a = 99999999999999999999", "beyond 64 bits at entry 'a'"),
        ('a = "\\ud800"', "not valid TOML"),
    ],
)
def test_toml_out_of_bounds_is_told_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_toml(file)
    assert str(caught.value).startswith(f"{file}: ") and len(str(caught.value).splitlines()) == 1


def test_a_byte_order_mark_and_lone_surrogates_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xed\xa0\x80", "b": "\\udcff"}')
    assert read_json(tmp_path / "a.json") == {"a": "\ud800", "b": "\udcff"}
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(tmp_path / "a.toml") == {"a": 1}


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    # A socket's address is shorter than the folders of tests.
    os.chdir(path.parent)
    socket.socket(socket.AF_UNIX).bind(path.name)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (_folder, "a folder, not a file"),
    "a pipe": (os.mkfifo, "a pipe, not a file"),
    "a socket": (_socket, "a socket, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/null"), "a device, not a file"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "other text": (lambda path: path.write_bytes(b'"\xff"'), r"not UTF-8 text \(byte 1\)"),
    "UTF-16": (lambda path: path.write_text("{}", encoding="utf-16"), r"not UTF-8 text \(byte 0\)"),
    "too large": (lambda path: path.write_text("[" + "1," * 100 + "1]"), "203 bytes, and such a file has no more than 50"),
}


@pytest.mark.parametrize(("make", "problem"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_text_of_that_size_is_told(
    make: Callable[[Path], object], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.json")
    for read in (read_json, read_text, read_toml):
        with pytest.raises(UserError, match=problem):
            read(tmp_path / "a.json", 50)


def test_names_that_no_file_can_have_are_told() -> None:
    for name in ("a\0b", "a" * 300):
        with pytest.raises(UserError, match="cannot be read|no name of a file"):
            read_json(Path(name))


def test_wrong_json_is_told_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [1,\n 2')
    with pytest.raises(UserError, match="not valid JSON at line 2, column 3 .*get it again"):
        read_json(file)
    with pytest.raises(UserError, match="; write it again"):
        read_json(file, remedy="write it again")


@dataclass(frozen=True)
class Pointer:
    file: str
    sizes: list[int]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"file": "a"}, "entry 'sizes'"),
        ({"file": "a", "sizes": [1, "x"]}, "entry 'sizes.1'"),
        ({"file": "a", "sizes": [], "more": 1}, "entry 'more' is not known"),
        ([1], "pointer.json: "),
        (None, "pointer.json: "),
    ],
)
def test_values_of_another_type_are_told_with_their_entry(content: Any, problem: str) -> None:
    with pytest.raises(UserError, match=f"{problem}.*; write it again$") as caught:
        typed(Pointer, content, "pointer.json", "write it again")
    assert len(str(caught.value).splitlines()) == 1
    assert typed(Pointer, {"file": "a", "sizes": [1]}, "pointer.json", "") == Pointer("a", [1])
