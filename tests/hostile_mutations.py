"""Bad inputs made of a valid one: bytes, texts, JSON trees, arrays, tensors and pictures, each changed by chance.

Every function takes its chance from the generator that it is given, so that a seed gives an input again.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import struct
import zipfile
from collections.abc import Callable, MutableMapping, MutableSequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 1e308, -1e-300, float("nan"), float("inf"), "", " ", "0", "nan",
    "../../../x", "/etc/passwd", "~", "a/b", "a\\b", "x" * 100_000, "a|b\nc", "<script>alert(1)</script>", "\ud800", "\0",
    "é\u202e", [], {}, [[]], [None], {"": 0}, [1, "a"], {"a": {"b": []}},
)  # fmt: skip

HOSTILE_WORDS = (
    "", " ", "0", "-1", "1e400", "nan", "inf", str(10**30), "1.5", "true", "None", "../..", "/dev/null", "/", ".", "~",
    "all", "x" * 5000, "é", "\udcff", "a b", "=", "a=b", "--", "[", "{}", "'", "NAME=", "=PATH", "cuda:99", "%s", "\n",
)  # fmt: skip


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, emptied, flipped, overwritten, doubled or replaced by noise."""
    place, end = sorted(rng.randrange(len(content) + 1) for _ in range(2)) if content else (0, 0)
    noise = rng.randbytes(min(end - place, 4096) or 1)
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 8, 200))):
        if flipped:
            # Headers stand at the beginning, and are where a byte tells most.
            flipped[rng.randrange(min(len(flipped), rng.choice((64, 1024, len(flipped)))))] ^= 1 << rng.randrange(8)
    return rng.choice(
        (
            content[:place],
            b"",
            bytes(flipped),
            bytes(flipped),
            content[:place] + noise + content[place + len(noise) :],
            content[:place] + bytes(end - place) + content[end:],
            content[:place] + content[place:end] * 2 + content[end:],
            content + noise,
            rng.randbytes(rng.choice((1, 7, 512))),
        )
    )


def spoil_text(text: str, rng: random.Random) -> bytes:
    """A text with one thing in it that most readers do not expect."""
    lines = text.splitlines(keepends=True)
    place = rng.randrange(len(text) + 1)
    numbers = list(re.finditer(r"\d+", text)) or [re.match("", text)]
    number = rng.choice(numbers)
    assert number is not None
    digits = rng.choice(("9" * 5000, "-1", "1e999", "NaN", str(2**70), "0x10", "1.5"))
    line = rng.randrange(len(lines)) if lines else 0
    spoilt = rng.choice(
        (
            text[:place],
            text[:place] + rng.choice("{}[]\",:\0\n\t#='") + text[place:],
            text[: number.start()] + digits + text[number.end() :],
            "".join(lines[: line + 1] + lines[line:]),
            "".join(lines[:line] + lines[line + 1 :]),
            "\ufeff" + text,
            "[" * 100_000 + text,
            '{"a":' * 5000 + "1" + "}" * 5000,
            text.replace("\n", "\r"),
            text + text,
            text[:place] + "\\ud800" + text[place:],
        )
    )
    content = spoilt.encode("utf-8", "surrogatepass")
    return content[:place] + b"\xff\xfe" + content[place:] if rng.random() < 0.1 else content


