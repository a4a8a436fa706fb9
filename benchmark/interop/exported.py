"""A trained method from one exported file, for use outside the benchmark: pictures and strings in, scores out.

    from benchmark.interop.exported import load

    model = load("spirit.safetensors")
    gallery = model.encode_target(pictures)
    query = model.encode_query([picture], ["the same, but red and without a belt"])
    best = model.score(query, gallery).topk(10)

Pictures are PIL images (or paths), in the file's own colour mode; preprocessing, patches, tokens and
the text rule are those of the run. `benchmark.interop.export` writes such files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.backbone import GLOBAL, Backbone
from benchmark.data.pictures import in_8_bits, open_picture
from benchmark.data.released_files import LabelledSide
from benchmark.dataset import CategoryCaptions
from benchmark.encoders.families import rebuild
from benchmark.encoders.frozen_encoder import FrozenEncoder, Precision, tf32
from benchmark.encoding import Encoding, concatenate, map_tensors
from benchmark.errors import UserError
from benchmark.facts import Initialisation
from benchmark.features.picture_filling import PATCHES
from benchmark.method import FeatureInputs, Inputs, Method, PixelInputs, Stage, Views
from benchmark.pipeline.stage_sources import apart_from
from benchmark.registry import Registry, discover
from benchmark.settings import MethodSettings, Settings, fill
from benchmark.stage_building import rebuild_stage
from benchmark.text_rules import TextRule, text_rule
from benchmark.weights.checkpoints import WeightsHeader, read_header, read_weights
from benchmark.weights.fit import load_into

METHOD_PART = "method."
ENCODER_PART = "encoder."
"""What stands before the names of the method's tensors, and of those of the encoder beside it."""

Picture = Image.Image | str | Path
Text = str | Sequence[str]

_BATCH = 32

S = TypeVar("S", bound=Settings)


