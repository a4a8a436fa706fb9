"""Printed tables: the same numbers in every format, text from outside as text, and the page that a browser sorts."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import main
from benchmark.dataset import TaskKey
from benchmark.errors import UserError
from benchmark.leaderboards.browser_page import browser_page
from benchmark.leaderboards.entries import entries_of
from benchmark.leaderboards.formats import FORMATS, format_tables
from benchmark.leaderboards.leaderboard import Sources, read_sources
from benchmark.leaderboards.selection import Selection, selected
from benchmark.records.escaping import latex_escaped, latex_numbers, literal
from benchmark.records.record import Record, read_record
from benchmark.records.rows import Cell, Row, plain
from benchmark.records.tables import Table, tables
from benchmark.registry import discover

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")
RESULTS = Path(__file__).parents[3] / "results"
KEY = TaskKey("fashioniq", "val", "original", "joined")
HOSTILE = (
    "<script>document.title='x'</script>", "<img src=x onerror=alert(1)>", '=HYPERLINK("http://x","y")', "+1+1", "-2+3",
    "@SUM(A1)", "\\input{/etc/passwd}", "$x^2$ & 50 % # _a_ {b} ~ \\\\", "a | b", "**bold** `code` [l](javascript:x)",
    "]]> --> &lt;b&gt;", "\"><b x='", "é ü 模型 ≈ ±",
)  # fmt: skip


def made(title: str = "SPIRIT", **identity: Any) -> Record:
    raw = copy.deepcopy(GOLDEN)
    raw.update(title=title)
    raw["identity"].update(identity)
    return Record.model_validate(raw)


def published(name: str, value: float, **facts: str) -> Row:
    cells = {(category, "R@10"): Cell(f"{value:.2f}", value, half=1.5) for category in ("dress", "average")}
    return Row(plain(name), "CLIP, 2024, survey [1]", cells, published={"encoder": "CLIP", "year": "2024", **facts})


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_shown_as_text_in_every_format(text: str) -> None:
    found = [*tables([made(title=text, selection_note=text)]), Table(KEY, "", (published(text, 40.0, source=text),))]
    forms = {form: format_tables(found, form) for form in FORMATS}
    assert re.search(r"<script>document|<img |\"><b ", forms["html"]) is None
    shown = shown_text(forms["html"])
    assert " ".join(text.split()) in shown
    for line in csv.DictReader(io.StringIO(forms["csv"])):
        assert all(not value or value[0] not in "=+-@" for value in line.values() if value and not number(value))
    assert {n["method"] for table in json.loads(forms["json"]) for n in table["numbers"]} >= {" ".join(text.split())}
    latex = forms["latex"]
    assert "\\input{" not in latex and latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == 2
    bare = re.sub(r"\\[\\{}$&#_%]", "", latex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    columns = {bare_line.count("&") for bare_line in (re.sub(r"\\&", "", line) for line in table_lines(latex))}
    assert columns <= {2, 8}, "no name makes a cell of its own"


def table_lines(latex: str) -> list[str]:
    return [line for line in latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]


def number(value: str) -> bool:
    try:
        return float(value) is not None
    except ValueError:
        return False


def shown_text(page: str) -> str:
    class Reader(HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Reader()
    reader.feed(page)
    return " ".join(reader.text.split())


LATEX = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,amssymb}
\usepackage[normalem]{ulem}
\begin{document}
%s
\end{document}
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here: apt-get install texlive-latex-recommended "
                    "texlive-plain-generic")  # fmt: skip
def test_latex_reads_all_tables_and_every_name(tmp_path: Path) -> None:
    """Letters that are not of its encoding are the paper's own affair."""
    results = shutil.copytree(RESULTS, tmp_path / "results")
    sources, registry = read_sources(results), discover()
    found = [t for demo in (True, False) for t in selected(sources, registry.datasets(), Selection(demo=demo))]
    found += [Table(KEY, "", (published(text, 40.0),)) for text in HOSTILE if "模" not in text]
    # A paper has text between them; without any the queue of floats is soon full.
    printed = format_tables(found, "latex").replace(r"\begin{table}", r"\clearpage\begin{table}")
    (tmp_path / "page.tex").write_text(LATEX % printed)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]


