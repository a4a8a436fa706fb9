"""Tensors that claim to be on a GPU, sent through the program's own code where there is none.

Torch's fake tensors have shapes, types and a device, and no values. What mixes devices raises as on a GPU, and so does
what asks a tensor "on the GPU" for a value, which would make the host wait. What stays on the host is computed as ever.
A backward pass cannot be made: autograd asks for the device itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import torch.nn.utils.rnn as rnn
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.encoders.preprocessing import per_channel

GPU = torch.device("cuda", 0)

M = TypeVar("M", bound=nn.Module)


@contextmanager
def fake_gpu(half: bool = False) -> Iterator[None]:
    """What is called within finds a GPU, with ``half`` under autocast to bfloat16."""
    with ExitStack() as stack:
        stack.callback(per_channel.cache_clear)  # it must not keep what has no values
        stack.enter_context(_recurrent_layers_by_shape())
        # `torch.autocast` switches itself off where there is no GPU.
        stack.callback(torch.set_autocast_dtype, "cuda", torch.get_autocast_dtype("cuda"))
        stack.callback(torch.set_autocast_enabled, "cuda", torch.is_autocast_enabled("cuda"))
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", half)
        stack.enter_context(_MODE)
        stack.enter_context(_HostComputes())
        yield


_MODE = FakeTensorMode(allow_non_fake_inputs=True)


def on_gpu(module: M) -> M:
    """As `.to(device)` leaves it: a tensor that is neither parameter nor buffer stays behind."""
    moved: dict[int, nn.Parameter] = {}

    def apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """A fake tensor is of another type than a parameter's, and cannot become its data as in torch's own."""
        for child in module.children():
            child._apply(function)  # type: ignore[no-untyped-call]
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in moved:
                    with torch.no_grad():
                        there = nn.Parameter(function(parameter), parameter.requires_grad)
                    moved[id(parameter)] = moved[id(there)] = there
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = function(buffer)
        return module

    with fake_gpu(), patch.object(nn.Module, "_apply", apply):
        return module.to(GPU)


def views_on_gpu(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with fake_gpu():
        return {name: tensor.to(GPU) for name, tensor in views.items()}


class _HostComputes(TorchDispatchMode):
    """What neither reads nor makes a tensor on the GPU has values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        devices = {leaf.type for leaf in leaves if isinstance(leaf, torch.device)}
        if "cuda" in devices or any(isinstance(leaf, FakeTensor) for leaf in leaves):
            if any(isinstance(leaf, torch.Generator) and leaf.device != GPU for leaf in leaves):
                raise RuntimeError(f"{function.name()} draws on the GPU with a generator of the host")
            return function(*args, **(kwargs or {}))
        with unset_fake_temporarily():
            return function(*args, **(kwargs or {}))


@contextmanager
def _recurrent_layers_by_shape() -> Iterator[None]:
    """cuDNN's recurrent layers ask for the GPU, and packing for the lengths' values: stand-ins read what they read."""
    with (
        patch.object(rnn._VF, "_pack_padded_sequence", _packed),
        patch.object(nn.LSTM, "forward", _recurrent),
        patch.object(nn.GRU, "forward", _recurrent),
    ):
        yield


def _packed(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """As if no text were shorter than the longest."""
    assert batch_first and lengths.device.type == "cpu"
    return input.flatten(0, 1), torch.full((input.shape[1],), len(input))


def _recurrent(layer: Any, input: Any, state: tuple[Tensor, ...] = ()) -> tuple[Any, Any]:
    """Products with every weight, and outputs and last states of the layer's shapes."""
    assert layer.batch_first and layer.num_layers == 1
    packed = isinstance(input, rnn.PackedSequence)
    rows, outputs = input.data if packed else input, []
    for way in ("", "_reverse")[: 1 + layer.bidirectional]:
        for part in ("ih", "hh"):
            weight, bias = (getattr(layer, f"{kind}_{part}_l0{way}") for kind in ("weight", "bias"))
            rows = linear(rows, weight, bias)[..., : layer.hidden_size]
        outputs.append(rows)
        rows = input.data if packed else input
    whole = torch.cat(outputs, dim=-1)
    if packed:
        last = torch.stack([output.index_select(0, input.unsorted_indices) for output in outputs])
        return input._replace(data=whole), last
    last = sum(state, torch.stack([output[:, -1] for output in outputs]))
    return whole, (last, last) if isinstance(layer, nn.LSTM) else last
