"""Code from outside, called so that its faults are told: what it raises, that it exits, gives nothing, or changes the
whole program is one line that names file, method and function.

A plug-in's :class:`Specification` is wrapped once, where the registry gives it out; its stages and the methods
that they build are wrapped as they come. What our own code raises on the way stays what it is: a fault is the
plug-in's where its file stands in the traceback, or where what it handed over could not be built.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from benchmark.errors import UserError, described
from benchmark.method import FeatureInputs, Method, PixelInputs, RequiredFile, Specification, Stage

_METHOD_FUNCTIONS = (
    "encode_query", "encode_triplet", "encode_target", "encode_text_alone", "loss", "loss_parts", "score", "tokenize",
    "build_extra_state", "extra_state", "load_extra_state", "explain",
)  # fmt: skip

_DATASET_FUNCTIONS = ("LAYOUTS", "load", "present_splits")

Expected = tuple[Callable[[Any], bool], str]
"""Whether a result is what it should be, and what that is in words."""


def program_settings() -> dict[str, Any]:
    """What code can change for the whole program, by what it is called."""
    return {
        "torch's default type": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "whether torch keeps gradients": torch.is_grad_enabled(),
        "the working directory": os.getcwd(),
    }


def put_back(before: Mapping[str, Any]) -> list[str]:
    """Undo what was changed since; gives its names."""
    changed = [what for what, value in program_settings().items() if value != before[what]]
    for what in changed:
        _SETTERS[what](before[what])
    return changed


_SETTERS: Mapping[str, Callable[[Any], Any]] = {
    "torch's default type": torch.set_default_dtype,
    "torch's number of threads": torch.set_num_threads,
    "torch's deterministic mode": torch.use_deterministic_algorithms,
    "whether torch keeps gradients": torch.set_grad_enabled,
    "the working directory": os.chdir,
}


@dataclass(frozen=True)
class ForeignCode:
    """A file from outside, and the method or dataset of it."""

    path: Path
    name: str
    kind: Literal["method", "dataset"] = "method"

    def call(self, function: str, code: Callable[..., Any], *given: Any, expected: Expected | None = None) -> Any:
        """What the code gives. Raises UserError where it fails, exits, or gives something else than expected."""
        before = program_settings()
        try:
            result = code(*given)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            line = self._line(error)
            # What builds a method may fail where our own code calls it: a constructor of other parameters, say.
            if line is None and (function in _METHOD_FUNCTIONS or described(error) is not None):
                raise
            where = "in what is called for it" if line is None else f"line {line}"
            told = " ".join(str(error).split())[:300]
            how = "ends the program" if isinstance(error, SystemExit) else f"raises {type(error).__name__}: {told}"
            raise self._fault(function, f"{how} ({where}); --traceback shows more") from error
        finally:
            changed = put_back(before)
        if changed:
            raise self._fault(function, f"changes {changed[0]}; code from outside changes nothing but its own")
        if expected is not None and not expected[0](result):
            given_back = "nothing" if result is None else f"a {type(result).__name__}"
            raise self._fault(function, f"gives {given_back}; expected: {expected[1]}")
        return result

    def specification(self, given: Specification) -> Specification:
        """The same, with all that it calls told by file, method and function."""
        if not isinstance(given, Specification):
            raise self._fault("METHOD", f"is a {type(given).__name__}; expected: a Specification")
        stage = cache(self._stage)  # the same stage stays the same object

        def stages(*chosen: Any) -> tuple[Stage, ...]:
            found = self.call("stages", given.stages, *chosen, expected=_several(Stage, at_least=1))
            return tuple(stage(one) for one in found)

        own_networks, start = given.own_networks, _one_of("pretrained", "random")
        return replace(
            given,
            stages=stages,
            own_networks=None
            if own_networks is None
            else lambda settings: self.call("own_networks", own_networks, settings, expected=start),
            required_files=lambda settings: tuple(
                self.call("required_files", given.required_files, settings, expected=_several(RequiredFile))
            ),
            remarks=lambda settings: tuple(self.call("remarks", given.remarks, settings, expected=_several(str))),
        )

    def load_dataset(self, module: ModuleType, root: Path, splits: tuple[str, ...]) -> Any:
        """What the file's `load` reads under ``root``."""
        for function in _DATASET_FUNCTIONS:
            if not hasattr(module, function):
                raise self._fault(function, "is missing; datasets/README.md says what a file gives")
        return self.call("load", lambda: module.load(root, splits=splits), expected=_DATASET)

    def _stage(self, given: Stage) -> Stage:
        groups = _several(dict, at_least=1)
        return replace(
            given,
            build=lambda context: self._method(self.call("build", given.build, context, expected=_METHOD)),
            inputs=self._wrapped("inputs", given.inputs, _INPUTS),
            parameter_groups=self._wrapped("parameter_groups", given.parameter_groups, groups),
            optimiser=None if given.optimiser is None else self._wrapped("optimiser", given.optimiser),
            schedule=None if given.schedule is None else self._wrapped("schedule", given.schedule),
        )

    def _method(self, given: Method) -> Method:
        """The method, as of a class of the same name whose functions are told; a copy of it stays one."""
        own = type(given)
        if own.__module__.startswith("benchmark."):
            return given

        def told(name: str) -> Callable[..., Any]:
            # The class's own, not the instance's: a copy calls its own self.
            code, expected = getattr(own, name), _RESULTS.get(name)
            return lambda *given, **named: self.call(name, partial(code, **named), *given, expected=expected)

        # What it takes from Method as it is stays Method's, by which a dot product is told from other scores.
        names = [name for name in _METHOD_FUNCTIONS if getattr(own, name) is not getattr(Method, name)]
        given.__class__ = type(own.__name__, (own,), {name: told(name) for name in names})
        return given

    def _wrapped(self, function: str, code: Callable[..., Any], expected: Expected | None = None) -> Callable[..., Any]:
        return lambda *given: self.call(function, code, *given, expected=expected)

    def _line(self, error: BaseException) -> int | None:
        """The last line of the file in an error's traceback; None where the error is not of its making."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            lines.append(error.lineno)
        return next((line for line in reversed(lines) if line is not None), None)

    def _fault(self, function: str, told: str) -> UserError:
        return UserError(f"{self.path}: {self.kind} {self.name}, {function} {told}")


def _several(kind: type, at_least: int = 0) -> Expected:
    def fits(found: Any) -> bool:
        return isinstance(found, tuple | list) and len(found) >= at_least and all(isinstance(o, kind) for o in found)

    return fits, f"a tuple of {'one or more ' if at_least else ''}{kind.__name__}"


def _one_of(*values: str) -> Expected:
    return (lambda found: found in values), " or ".join(repr(value) for value in values)


def _are_tensors(found: Any) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(part, torch.Tensor) for part in found.values())


_INPUTS: Expected = (
    lambda found: isinstance(found, FeatureInputs | PixelInputs),
    "FeatureInputs or PixelInputs",
)
_METHOD: Expected = (lambda found: isinstance(found, Method), "a Method")
_DATASET: Expected = (lambda found: found is not None, "a Dataset")
_RESULTS: Mapping[str, Expected] = {
    "tokenize": (_are_tensors, "a dict of tensors, with a row for each text"),
    "extra_state": (lambda found: isinstance(found, Mapping), "a dict of plain values"),
}
