"""Whether weights fit a network, and what is most likely wrong where they do not.

Names and shapes are compared before anything is copied. Where they differ the cause is derived:
from the sizes that differ (another width, another vocabulary), and from the names, which are held
against a table of every network on the shelf.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.structured_files import read_toml

Shapes = Mapping[str, tuple[int, ...]]

SHOWN = 10
LEAST_NAMES = 8
"""Fewer names are those of a plain layer or two, which tell nothing."""

KNOWN_NETWORKS = Path(__file__).with_name("known_networks.toml")
"""(title, name patterns) of CLIP and of each method as its defaults build it; a test keeps it so."""

_LEAST_PATTERNS = 5
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_HUGGING_FACE = ("vision_model.", "text_model.")


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a module, every tensor and no other; numbers are cast to the module's type.

    A tensor of one entry fits whether it is a scalar or a vector (CLIP's logit scale is stored both
    ways). Raises UserError as :func:`require_fit` does; the module is then as it was.
    """
    require_module_fits(module, state, source)
    own = module.state_dict()
    module.load_state_dict({name: state[name].reshape(tensor.shape) for name, tensor in own.items()})


def require_module_fits(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Hold names, shapes and kinds of number of weights against a module, which may have no memory.

    Raises UserError as :func:`require_fit` does, and where numbers would be cut: whole or complex ones are no weights.
    """
    own = module.state_dict()
    tables = frozenset(f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding))
    require_fit(shapes_of(own), shapes_of(state), source, tables)
    require_kinds(own, state, source)


def require_kinds(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError where a weight is no floating-point number, or a counter is none that counts."""
    wrong = [
        f"{name} is {_dtype(found[name])} where {_dtype(tensor)} is expected"
        for name, tensor in expected.items()
        if (tensor.is_floating_point(), tensor.is_complex())
        != (found[name].is_floating_point(), found[name].is_complex())
    ]
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"{source}: {len(wrong)} {'tensor is' if len(wrong) == 1 else 'tensors are'} of another kind of number: "
            f"{'; '.join(wrong[:SHOWN])}{more}. They would be cut; save the weights as floating-point numbers (of a "
            "quantised model: those that it was made from)"
        )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def require_fit(
    expected: Shapes, found: Shapes, source: str, word_tables: frozenset[str] = frozenset()
) -> None:
    """Raise UserError where names or shapes differ: the first ten of them, their number, the likeliest cause.

    ``word_tables`` names the tensors with a row per word of a vocabulary.
    """
    problems = list(_problems(expected, found))
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{source}: {len(problems)} {'tensor does' if len(problems) == 1 else 'tensors do'} not fit: "
            f"{'; '.join(problems[:SHOWN])}{more}. {likely_cause(expected, found, word_tables)}"
        )


def _problems(expected: Shapes, found: Shapes) -> Iterator[str]:
    yield from (f"{name} is missing" for name in expected if name not in found)
    yield from (f"{name} is not expected" for name in found if name not in expected)
    for name in _misshapen(expected, found):
        yield f"{name} is {found[name]} where {expected[name]} is expected"


def _misshapen(expected: Shapes, found: Shapes) -> list[str]:
    return [name for name in expected if name in found and not _fits(found[name], expected[name])]


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return found == wanted or (set(found) | set(wanted)) <= {1}


def likely_cause(expected: Shapes, found: Shapes, word_tables: frozenset[str] = frozenset()) -> str:
    """One sentence: what the weights most likely are, from names and sizes."""
    other = _another_network(expected, found)
    if other:
        return f"Most likely another method's: the names are those of {other}"
    # TIRG calls a part of its own text_model, too.
    if any(name.startswith(_HUGGING_FACE) for name in found.keys() - expected.keys()):
        return "The names are Hugging Face transformers'; get the weights in OpenAI's or open_clip's form"
    prefix = _prefix_of(expected, found)
    if prefix:
        return f"The names stand behind '{prefix}'; save these tensors alone, without it"
    shared = expected.keys() & found.keys()
    if not shared:
        return "No name is shared: most likely these are the weights of another kind of model"
    misshapen = _misshapen(expected, found)
    if misshapen:
        return _cause_of_sizes(expected, found, misshapen, word_tables)
    if len(shared) == len(expected):
        return "Most likely the file holds more than this model: save the model's own tensors alone"
    return "Most likely the file holds one part of the model only, or is of another depth or architecture"


def _prefix_of(expected: Shapes, found: Shapes) -> str:
    """What stands before every expected name in the file; "" where that is nothing or not all are there."""
    if not expected:
        return ""
    first = min(expected)
    prefixes = (name.removesuffix(first) for name in found if name.endswith(f".{first}"))
    return next((prefix for prefix in prefixes if all(prefix + name in found for name in expected)), "")


def _cause_of_sizes(expected: Shapes, found: Shapes, misshapen: list[str], word_tables: frozenset[str]) -> str:
    if all(name in word_tables and found[name][1:] == expected[name][1:] for name in misshapen):
        name = misshapen[0]
        return (
            f"Most likely of another dataset: its vocabulary has {found[name][0]:,} words, "
            f"and the one here {expected[name][0]:,}"
        )
    ratios: Counter[Fraction] = Counter()
    for name in misshapen:
        if len(found[name]) == len(expected[name]):
            sizes = zip(found[name], expected[name], strict=True)
            ratios.update({Fraction(a, b) for a, b in sizes if a != b and a and b})
    if ratios and ratios.most_common(1)[0][1] > len(misshapen) // 2:
        ratio = float(ratios.most_common(1)[0][0])
        return (
            f"Most likely of another width: the sizes that differ are {ratio:g} times those here; choose the "
            "backbone or the settings that they were made with"
        )
    return "Most likely these are the weights of another architecture or width; `--backbone` or the settings name it"


def _another_network(expected: Shapes, found: Shapes) -> str:
    """The known network whose names agree with those found clearly better than the expected ones do; "" for none."""
    if len(found) < LEAST_NAMES:
        return ""
    names = name_patterns(found)
    mine = _agreement(names, name_patterns(expected))
    if mine > 0.9:
        return ""
    best, title = max(((_agreement(names, its), title) for title, its in _known_networks()), default=(0.0, ""))
    return title if best > max(mine + 0.1, 0.6) else ""


def name_patterns(names: Iterable[str]) -> frozenset[str]:
    """Tensor names with * for the numbers of layers, so that depth makes no difference."""
    return frozenset(_NUMBER.sub("*", name) for name in names)


@cache
def _known_networks() -> list[tuple[str, frozenset[str]]]:
    """(title, name patterns) of every network in `known_networks.toml`, and of each of its parts alone.

    Official files hold a part, under its own names.
    """
    known: list[tuple[str, frozenset[str]]] = []
    for network in read_toml(KNOWN_NETWORKS)["network"]:
        title, patterns = network["title"], network["names"]
        known.append((title, frozenset(patterns)))
        for part in sorted({name.partition(".")[0] for name in patterns if "." in name}):
            names = frozenset(name.removeprefix(f"{part}.") for name in patterns if name.startswith(f"{part}."))
            if len(names) >= _LEAST_PATTERNS:
                known.append((title, names))
    return known


def _agreement(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(len(a | b), 1)
