"""An HTML page that is whole in itself: its own style and script stand in it, and its policy allows these two alone.

Texts that come from outside are escaped by the template, or are JSON in which nothing can end its element.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from benchmark.files import format_json


def sealed_page(package: str, name: str, policy: str, **values: Any) -> tuple[str, str]:
    """The page made of ``name.html``, ``.css`` and ``.js`` of a package's templates, and its content security policy.

    ``policy``: what it allows beside its own style and script. The template gets ``values``, ``style``, ``script``
    and ``policy``; ``data`` among the values as JSON.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unmarked"] = _unmarked
    templates = files(package) / "templates"
    style, script = ((templates / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    whole = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        f"base-uri 'none'; {policy}"
    )
    values["data"] = _inert(values["data"])
    template = environment.get_template(f"{name}.html")
    return template.render(style=Markup(style), script=Markup(script), policy=whole, **values), whole


def _inert(data: Any) -> Markup:
    """JSON inside a script element: nothing in it can end the element, or be read as a comment or an entity."""
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", format_json(data)))


def _digest(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def _unmarked(text: str) -> str:
    """A text that was made plain for Markdown, as it is to be read here."""
    return re.sub(r"\\([\\`*<~_(#>+-])", r"\1", text)
