"""The wheel: what it holds, and that it lives beside a package called `datasets`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELVES = ("benchmark", "methods", "datasets")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    import shutil

    source = tmp_path_factory.mktemp("source")
    for folder in (*SHELVES, "tests", "results"):
        if (ROOT / folder).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "runs")
            shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with somebody else's `datasets`, into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "__init__.py").write_text('OWNER = "somebody else"\n')
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    done = subprocess.run([*command, "--disable-pip-version-check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_it_holds_nothing_but_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"benchmark", next(n for n in names if "dist-info" in n).split("/")[0]}
    assert "benchmark/py.typed" in names
    for folder, inside in (("benchmark", "benchmark"), ("methods", "benchmark/methods"), ("datasets", "benchmark/datasets")):
        expected = {
            f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".toml", ".svg", ".html", ".css", ".js") and "__pycache__" not in path.parts
        }
        assert expected <= set(names), sorted(expected - set(names))
    rest = [name for name in names if not name.startswith("benchmark/configurations/")]
    assert not [name for name in rest if "tests" in name or name.endswith((".json", ".png", ".csv"))]


PROBE = """
import sys, importlib
sys.path.insert(0, {site!r}) if {first} else sys.path.append({site!r})
import datasets
import benchmark, benchmark.methods.spirit, benchmark.datasets.cirr
from benchmark.datasets.demo import demo_data as demo
from benchmark.registry import discover
assert benchmark.datasets is not datasets
print(getattr(datasets, "OWNER", datasets.__file__))
print(benchmark.__file__)
print(benchmark.datasets.__file__)
print(sorted(discover().methods()))
import benchmark.registry
for name in ("benchmark.tests", "benchmark.results", "benchmark.runs"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} can be imported")
"""


def probe(site: Path, folder: Path, first: bool) -> list[str]:
    code = PROBE.format(site=str(site), first=first)
    # -P: only an installed copy is found; without it, `python -m` in the repository finds ./benchmark first.
    flags = ["-P"] if first else []
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_it_is_installed_beside_another_datasets(site: Path, tmp_path: Path) -> None:
    owner, package, shelf, methods = probe(site, tmp_path, first=True)
    assert owner == "somebody else"
    assert package == str(site / "benchmark" / "__init__.py")
    assert shelf == str(site / "benchmark" / "datasets" / "__init__.py")
    assert "'spirit'" in methods and "'sum'" in methods


def test_it_is_found_from_the_repository_s_root_too(site: Path) -> None:
    _, package, shelf, methods = probe(site, ROOT, first=False)
    assert package == str(ROOT / "benchmark" / "__init__.py")
    assert shelf == str(ROOT / "datasets" / "__init__.py")
    assert "'spirit'" in methods


def test_a_checkout_has_its_own_shelves_beside_an_editable_install_of_another(tmp_path: Path) -> None:
    """The finder of an editable install knows both shelves by name, wherever the package came from."""
    other = tmp_path / "other" / "methods"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    code = f"""
import importlib.util, sys
class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "benchmark.methods":
            return importlib.util.spec_from_file_location(
                name, {str(other / "__init__.py")!r}, submodule_search_locations=[{str(other)!r}])
sys.meta_path.append(Editable)
import benchmark.methods
print(benchmark.methods.__path__[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.stdout.strip() == str(ROOT / "methods"), done.stderr
