"""Docstrings of this library, which are plain prose, as reST: nothing in them is markup but `code` and indented code.

A sentence that begins with an argument (`key: the master key of ..`) becomes an item of a list, as do fields of a
dataclass and properties; what is raised begins a paragraph. Types in signatures lead to the page of what they name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import textwrap

_SPECIAL = re.compile(r"([\\*|])|(?<=\w)(_)(?=\W|$)")
_CODE = re.compile(r"(`[^`]+`)")


def escaped(text: str) -> str:
    """reST that shows the text as it is, with `code` as code."""
    parts = _CODE.split(text)
    return "".join(f"``{p[1:-1]}``" if p.startswith("`") and len(p) > 2 else _SPECIAL.sub(r"\\\g<0>", p) for p in parts)


def names_of(what: str, found: object) -> set[str]:
    """What a docstring may explain: arguments, fields, public attributes."""
    names: set[str] = set()
    if inspect.isclass(found):
        if dataclasses.is_dataclass(found):
            names |= {field.name for field in dataclasses.fields(found)}
        names |= {n for n in vars(found) if not n.startswith("_")} | set(getattr(found, "__annotations__", {}))
        found = found.__init__
    with contextlib.suppress(TypeError, ValueError):
        names |= set(inspect.signature(found).parameters) - {"self", "cls"}
    return names


def paragraphs(text: str) -> list[tuple[bool, str]]:
    """(is code, text): code is indented and stands between empty lines."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        code = all(line.startswith("    ") for line in block.split("\n"))
        found.append((code, textwrap.dedent(block) if code else block))
    return found


def items(text: str, names: set[str]) -> list[tuple[str, str]]:
    """A paragraph in pieces: ("", sentences), ("a, b", what is said of them), ("", "Raises ..")."""
    words = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"(?!)"
    start = re.compile(rf"(?:^|(?<=[.;)] )|(?<=\n))((?:{words})(?:(?:, | and )(?:{words}))*): ")
    text = re.sub(r"\s*\n\s*", " ", text.strip())
    marks = [(m.start(), m.end(), m[1]) for m in start.finditer(text)]
    pieces, at, label = [], 0, ""
    for begin, end, name in [*marks, (len(text), len(text), "")]:
        pieces.append((label, text[at:begin].strip()))
        at, label = end, name
    found = []
    for label, said in pieces:
        said, *ending = re.split(r"(?<=[.)]) (?=(?:Raises|Returns) [A-Zauif\[(])", said)
        found += [(label, said), *(("", part) for part in ending)]
    return [(label, re.sub(";$", ".", said)) for label, said in found if said]


def prose(text: str, names: set[str]) -> list[str]:
    """A docstring as lines of reST."""
    lines: list[str] = []
    for code, block in paragraphs(inspect.cleandoc(text)):
        if code:
            lines += ["::", "", *(f"    {line}" for line in block.split("\n")), ""]
            continue
        if re.match(r"(- |\|)", block):  # a list of its own
            for entry in re.split(r"\n(?=- )", block):
                said = escaped(re.sub(r"\s*\n\s*", " ", entry[2:].strip()))
                lines += [f"- {said}"]
            lines += [""]
            continue
        for label, said in items(block, names):
            heads = ", ".join(f"``{name}``" for name in re.split(r", | and ", label))
            lines += [f"- {heads}: {escaped(said)}" if label else escaped(said), ""]
    return lines


def setup(app):
    def process(app, what, name, found, options, lines):
        lines[:] = prose("\n".join(lines), names_of(what, found))

    def signature(app, what, name, found, options, signature, returns):
        """`<factory>`, which dataclasses put in the place of a default, is no Python, and shown as `...`."""
        return (signature or "").replace("<factory>", "...") or None, returns

    def missing(app, env, node, contnode):
        """A type by the place where it is written, or by its bare name: the one class of that name that has a page."""
        if node.get("refdomain") != "py":
            return None
        domain, wanted = env.get_domain("py"), node["reftarget"].rpartition(".")[2]
        kinds = ("class", "exception", "function")
        pages = [
            name for name, at in domain.objects.items() if at.objtype in kinds and name.rpartition(".")[2] == wanted
        ]
        if len(pages) != 1 or pages[0] == node["reftarget"]:
            return None
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", pages[0], node, contnode)

    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    app.connect("missing-reference", missing)
    return {"parallel_read_safe": True}
