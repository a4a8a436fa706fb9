"""Names, declarations and plug-ins; and that listing them loads nothing heavy."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TOY_PLUGIN, Command

from benchmark.encoders.backbone_table import BACKBONES
from benchmark.errors import UserError
from benchmark.facts import Facts, MethodInfo
from benchmark.facts_file import read_facts
from benchmark.pipeline.controlled_comparison import shared_conditions
from benchmark.records.record import read_record
from benchmark.registry import Registry, ShelfFile, discover
from benchmark.settings import MethodSettings, TrainingSettings, fill

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pydantic", "PIL", "open_clip", "timm", "deepspeed", "pandas", "numpy", "tqdm")


def test_every_toml_stands_beside_its_file_and_names_what_that_gives() -> None:
    for file in discover().files:
        module = file.load()
        assert file.facts.dataset == getattr(module, "INFO", None), file.path
        names = {info.name for info in file.facts.methods}
        assert all(file.specification(name) is not None for name in names)
        assert len(names) == len(getattr(module, "METHODS", [])) + hasattr(module, "METHOD"), file.path
    for shelf in ("methods", "methods/networks", "datasets"):
        for path in (ROOT / shelf).glob("*.toml"):
            assert path.with_suffix(".py").is_file(), path


def test_every_method_has_a_specification_and_every_recipe_fills_its_stage() -> None:
    registry = discover()
    stages = {}
    for name in registry.methods():
        specification = registry.specification(name)
        for start in ("pretrained", "random"):
            own = {stage.name: stage for stage in specification.stages(specification.settings(), start)}
            # A recipe may set the method itself, and with it which stages it has.
            for recipe in registry.recipes():
                if recipe.stage in own:
                    settings = specification.settings(**recipe.method)
                    stages |= {stage.name: stage for stage in specification.stages(settings, start)}
            stages |= own
    for recipe in registry.recipes():
        fill(stages[recipe.stage].settings, [(recipe.name, recipe.settings)], recipe.stage)
    # What stands for every method's own stage may set only what all of them have.
    for recipe in (*shared_conditions(), *read_facts(ROOT / "benchmark" / "default_recipes.toml").recipes):
        fill(TrainingSettings, [(recipe.name, recipe.settings)], recipe.stage)


def test_main_methods_have_a_recipe_for_each_start_on_cirr() -> None:
    registry = discover()
    for stage in ("encoders", "combiner", "spirit"):
        assert registry.recipe(stage, "cirr", "", "pretrained").name == "paper"
        assert registry.recipe(stage, "cirr", "", "random").name == "from-scratch"


def facts(tmp_path: Path, text: str) -> Facts:
    file = tmp_path / "facts.toml"
    file.write_text(text)
    return read_facts(file)


RECIPE = '[[recipe]]\nstage = "s"\ndataset = "*"\nname = "paper"\nsource = "a"\n'
METHOD = '[[method]]\nname = "m"\n'


def test_a_dataset_s_own_recipe_comes_before_the_general_one(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(METHOD + RECIPE + RECIPE.replace("*", "cirr").replace("paper", "adapted").replace('"a"', '"b"'))
    registry = Registry([ShelfFile("m", tmp_path / "m.py")])
    assert registry.recipe("s", "cirr", "", "pretrained").source == "b"
    assert registry.recipe("s", "shoes", "", "pretrained").source == "a"
    with pytest.raises(UserError, match=r"no recipe of stage s on cirr for random weights; known: .*adapted \(cirr\)"):
        registry.recipe("s", "cirr", "", "random")


def test_a_stage_without_any_recipe_takes_a_default_one_that_says_so() -> None:
    for initialisation, name in (("pretrained", "adapted"), ("random", "from-scratch")):
        recipe = discover().recipe("nobody-s", "cirr", "", initialisation)
        assert (recipe.name, recipe.initialisation) == (name, initialisation) and "default" in recipe.source
    with pytest.raises(UserError, match="use --recipe from-scratch"):
        discover().recipe("nobody-s", "cirr", "adapted", "random")


def test_recipes_share_settings(tmp_path: Path) -> None:
    shared = (
        "[settings.base]\nepochs = 3\nbatch_size = 8\n[settings.long]\nextends = 'base'\nepochs = 5\n"
        "[settings.group]\nnegative_group = 4\n"
    )
    read = facts(
        tmp_path, METHOD + shared + RECIPE + "extends = 'long'\nsettings = { eps = 0.1 }\n"
        + RECIPE + "extends = ['base', 'group']\nsettings = { batch_size = 16 }\nmethod = { width = 2 }\n"
        + '[[variant]]\nname = "v"\ntitle = "t"\nsource = "a"\nsettings = { "s.epochs" = 1 }\n',
    )  # fmt: skip
    assert [recipe.settings for recipe in read.recipes] == [
        {"epochs": 5, "batch_size": 8, "eps": 0.1},
        {"epochs": 3, "batch_size": 16, "negative_group": 4},
    ]
    assert read.recipes[1].method == {"width": 2}
    assert read.variants[0].method == "m" and read.methods[0].title == "m"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (METHOD + 'sumary = "s"\n', r"facts.toml, \[\[method\]\] 1: unknown key 'sumary': did you mean summary"),
        ("[[methods]]\n", r"facts.toml: unknown key or table 'methods': did you mean method"),
        ("[method]\nname = 'm'\n", r"facts.toml: \[method\] must be written as \[\[method\]\]"),
        ("[[method]]\nname = 3\n", r"facts.toml, \[\[method\]\] 1: name = 3 must be a string"),
        ("[[method]]\ntitle = 'M'\n", r"facts.toml, \[\[method\]\] 1: lacks name"),
        (METHOD + "required_files = 'clip'\n", r"required_files = 'clip' must be a list of strings"),
        (METHOD + METHOD, "facts.toml: declares method 'm' twice"),
        (RECIPE + "initialisation = 'none'\n", r"\[\[recipe\]\] 1: initialisation = 'none' must be 'pretrained' or 'random'"),
        (RECIPE + "settings = 3\n", r"\[\[recipe\]\] 1: settings = 3 must be a table"),
        (RECIPE + "extends = 3\n", r"\[\[recipe\]\] 1: extends = 3 must name a \[settings.NAME\]"),
        (
            "[settings.released]\nepochs = 1\n" + RECIPE + "extends = 'relesed'\n",
            r"\[\[recipe\]\] 1: unknown table of settings 'relesed': did you mean released",
        ),
        ("[settings]\nepochs = 1\n", r"\[settings\]: epochs must be a table"),
        ("dataset = 3\n", r"facts.toml, \[dataset\]: must be a table"),
        ("[[method]\n", "facts.toml: not valid TOML .*at line 1"),
    ],
)
def test_what_is_wrong_with_a_toml_is_told_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        facts(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


def test_all_that_is_wrong_with_a_toml_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        facts(tmp_path, METHOD + "tilte = 'M'\nsummary = 1\n" + RECIPE + "batch = 3\n")
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_no_plugin_is_told(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text("METHOD = [\n")
    with pytest.raises(UserError, match="failed on import: SyntaxError"):
        Registry().add_plugin(file)
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match="gives no method"):
        Registry().add_plugin(file)
    with pytest.raises(UserError, match="no such file"):
        Registry().add_plugin(tmp_path / "missing.py")


@pytest.mark.parametrize(
    "text", ["METHODS = [MethodInfo(name='m')]\n", "x = 1\nSPECIFICATIONS = {}\n", "RECIPES: list[Recipe] = [\n"]
)
def test_a_plugin_of_the_old_form_is_shown_the_new_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("from benchmark.declarations import MethodInfo\n" + text)
    with pytest.raises(UserError, match=r"old.py: '[A-Z]+' is of the old form; write METHOD = Spec.*TOML") as caught:
        Registry().add_plugin(tmp_path / "old.py")
    assert len(str(caught.value).splitlines()) == 1


def method_file(path: Path, body: str, facts: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(body + "\n")
    if facts:
        path.with_suffix(".toml").write_text(facts)
    return path


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="declares 'spirit', and so does .*spirit.py"):
        discover().add_plugin(method_file(tmp_path / "mine.py", "METHODS = {'spirit': 1}"))


def specification_that_says(word: str) -> str:
    return f"from benchmark.method import Specification\nMETHOD = Specification((), remarks=lambda settings: ('{word}',))"


def said(registry: Registry, method: str) -> str:
    (word,) = registry.specification(method).remarks(MethodSettings())
    return word


def test_a_plugin_without_a_toml_bears_its_file_s_name(tmp_path: Path) -> None:
    registry = discover()
    registry.add_plugin(method_file(tmp_path / "mine.py", specification_that_says("1")))
    assert registry.methods()["mine"] == MethodInfo("mine", "mine")
    facts_of_other = '[[method]]\nname = "other"\ntitle = "O"\n'
    registry.add_plugin(method_file(tmp_path / "named.py", specification_that_says("2"), facts_of_other))
    assert registry.methods()["other"].title == "O" and "named" not in registry.methods()
    assert (said(registry, "mine"), said(registry, "other")) == ("1", "2")


ALONE = """
from torch import nn
from benchmark.method import FeatureInputs, Method, Specification, Stage

