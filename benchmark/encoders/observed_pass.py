"""What a network does with its weights and between its layers, seen in a forward pass.

Names and the order of definition do not tell which layer reads what; the operations of a pass do. A tensor is known
by its identity, and every operation of torch on it is seen, whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class _Made:
    """What a layer gave, which is held, so that its identity stays its own; the layers that read it, and whether
    anything else did."""

    tensor: Tensor
    maker: nn.Module
    readers: set[nn.Module] = field(default_factory=set)
    seen_elsewhere: bool = False


class ObservedPass(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations on a network's weights, and on what its layers of the given classes give.

    Layers are of exactly these classes, each of one tensor in and one out, and without other layers inside; one with
    hooks is left out, since these may look at what it gives or change it.
    """

    def __init__(self, network: nn.Module, half: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._half = half
        # A weight, or a view of weights, by its identity: which weights it is of.
        self._weights = {id(t): frozenset([id(t)]) for t in (*network.parameters(), *network.buffers())}
        self._views: list[Tensor] = []
        self._rounded: set[int] = set()
        self._read: set[int] = set()
        self._used_elsewhere: set[int] = set()
        self._current: nn.Module | None = None
        self._made: list[_Made] = []
        self._latest: dict[int, _Made] = {}
        self._sources: dict[nn.Module, set[nn.Module | None]] = {}

    @property
    def rounded(self) -> set[int]:
        """Identities of the weights that autocast, or the network, rounds to half, and that nothing reads in full."""
        return self._rounded - self._read

    def follower(self, layer: nn.Module) -> nn.Module | None:
        """The one layer that reads what this one gives, where nothing else looks at it, that layer reads nothing else,
        and neither's weights are used outside of it; None where there is no such layer."""
        made = [one for one in self._made if one.maker is layer]
        readers = {reader for one in made for reader in one.readers}
        if len(readers) != 1 or any(one.seen_elsewhere or not one.readers for one in made):
            return None
        reader = readers.pop()
        own = {id(p) for part in (layer, reader) for p in part.parameters()}
        return reader if self._sources[reader] == {layer} and not own & self._used_elsewhere else None

    def gave(self, output: Tensor) -> None:
        """What the network returns is read by somebody."""
        if id(output) in self._latest:
            self._latest[id(output)].seen_elsewhere = True

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outcome = function(*args, **(kwargs or {}))
        if function.namespace == "prim":  # asks where a tensor lies
            return outcome
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            made = self._latest.get(id(tensor))
            if made is not None and self._current not in made.readers:
                made.seen_elsewhere = True
        of_weights = [self._weights.get(id(tensor), frozenset[int]()) for tensor in tensors]
        weights = frozenset[int]().union(*of_weights)
        if not weights:
            return outcome
        own = () if self._current is None else self._current.parameters()
        self._used_elsewhere |= weights - {id(parameter) for parameter in own}
        if function is torch.ops.aten._to_copy.default and outcome.dtype == self._half:
            self._rounded |= weights
        # Weights in another order, or side by side: rounding them before gives the same.
        elif function.is_view or (function is torch.ops.aten.cat.default and all(of_weights)):
            for view in tree_leaves(outcome):
                self._weights[id(view)] = weights
                self._views.append(view)
        else:
            self._read |= weights
        return outcome

    def watch(self, layer: nn.Module, stack: ExitStack) -> None:
        """Until the stack is left."""
        stack.callback(layer.register_forward_pre_hook(self._enters).remove)
        stack.callback(layer.register_forward_hook(self._leaves).remove)

    def _enters(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._current = layer
        made = self._latest.get(id(arguments[0])) if arguments else None
        self._sources.setdefault(layer, set()).add(made.maker if made is not None else None)
        if made is not None:
            made.readers.add(layer)

    def _leaves(self, layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        self._current = None
        # One that works in place gives the tensor that it was given, which is from here on what it made.
        self._made.append(_Made(output, layer))
        self._latest[id(output)] = self._made[-1]


@contextmanager
def observed(network: nn.Module, half: torch.dtype, layers: Sequence[type[nn.Module]]) -> Iterator[ObservedPass]:
    """Passes of the network inside are seen; they run under autocast to ``half``, without gradients."""
    seen, device = ObservedPass(network, half), next(network.parameters()).device
    with ExitStack() as stack:
        for module in network.modules():
            if type(module) in layers and not module._forward_hooks and not module._forward_pre_hooks:
                seen.watch(module, stack)
        # With its cache, a weight that was rounded before would be read again out of sight.
        stack.enter_context(torch.autocast(device.type, half, cache_enabled=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(seen)
        yield seen