class Model:
    """A method in evaluation mode. ``header`` says what it is: method, dataset, settings, encoder."""

    def __init__(
        self,
        header: WeightsHeader,
        method: Method,
        inputs: Inputs,
        encoder: FrozenEncoder | None,
        rule: TextRule,
        device: torch.device,
    ) -> None:
        self.header = header
        self.method, self.inputs, self.encoder = method, inputs, encoder
        self._rule, self.device = rule, device

    def encode_query(
        self,
        images: Sequence[Picture],
        texts: Sequence[Text],
        picture_texts: Sequence[str] | None = None,
        notes: Sequence[str] | None = None,
    ) -> Encoding:
        """Encodings of B queries, on the CPU: a reference picture and a modification text each.

        ``picture_texts``: captions of the references, ``notes``: the words to show on them ("red, no belt"), for a
        method that was trained with such (DQU-CIR); a new query needs its own. What the text rule would correct by a
        dictionary is cleaned alone, since no dictionary knows new texts.

        A text is a string, or the captions of one query where the data has several (FashionIQ). Raises
        UserError where the numbers differ, a picture cannot be read, or captions give several queries.
        """
        _require_list(images, "encode_query", "pictures")
        _require_list(texts, "encode_query", "texts")
        if len(images) != len(texts):
            raise UserError(f"encode_query: {len(images)} pictures for {len(texts)} texts; give one of each per query")
        annotator = self.inputs.annotator if isinstance(self.inputs, PixelInputs) else None
        captions = _given(picture_texts, "picture_texts", "a caption", self.reads_picture_texts, len(images))
        words = _given(notes, "notes", "the words to show on it", self.shows_notes, len(images))
        strings = [self._query(text, caption) for text, caption in zip(texts, captions, strict=True)]

        def shown(part: slice) -> list[Picture]:
            if annotator is None:
                return list(images[part])
            opened = zip(images[part], words[part], strict=True)
            return [annotator.draw(_opened(image), note) for image, note in opened]

        return self._encode(
            len(images),
            lambda part: self.method.encode_query(
                self._pictures(shown(part), "reference"), self._texts(strings[part])
            ),
        )

    def encode_target(self, images: Sequence[Picture]) -> Encoding:
        """Encodings of pictures as candidates, on the CPU: a gallery is encoded once and kept.

        Raises UserError where it is no list of pictures, or one cannot be read.
        """
        _require_list(images, "encode_target", "pictures")
        return self._encode(
            len(images), lambda part: self.method.encode_target(self._pictures(images[part], "target"))
        )

    def score(self, queries: Encoding, targets: Encoding) -> Tensor:
        """(b, n); larger is better. One block of queries and targets is computed at once."""
        here = [map_tensors(lambda tensor: tensor.to(self.device), e) for e in (queries, targets)]
        with torch.no_grad(), tf32(False):
            return self.method.score(*here).cpu()

    def explain(self, images: Sequence[Picture], strings: Sequence[str]) -> dict[str, Tensor]:
        """What the method attends to in these references, by name, on the CPU; {} where it does not tell.

        ``strings``: the modification texts as the run's text rule has made them.
        """
        with torch.no_grad(), tf32(False):
            found = self.method.explain(self._pictures(images, "reference"), self._texts(strings))
        return {name: tensor.float().cpu() for name, tensor in found.items()}

    @property
    def reads_picture_texts(self) -> bool:
        """Whether a query needs a caption of its reference."""
        return self._rule.describes

    @property
    def shows_notes(self) -> bool:
        """Whether a query needs words to show on its reference."""
        return isinstance(self.inputs, PixelInputs) and self.inputs.annotator is not None

    @property
    def grids(self) -> tuple[int, ...]:
        """How a picture is cut into the patches that the method reads; () where it reads none."""
        reads = isinstance(self.inputs, FeatureInputs) and "patches" in self.inputs.views
        return self.inputs.grids if reads and isinstance(self.inputs, FeatureInputs) else ()

    def _encode(self, count: int, encode: Callable[[slice], Encoding]) -> Encoding:
        if not count:
            raise UserError("nothing to encode: give at least one picture")
        with torch.no_grad(), tf32(False):
            blocks = [encode(slice(start, start + _BATCH)) for start in range(0, count, _BATCH)]
        return map_tensors(lambda tensor: tensor.float().cpu(), concatenate(blocks))

    def _query(self, text: Text, picture_text: str) -> str:
        """The string that the run's text rule makes of a query's captions."""
        captions = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, Sequence) else ()
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise UserError(f"encode_query: {repr(text)[:80]} is no text; give a string, or the captions of one query")
        if self._rule.corrects or self._rule.describes:
            captions = CategoryCaptions(captions, _NoCorrections(), LabelledSide(picture_text, ""))
        asked = self._rule.queries(captions)
        if len(asked) != 1:
            raise UserError(
                f"the text rule '{self._rule.name}' makes {len(asked)} queries of {list(captions)}; "
                "give the captions one at a time, as strings"
            )
        return asked[0]

    def _pictures(self, images: Sequence[Picture], side: str) -> Views:
        opened = [_opened(image) for image in images]
        if isinstance(self.inputs, FeatureInputs):
            names = self.inputs.reference if side == "reference" else self.inputs.target
            return {name: self._features(name, opened, self.inputs.grids) for name in names}
        transform = self.inputs.evaluate
        pixels = np.stack([transform.picture(image, np.random.default_rng(0)) for image in opened])
        return {"pixels": transform.normalise(torch.from_numpy(pixels).to(self.device))}

    def _features(self, view: str, images: Sequence[Image.Image], grids: tuple[int, ...]) -> Tensor:
        """(B, d) of whole pictures, (B, P, d) of patches, or another output, as the feature store has them."""
        assert self.encoder is not None
        preprocessing = self.encoder.backbone.preprocessing
        if view != PATCHES:
            return self._encoded(np.stack([preprocessing.picture(image) for image in images]), view)
        crops = np.stack([preprocessing.patches(image, grids) for image in images])
        features = self._encoded(crops.reshape(-1, *crops.shape[2:]), GLOBAL)
        return features.reshape(*crops.shape[:2], -1)

    def _encoded(self, pixels: NDArray[np.uint8], output: str) -> Tensor:
        """(m, S, S, 3) → (m, *shape of the output), in passes of at most one batch."""
        assert self.encoder is not None
        backbone, passes = self.encoder.backbone, []
        dtype = getattr(torch, backbone.picture_outputs[output].dtype)
        with self.encoder.frozen():
            for start in range(0, len(pixels), _BATCH):
                part = torch.from_numpy(pixels[start : start + _BATCH]).to(self.device)
                passes.append(self.encoder.one_pass(backbone.preprocessing.normalise(part), output).to(dtype))
        return torch.cat(passes)

    def _texts(self, strings: Sequence[str]) -> Views:
        if not isinstance(self.inputs, FeatureInputs) or self.inputs.text == "tokenized":
            return {name: tensor.to(self.device) for name, tensor in self.method.tokenize(strings).items()}
        assert self.encoder is not None
        backbone = self.encoder.backbone
        with self.encoder.frozen():
            return {"global": backbone.encode_text(backbone.tokenize(strings).to(self.device)).float()}


def _given(values: Sequence[str] | None, name: str, what: str, needed: bool, count: int) -> Sequence[str]:
    """What is given of every reference; raises UserError where it is missing, or says nothing to the method."""
    if needed and values is None:
        raise UserError(f"encode_query: this method reads {what} of each reference; give {name}=[…]")
    if not needed and values is not None:
        raise UserError(f"encode_query: this method does not read {name}; leave it out")
    if values is not None and len(values) != count:
        raise UserError(f"encode_query: {len(values)} {name} for {count} pictures; give one for each")
    return [""] * count if values is None else values


