"""Text that somebody may have typed, as each format shows it: nothing in it is obeyed by LaTeX or a spreadsheet.

For Markdown see :func:`benchmark.records.rows.plain`; HTML is escaped by its templates.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from benchmark.records.rows import plain

Value = str | int | float | bool | None

_FORMULA = re.compile(r"^[=+\-@\t\r]")
"""How a text begins that a spreadsheet would compute."""
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "·": r"$\cdot$"},
    **{"±": r"$\pm$", "×": r"$\times$", "≈": r"$\approx$", "≤": r"$\leq$", "≥": r"$\geq$", "ᵇ": r"$^{\mathrm b}$"},
    **{"✓": r"$\checkmark$", "…": r"\dots{}", '"': "''", "`": r"\textasciigrave{}"},
}
_MINUS = re.compile(r"(?<![\w.)])-(?=\.?\d)")
"""Before a number; LaTeX sets any other one as a hyphen."""


def literal(text: str) -> str:
    """What `plain` made safe for Markdown, as it was: every backslash there stands before what it protects."""
    return re.sub(r"\\(.)", r"\1", text)


def latex_escaped(text: str) -> str:
    """What `plain` made, in LaTeX as it reads; other letters than ASCII need an engine or encoding that knows them."""
    return "".join(_LATEX.get(sign, sign) for sign in literal(text))


def latex_numbers(text: str) -> str:
    """Such as "[-0.90, +5.14]", with minus signs."""
    return _MINUS.sub("$-$", latex_escaped(text))


def latex_typed(text: str) -> str:
    """Text that nobody has made `plain`."""
    return latex_escaped(plain(text))


def csv_text(rows: Sequence[Mapping[str, Value]], otherwise: str) -> str:
    """Rows of the same names under these; ``otherwise``: the one name where there are no rows."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [otherwise], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _never_a_formula(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _never_a_formula(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
