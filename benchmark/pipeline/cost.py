"""What a method costs in use: passes of encoders, FLOPs and stored bytes, counted on one query and one picture.

FLOPs are those of matrix products and convolutions, a multiply-add counted as two, as torch's
FlopCounterMode sees them; what works element by element is left out, as is usual. They are counted on
a copy, of a frozen encoder's picture side without its weights, with fused kernels off, since the counter
cannot look into these: the numbers are the architecture's and the same on every machine.
"""

from __future__ import annotations

import copy
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.backbone import GLOBAL, Backbone, Output
from benchmark.encoders.frozen_encoder import FrozenEncoder
from benchmark.encoding import missing_view
from benchmark.features.picture_filling import PATCHES
from benchmark.features.room import view_output
from benchmark.method import Inputs, Method, PixelInputs, Views
from benchmark.records.measurement import Cost, EncodingCost

_BLANK_SIDE = 256
_BYTES = 4

T = TypeVar("T")


def count_cost(method: Method, inputs: Inputs, backbone: Backbone | None, texts: Sequence[str]) -> Cost:
    """The cost of a built method, trained or not; the method itself is left as it is.

    ``backbone``: the frozen encoder of stored features. ``texts``: the queries' texts; one of median
    length is counted, since recurrent encoders take longer for longer ones.
    """
    counted = copy.deepcopy(method).cpu().eval().requires_grad_(False)
    text = median_text(texts)
    with _countable():
        encoders = _PassCosts(inputs, backbone, text)
        reference, target = _Watched("reference", encoders.reference), _Watched("target", encoders.target)
        modification = _Watched("text", encoders.text(counted, text))
        query, query_flops = _counted(lambda: counted.encode_query(reference.views, modification.views))
        encoded, gallery_flops = _counted(lambda: counted.encode_target(target.views))
        _, pair_flops = _counted(lambda: counted.score(query, encoded))
    tensors = [encoded] if isinstance(encoded, Tensor) else list(encoded.values())
    return Cost(
        trainable_parameters=trainable_parameters(method),
        parameters=_all_parameters(method, backbone),
        gallery=encoders.cost(gallery_flops, target.read, frozenset()),
        query=encoders.cost(query_flops, reference.read, modification.read),
        pair_flops=pair_flops,
        stored_bytes=_BYTES * sum(tensor.numel() for tensor in tensors),
    )


def trainable_parameters(method: Method) -> int:
    return sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)


def _all_parameters(method: Method, backbone: Backbone | None) -> int:
    """Of the method, and of the frozen encoder before it; what both hold counts once."""
    parameters = {id(p): p.numel() for module in (method, backbone) if module is not None for p in module.parameters()}
    return sum(parameters.values())


def median_text(texts: Sequence[str]) -> str:
    """The text of median length."""
    return sorted(texts, key=lambda text: (len(text), text))[len(texts) // 2]


def flops_of(work: Callable[[], object]) -> int:
    """FLOPs of what ``work`` computes on the CPU."""
    with _countable():
        return _counted(work)[1]


class _Watched(UserDict[str, Tensor]):
    """Views that remember which of them were read: what a method does not look at need not be encoded."""

    def __init__(self, of: str, views: Views) -> None:
        super().__init__(views)
        self.read: set[str] = set()
        self._of = of

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> Tensor:
        raise missing_view(name, self._of, self)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's: before Python 3.12 it would ask `__missing__`."""
        return self[name] if name in self else default

    @property
    def views(self) -> Views:
        return cast(Views, self)


class _PassCosts:
    """Example views of a stage's inputs, one row each, and what the encoders before them cost."""

    def __init__(self, inputs: Inputs, backbone: Backbone | None, text: str) -> None:
        self._patches = 0
        self._encoder: Backbone | None = None
        self._pixels = torch.empty(0)
        self._counted_pictures: dict[tuple[str, ...], int] = {}
        self._text_flops = 0
        self._text_view: Views | None = None
        if isinstance(inputs, PixelInputs):
            white = Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE), "white")
            pixels = torch.from_numpy(np.array(inputs.evaluate.picture(white, np.random.default_rng(0))))
            self.reference: Views = {"pixels": inputs.evaluate.normalise(pixels[None])}
            self.target: Views = self.reference
            return
        if backbone is None:
            raise TypeError("stored features need the encoder that gives them")
        side = backbone.preprocessing.size
        self._encoder = _without_weights(backbone)
        self._pixels = torch.zeros(1, 3, side, side, device="meta")
        self._patches = sum(grid * grid for grid in inputs.grids)
        self.reference, self.target = (
            {view: _blank(view_output(view, backbone.picture_outputs, inputs.grids)) for view in views}
            for views in (inputs.reference, inputs.target)
        )
        if inputs.text == "features":
            self._text_flops = _text_flops(backbone, text)
            self._text_view = {GLOBAL: _blank(backbone.text_outputs[GLOBAL])}

    def text(self, method: Method, text: str) -> Views:
        return self._text_view if self._text_view is not None else method.tokenize([text])

    def cost(self, own_flops: int, pictures: set[str], texts: set[str] | frozenset[str]) -> EncodingCost:
        whole, reads_text = sorted(pictures - {PATCHES}), bool(texts)
        patches = self._patches if PATCHES in pictures else 0
        flops = own_flops + reads_text * self._text_flops
        flops += self._picture_flops(whole) + patches * self._picture_flops([GLOBAL] if patches else [])
        return EncodingCost(picture_passes=patches + bool(whole), text_passes=int(reads_text), flops=flops)

    def _picture_flops(self, outputs: list[str]) -> int:
        """Of one pass of the frozen encoder that gives these outputs; 0 where there is none, or nothing is read."""
        encoder = self._encoder
        if encoder is None or not outputs:
            return 0
        key = tuple(outputs)
        if key not in self._counted_pictures:
            self._counted_pictures[key] = _counted(lambda: encoder.encode_picture_outputs(self._pixels, outputs))[1]
        return self._counted_pictures[key]


def _text_flops(backbone: Backbone, text: str) -> int:
    """Of one pass of the encoder as it is: some towers look at the values of their masks."""
    device = next(backbone.parameters()).device
    tokens = backbone.tokenize([text]).to(device)
    with FrozenEncoder(backbone, device, "fp32").frozen():
        return _counted(lambda: backbone.encode_text(tokens))[1]


def _blank(output: Output) -> Tensor:
    return torch.zeros(1, *output.shape, dtype=getattr(torch, output.dtype))


def _without_weights(backbone: Backbone) -> Backbone:
    """A copy whose tensors have shapes alone: large encoders are counted without being copied or run."""
    tensors = (*backbone.parameters(), *backbone.buffers())
    shapes = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    parameters = {id(p): torch.nn.Parameter(shapes[id(p)], requires_grad=False) for p in backbone.parameters()}
    return copy.deepcopy(backbone, {**shapes, **parameters}).eval()


def _counted(work: Callable[[], T]) -> tuple[T, int]:
    """What the work gives, and its FLOPs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = work()
    return result, int(counter.get_total_flops())


@contextmanager
def _countable() -> Iterator[None]:
    """Attention and recurrent layers as the products of matrices that they are."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        # Setting the flags below speaks of a kind of GPU that this torch was not built for.
        stack.enter_context(warnings.catch_warnings(action="ignore", category=UserWarning))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield
