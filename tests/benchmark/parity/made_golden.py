"""Golden files of other prefixes, batches and scales, computed here by plain torch and torchvision.

Nothing of the project is used: not its rules, its modules or its losses.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

Weights = dict[str, Tensor]


def g(prefix: str, name: str, *shape: int) -> Tensor:
    rng = np.random.default_rng(zlib.crc32((prefix + name).encode()))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def combiner_shapes(width: int, projection: int, hidden: int) -> dict[str, tuple[int, ...]]:
    layers = {
        "text_projection_layer": (projection, width),
        "image_projection_layer": (projection, width),
        "combiner_layer": (hidden, 2 * projection),
        "output_layer": (width, hidden),
        "dynamic_scalar.0": (hidden, 2 * projection),
        "dynamic_scalar.3": (1, hidden),
    }
    return {f"{n}.{kind}": s if kind == "weight" else s[:1] for n, s in layers.items() for kind in ("weight", "bias")}


def combiner_weights(prefix: str, shapes: dict[str, tuple[int, ...]]) -> Weights:
    drawn = {name: g(prefix, name, *shape) for name, shape in shapes.items()}
    return {n: (t / t.shape[-1] ** 0.5 if t.ndim > 1 else 0.1 * t).requires_grad_() for n, t in drawn.items()}


def combiner_query(w: Weights, image: Tensor, text: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    r = torch.cat([linear("text_projection_layer", text).relu(), linear("image_projection_layer", image).relu()], -1)
    s = linear("dynamic_scalar.3", linear("dynamic_scalar.0", r).relu()).sigmoid()
    return F.normalize(linear("output_layer", linear("combiner_layer", r).relu()) + s * text + (1 - s) * image)


def combiner_logits(w: Weights, prefix: str, name: str, batch: int, width: int, scale: float) -> tuple[Tensor, Tensor]:
    image, text, target = (scale * g(prefix, f"{name}.{part}", batch, width) for part in ("image", "text", "target"))
    query = combiner_query(w, image, text)
    return query, 100 * query @ F.normalize(target).T


def loss_of(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)))


def combiner_file(
    prefix: str, batch: int, scale: float, width: int = 24, projection: int = 40, hidden: int = 56
) -> dict[str, Any]:
    shapes = combiner_shapes(width, projection, hidden)
    w = combiner_weights(prefix, shapes)
    query, logits = combiner_logits(w, prefix, "input", batch, width, scale)
    loss = loss_of(logits)
    loss.backward()
    return {
        "method": "clip4cir",
        "seed_prefix": prefix,
        "config": {
            "clip_dim": width,
            "projection_dim": projection,
            "hidden_dim": hidden,
            "batch": batch,
            "input_scale": scale,
        },
        "state_dict": [{"name": name, "shape": list(shape)} for name, shape in shapes.items()],
        "eval": {
            "query": {"norms": query.norm(dim=1).tolist(), "first16": query[:, :16].tolist()},
            "logits": logits.tolist(),
        },
        "train_dropout_off": {
            "loss": loss.item(),
            "grad_norms": {name: float(tensor.grad.norm()) for name, tensor in w.items() if tensor.grad is not None},
        },
    }


def combiner_training_file(
    prefix: str, batch: int, scale: float, *, eps: float = 1e-8, t_max: int | None = None
) -> dict[str, Any]:
    """Six steps of Adam as in its paper, written out."""
    width, projection, hidden, steps, rate = 24, 40, 56, 6, 1e-3
    w = combiner_weights(prefix, combiner_shapes(width, projection, hidden))
    before = {name: tensor.detach().clone() for name, tensor in w.items()}
    first = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    losses, rates = [], []
    for step in range(steps):
        rates.append(rate if t_max is None else rate * (1 + np.cos(np.pi * step / t_max)) / 2)
        loss = loss_of(combiner_logits(w, prefix, f"input.batch{step % 2}", batch, width, scale)[1])
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(w.values()))
        for (name, tensor), gradient in zip(w.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            size = (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + eps
            w[name] = (tensor.detach() - rates[-1] * first[name] / (1 - 0.9 ** (step + 1)) / size).requires_grad_()
    after = {name: tensor.detach().double() for name, tensor in w.items()}
    return {
        "method": "training",
        "seed_prefix": prefix,
        "steps": steps,
        "recipes": {
            "clip4cir_combiner": {
                "loss": losses,
                "learning_rate": rates,
                "parameters": {
                    n: [float(t.norm()), float(t.sum()), float((t - before[n].double()).norm())]
                    for n, t in after.items()
                },
                "no_gradient": [],
                "exact_zero_gradient": [],
                "unchanged": [],
                "rounding_noise": [],
                "config": {
                    "clip_dim": width,
                    "projection_dim": projection,
                    "hidden_dim": hidden,
                    "batch": batch,
                    "input_scale": scale,
                    "optimiser": "Adam",
                    "lr": rate,
                    "betas": [0.9, 0.999],
                    "eps": eps,
                    "weight_decay": 0,
                    "schedule": None if t_max is None else "CosineAnnealingLR",
                    **({} if t_max is None else {"t_max": t_max, "eta_min": 0}),
                },
            }
        },
    }


def preprocessing_file(prefix: str, side: int = 24) -> dict[str, Any]:
    return {
        "method": "preprocessing",
        "seed_prefix": prefix,
        "dim": side,
        "target_ratio": 1.25,
        "versions": {"Pillow": PIL.__version__},
        "pictures": [
            _picture(prefix, name, *size, side) for name, size in {"wide": (70, 31), "tall": (20, 33)}.items()
        ],
    }


def _picture(prefix: str, name: str, width: int, height: int, side: int) -> dict[str, Any]:
    rng = np.random.default_rng(zlib.crc32(f"{prefix}picture.{name}".encode()))
    pixels = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    picture = {pad: _pipeline(Image.open(stream), pad, side) for pad in ("targetpad", "squarepad", "clip")}
    return {"name": name, "mode": "RGB", "size": [width, height], "source_sha256": _sha(pixels), **picture}


def _pipeline(image: Image.Image, pad: str, side: int) -> dict[str, Any]:
    width, height = image.size
    horizontal = vertical = 0
    if pad == "squarepad":
        horizontal, vertical = (max(image.size) - width) // 2, (max(image.size) - height) // 2
    elif pad == "targetpad":
        wanted = max(image.size) / 1.25
        horizontal, vertical = max(int((wanted - width) / 2), 0), max(int((wanted - height) / 2), 0)
    padded = vision.pad(image, [horizontal, vertical, horizontal, vertical], 0, "constant")
    resized = vision.resize(padded, [side], InterpolationMode.BICUBIC)
    pixels = np.asarray(vision.center_crop(resized, [side, side]))
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    normalised = vision.normalize(vision.to_tensor(pixels.copy()), mean, std)
    return {
        "padded_size": list(padded.size),
        "resized_size": list(resized.size),
        "uint8_sha256": _sha(pixels),
        "uint8_sums": pixels.sum(axis=(0, 1), dtype=int).tolist(),
        "uint8_pixels": [[y, x, *pixels[y, x].tolist()] for y, x in [(0, 0), (side // 2, 5)]],
        "normalised_first4": normalised[:, 0, :4].tolist(),
        "normalised_means": normalised.mean(dim=(1, 2)).tolist(),
    }


def _sha(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
