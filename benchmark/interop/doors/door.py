"""What every door does: exported queries in, a file for `evaluate --embeddings` out.

It needs numpy and this package's own readers alone, so that it runs in an environment made for the other library
(`pip install --no-deps`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.progress import Progress, say
from benchmark.structured_files import NotWellFormed, parse_json, read_text

Rows = NDArray[np.float32]


class OutsideModel(Protocol):
    """A model as a door shows it. Rows are embeddings, (B, d); their norms do not matter."""

    def embed_pictures(self, pictures: Sequence[Path]) -> Rows: ...

    def embed_queries(self, references: Sequence[Path], texts: Sequence[str]) -> Rows: ...


@dataclass(frozen=True)
class ExportedQueries:
    """What `data export-queries` wrote: names and files of the gallery; ids, references' files and texts of queries."""

    names: tuple[str, ...]
    pictures: tuple[Path, ...]
    ids: tuple[str, ...]
    references: tuple[Path, ...]
    texts: tuple[str, ...]
    digest: str


def read_exported(file: Path) -> ExportedQueries:
    """Read a file of exported queries; raises UserError with the line that is none, or the first picture missing."""
    gallery: dict[str, Path] = {}
    asked: list[tuple[str, Path, str]] = []
    digests: set[str] = set()
    for number, text in enumerate(read_text(file).splitlines(), 1):
        try:
            line = parse_json(text)
            if "gallery" in line:
                gallery[str(line["gallery"])] = Path(line["path"])
            else:
                # Where a protocol asks with another picture than the reference, that one is embedded.
                picture = Path(line.get("stand_in_path", line["path"]))
                asked.append((str(line["query"]), picture, str(line["text"])))
                digests.add(str(line["queries_digest"]))
        except (NotWellFormed, KeyError, TypeError, AttributeError):
            raise UserError(f"{file}, line {number}: not of `data export-queries`; write it again with that") from None
    if not gallery or not asked or len(digests) != 1:
        found = f"{len(gallery):,} gallery pictures and {len(asked):,} queries of {len(digests)} exports"
        raise UserError(f"{file}: {found}; write one protocol's queries with `data export-queries`")
    for picture in (*gallery.values(), *(reference for _, reference, _ in asked)):
        if not picture.is_file():
            raise UserError(f"{picture}: no such picture; export the queries where the pictures are")
    ids, references, texts = zip(*asked, strict=True)
    return ExportedQueries(tuple(gallery), tuple(gallery.values()), ids, references, texts, digests.pop())


def embed_exported(model: OutsideModel, asked: ExportedQueries, output: Path, batch: int) -> None:
    """Embed all pictures and queries, ``batch`` at a time, with unit norm (the score is then the cosine).

    Nothing is written before all is there. Raises UserError where the model's rows are not what they must be.
    """
    gallery = _embedded("gallery", asked.names, batch, lambda part: model.embed_pictures(asked.pictures[part]))
    rows = _embedded(
        "queries", asked.ids, batch, lambda part: model.embed_queries(asked.references[part], asked.texts[part])
    )
    if rows.shape[1] != gallery.shape[1]:
        raise UserError(f"the model's queries have width {rows.shape[1]}, its pictures {gallery.shape[1]}")
    arrays: dict[str, Any] = {
        "queries": rows, "query_ids": asked.ids, "gallery": gallery, "gallery_ids": asked.names,
        "queries_digest": asked.digest,
    }  # fmt: skip
    with atomic_path(output) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    say(f"{output}: {len(asked.ids):,} queries, {len(asked.names):,} pictures, width {rows.shape[1]:,}; score it with "
        f"`python -m benchmark evaluate --embeddings {output} --dataset NAME --data-root DATA`")  # fmt: skip


def _embedded(what: str, names: Sequence[str], batch: int, embed: Callable[[slice], Rows]) -> Rows:
    parts = []
    with Progress(what, len(names)) as progress:
        for start in range(0, len(names), batch):
            part = slice(start, start + batch)
            rows = np.asarray(embed(part), dtype=np.float32)
            wanted = len(names[part])
            if rows.ndim != 2 or len(rows) != wanted:
                raise UserError(f"{what}: the model gave {rows.shape} for {wanted} of them, not ({wanted}, d)")
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            wrong = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
            if len(wrong):
                raise UserError(f"{what}: the embedding of {names[part][wrong[0]]} is zero or not finite")
            parts.append(rows / norms)
            progress.advance(wanted)
    return np.concatenate(parts)


def run_door(
    description: str, add_arguments: Callable[[argparse.ArgumentParser], None],
    load: Callable[[argparse.Namespace], OutsideModel], arguments: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """A door's command: its options and those of all; gives the exit status, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", type=Path, metavar="QUERIES.jsonl", help="written by `data export-queries`")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npz", help="for `evaluate --embeddings`")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="rows at a time, 16 by default")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.batch < 1:
        parser.error("--batch: at least 1")
    try:
        # What is wrong with the queries is told before a model is loaded.
        asked = read_exported(options.queries)
        model = load(options)
        # Whatever needs torch has imported it by now; this environment may have none.
        torch = sys.modules.get("torch")
        with torch.no_grad() if torch is not None else nullcontext():
            embed_exported(model, asked, options.output, options.batch)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def missing_library(name: str, remedy: str) -> UserError:
    return UserError(f"{name} is not installed here; {remedy}")
