"""The page of the command line, from the commands themselves: `{commands}` on a page becomes a section for each."""

from __future__ import annotations

import re

import typer

from veilkern.cli import build
from veilkern.cli._manual import ENVIRONMENT, EXIT, MANUALS

MARK = "```{commands}\n```\n"


def walk(name: str, command, context=None):
    """(name, command, context) of every command that does something, groups opened."""
    context = (
        type(context)(command, info_name=name, parent=context) if context else typer.Context(command, info_name=name)
    )
    if hasattr(command, "commands"):
        for sub, inner in command.commands.items():
            yield from walk(sub, inner, context)
    else:
        yield context.command_path, command, context


def plain(text: str | None) -> str:
    """A help text as Markdown: no rich markup, one line, nothing of it taken for markup."""
    text = re.sub(r"\[/?(?:dim|bold|red|green|yellow|cyan|italic)?\]", "", text or "")
    text = re.sub(r"(?<=\S)[ ]*\n[ ]*(?=\S)", " ", text.strip())
    return re.sub(r"(?<!`)([*<>\[\]])", r"\\\1", text).replace("|", "\\|")


def option(parameter, context) -> tuple[str, str]:
    """Term and explanation of an option or an argument, as its `--help` has them."""
    term, explained = parameter.get_help_record(context)
    several = getattr(parameter, "multiple", False) and "may be " not in explained
    more = " (may be given several times)" if several else ""
    return f"`{term.strip()}`", plain(explained) + more


def panels(parameters) -> dict[str, list]:
    """Arguments and options by the panel that `--help` shows them in."""
    found: dict[str, list] = {}
    for parameter in parameters:
        found.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(parameter)
    return found


def manual(name: str) -> list[str]:
    """Examples and files of a command, as its help ends with them."""
    if (found := MANUALS.get(name)) is None:
        return []
    lines = ["**Examples**", "", "```sh"]
    lines += [f"{command}\n# {said}" for command, said in found.examples.items()]
    lines += ["```", ""]
    for file, said in found.files.items():
        lines += [f"`{file}`", f": {plain(said)}", ""]
    more = "; ".join(f"{code}: {plain(said)}" for code, said in found.exits.items())
    return [*lines, *([f"Exit codes beside the common ones: {more}", ""] if more else [])]


def section(path: str, command, context) -> str:
    """A command as Markdown."""
    shown = [p for p in command.get_params(context) if not getattr(p, "hidden", False) and "--help" not in p.opts]
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f"## {path}", "", plain(command.help), "", f"    {usage}", ""]
    for panel, parameters in panels(shown).items():
        lines += [f"**{panel}**", ""] if panel else []
        for parameter in parameters:
            term, explained = option(parameter, context)
            lines += [term, f": {explained or '.'}", ""]
    return "\n".join([*lines, *manual(path.partition(" ")[2])])


def markdown() -> str:
    """All commands, and what they have in common."""
    lines = ["## Exit codes, environment", ""]
    for name, said in {**EXIT, **ENVIRONMENT}.items():
        lines += [f"`{name}`", f": {plain(said)}", ""]
    app = typer.main.get_command(build())
    return "\n".join(["\n".join(lines), *(section(*found) for found in walk("veilkern", app))])


def setup(app):
    def page_read(app, name: str, source: list[str]) -> None:
        if MARK in source[0]:
            source[0] = source[0].replace(MARK, markdown())

    app.connect("source-read", page_read)
    return {"parallel_read_safe": True}
