"""Man pages of the command line, made from the typer app: python release/man.py build/man (`make man`).

One for `veilkern`, one for each command: what `--help` says, as pages. They are not in the wheel: whoever builds one
has no torch, without which the app cannot be read, and pages under version control would lag behind.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import typer

from veilkern import __version__
from veilkern.cli import app
from veilkern.cli._manual import ENVIRONMENT, manual


def roff(text: str) -> str:
    """Text as roff takes it: rich's markup gone, nothing of it read as a request."""
    plain = re.sub(r"\[/?(?:bold|yellow|red|green|dim)?\]", "", text).replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", "\\&", plain)


def items(pairs: dict[Any, str]) -> list[str]:
    return [line for name, text in pairs.items() for line in (".TP", f"\\fB{roff(str(name))}\\fR", roff(text))]


def title(parameter: Any) -> str:
    """An option's names, or an argument's, and what it takes."""
    takes = f"\\fI{roff((parameter.metavar or parameter.name).upper())}\\fR"
    if parameter.param_type_name == "argument":
        return takes
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {takes}"


def text_of(parameter: Any) -> str:
    default = "" if parameter.default in (None, False, (), []) or callable(parameter.default) else parameter.default
    shown = getattr(parameter, "show_default", False) and default != ""
    return roff((parameter.help or "") + (f" [default: {default}]" if shown else ""))


def options(command: Any, context: Any) -> list[str]:
    """All parameters under the headings that --help has for them."""
    panels: dict[str, list[Any]] = defaultdict(list)
    for parameter in command.get_params(context):
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        panels[getattr(parameter, "rich_help_panel", None) or kind].append(parameter)
    lines = [".SH OPTIONS"]
    for panel, parameters in panels.items():
        lines.append(f".SS {roff(panel)}")
        for parameter in parameters:
            lines += [".TP", title(parameter), text_of(parameter)]
    return lines


def page(command: Any, words: list[str], others: list[str]) -> str:
    """The man page of the command that these words call."""
    name, about = "-".join(words), manual(words[1] if len(words) > 1 else "")
    context = command.make_context(" ".join(words), [], resilient_parsing=True)
    told = " ".join((command.help or "").split())
    lines = [f'.TH {roff(name.upper())} 1 "" "veilkern {__version__}" "User Commands"', ".SH NAME"]
    lines += [f"{roff(name)} \\- {roff(told.split('. ')[0].rstrip('.'))}", ".SH SYNOPSIS"]
    lines += [f"\\fB{roff(' '.join(words))}\\fR {roff(' '.join(command.collect_usage_pieces(context)))}"]
    lines += [".SH DESCRIPTION", roff(told), *options(command, context)]
    if subcommands := getattr(command, "commands", {}):
        lines += [".SH COMMANDS", *items({n: " ".join((c.help or "").split()) for n, c in subcommands.items()})]
    if about.examples:
        lines += [".SH EXAMPLES"]
        lines += [
            line for shown, text in about.examples.items() for line in (".TP", f"\\fB{roff(shown)}\\fR", roff(text))
        ]
    lines += [".SH EXIT STATUS", *items(about.exit_codes()), ".SH ENVIRONMENT", *items(ENVIRONMENT | about.environment)]
    lines += [".SH FILES", *items(about.files)] if about.files else []
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{roff(other)}\\fR(1)" for other in others if other != name)]
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    top = typer.main.get_command(app)
    pages = {("veilkern",): top, **{("veilkern", name): one for name, one in top.commands.items()}}
    bank = top.commands["bank"]
    pages |= {("veilkern", "bank", name): one for name, one in bank.commands.items()}
    names = ["-".join(words) for words in pages if len(words) < 3]
    folder.mkdir(parents=True, exist_ok=True)
    for words, command in pages.items():
        (folder / f"{'-'.join(words)}.1").write_text(page(command, list(words), names))
    print(f"{len(pages)} pages in {folder}; man -l {folder}/veilkern.1")


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "man1")
