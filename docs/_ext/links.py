"""Links of pages that are written for the forge: what they point at is a page here, or a file to download.

A page that includes a file of the repository (`{include} ../README.md`) stands for it: links to that file, or to the
section of it that was included, lead to the page.
"""

from __future__ import annotations

import re
from pathlib import Path

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]`]|`[^`]*`)*)\]\(([^()\s]+)\)")
_INCLUDE = re.compile(r"^```\{include\} (\S+)\n((?::.*\n)*)```", re.MULTILINE)
_SECTION = re.compile(r'^:start-after: "#+ (.*)"$', re.MULTILINE)


def slug(heading: str) -> str:
    """A heading's anchor, as the forge and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def included(docs: Path) -> dict[tuple[Path, str], str]:
    """(file, "" or the anchor of a section) -> the page that includes it, as `/page.md`."""
    found = {}
    for page in sorted(docs.rglob("*.md")):
        for match in _INCLUDE.finditer(page.read_text()):
            file = (page.parent / match[1]).resolve()
            section = _SECTION.search(match[2])
            found[file, slug(section[1]) if section else ""] = f"/{page.relative_to(docs).as_posix()}"
    for (file, _), page in list(found.items()):
        found.setdefault((file, ""), "/index.md" if file.name == "README.md" else page)
    return found


def rewritten(text: str, file: Path, docs: Path, pages: dict[tuple[Path, str], str], page: Path) -> str:
    """The text of `file` with its relative links as they must be where it is shown, on `page`."""

    def link(match: re.Match) -> str:
        words, target = match.groups()
        if re.match(r"[a-z][a-z+.-]*:", target) or target.startswith("/"):
            return match[0]
        path, _, anchor = target.partition("#")
        wanted = (file.parent / path).resolve() if path else file
        if wanted.is_relative_to(docs):
            if wanted == page and anchor:
                return match[0]
            place = f"/{wanted.relative_to(docs).as_posix()}" + (f"#{anchor}" if anchor else "")
            return f"[{words}]({place})"
        if (shown := pages.get((wanted, anchor)) or pages.get((wanted, ""))) is not None:
            return f"[{words}]({shown})"
        if not wanted.exists():
            return match[0]  # Sphinx tells
        ups = "../" * len(page.relative_to(docs).parts) + wanted.relative_to(docs.parent).as_posix()
        if wanted.suffix == ".md":  # a page that the site does not have: MyST would look for it
            return f"{{download}}`{words.replace('`', '')} <{ups}>`"
        return f"[{words}]({ups})"

    return _LINK.sub(link, text)


def setup(app):
    docs = Path(app.srcdir)
    pages = included(docs)

    def page_read(app, name: str, source: list[str]) -> None:
        page = docs / f"{name}.md"
        source[0] = rewritten(source[0], page, docs, pages, page)

    def file_read(app, path: Path, name: str, content: list[str]) -> None:
        page = docs / f"{app.env.docname}.md"
        content[0] = rewritten(content[0], (docs / path).resolve(), docs, pages, page)

    app.connect("source-read", page_read)
    app.connect("include-read", file_read)
    return {"parallel_read_safe": True}