def test_minus_signs_are_those_of_numbers() -> None:
    assert latex_numbers("[-0.90, +5.14] -.5 a-1 3-4") == "[$-$0.90, +5.14] $-$.5 a-1 3-4"


def test_latex_of_every_sign_that_it_would_obey() -> None:
    assert latex_escaped("50 % & $x_1$ {a} #b ~c^d \\e <f>") == (
        r"50 \% \& \$x\_1\$ \{a\} \#b \textasciitilde{}c\textasciicircum{}d \textbackslash{}e \textless{}f\textgreater{}"
    ).replace(r"\textbackslash{}e", "e")  # a backslash of Markdown's own protects the letter behind it
    assert latex_escaped(plain("a\\b")) == r"a\textbackslash{}b"


@pytest.mark.parametrize("text", HOSTILE)
def test_what_markdown_needs_is_taken_back_elsewhere(text: str) -> None:
    assert literal(plain(text)) == " ".join(text.split())


def test_latex_sets_the_best_of_three_seeds_in_bold_strikes_errata_and_stacks_categories() -> None:
    three = [made(seed=seed) for seed in (0, 1, 2)]
    raw = [record.model_dump(mode="json") for record in three]
    for one in raw:
        one["identity"]["data"].update(label="cirr", is_demo=False, is_official=True)
        for result in one["results"]:
            result["dataset"] = "cirr"
    other = [{**copy.deepcopy(one), "title": "Other", "method": "other"} for one in raw]
    for one in other:
        one["results"][0]["metrics"]["R@50"] = 99.0
    (table,) = tables(map(Record.model_validate, raw + other), bold=True)
    latex = format_tables([table], "latex")
    assert r"\textbf{99.00}" in latex and r"$\pm$" in latex and r"\scriptsize sd" in latex
    wrong = Row("W", "", {("dress", "R@10"): Cell("9.90", 9.9, wrong=True), ("average", "R@10"): Cell("9.00", 9.0)})
    latex = format_tables([Table(KEY, "", (published("P", 40.0), wrong))], "latex")
    assert r"\sout{9.90}" in latex and r"\multicolumn{1}{c}{dress}" in latex and r"\cmidrule(lr){2-2}" in latex
    assert r"\label{tab:fashioniq-val-original-joined}" in latex


def test_every_format_has_the_same_numbers() -> None:
    found = tables([made()])
    wanted = {(str(e["metric"]), str(e["printed"])) for table in found for e in entries_of(table)}
    read = csv.DictReader(io.StringIO(format_tables(found, "csv")))
    assert {(line["metric"], line["printed"]) for line in read} == wanted
    read_json = json.loads(format_tables(found, "json"))
    assert {(n["metric"], n["printed"]) for table in read_json for n in table["numbers"]} == wanted
    for form in ("markdown", "latex", "html"):
        assert all(printed in format_tables(found, form) for _, printed in wanted), form


@pytest.fixture(scope="module")
def sources() -> Sources:
    """The book as it is committed."""
    return read_sources(RESULTS)


DATASETS = discover().datasets()


def test_notes_stand_below_a_caption_that_tex_can_set_in_one_line(sources: Sources) -> None:
    """TeX's longest line is 16,383 points, of about five a letter: with its notes a caption of 24 rows was longer."""
    tables = selected(sources, DATASETS, Selection(dataset=("fashioniq",), demo=True))
    printed = format_tables(tables, "latex")
    captions = re.findall(r"^\\caption\{(.*)\}$", printed, re.MULTILINE)
    assert captions and max(map(len, captions)) < 2000
    assert any(len(" ".join(table.all_notes())) > 2000 for table in tables)
    assert "captions of pictures and words of pairs are others" in printed


