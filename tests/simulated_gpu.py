"""A GPU that computes on the host: its tensors have values, claim to be on "cuda", and mix with none of the host's.

For code that needs values (ranks, features) and is to run there. Training has none of this: autograd's backward pass
asks for the device itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import Mock, patch

import torch
import torch.nn.utils.rnn as rnn
from fake_gpu import GPU, M
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmark.encoders.preprocessing import per_channel
from benchmark.features import loader
from benchmark.records import environment

_HOST = torch.device("cpu")
_MOVES = ("aten::_to_copy", "aten::copy_")
_TAKES_INDEX = ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_")


class _There(Tensor):
    """A tensor of the GPU; ``values`` are the same on the host."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> _There:
        made: Any = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=GPU,
        )  # fmt: skip
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


class _Gpu(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with unset_fake_temporarily():
            return _computed(function, args, kwargs or {})


def _computed(function: Any, args: Any, kwargs: Any) -> Any:
    leaves, device = tree_leaves((args, kwargs)), kwargs.get("device")
    there = [leaf for leaf in leaves if isinstance(leaf, _There)]
    name = function.name()
    if name not in (*_MOVES, *_TAKES_INDEX) and there:
        strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, _There) and leaf.ndim]
        if strangers:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but one is on the host")
    known = {id(leaf.values): leaf for leaf in there}
    plain_args, plain = tree_map(lambda leaf: leaf.values if isinstance(leaf, _There) else leaf, (args, kwargs))
    plain |= {name: value for name, value in {"device": _HOST, "pin_memory": False}.items() if plain.get(name)}
    outcome = function(*plain_args, **plain)
    if name == "aten::copy_":
        return args[0]
    if name == "aten::_to_copy":
        # What only changes its device must not stay the same memory.
        outcome = outcome.clone() if outcome is plain_args[0] else outcome
    stays = torch.device(device).type == "cuda" if device is not None else bool(there)

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not stays:
            return leaf
        return known[id(leaf)] if id(leaf) in known else _There(leaf)

    return tree_map(placed, outcome)


@contextmanager
def simulated_gpu() -> Iterator[torch.device]:
    """What is called within may compute on the device that it gives."""
    # Torch asks for a real GPU where tensors are made on one, but not within its own mode for fake ones.
    with ExitStack() as stack:
        stack.callback(per_channel.cache_clear)
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_Gpu())
        # cuDNN's layers and a GPU's fused attentions are operations that the host has not.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(patch.object(torch.cuda, "mem_get_info", lambda device: (2**36, 2**36)))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for name, placed in (("lstm", slice(None)), ("gru", slice(None)), ("_pack_padded_sequence", slice(1))):
            stack.enter_context(patch.object(rnn._VF, name, _on_the_host(getattr(rnn._VF, name), placed)))
        yield GPU


def _on_the_host(function: Any, placed: slice) -> Any:
    """A recurrent layer's whole computation, of whose outcomes some are on the GPU where its first input is."""

    def call(first: Tensor, *others: Any) -> tuple[Tensor, ...]:
        if not isinstance(first, _There):
            return tuple(function(first, *others))
        assert all(isinstance(leaf, _There) for leaf in tree_leaves(others[1:2]) if isinstance(leaf, Tensor))
        plain = tree_map(lambda leaf: leaf.values if isinstance(leaf, _There) else leaf, (first, *others))
        with unset_fake_temporarily():
            outcomes = list(function(*plain))
        outcomes[placed] = [_There(outcome) for outcome in outcomes[placed]]
        return tuple(outcomes)

    return call


def sent(module: M) -> M:
    """With its parameters and buffers on the GPU, and without gradients."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for name, tensor in kept.items():
                kept[name] = None if tensor is None else tensor.detach().to(GPU)
    return module


@contextmanager
def program_finds_a_gpu() -> Iterator[None]:
    """The whole program within takes the simulated one for the machine's."""
    answers: dict[str, Any] = {
        "is_available": True, "device_count": 1, "current_device": 0, "set_device": None, "synchronize": None,
        "get_device_name": "simulated", "get_rng_state": torch.zeros(1),
        "set_rng_state": None, "is_bf16_supported": True, "Stream": Mock(), "current_stream": Mock(), "stream": nullcontext(),
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(simulated_gpu())
        stack.enter_context(patch.object(nn.Module, "_apply", _applied))
        stack.enter_context(patch.object(Tensor, "pin_memory", _pinned))
        stack.enter_context(patch.object(Tensor, "record_stream", lambda tensor, stream: None))
        # What is made ahead is made on a thread, which does not know of the GPU.
        stack.enter_context(patch.object(loader, "made_ahead", lambda make, requests, *_: map(make, requests)))
        stack.enter_context(patch.object(environment, "nvidia_device_present", lambda: True))
        stack.enter_context(patch.object(environment, "_why_torch_cannot_use_it", lambda: ""))
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        yield


def _pinned(tensor: Tensor) -> Tensor:
    """As torch pins: into memory of the same strides, which it refuses for rows that share theirs."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    room = torch.empty(max(last + 1, 0), dtype=tensor.dtype)
    return room.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _applied(module: Any, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """Torch's own cannot make a tensor of another type a parameter's data."""
    for child in module.children():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
    module._buffers.update({name: function(buffer) for name, buffer in module._buffers.items() if buffer is not None})
    return module
