"""The docs site, without building it: every page has a place, links lead somewhere, what is public is described.

`make docs` builds it, runs the tutorials, and fails on a warning; `make docs-links` asks the net for external links.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import veilkern

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("the docs are not here: an sdist has none", allow_module_level=True)
PAGES = sorted(page for page in DOCS.rglob("*.md") if not page.relative_to(DOCS).parts[0].startswith("_"))
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md", "examples/README.md")
NOTEBOOK = "file_format: mystnb"
TUTORIALS = (
    "first_veil",
    "your_own_network",
    "sealed_against_blend",
    "reading_the_audit",
    "writing_a_new_op",
    "serving",
)
ROOMS = ("ops", "evaluate", "methods", "networks", "auditing", "training", "serving")
UNDESCRIBED = {"__version__"}
FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]`]|`[^`]*`)*\]\(([^()\s]+)\)")
INCLUDE = re.compile(r"^```\{include\} (\S+)\n((?::.*\n)*)```", re.MULTILINE)
AUTODOC = re.compile(r"^\.\. auto\w+:: veilkern\.([\w.]+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def in_toctrees(page: Path) -> list[str]:
    """The pages that a page's toctrees name, as paths from docs/."""
    found = []
    for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        names = [line.strip() for line in tree.splitlines() if line.strip() and not line.startswith(":")]
        found += [(page.parent / name).resolve().relative_to(DOCS).as_posix() for name in names]
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the forge and the site make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_one_toctree():
    listed = [name for page in PAGES for name in in_toctrees(page)]
    assert len(listed) == len(set(listed)), "a page is in two toctrees"
    assert set(listed) | {"index"} == {name_of(page) for page in PAGES}


@pytest.mark.parametrize(
    "page", [*PAGES, *map(ROOT.joinpath, BESIDE)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_relative_links_lead_somewhere(page: Path):
    dead = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        wrong = not file.exists() or not file.is_relative_to(ROOT)
        if wrong or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


def test_includes_find_their_text():
    """And every section of the README is on a page: nothing of it is left out, nothing copied."""
    shown = set()
    for page in PAGES:
        for file, options in INCLUDE.findall(page.read_text()):
            text = (page.parent / file).read_text()
            marks = re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, re.MULTILINE)
            assert all(text.count(f"{mark}\n" if mark[0] == "#" else mark) == 1 for mark in marks), (page, marks)
            if (page.parent / file).resolve() == ROOT / "README.md":
                shown.add(marks[0])
    headings = re.findall(r"^#+ .*$", FENCE.sub("", (ROOT / "README.md").read_text()), re.MULTILINE)
    assert set(headings) - shown == {"## How it is built"}  # the docs' own page is architecture.md


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_are_notebooks_that_run(name: str):
    text = (DOCS / "tutorials" / f"{name}.md").read_text()
    assert NOTEBOOK in text.partition("\n#")[0]
    assert text.count("```{code-cell} python\n") >= 5
    assert "skip-execution" not in text and "raises-exception" not in text
    for cell in re.findall(r"^```\{code-cell\} python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        compile(cell, f"{name}.md", "exec")


def test_there_are_no_other_tutorials():
    assert {page.stem for page in (DOCS / "tutorials").glob("*.md")} == set(TUTORIALS)


def test_every_public_name_is_described():
    """Once: two places would be two targets of a link."""
    described = [name for page in (DOCS / "api").glob("*.md") for name in AUTODOC.findall(page.read_text())]
    assert len(described) == len(set(described))
    own = {name: getattr(veilkern, name) for name in set(veilkern.__all__) - UNDESCRIBED}
    missing = [name for name in own if name not in described]
    elsewhere = {id(value) for value in own.values()}
    for room in ROOMS:
        module = importlib.import_module(f"veilkern.{room}")
        for name in module.__all__:
            if id(getattr(module, name)) not in elsewhere and f"{room}.{name}" not in described:
                missing.append(f"{room}.{name}")
    assert not missing, "add these to a page in docs/api"


def test_what_is_described_is_there():
    for page in (DOCS / "api").glob("*.md"):
        for name in AUTODOC.findall(page.read_text()):
            parts = name.split(".")
            depth = max(
                i for i in range(len(parts)) if (ROOT / "veilkern" / "/".join(parts[:i])).with_suffix(".py").exists()
                or (ROOT / "veilkern" / "/".join(parts[:i])).is_dir()
            )  # fmt: skip
            found = importlib.import_module(".".join(["veilkern", *parts[:depth]]))
            for part in parts[depth:]:
                found = getattr(found, part)


def test_figures_and_their_files_are_there():
    source = (DOCS / "_ext" / "figures.py").read_text()
    drawn = {name.replace("_", "-") for name in re.findall(r"^def ([a-z]\w*)\(rows, plt\)", source, re.MULTILINE)}
    shown = re.findall(r"^```\{figure-of\} (\S+)$", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    assert set(shown) == drawn and len(shown) == len(drawn)
    for file in re.findall(r'^@figure\(\s*"([^"]+)"', source, re.MULTILINE):
        assert (ROOT / "bench" / "results" / file).is_file()
