"""A backbone as the feature store uses it: frozen, in evaluation mode, in passes of one fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.backbone import GLOBAL, Backbone
from benchmark.errors import UserError
from benchmark.prefetching import handed_over

PICTURES_PER_PASS = 32
TEXTS_PER_PASS = 16

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenEncoder:
    """Encodes pixels and texts on ``device``, where the backbone must be already.

    Every forward pass has the same number of rows, filled up with blank ones: the last digits of a
    product change with the number of its rows, and for a few shapes with the place of a row among
    them, but not with what stands in the other rows.

    ``precision``: fp32 (without TF32), tf32 for products and convolutions of a GPU, or autocast to
    bf16 or fp16, where pictures are encoded by a form of the backbone that is made for it when the first come
    (:mod:`benchmark.encoders.inference_form`). ``compiled``: the picture encoder through torch.compile, whose
    shapes are fixed here. Raises UserError for tf32 without a GPU that has it.
    """

    def __init__(self, backbone: Backbone, device: torch.device, precision: Precision, compiled: bool = False) -> None:
        if precision == "tf32" and device.type != "cuda":
            raise UserError(f"--set backbone.precision=tf32: {device.type} has no TF32; choose fp32 or bf16")
        self.backbone = backbone
        self.outputs = backbone.picture_outputs
        self._device = device
        self.precision: Precision = precision
        self._compiled = compiled
        if device.type == "cuda":
            _channels_last(backbone)
        self._form = backbone
        self._encode_image = self._picture_encoder()
        self._made_of: list[tuple[Tensor, tuple[int, int]]] = []

    @property
    def on_gpu(self) -> bool:
        return self._device.type == "cuda"

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, no gradients, the precision asked for; everything is put back as it was."""
        training = [module for module in self.backbone.modules() if module.training]
        with self._computing():
            self.backbone.eval()
            try:
                yield
            finally:
                for module in training:
                    module.training = True

    @contextmanager
    def _computing(self) -> Iterator[None]:
        half = HALVES.get(self.precision)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(tf32(self.precision == "tf32"))
            stack.enter_context(torch.autocast(self._device.type, half, enabled=half is not None))
            yield

    def pictures(self, pixels: NDArray[np.uint8], output: str = GLOBAL) -> NDArray[np.floating[Any]]:
        """uint8 (m, S, S, 3), m above 0, to a raw output of the backbone: (m, d), or (m, *its shape) as its type."""
        features: NDArray[np.floating[Any]] = self.encode(torch.from_numpy(pixels), output).cpu().numpy()
        return features

    def encode(self, pixels: Tensor, output: str = GLOBAL) -> Tensor:
        """The same of pixels on the host, as a tensor that stays on the device."""
        # In half precision the backbone itself, whose modes take a millisecond to look at, is not run.
        with self._computing() if self.precision in HALVES else self.frozen():
            passes = [self._fixed_pass(part, output) for part in torch.split(pixels, PICTURES_PER_PASS)]
            return torch.cat(passes)[: len(pixels)].to(getattr(torch, self.outputs[output].dtype))

    def one_pass(self, normalised: Tensor, output: str = GLOBAL) -> Tensor:
        """Normalised pixels (B, 3, S, S) on the device, inside `frozen`, to an output: (B, *its shape)."""
        self._make_form()
        if output == GLOBAL:
            return self._encode_image(normalised).float()
        return self._form.encode_picture_outputs(normalised, [output])[output]

    def _make_form(self) -> None:
        """Once, in half precision, and again where weights were changed in place since."""
        half = HALVES.get(self.precision)
        if half is None or (self._made_of and all(_state(tensor) == state for tensor, state in self._made_of)):
            return
        from benchmark.encoders.inference_form import inference_form  # brings open_clip along

        # An earlier form is let go before.
        self._form = self.backbone
        self._encode_image = self._picture_encoder()
        made_of = [(t, _state(t)) for t in (*self.backbone.parameters(), *self.backbone.buffers())]
        self._form, self._made_of = inference_form(self.backbone, half), made_of
        self._encode_image = self._picture_encoder()

    def _picture_encoder(self) -> Callable[[Tensor], Tensor]:
        encode = self._form.encode_image
        return torch.compile(encode, dynamic=False) if self._compiled else encode

    def _fixed_pass(self, pixels: Tensor, output: str) -> Tensor:
        if len(pixels) < PICTURES_PER_PASS:
            blank = pixels.new_zeros(PICTURES_PER_PASS - len(pixels), *pixels.shape[1:])
            pixels = torch.cat([pixels, blank])
        return self.one_pass(self.backbone.preprocessing.normalise(handed_over(pixels, self._device)), output)

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        """TEXTS_PER_PASS strings to raw features (B, d)."""
        tokens = self.backbone.tokenize(strings)
        with self.frozen():
            encoded = self.backbone.encode_text(tokens.to(self._device))
        features: NDArray[np.float32] = encoded.float().cpu().numpy()
        return features


def require_finite(features: NDArray[np.floating[Any]], sources: Sequence[str], precision: Precision) -> None:
    """Raises UserError naming the first source (of row i: ``sources[i]``) whose feature is not finite."""
    finite = np.isfinite(features).reshape(len(sources), -1).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{sources[int(np.argmin(finite))]}: the backbone's feature is not finite in {precision}"
            + (", or too large for the half precision that it is kept in; " if features.dtype == np.float16 else "; ")
            + ("" if precision == "fp32" else "use --set backbone.precision=fp32, or ")
            + "check its weights"
        )


def _state(tensor: Tensor) -> tuple[int, int]:
    """Another one after each change of the tensor in place."""
    return tensor.data_ptr(), tensor._version


def _channels_last(backbone: Backbone) -> None:
    """Weights of convolutions in the order of the pixels, which cuDNN would bring them into in every pass."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products of float32 in full, or rounded as a GPU's TF32 has them; everything is put back as it was."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=allowed):
            yield
    finally:
        matmul.allow_tf32 = before
