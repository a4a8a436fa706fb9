"""A small page on this machine alone, to try queries with.

The server is waitress: pure Python, no dependencies, with limits on headers, bodies, connections and idle time that
the standard library's `http.server` leaves to its user. What a client may name is a number of the gallery, never a
path; what it may send is a text and the bytes of a picture. A request that names another host, as a page in the
browser would by a name of its own that leads here, is refused.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from waitress.server import create_server

from benchmark.data.pictures import open_picture
from benchmark.errors import UserError, format_failure
from benchmark.progress import say
from benchmark.report.sealed_page import sealed_page
from benchmark.search.searching import Search, fitted
from benchmark.search.uploads import LARGEST_UPLOAD, decoded_upload

HOST = "127.0.0.1"
_PAGE, _THUMBNAIL = 24, 256
_STATUS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 500: "Error"}

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class _Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


class SearchPage:
    """The WSGI application: the page, thumbnails of the gallery by number, and searches."""

    def __init__(self, search: Search, title: str) -> None:
        self._search = search
        self.hosts: frozenset[str] = frozenset()
        gallery = search.gallery
        self._html, self._policy = sealed_page(
            "benchmark.search", "search", "img-src 'self' blob: data:; connect-src 'self'; form-action 'none'",
            title=title, unreadable=list(gallery.unreadable), data={"count": len(gallery.names)},
        )  # fmt: skip
        self._thumbnail = lru_cache(maxsize=1024)(self._make_thumbnail)

    def __call__(self, environ: Mapping[str, Any], start: StartResponse) -> Iterable[bytes]:
        try:
            kind, content = self._answer(environ)
            status = 200
        except (_Refused, UserError) as error:
            status = error.status if isinstance(error, _Refused) else 400
            kind, content = "application/json", _json({"error": str(error)})
        except Exception as error:  # one client's request never ends the server
            say(f"a request failed: {format_failure(error)}")
            status, kind, content = 500, "application/json", _json({"error": "the search failed; see the terminal"})
        start(f"{status} {_STATUS[status]}", [
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", self._policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ])  # fmt: skip
        return [content]

    def _answer(self, environ: Mapping[str, Any]) -> tuple[str, bytes]:
        host, method, path = environ.get("HTTP_HOST", ""), environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if host not in self.hosts or environ.get("HTTP_ORIGIN", f"http://{host}") != f"http://{host}":
            raise _Refused(403, "this page answers its own address alone")
        wanted = "POST" if path == "/search" else "GET"
        if method != wanted:
            raise _Refused(405, f"ask with {wanted}")
        asked = _asked(environ.get("QUERY_STRING", ""))
        if path == "/":
            return "text/html; charset=utf-8", self._html.encode("utf-8")
        if path == "/gallery":
            first = _number(asked.get("from", "0"))
            names = self._search.gallery.names[first : first + _PAGE]
            found = [{"number": first + i, "name": name} for i, name in enumerate(names)]
            return "application/json", _json({"pictures": found})
        if named := re.fullmatch(r"/picture/([0-9]{1,9})", path):
            number = int(named[1])
            if number >= len(self._search.gallery.names):
                raise _Refused(404, "no such picture")
            return "image/jpeg", self._thumbnail(number)
        if path == "/search":
            return "application/json", self._searched(environ, asked)
        raise _Refused(404, "no such page")

    def _searched(self, environ: Mapping[str, Any], asked: Mapping[str, str]) -> bytes:
        text = asked.get("text", "")
        content = environ["wsgi.input"].read(LARGEST_UPLOAD + 1)
        if ("reference" in asked) == bool(content):
            raise UserError("send one picture, or the number of one of the gallery")
        reference = _number(asked["reference"]) if "reference" in asked else decoded_upload(content)
        hits = self._search.best(reference, text)
        return _json({"hits": [{"number": h.number, "name": h.name, "score": round(h.score, 6)} for h in hits]})

    def _make_thumbnail(self, number: int) -> bytes:
        stream = io.BytesIO()
        fitted(open_picture(self._search.gallery.paths[number]), _THUMBNAIL).save(stream, "JPEG", quality=85)
        return stream.getvalue()


def make_search_server(search: Search, title: str, port: int) -> Any:
    """A server that `run()` starts and `close()` ends; ``port`` 0 takes a free one, which `effective_port` tells.

    Raises UserError where the port is taken.
    """
    # Thumbnails wait for one of the threads, which is nothing to warn of.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    page = SearchPage(search, title)
    try:
        server: Any = create_server(
            page,
            host=HOST,
            port=port,
            threads=4,
            connection_limit=64,
            channel_timeout=30,
            max_request_header_size=32 * 1024,
            max_request_body_size=LARGEST_UPLOAD,
            ident="",
        )
    except OSError as error:
        raise UserError(f"--port {port}: cannot be used ({error.strerror}); choose another one") from None
    page.hosts = frozenset(f"{name}:{server.effective_port}" for name in (HOST, "localhost"))
    return server


def _asked(query: str) -> dict[str, str]:
    try:
        found = parse_qs(query, keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError:
        raise _Refused(400, "the address cannot be read") from None
    return {name: values[0] for name, values in found.items()}


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _Refused(400, f"'{text[:20]}' is no number of a picture")
    return int(text)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8")