def spoil_tree(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON-like value with one entry of it replaced, left out, doubled, renamed or exchanged."""
    whole = copy.deepcopy(value)
    holders: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict | list) and node:
            holders.append(node)
            for child in node.values() if isinstance(node, dict) else node[:50]:
                walk(child)

    walk(whole)
    if not holders or rng.random() < 0.03:
        return rng.choice(HOSTILE_VALUES)
    holder = rng.choice(holders)
    hostile = rng.choice(HOSTILE_VALUES)
    if isinstance(holder, MutableMapping):
        key = rng.choice(list(holder))
        what = rng.choice(("value", "value", "value", "gone", "renamed", "further"))
        if what == "value":
            holder[key] = hostile
        elif what == "further":
            holder[rng.choice(("", "x", "__proto__", f"{key} "))] = hostile
        else:
            old = holder.pop(key)
            if what == "renamed":
                holder[rng.choice((key.upper(), f"{key}_", "../x", "\ud800"))] = old
    elif isinstance(holder, MutableSequence):
        at = rng.randrange(len(holder))
        what = rng.choice(("value", "value", "gone", "twice", "order"))
        if what == "value":
            holder[at] = hostile
        elif what == "twice":
            holder.insert(at, copy.deepcopy(holder[at]))
        elif what == "gone":
            del holder[at]
        else:
            holder.reverse()
    return whole


def spoil_json(text: str, rng: random.Random) -> bytes:
    """A JSON file spoilt as a text or as a tree."""
    if rng.random() < 0.4:
        return spoil_text(text, rng)
    return json.dumps(spoil_tree(json.loads(text), rng)).encode("utf-8", "surrogatepass")


def spoil_array(array: Any, rng: random.Random) -> Any:
    """An array of another type, shape, order or content."""
    changes: tuple[Callable[[Any], Any], ...] = (
        lambda a: a[: len(a) // 2],
        lambda a: a[:0],
        lambda a: a[..., None],
        lambda a: a.reshape(-1),
        lambda a: a[0],
        lambda a: a[:, :0] if a.ndim > 1 else a[:0],
        lambda a: np.concatenate([a, a]),
        lambda a: a[::-1],
        lambda a: a.astype(object),
        lambda a: a.astype("S") if a.dtype.kind == "U" else a.astype(np.complex128),
        lambda a: a.astype("U3") if a.dtype.kind == "U" else a.astype(np.int8),
        lambda a: np.array([["x"] * 3]),
        lambda a: np.full_like(a, a[0]),
        lambda a: a if a.dtype.kind == "U" else np.where(np.arange(a.size).reshape(a.shape) == 3, np.nan, a),
        lambda a: a if a.dtype.kind == "U" else a.astype(np.float64) * 1e300,
        lambda a: a if a.dtype.kind == "U" else np.zeros_like(a),
        lambda a: np.array(a.tolist() + [a.tolist()[0]]),
        lambda a: np.zeros(3, dtype=[("a", "f4"), ("b", "U3")]),
        lambda a: np.array(["2020-01-01"], dtype="M8[D]"),
    )
    return rng.choice(changes)(array)


def write_spoilt_npz(path: Path, arrays: dict[str, Any], rng: random.Random) -> None:
    """An npz file with one array spoilt, left out, renamed, or declared otherwise than it is."""
    arrays, key = dict(arrays), rng.choice(list(arrays))
    what = rng.choice(("array", "array", "array", "gone", "renamed", "further", "declared", "bytes"))
    if what == "array":
        arrays[key] = spoil_array(arrays[key], rng)
    elif what == "gone":
        del arrays[key]
    elif what == "renamed":
        arrays[rng.choice(("dress/" + key, key.upper(), "../" + key, "a/b/" + key))] = arrays.pop(key)
    elif what == "further":
        arrays[rng.choice(("x", "queries_digest", "labels", "dress/" + key))] = arrays[key]
    np.savez(path, **arrays)
    if what == "declared":
        shape = rng.choice(((10**9, 4), (2**62, 2), (-1, 3), (), (3,) * 40, (1, 1)))
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{key}.npy", head.getvalue() + b"\0" * 64)
    elif what == "bytes":
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))


def spoil_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with bytes or its header (names, types, shapes, offsets, metadata) spoilt."""
    if rng.random() < 0.4:
        return spoil_bytes(content, rng)
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    if "__metadata__" in header and rng.random() < 0.6:
        metadata = header["__metadata__"]
        key = rng.choice(list(metadata))
        try:
            metadata[key] = json.dumps(spoil_tree(json.loads(metadata[key]), rng))
        except ValueError:
            metadata[key] = str(rng.choice(HOSTILE_VALUES))
    else:
        header = spoil_tree(header, rng)
    spoilt = json.dumps(header).encode("utf-8", "surrogatepass")
    said = rng.choice((len(spoilt), len(spoilt), len(spoilt), 2**63, len(spoilt) + 3, 0))
    return struct.pack("<Q", said) + spoilt + content[8 + size :]


def write_spoilt_state(path: Path, tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    """A file of torch.save: tensors of other types and shapes, other things in their place, code, or noise."""

    class Code:
        def __reduce__(self) -> Any:
            return os.system, ("touch pwned",)

    tensors, key = dict(tensors), rng.choice(list(tensors))
    tensor = tensors[key]
    changes: tuple[Callable[[], Any], ...] = (
        tensor.int, tensor.half, tensor.tolist, Code, lambda: None, lambda: "x", lambda: {"a": tensor},
        lambda: tensor.to(torch.complex64), lambda: tensor[..., None], lambda: tensor.reshape(-1)[:1],
        lambda: torch.full_like(tensor, torch.nan, dtype=torch.float32), lambda: tensor.float().to_sparse(),
    )  # fmt: skip
    tensors[key] = rng.choice(changes)()
    if rng.random() < 0.2:
        del tensors[key]
    whole = rng.choice((tensors, tensors, {"state_dict": tensors}, {"CLIP": tensors}, list(tensors), Code(), tensor))
    torch.save(whole, path, _use_new_zipfile_serialization=rng.random() < 0.8)
    if rng.random() < 0.3:
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))


def spoil_picture(path: Path, rng: random.Random) -> None:
    """A picture file in place of a good one: damaged, of another form, of a strange size, or no file at all."""
    content = path.read_bytes()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    path.unlink()
    what = rng.choice(("bytes", "bytes", "bytes", "size", "form", "mode", "pipe", "folder", "loop", "text", "narrow"))
    if what == "bytes":
        path.write_bytes(spoil_bytes(content, rng))
    elif what == "size":
        # The header of a PNG: width and height of what follows.
        width, height = rng.choice(((80_000_000, 1), (65_000, 65_000), (0, 5), (2**31 - 1, 2**31 - 1)))
        path.write_bytes(content[:16] + struct.pack(">II", width, height) + content[24:])
    elif what == "narrow":
        picture.resize(rng.choice(((1, 1), (1, 400), (3000, 1)))).save(path, "PNG")
    elif what == "form":
        picture.save(path, rng.choice(("GIF", "BMP", "TIFF", "WEBP", "ICO", "EPS", "PDF")))
    elif what == "mode":
        picture.convert(rng.choice(("1", "L", "P", "CMYK", "I", "F", "LA"))).save(path, "TIFF")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path.name)
    else:
        path.write_text(rng.choice(("<svg/>", "%!PS-Adobe-3.0 EPSF-3.0\n(touch pwned) system", "GIF89a", "P6 9 9 255 ")))