class _NoCorrections:
    words: Mapping[str, str] = MappingProxyType({})


def _opened(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return in_8_bits(image)
    if not isinstance(image, str | Path):
        raise UserError(f"a {type(image).__name__} is no picture; give a PIL image or a path")
    return open_picture(Path(image))


def _require_list(given: object, function: str, what: str) -> None:
    """A single one in place of a list would be taken letter by letter, or fail far from here."""
    is_list = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    if not is_list or isinstance(given, str | bytes | Path | Image.Image | Mapping):
        told = repr(given)[:80] if isinstance(given, str | bytes | Path) else f"a {type(given).__name__}"
        raise UserError(f"{function}: {told} where a list of {what} is expected; give [...] for a single one")


def load(path: str | Path, device: str = "cpu", plugins: Sequence[str | Path] = ()) -> Model:
    """A model from an exported file; nothing of it is executed.

    ``plugins``: the files that declare its method, where it is none of this program's. Raises UserError
    where the file is no export, is damaged, or its method is not known here.
    """
    file = Path(path)
    header = read_header(file)
    if not header.exported:
        raise UserError(f"{file}: a checkpoint, no export; write one with `python -m benchmark export {file}`")
    registry = discover()
    for plugin in plugins:
        registry.add_plugin(Path(plugin))
    state = read_weights(file)
    place = torch.device(device)
    families, beside = registry.backbone_families(), file.absolute().parent
    backbone = rebuild(header.start, str(file), families, beside) if header.start else None
    method, inputs = build_method(registry, header, backbone)
    encoder = None
    if isinstance(inputs, FeatureInputs):
        stored = apart_from(method, backbone)
        if stored is None:
            raise UserError(f"{file}: its header tells no encoder, whose features the method reads; export it again")
        load_into(stored, _part(state, ENCODER_PART), str(file))
        encoder = frozen_encoder(stored, header, place)
    load_into(method, _part(state, METHOD_PART), str(file))
    return Model(header, method.to(place).eval(), inputs, encoder, rule_of_run(header), place)


def rule_of_run(header: WeightsHeader) -> TextRule:
    return text_rule(str(header.training_settings.get("text_rule", "as-is")))


def frozen_encoder(backbone: Backbone, header: WeightsHeader, place: torch.device) -> FrozenEncoder:
    """The encoder as the run's feature store used it; TF32 is a GPU's, and full precision elsewhere."""
    precision: Precision = header.backbone.get("settings", {}).get("precision", "fp32")
    if precision == "tf32" and place.type != "cuda":
        precision = "fp32"
    return FrozenEncoder(backbone.to(place).eval(), place, precision)


def build_method(registry: Registry, header: WeightsHeader, encoder: Backbone | None) -> tuple[Method, Inputs]:
    """A header's method on its encoder, its weights still to be loaded, and what it reads."""
    settings = method_settings(registry, header)
    told = {stage.name: stage for stage in header.earlier}
    earlier: dict[str, Method] = {}
    for stage in stages_of(registry, header):
        if stage.output == "encoder" and stage.name != header.stage:
            continue
        values = header.training_settings if stage.name == header.stage else told[stage.name].settings
        training = _filled(stage.settings, values, stage.name)
        state = header.prepared if stage.name == header.stage else told[stage.name].prepared
        built = rebuild_stage(stage, encoder, settings, training, extra_state=state, earlier=earlier)
        if stage.name == header.stage:
            return built.method, built.inputs
        earlier[stage.name] = built.method
    raise UserError(f"method {header.method} has no stage '{header.stage}' here; another version wrote the file")


def stages_of(registry: Registry, header: WeightsHeader) -> tuple[Stage, ...]:
    """The stages that led to a header's weights: those that it tells of, and its own."""
    specification, settings = registry.specification(header.method), method_settings(registry, header)
    start: Initialisation = "random" if header.backbone.get("weights") == "random" else "pretrained"
    if specification.own_networks is not None:
        start = specification.own_networks(settings)
    known = {header.stage, *(stage.name for stage in header.earlier)}
    return tuple(stage for stage in specification.stages(settings, start) if stage.name in known)


def method_settings(registry: Registry, header: WeightsHeader) -> MethodSettings:
    return _filled(registry.specification(header.method).settings, header.method_settings, "method")


def _filled(model: type[S], values: Mapping[str, Any], namespace: str) -> S:
    return fill(model, [("the file's header", values)], namespace)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
