"""The backbones that are listed by name, as a literal: readable without torch.

Any other architecture of open_clip's own list that is built as plain CLIP works too. Sizes of files
are rounded. The weights are never downloaded by a run: they are looked for on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

_OPENAI = "https://openaipublic.azureedge.net/clip/models"


@dataclass(frozen=True)
class WeightsSource:
    """Where a weights file comes from: ``file`` is its usual name, ``megabytes`` its rough size."""

    tag: str
    file: str
    url: str
    mirror: str
    megabytes: int
    licence: str


@dataclass(frozen=True)
class BackboneInfo:
    """``width``: d of the embedding. ``image_size``: side of the input in pixels."""

    name: str
    summary: str
    width: int
    image_size: int
    default_weights: str
    sources: tuple[WeightsSource, ...] = ()


def _openai(
    name: str, summary: str, width: int, image_size: int, file: str, sha256: str, mirror: str, megabytes: int
) -> BackboneInfo:
    source = WeightsSource(
        tag="openai",
        file=file,
        url=f"{_OPENAI}/{sha256}/{file}",
        mirror=f"https://huggingface.co/timm/{mirror}",
        megabytes=megabytes,
        licence="MIT (OpenAI CLIP)",
    )
    return BackboneInfo(name, summary, width, image_size, "openai", (source,))


_ROWS = (
    BackboneInfo(
        "tiny",
        "a small ModifiedResNet CLIP of 2.3 M parameters that starts from random weights, for the demo data",
        64,
        64,
        "random",
    ),
    _openai(
        "RN50x4",
        "CLIP ResNet-50x4, the backbone of CLIP4Cir and SPIRIT",
        640,
        288,
        "RN50x4.pt",
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
        "resnet50x4_clip.openai",
        420,
    ),
    _openai(
        "RN50",
        "CLIP ResNet-50",
        1024,
        224,
        "RN50.pt",
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        "resnet50_clip.openai",
        255,
    ),
    _openai(
        "RN101",
        "CLIP ResNet-101",
        512,
        224,
        "RN101.pt",
        "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
        "resnet101_clip.openai",
        290,
    ),
    _openai(
        "RN50x16",
        "CLIP ResNet-50x16",
        768,
        384,
        "RN50x16.pt",
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
        "resnet50x16_clip.openai",
        660,
    ),
    _openai(
        "RN50x64",
        "CLIP ResNet-50x64",
        1024,
        448,
        "RN50x64.pt",
        "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
        "resnet50x64_clip.openai",
        1300,
    ),
    _openai(
        "ViT-B-32",
        "CLIP ViT-B/32",
        512,
        224,
        "ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "vit_base_patch32_clip_224.openai",
        350,
    ),
    _openai(
        "ViT-B-16",
        "CLIP ViT-B/16",
        512,
        224,
        "ViT-B-16.pt",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        "vit_base_patch16_clip_224.openai",
        350,
    ),
    _openai(
        "ViT-L-14",
        "CLIP ViT-L/14",
        768,
        224,
        "ViT-L-14.pt",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        "vit_large_patch14_clip_224.openai",
        930,
    ),
    _openai(
        "ViT-L-14-336",
        "CLIP ViT-L/14 at 336 px",
        768,
        336,
        "ViT-L-14-336px.pt",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        "vit_large_patch14_clip_336.openai",
        930,
    ),
)

BACKBONES: dict[str, BackboneInfo] = {row.name: row for row in _ROWS}