class Alone(Method):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)
    def encode_query(self, reference, text):
        return self.layer(reference["global"] + text["global"])
    def encode_target(self, target):
        return target["global"]
    def loss(self, queries, targets):
        return (queries - targets).square().mean()

STAGE = Stage("alone", lambda context: Alone(context.width), lambda context: FeatureInputs())
METHOD = Specification(stages=lambda settings, initialisation: (STAGE,))
"""


def test_a_plugin_without_a_toml_runs_by_a_default_recipe_that_says_so(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    file = method_file(tmp_path / "alone.py", ALONE)
    run = ("run", "--plugin", file, "--method", "alone", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24)
    assert "recipe from-scratch (default: the method's file declares no recipe" in command(*run, "--dry-run").out
    outcome = command(*run, "--epochs", 1, "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert read_record(tmp_path / "out").identity.recipe_source.startswith("default")


def test_a_plugin_of_a_dataset_needs_no_toml(tmp_path: Path) -> None:
    info = 'DatasetInfo("own", "Own", "s", "l", "o", "", text_rule="joined")'
    registry = discover()
    registry.add_plugin(method_file(tmp_path / "own.py", f"from benchmark.dataset import DatasetInfo\nINFO = {info}"))
    assert registry.datasets()["own"].text_rule == "joined" and registry.dataset_module("own").INFO.title == "Own"


def test_two_plugins_of_the_same_file_name_are_two(tmp_path: Path) -> None:
    registry = discover()
    for folder, name in (("a", "one"), ("b", "two")):
        declared = specification_that_says(name).replace("METHOD =", f"METHODS = {{'{name}':") + "}"
        registry.add_plugin(method_file(tmp_path / folder / "m.py", declared))
    registry.add_plugin(tmp_path / "b" / "m.py")
    assert (said(registry, "one"), said(registry, "two")) == ("one", "two")


def test_a_plugin_that_fails_or_forgets_its_specification_is_told(tmp_path: Path) -> None:
    registry = discover()
    for name, body in (("bad", "import no_such_library"), ("less", "METHODS = {}")):
        registry.add_plugin(method_file(tmp_path / f"{name}.py", body, f'[[method]]\nname = "{name}"\n'))
    with pytest.raises(UserError, match="bad.py: the plug-in failed on import: .*no_such_library"):
        registry.specification("bad")
    with pytest.raises(UserError, match="gives no method 'less' .METHOD or METHODS., which its facts name; given: none"):
        registry.specification("less")


def distribution(folder: Path, module: str, *names: str) -> None:
    info = folder / "toy_cir-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-cir\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[benchmark.methods]\n" + "".join(f"{name} = {module}\n" for name in names)
    )


def test_another_distribution_joins_by_its_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "site", "toy_cir.method", "toy", "toy_features")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(TOY_PLUGIN.parents[1]))
    registry = discover()
    assert {"toy", "toy_features", "spirit"} <= registry.methods().keys()
    assert [r.stage for r in registry.recipes()].count("toy-base") == 1
    assert registry.specification("toy").own_networks is not None
    assert importlib.import_module("toy_cir.method").__file__ == str(TOY_PLUGIN)


def test_an_entry_point_without_a_toml_names_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "site", "lone_method", "lone")
    (tmp_path / "site" / "lone_method.py").write_text(specification_that_says("1"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry = discover()
    assert registry.methods()["lone"] == MethodInfo("lone", "lone") and "lone_method" not in sys.modules
    assert said(registry, "lone") == "1"
    del sys.modules["lone_method"]


def test_an_entry_point_s_module_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "site", "lone_failing", "lone")
    (tmp_path / "site" / "lone_failing.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(UserError, match="lone_failing.py: the plug-in ended the program on import"):
        discover().specification("lone")


def test_an_entry_point_of_another_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "site", "toy_cir.method", "toys")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(TOY_PLUGIN.parents[1]))
    with pytest.raises(UserError, match="entry point toys: .*method.py declares toy, toy_features; an entry point's"):
        discover()


def test_an_entry_point_of_backbones_to_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "lone-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[benchmark.backbones]\nlinear = no_such_backbones\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(UserError, match="entry point linear of benchmark.backbones: there is no module no_such_backbones"):
        discover()


def test_an_entry_point_to_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    distribution(tmp_path / "site", "no_such_package.method", "toy")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    outcome = command("list")
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "entry point toy of benchmark.methods: there is no module no_such_package.method" in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["evaluate", "--help"], ["data", "--help"], ["list"], ["list", "--json"],
     ["list", "methods", "--plugin", str(TOY_PLUGIN)]],
)  # fmt: skip
def test_help_and_list_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom benchmark.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    # The parser of these commands is made from the typed model of their options.
    allowed = ["pydantic"] if arguments[0] in ("run", "evaluate", "data") else []
    assert done.stderr.strip() in ("[]", str(allowed))
    assert done.stdout


def test_list_tells_all_there_is(command: Command) -> None:
    told = command("list").out
    for name in ("spirit", "clip4cir", "image_only", "text_only", "sum", "cirr", "RN50x4", "tiny", "encoders"):
        assert name in told
    as_json = json.loads(command("list", "--json").out)
    assert {b["name"] for b in as_json["backbones"]} == set(BACKBONES)
    assert {r["stage"] for r in as_json["recipes"]} >= {"encoders", "combiner", "spirit"}
    cited = command("list", "--cite").out
    assert "chen2024spirit" in cited and "baldrati2023composed" in cited and "liu2021cirr" in cited
    assert "toy_features" in command("list", "methods", "--plugin", TOY_PLUGIN).out


# What checks and imports a method stands apart


def with_companion(folder: Path, companion: str) -> Registry:
    (folder / "parity").mkdir()
    (folder / "parity" / "mine.py").write_text(companion)
    registry = Registry()
    registry.add_plugin(method_file(folder / "mine.py", "METHOD, WIDTH = 1, 3"))
    return registry


def test_a_companion_beside_a_plugin_imports_it(tmp_path: Path) -> None:
    registry = with_companion(tmp_path, "from ..mine import WIDTH\nRELEASES = {'mine': WIDTH}")
    (companion,) = registry.companions()
    assert companion is registry.companion("mine") and companion.RELEASES == {"mine": 3}


def test_a_plugin_needs_no_companion(tmp_path: Path) -> None:
    registry = Registry()
    registry.add_plugin(method_file(tmp_path / "mine.py", "METHOD = 1"))
    assert registry.companion("mine") is None and not list(registry.companions())


def test_a_companion_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"parity/mine.py: failed on import"):
        with_companion(tmp_path, "from ..mine import MISSING").companion("mine")