def test_rows_are_filtered_and_sorted(sources: Sources) -> None:
    chosen = Selection(dataset=("fashioniq",), protocol=("val-noref",), text_mode=("corrected",), sort="R@10")
    (table,) = selected(sources, DATASETS, chosen)
    averages = [row.cells["average", "R@10"].value for row in table.rows]
    assert averages == sorted(averages, reverse=True) and len(averages) >= 5
    again = selected(sources, DATASETS, Selection(dataset=("fashioniq",), extra_data="said", year=(2023,)))
    rows = [row for t in again for row in t.rows]
    assert rows and all(row.published["extra data"] and row.published["year"] == "2023" for row in rows)
    one = selected(sources, DATASETS, Selection(dataset=("shoes",), encoder=("vit-h",), method=("offset",)))
    assert {literal(row.name) for t in one for row in t.rows} == {"OFFSET"}
    assert selected(sources, DATASETS, Selection(dataset=("cirr",), rows="measured")) == []
    demo = selected(sources, DATASETS, Selection(demo=True, dataset=("cirr",), method=("spirit",)))
    assert demo and all("demo" in t.remark for t in demo)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (Selection(dataset=("cir",)), "unknown dataset 'cir'"),
        (Selection(protocol=("offical",)), "did you mean official"),
        (Selection(text_mode=("both",)), "unknown text mode"),
        (Selection(sort="R@7"), "--sort R@7: in none of these tables"),
    ],
)
def test_a_name_that_is_in_no_table_is_one_line(chosen: Selection, told: str, sources: Sources) -> None:
    with pytest.raises(UserError) as error:
        selected(Sources(published=sources.published), DATASETS, chosen)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_the_command_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(RESULTS / "published.csv", tmp_path)
    arguments = ["leaderboard", "--results", str(tmp_path), "--dataset", "shoes", "--rows", "published"]
    assert main([*arguments, "--format", "csv", "--sort", "R@10"]) == 0
    assert capsys.readouterr().out.startswith("dataset,split,protocol")
    assert [path.name for path in tmp_path.iterdir()] == ["published.csv"]


def test_the_browser_page_asks_nothing_of_any_server() -> None:
    page = (RESULTS / "leaderboard" / "leaderboard.html").read_text(encoding="utf-8")
    assert re.search(r"""(?:src|href|action)\s*=|url\(|@import|fetch\(|XMLHttp|<link|<iframe""", page) is None
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page and "viewport" in page
    assert "</s>" in page and len(page.encode()) < 2_000_000


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLICKS = """<script>
addEventListener("load", () => {
  const heads = [...document.querySelectorAll("thead button")];
  heads.at(-1).click();
  const order = () => [...document.querySelectorAll("tbody tr")].filter(r => !r.hidden).map(r => r.cells[0].firstChild.textContent);
  const falling = order();
  heads.at(-1).click();
  const rising = order();
  document.querySelector("select[name=extra]").value = "said";
  document.querySelector("form").dispatchEvent(new Event("input", {bubbles: true}));
  const filtered = order();
  document.querySelector("input[name=words]").value = "nowhere to be found";
  document.querySelector("form").dispatchEvent(new Event("input", {bubbles: true}));
  document.title = JSON.stringify({falling, rising, filtered, none: order(),
    told: getComputedStyle(document.getElementById("none")).display});
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium, to test the page in a browser")
def test_in_a_browser_a_head_sorts_and_a_filter_hides(tmp_path: Path) -> None:
    rows = (published("low", 20.0), published("<b>high</b>", 60.0, **{"extra data": "CC3M"}), published("middle", 40.0))
    page = tmp_path / "page.html"
    page.write_text(browser_page([Table(KEY, "", rows)], "Test").replace("</body>", f"{CLICKS}</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60)
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert title is not None, shown.stderr[-500:]
    found = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["falling"] == ["<b>high</b>", "middle", "low"] == found["rising"][::-1]
    assert found["filtered"] == ["<b>high</b>"] and found["none"] == [] and found["told"] == "block"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--sort", "R@10"], "--sort: tables are printed with --format"),
        (["--text-mode", "joined"], "--text-mode: tables are printed with --format"),
        (["--check", "--add", "RUN"], "write nothing"),
        (["--format", "csv", "--runs", "RUN"], "write nothing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", "--results", str(tmp_path / "results"), *given]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "results").exists()
