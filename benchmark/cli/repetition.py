"""Repeating a record's run: its command again, and both numbers side by side, after what differs."""

from __future__ import annotations

import argparse
import io
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import TYPE_CHECKING

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.records.record import Record

_OWN_FOLDERS = ("output", "cache", "resume", "overwrite", "from_record", "traceback", "verbose")
"""What a record's command says of the one who ran it."""
_LIBRARIES = ("python", "torch", "deepspeed", "open_clip", "timm", "numpy", "pillow")


def repeated_options(record: Record, given: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of a record's run; what is ``given`` beside `--from-record` stands above them.

    Raises UserError where the record says no command of `run`, or one of another version.
    """
    from benchmark.records.identity import EACH

    category = record.identity.category
    if category is not None and category.name == EACH:
        raise UserError("--from-record: joined of runs on one category each; repeat these, and join them again")
    try:
        words = shlex.split(record.command)
    except ValueError:  # a quotation that does not end
        words = []
    if words[:4] != ["python", "-m", "benchmark", "run"]:
        raise UserError(f"--from-record: '{record.command}' is no command of `run`; repeat it as it was made")
    try:
        with redirect_stderr(io.StringIO()):
            found = parser.parse_args(words[4:])
    except SystemExit:
        raise UserError(f"--from-record: this version does not know the command '{record.command}'") from None
    if found.from_record:
        # Its command says nothing of the settings that the first record had.
        raise UserError(f"--from-record: this run repeated another one; name that, {found.from_record}")
    data = record.identity.data
    assert data is not None
    for name in _OWN_FOLDERS:
        setattr(found, name, getattr(given, name, None))
    found.method, found.dataset, found.ablations = [record.method], [data.name], False
    found.variant = [record.identity.variant] if record.identity.variant else None
    if record.identity.seed is not None:
        found.seed = [record.identity.seed]
    if found.backbone and len(found.backbone) > 1 and not given.backbone:
        found.backbone = [_backbone_of(record, found)]
    found.category = [category.name] if category is not None else None
    found.noise = [record.identity.noise.share] if record.identity.noise else None
    found.demo = (data.is_demo and not given.data_root) or None
    for name, value in vars(given).items():
        if value is not None and value != parser.get_default(name):
            setattr(found, name, value)
    return found


def _backbone_of(record: Record, found: argparse.Namespace) -> str:
    """Which of a command's backbones is the record's."""
    from benchmark.encoders.backbone_table import backbone_label
    from benchmark.options import make_options

    encoder = record.identity.encoder
    for name in found.backbone:
        own = make_options(method="", dataset="", backbone=name)
        if encoder is not None and backbone_label(own.backbone) == encoder.name:
            if (own.weights or found.weights or encoder.weights) == encoder.weights:
                return str(name)
    raise UserError(f"--from-record: none of {', '.join(found.backbone)} is the record's backbone; name it, too")


def differences(old: Record, new: Record) -> Iterator[str]:
    """What is not the same in two runs, the most telling first: code, data, encoder, settings, libraries, machine."""
    from benchmark.records.record import run_key, seedless_identity
    from benchmark.records.rows import flattened

    yield from _pair("code", _code(old), _code(new))
    mine, theirs = old.identity, new.identity
    if mine.data is not None and theirs.data is not None:
        yield from _pair("data", mine.data.fingerprint[:12], theirs.data.fingerprint[:12])
    if mine.encoder is not None and theirs.encoder is not None:
        yield from _pair("encoder's weights at the start", mine.encoder.digest[:12], theirs.encoder.digest[:12])
    if run_key(old) != run_key(new):
        before, now = (dict(flattened(seedless_identity(record))) for record in (old, new))
        told = ("data.fingerprint", "encoder.digest")
        for name in sorted({*before, *now} - set(told)):
            yield from _pair(name, str(before.get(name, "none"))[:60], str(now.get(name, "none"))[:60])
    for name in _LIBRARIES:
        yield from _pair(name, getattr(old.environment, name), getattr(new.environment, name))
    for name in ("platform", "device", "world_size", "threads"):
        yield from _pair(name, getattr(old.environment, name), getattr(new.environment, name))


def format_repetition(old: Record, new: Record) -> str:
    """What differs, then the numbers of both runs side by side, markdown."""
    from benchmark.records.layout import listed, pipe_table, short_name

    told = list(differences(old, new)) or ["nothing: code, data, encoder, settings, libraries and machine are the same"]
    now = {(result.key, result.weights_from): result for result in new.results}
    lines = []
    for result in old.results:
        other = now.get((result.key, result.weights_from))
        for metric, value in result.metrics.items():
            again = other.metrics.get(metric) if other is not None else None
            shown = ["", ""] if again is None else [f"{again:.2f}", f"{again - value:+.2f}"]
            lines.append([f"{result.key}, {result.weights_from}", short_name(metric), f"{value:.2f}", *shown])
    heads = ["column, weights", "metric", "record", "now", "difference"]
    table = pipe_table([heads], lines, ["left", "left", "right", "right", "right"])
    return f"Repeated. What differs from the record:\n\n{listed(told)}\n{table}"


def _pair(name: str, old: object, new: object) -> Iterator[str]:
    if old != new:
        yield f"{name}: {old} in the record, {new} now"


def _code(record: Record) -> str:
    code = record.code
    return f"version {code.version}, commit {(code.commit or 'none')[:12]}{', changed' if code.dirty else ''}"
