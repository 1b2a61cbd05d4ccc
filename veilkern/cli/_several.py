"""Options that take several values after one another, `--surrogates A B C`, which click has for arguments alone."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Several(TyperCommand):
    """A command of which some options, `several`, may be followed by more than one value: each is given the option's
    name before the words are parsed. What follows `--`, or another option, is none of theirs."""

    several: tuple[str, ...] = ()

    @classmethod
    def of(cls, *names: str) -> type[Several]:
        """This command, for these options."""
        return type("SeveralCommand", (cls,), {"several": names})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._spread(args))

    def _spread(self, words: list[str]) -> list[str]:
        spread: list[str] = []
        option = ""
        for number, word in enumerate(words):
            if word == "--":
                return spread + words[number:]
            if word.startswith("-") and word != "-":
                name = word.partition("=")[0]
                option = name if name in self.several else ""
                spread.append(word)
            elif option and spread[-1] != option:
                spread += [option, word]
            else:
                spread.append(word)
        return spread
