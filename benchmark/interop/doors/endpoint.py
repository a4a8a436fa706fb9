"""Embeddings of a server that speaks OpenAI's `/embeddings`, such as vLLM with VLM2Vec or another model of pictures.

Pictures go as data addresses in one of two forms: `messages` (vLLM's: one query is one message of a picture and a
text) or `input` (servers of dual encoders that take items {"image": …} and {"text": …}: the unit vectors of a query's
picture and text are added). A key is read from the environment variable OPENAI_API_KEY and goes to the named server
alone: no redirection is followed.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import mimetypes
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.interop.doors.door import OutsideModel, Rows, run_door
from benchmark.interop.doors.vlm2vec import INSTRUCTION, TARGET
from benchmark.structured_files import NotWellFormed, parse_json


class _Unredirected(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: a redirection is an error, since its target would get key and pictures."""


_OPENER = urllib.request.build_opener(_Unredirected)
_TRIES = 4
_BUSY = (429, 500, 502, 503, 504)
_SECONDS = 300


class Endpoint:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._key = options, os.environ.get("OPENAI_API_KEY", "")

    def embed_pictures(self, pictures: Sequence[Path]) -> Rows:
        if self._options.form == "input":
            return self._asked({"input": [{"image": _address(picture)} for picture in pictures]}, len(pictures))
        return np.concatenate([self._message(picture, self._options.target) for picture in pictures])

    def embed_queries(self, references: Sequence[Path], texts: Sequence[str]) -> Rows:
        if self._options.form == "input":
            words = self._asked({"input": [{"text": text} for text in texts]}, len(texts))
            sum_of_both: Rows = _unit(self.embed_pictures(references)) + _unit(words)
            return sum_of_both
        told = [self._options.instruction.replace("{text}", text) for text in texts]
        return np.concatenate([self._message(*each) for each in zip(references, told, strict=True)])

    def _message(self, picture: Path, text: str) -> Rows:
        content = [{"type": "image_url", "image_url": {"url": _address(picture)}}, {"type": "text", "text": text}]
        return self._asked({"messages": [{"role": "user", "content": content}]}, 1)

    def _asked(self, asked: dict[str, Any], count: int) -> Rows:
        """(count, d), in the order asked; raises UserError with what the server said."""
        body = {"model": self._options.model, "encoding_format": "float", **asked}
        answer = self._posted(json.dumps(body).encode())
        try:
            ordered = sorted(answer["data"], key=lambda item: item["index"])
            rows = np.array([item["embedding"] for item in ordered], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self._options.url}: answered without data, index and embedding of each") from None
        if len(rows) != count:
            raise UserError(f"{self._options.url}: answered {len(rows):,} embeddings for {count:,}")
        return rows

    def _posted(self, body: bytes) -> Any:
        url = f"{self._options.url.rstrip('/')}/embeddings"
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        headers = {"Content-Type": "application/json", **key}
        for tried in range(_TRIES):
            try:
                request = urllib.request.Request(url, body, headers)
                with _OPENER.open(request, timeout=_SECONDS) as response:
                    return parse_json(response.read().decode("utf-8"))
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or tried == _TRIES - 1:
                    told = " ".join(error.read(400).decode("utf-8", "replace").split())
                    raise UserError(f"{url}: answered {error.code} ({told})") from None
                time.sleep(2.0**tried)
            except (NotWellFormed, UnicodeDecodeError):
                raise UserError(f"{url}: answered what is no JSON; is it the address before /embeddings?") from None
            except (OSError, http.client.HTTPException) as error:
                told = " ".join(str(error).split())
                raise UserError(f"{url}: cannot be reached ({told}); is the server started?") from None
        raise AssertionError("the last try returns or raises")


def _address(picture: Path) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"


def _unit(rows: Rows) -> Rows:
    found: Rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found


def load(options: argparse.Namespace) -> OutsideModel:
    if not options.url.startswith(("http://", "https://")):
        raise UserError(f"--url {options.url}: begins with neither http:// nor https://")
    return Endpoint(options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://localhost:8000/v1", help="the address before /embeddings")
    parser.add_argument("--model", required=True, help="its name at the server")
    parser.add_argument("--form", choices=("messages", "input"), default="messages")
    parser.add_argument("--instruction", default=INSTRUCTION, help="of a query, in messages; {text} is its text")
    parser.add_argument("--target", default=TARGET, help="said of a gallery picture, in messages")


main = partial(run_door, __doc__ or "", add_arguments, load)

if __name__ == "__main__":
    raise SystemExit(main())
