"""What checks and counts stage 1: CLIP's encoders, its loss and gradients, ten of its steps.

Its official file is a CLIP alone, which `import` reads as such: there is no release to declare.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.encoders.backbones import ClipBackbone
from benchmark.evaluation.sizes import Part, PublishedSizes
from benchmark.method import Method
from benchmark.parity.comparison import Deviation
from benchmark.parity.encoders import FineTuningConfig, check_encoders, fine_tuning_case
from benchmark.parity.files import GoldenFile
from benchmark.parity.training import Recipe, TrainingCase, recipe_settings
from benchmark.settings import TrainingSettings

from ..clip_finetuning import FINETUNING, ClipSum, FinetuningSettings


def _check(file: GoldenFile) -> Iterable[Deviation]:
    return check_encoders(file, lambda backbone: ClipSum(backbone, FinetuningSettings()))


def _training_case(file: GoldenFile, name: str, recipe: Recipe) -> TrainingCase:
    def build(backbone: ClipBackbone, config: FineTuningConfig) -> tuple[Method, TrainingSettings]:
        settings = recipe_settings(config, FinetuningSettings, scale=config.scale)
        return ClipSum(backbone, settings), settings

    return fine_tuning_case(file, name, recipe, FINETUNING, build)


FORMS = {"clip": _check}
TRAINING = {"clip4cir_stage1": _training_case}
SIZES = {
    "clip4cir_sum": {
        "RN50x4": PublishedSizes((Part("CLIP, both encoders", ("backbone.",), 178_300_601),), backbone="RN50x4")
    }
}
