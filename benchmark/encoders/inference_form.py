"""A backbone's picture side as it is computed fastest in half precision, made beside the backbone and of its weights.

Under autocast a float32 network rounds its weights anew in every pass, norms what a convolution has written in a pass
of its own over it, and makes many operations of an attention. The form that is made here has that settled beforehand.
What autocast leaves in float32 is left in float32, and the form runs under autocast.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import LayerNorm, QuickGELU
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from benchmark.backbone import GLOBAL, Backbone
from benchmark.encoders.half_layers import HalfLayerNorm, PointwiseConv2d, SelfAttention
from benchmark.encoders.observed_pass import ObservedPass, observed

_OBSERVED = 2
_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, QuickGELU)
_QUICK_GELU = 1.702
"""x · sigmoid(1.702 x)."""


def inference_form(backbone: Backbone, half: torch.dtype) -> Backbone:
    """A backbone in evaluation mode that gives the same of pictures under autocast to ``half``, to its rounding.

    It shares all tensors with the given one, which stays as it is, but the weights that are rounded: these alone take
    memory. Its texts are not for use. Batch norms are folded into the convolutions before them, and the factors of
    QuickGELU into the products around it, in float32; weights that every pass rounds are rounded once; and layers of
    :mod:`benchmark.encoders.half_layers` stand for self-attention, convolutions of 1 × 1 and open_clip's layer norms.
    Layers of other classes than exactly these, and those that a pass does not show to be where they have to be, stay
    as they are.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
    form = copy.deepcopy(backbone, shared).eval()
    modules = list(form.modules())
    for module in modules:
        if type(module) is nn.MultiheadAttention and _has_one_projection(module):
            _become(module, SelfAttention)
        elif type(module) is LayerNorm and module.elementwise_affine and module.bias is not None:
            scale, shift = (_rounded(tensor, half) for tensor in module.parameters())
            _become(module, HalfLayerNorm, half_weight=scale, half_bias=shift)
    seen = _observed(form, half)
    fold(modules, seen, half)
    halves: dict[int, nn.Parameter] = {}
    for module in modules:
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and id(tensor) in seen.rounded:
                # Weights that several layers share stay shared.
                half_tensor = halves.setdefault(id(tensor), _rounded(tensor, half))
                (module._parameters if name in module._parameters else module._buffers)[name] = half_tensor
    return form


def fold(layers: Sequence[nn.Module], seen: ObservedPass, half: torch.dtype) -> None:
    """Layers that only scale and shift what one before them gives, into its weights, which are then of ``half``."""
    for layer in layers:
        follower = seen.follower(layer)
        if follower is None:
            continue
        if type(layer) is nn.Conv2d and type(follower) is nn.BatchNorm2d and follower.running_mean is not None:
            _fold_norm(layer, follower, seen.follower(follower), half)
        elif type(layer) is nn.Linear and type(follower) is QuickGELU:
            last = seen.follower(follower)
            if last is not None and type(last) is nn.Linear:
                _fold_factors(layer, follower, last, half)


def _observed(form: Backbone, half: torch.dtype) -> ObservedPass:
    """Of all outputs of a few blank pictures, each in the two ways that they can be asked for."""
    side, device = form.preprocessing.size, next(form.parameters()).device
    blank = torch.zeros(_OBSERVED, side, side, 3, dtype=torch.uint8, device=device)
    with observed(form, half, _LAYERS) as seen:
        pixels = form.preprocessing.normalise(blank)
        for name in form.picture_outputs:
            seen.gave(form.encode_picture_outputs(pixels, [name])[name])
        if GLOBAL in form.picture_outputs:
            seen.gave(form.encode_image(pixels))
    return seen


def _fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, follower: nn.Module | None, half: torch.dtype) -> None:
    """The norm, whose statistics stand still, into the weights before it, and a ReLU behind it where it can be."""
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = _rounded(weight, half), _rounded(bias, half)
    _become(norm, nn.Identity)
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
        _become(conv, PointwiseConv2d, clips=type(follower) is nn.ReLU)
        if type(follower) is nn.ReLU:
            _become(follower, nn.Identity)


def _fold_factors(first: nn.Linear, activation: nn.Module, last: nn.Linear, half: torch.dtype) -> None:
    """QuickGELU of x is SiLU of 1.702 x over 1.702: one operation on all that the first product gives in place of
    three."""
    first.weight = _rounded(first.weight * _QUICK_GELU, half)
    if first.bias is not None:
        first.bias = _rounded(first.bias * _QUICK_GELU, half)
    last.weight = _rounded(last.weight / _QUICK_GELU, half)
    _become(activation, nn.SiLU, inplace=False)


def _has_one_projection(attention: nn.MultiheadAttention) -> bool:
    """To queries, keys and values of rows (N, L, E), and no keys of its own."""
    own_keys = attention.bias_k is not None or attention.add_zero_attn
    return bool(attention.batch_first) and attention.in_proj_weight is not None and not own_keys


def _rounded(tensor: Tensor, half: torch.dtype) -> nn.Parameter:
    """Weights of convolutions in the order of pixels whose channels come last."""
    rounded = tensor.detach().to(half)
    if rounded.dim() == 4:
        rounded = rounded.contiguous(memory_format=torch.channels_last)
    # As parameters that ask for gradients, though none is taken: a product of rows in another order than they lie in
    # would be made with any other weight one by one, the weight repeated for each.
    return nn.Parameter(rounded)


def _become(module: nn.Module, kind: type[nn.Module], **attributes: Any) -> None:
    """The same object, so that whatever refers to it sees the change: by a name, in a list, or as a bound method."""
    module.__class__ = kind
    for name, value in attributes.items():
        setattr(module, name, value)
