"""A plug-in's faults are one line that names file, method and function, with status 2, whatever it does and wherever."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import pytest
import torch
from command_line import Command

from benchmark.encoders.backbones import load_backbone
from benchmark.errors import UserError
from benchmark.method import BuildContext, FeatureInputs, Method
from benchmark.plugins import program_settings
from benchmark.registry import Registry
from benchmark.settings import EncoderChoice, MethodSettings, TrainingSettings

GOOD = """
import os, sys
import torch
from benchmark.method import FeatureInputs, Method, RequiredFile, Specification, Stage
from benchmark.settings import TrainingSettings

class Plain(Method):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 64)

    def encode_query(self, reference, text):
        QUERY
        return self.layer(reference["global"] + text["global"])

    def encode_target(self, target):
        TARGET
        return self.layer(target["global"])

    def encode_text_alone(self, texts):
        ALONE
        return {}

    def loss_parts(self, queries, targets):
        PARTS
        return {"loss": self.loss(queries, targets)}

    def loss(self, queries, targets):
        LOSS
        return torch.nn.functional.cross_entropy(queries @ targets.T, torch.arange(len(queries)))

    def build_extra_state(self, texts):
        STATE

    def extra_state(self):
        EXTRA
        return {}

def build(context):
    BUILD
    return Plain()

def inputs(context):
    INPUTS
    return FeatureInputs()

def groups(method, settings):
    GROUPS
    return [{"params": list(method.parameters())}]

def stages(settings, initialisation):
    STAGES
    return (Stage(name="plain", build=build, inputs=inputs, parameter_groups=groups),)

def required_files(settings):
    FILES
    return ()

def remarks(settings):
    REMARKS
    return ()

