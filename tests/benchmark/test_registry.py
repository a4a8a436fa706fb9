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
from benchmark.pipeline.fair import FAIR
from benchmark.registry import Registry, ShelfFile, discover
from benchmark.settings import TrainingSettings, fill

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pydantic", "PIL", "open_clip", "timm", "deepspeed", "pandas", "numpy", "tqdm")


def test_literals_equal_the_imported_objects() -> None:
    for file in discover().files:
        module = file.load()
        objects = [
            *getattr(module, "METHODS", []), *getattr(module, "RECIPES", []), *getattr(module, "VARIANTS", []),
                *getattr(module, "ASSETS", []),
            *([module.INFO] if hasattr(module, "INFO") else []),
        ]  # fmt: skip
        assert sorted(map(repr, file.declared)) == sorted(map(repr, objects)), file.path


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
        # The stage "fair" stands for every method's own and may set only what all of them have.
        settings = TrainingSettings if recipe.stage == FAIR else stages[recipe.stage].settings
        fill(settings, [(recipe.name, recipe.settings)], recipe.stage)


def test_main_methods_have_a_recipe_for_each_start_on_cirr() -> None:
    registry = discover()
    for stage in ("encoders", "combiner", "spirit"):
        assert registry.recipe(stage, "cirr", "", "pretrained").name == "paper"
        assert registry.recipe(stage, "cirr", "", "random").name == "from-scratch"


def recipes(tmp_path: Path, text: str) -> Registry:
    file = tmp_path / "recipes.py"
    file.write_text(f"RECIPES = [{text}]\n")
    return Registry([ShelfFile("recipes", file)])


def test_a_dataset_s_own_recipe_comes_before_the_general_one(tmp_path: Path) -> None:
    registry = recipes(
        tmp_path,
        'Recipe(stage="s", dataset="*", name="paper", source="a", settings={}),'
        'Recipe(stage="s", dataset="cirr", name="adapted", source="b", settings={}),',
    )
    assert registry.recipe("s", "cirr", "", "pretrained").source == "b"
    assert registry.recipe("s", "shoes", "", "pretrained").source == "a"
    with pytest.raises(UserError, match=r"no recipe of stage s on cirr for random weights; known: .*adapted \(cirr\)"):
        registry.recipe("s", "cirr", "", "random")


def test_a_literal_may_be_named_above_and_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "named.py"
    file.write_text(
        '_BASE = {"epochs": 3, "batch_size": 8}\n_OTHER = {**_BASE, "epochs": 5}\n_MADE = dict(epochs=7)\n'
        'RECIPES = [Recipe(stage="s", dataset="*", name="paper", source="a", settings={**_OTHER, "eps": 0.1})]\n'
        'VARIANTS = [Variant(method="m", name="v", title="t", source="a", settings=_BASE)]\n'
    )
    registry = Registry([ShelfFile("named", file)])
    assert registry.recipes()[0].settings == {"epochs": 5, "batch_size": 8, "eps": 0.1}
    assert [v.settings for v in registry.variants("m")] == [{"epochs": 3, "batch_size": 8}]
    assert registry.variants("other") == ()
    file.write_text(file.read_text().replace("settings=_BASE", "settings=_MADE"))
    with pytest.raises(UserError, match="line 5: Variant.*must have literal keyword arguments only, or names of literals"):
        Registry([ShelfFile("named", file)]).variants()


def test_declarations_must_be_literals(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text("N = 3\nMETHODS = [MethodInfo(name='odd' * N)]\n")
    with pytest.raises(UserError, match=r"odd.py, line 2: MethodInfo\(...\) must have literal"):
        Registry().add_plugin(file)
    file.write_text("METHODS = [MethodInfo(\n")
    with pytest.raises(UserError, match="cannot be read as a plug-in"):
        Registry().add_plugin(file)
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match="declares neither METHODS"):
        Registry().add_plugin(file)
    with pytest.raises(UserError, match="no such file"):
        Registry().add_plugin(tmp_path / "missing.py")


def method_file(path: Path, name: str, body: str = "SPECIFICATIONS = {}") -> Path:
    path.parent.mkdir(exist_ok=True)
    declared = f'MethodInfo(name="{name}", title="T", summary="s", paper="", citation="")'
    path.write_text(f"from benchmark.declarations import MethodInfo\nMETHODS = [{declared}]\n{body}\n")
    return path


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="declares 'spirit', and so does .*spirit.py"):
        discover().add_plugin(method_file(tmp_path / "mine.py", "spirit"))


def test_two_plugins_of_the_same_file_name_are_two(tmp_path: Path) -> None:
    registry = discover()
    registry.add_plugin(method_file(tmp_path / "a" / "m.py", "one", "SPECIFICATIONS = {'one': 1}"))
    registry.add_plugin(method_file(tmp_path / "b" / "m.py", "two", "SPECIFICATIONS = {'two': 2}"))
    registry.add_plugin(tmp_path / "b" / "m.py")
    assert (registry.specification("one"), registry.specification("two")) == (1, 2)


def test_a_plugin_that_fails_or_forgets_its_specification_is_told(tmp_path: Path) -> None:
    registry = discover()
    registry.add_plugin(method_file(tmp_path / "bad.py", "bad", "import no_such_library"))
    registry.add_plugin(method_file(tmp_path / "less.py", "less"))
    with pytest.raises(UserError, match="bad.py: the plug-in failed on import: .*no_such_library"):
        registry.specification("bad")
    with pytest.raises(UserError, match="declares method 'less' but SPECIFICATIONS has no such key"):
        registry.specification("less")


def distribution(folder: Path, module: str) -> None:
    info = folder / "toy_cir-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-cir\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[benchmark.methods]\ntoy = {module}\n[benchmark.datasets]\ntoy = {module}\n"
    )


def test_another_distribution_joins_by_its_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "site", "toy_cir.method")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(TOY_PLUGIN.parents[1]))
    registry = discover()
    assert {"toy", "toy_features", "spirit"} <= registry.methods().keys()
    assert [r.stage for r in registry.recipes()].count("toy-base") == 1
    assert registry.specification("toy").own_networks is not None
    assert importlib.import_module("toy_cir.method").__file__ == str(TOY_PLUGIN)


def test_an_entry_point_to_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    distribution(tmp_path / "site", "no_such_package.method")
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
    assert done.stderr.strip() == "[]"
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