IMPORT
METHOD = Specification(stages=stages, required_files=required_files, remarks=remarks)
"""
PLACES = ("QUERY", "TARGET", "ALONE", "PARTS", "LOSS", "STATE", "EXTRA", "BUILD", "INPUTS", "GROUPS", "STAGES", "FILES", "REMARKS", "IMPORT")
FUNCTIONS = dict(zip(PLACES, ("encode_query", "encode_target", "encode_text_alone", "loss_parts", "loss", "build_extra_state", "extra_state", "build",
                              "inputs", "parameter_groups", "stages", "required_files", "remarks"), strict=False))  # fmt: skip


def plugin(folder: Path, **bodies: str) -> Path:
    text = GOOD
    for place in PLACES:
        text = text.replace(place, bodies.get(place, "pass"))
    file = folder / "mine.py"
    file.write_text(text)
    return file


def used(file: Path) -> None:
    """All that a run asks of a method, in its order."""
    registry = Registry()
    registry.add_plugin(file)
    specification = registry.specification("mine")
    settings = MethodSettings()
    specification.required_files(settings), specification.remarks(settings)
    (stage,) = specification.stages(settings, "random")
    assert specification.stages(settings, "random") == (stage,)
    context = BuildContext(None, settings, TrainingSettings())
    method = stage.build(context)
    assert isinstance(stage.inputs(context), FeatureInputs)
    stage.parameter_groups(method, TrainingSettings())
    method.build_extra_state(["red"])
    method.extra_state()
    views = {"global": torch.ones(3, 64)}
    method.encode_text_alone(["red"])
    method.loss_parts(method.encode_query(views, views), method.encode_target(views))


def test_a_good_one_is_what_it_is(tmp_path: Path) -> None:
    file = plugin(tmp_path)
    used(file)
    registry = Registry()
    registry.add_plugin(file)
    (stage,) = registry.specification("mine").stages(MethodSettings(), "random")
    method = stage.build(BuildContext(None, MethodSettings(), TrainingSettings()))
    assert type(method).__name__ == "Plain" and isinstance(method, Method) and method.scores_by_dot_product
    # A copy is whole in itself: its functions are its own.
    other, views = copy.deepcopy(method), {"global": torch.ones(1, 64)}
    with torch.no_grad():
        other.layer.weight.zero_()
        other.layer.bias.zero_()
        assert not other.encode_target(views).any() and method.encode_target(views).any()
        # Its own code may name what it gives.
        assert torch.equal(method.encode_target(target=views), method.encode_target(views))


FAULTS = {
    "1 / 0": "raises ZeroDivisionError: division by zero",
    "raise KeyError('a\\nb')": "raises KeyError: 'a",
    "raise RecursionError": "raises RecursionError",
    "sys.exit(0)": "ends the program",
    "sys.exit('enough')": "ends the program",
    "torch.set_default_dtype(torch.float64)": "changes torch's default type",
    "torch.set_num_threads(7)": "changes torch's number of threads",
    "torch.use_deterministic_algorithms(True)": "changes torch's deterministic mode",
    "torch.set_grad_enabled(False)": "changes whether torch keeps gradients",
    "os.chdir('/')": "changes the working directory",
}


@pytest.mark.parametrize("place", [place for place in PLACES if place != "IMPORT"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_function_does_is_told_in_one_line(place: str, fault: str, tmp_path: Path) -> None:
    file, before = plugin(tmp_path, **{place: fault}), program_settings()
    with pytest.raises(UserError) as told:
        used(file)
    line = str(told.value)
    assert line.startswith(f"{file}: method mine, {FUNCTIONS[place]} {FAULTS[fault]}") and "\n" not in line
    assert program_settings() == before


@pytest.mark.parametrize("fault", FAULTS)
def test_what_happens_on_import_is_told_in_one_line(fault: str, tmp_path: Path) -> None:
    file, before = plugin(tmp_path, IMPORT=fault), program_settings()
    with pytest.raises(UserError) as told:
        used(file)
    line = str(told.value)
    assert line.startswith(f"{file}: the plug-in ") and "on import" in line and "\n" not in line
    assert program_settings() == before


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("BUILD", "a Method"),
        ("INPUTS", "FeatureInputs or PixelInputs"),
        ("GROUPS", "a tuple of one or more dict"),
        ("STAGES", "a tuple of one or more Stage"),
        ("FILES", "a tuple of RequiredFile"),
        ("REMARKS", "a tuple of str"),
        ("EXTRA", "a dict of plain values"),
    ],
)
@pytest.mark.parametrize(("body", "given"), [("return", "nothing"), ("return 5", "a int"), ("return [5]", "a list")])
def test_what_gives_nothing_or_something_else_is_told(
    place: str, expected: str, body: str, given: str, tmp_path: Path
) -> None:
    file = plugin(tmp_path, **{place: body})
    with pytest.raises(UserError) as told:
        used(file)
    assert str(told.value) == f"{file}: method mine, {FUNCTIONS[place]} gives {given}; expected: {expected}"


def test_a_fault_of_our_own_stays_a_fault(tmp_path: Path) -> None:
    registry = Registry()
    registry.add_plugin(plugin(tmp_path))
    specification = registry.specification("mine")
    (stage,) = specification.stages(MethodSettings(), "random")
    method = stage.build(BuildContext(None, MethodSettings(), TrainingSettings()))
    with pytest.raises(TypeError):
        method.encode_target()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("constructor", "told"),
    [
        ("def __init__(self, width, settings): super().__init__(); return 5", "TypeError: __init__() should return None"),
        ("def __init__(self): super().__init__()", "TypeError: Plain.__init__() takes 1 positional argument"),
        ("def __init__(self, width, settings, more): super().__init__()", "TypeError: Plain.__init__() missing 1"),
    ],
)
def test_a_class_that_cannot_be_built_is_told(constructor: str, told: str, tmp_path: Path) -> None:
    """It is our own code that calls the class: no line of the file stands in the traceback."""
    (tmp_path / "mine.py").write_text(
        "from benchmark.method import Method\nfrom benchmark.methods.networks.clip_finetuning import on_clip_features\n"
        f"from benchmark.settings import EncoderChoice\nclass Plain(Method):\n    {constructor}\n"
        "METHOD = on_clip_features(Plain, EncoderChoice)\n"
    )
    registry = Registry()
    registry.add_plugin(tmp_path / "mine.py")
    *_, stage = registry.specification("mine").stages(EncoderChoice(), "random")
    backbone = load_backbone("tiny", "random")
    with pytest.raises(UserError, match=re.escape(f"mine.py: method mine, build raises {told}")):
        stage.build(BuildContext(backbone, EncoderChoice(), TrainingSettings()))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("METHOD = None", "METHOD is a NoneType; expected: a Specification"),
        ("METHOD = 5", "METHOD is a int; expected: a Specification"),
        ("METHODS = [1]", "METHODS"),
        ("METHODS = {'mine': 5}", "METHOD is a int"),
        ("x = 1", "gives no method"),
        ("METHOD = Specification()", "failed on import: NameError"),
        ("def f(:", "failed on import: SyntaxError"),
    ],
)
def test_a_file_that_declares_something_else_is_told(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as told:
        used(tmp_path / "mine.py")
    assert str(told.value).count("mine.py") and problem in str(told.value) and "\n" not in str(told.value)


DATASET = "from benchmark.dataset import DatasetInfo\nINFO = DatasetInfo('own', 'Own', 's', 'l', 'o', 'c')\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "LAYOUTS is missing"),
        ("LAYOUTS = ()\n", "load is missing"),
        ("LAYOUTS = ()\ndef load(root, splits): return None\n", "present_splits is missing"),
        ("LAYOUTS = ()\ndef load(root, splits): return None\npresent_splits = None", "load gives nothing; expected"),
        ("LAYOUTS = ()\ndef load(root, splits): 1 / 0\npresent_splits = None", "load raises ZeroDivisionError"),
        ("LAYOUTS = ()\ndef load(root, splits): exit(0)\npresent_splits = None", "load ends the program"),
    ],
)
def test_a_dataset_s_faults_are_told(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(DATASET + text)
    registry = Registry()
    registry.add_plugin(tmp_path / "own.py")
    with pytest.raises(UserError, match=f"own.py: dataset own, {problem}"):
        registry.load_dataset("own", tmp_path, ("val",))


@pytest.mark.parametrize(("place", "fault"), [("QUERY", "sys.exit(0)"), ("BUILD", "1 / 0"), ("IMPORT", "sys.exit(0)")])
def test_a_run_ends_with_status_2_and_without_a_record(
    place: str, fault: str, command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    file, folder = plugin(tmp_path, **{place: fault}), os.getcwd()
    run = ("run", "--plugin", file, "--method", "mine", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24)
    outcome = command(*run, "--output", tmp_path / "out")
    assert outcome.status == 2 and len(outcome.errors) == 1 and "mine.py: " in outcome.err
    assert "Traceback" not in outcome.err and not (tmp_path / "out" / "record.json").exists() and os.getcwd() == folder
