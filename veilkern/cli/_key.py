"""The master key of a sealed craft that was given none: a file beside the bank, where other commands look for it."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import errors, key_path
from veilkern.crafting.run import master_key
from veilkern.data.files import atomic_write
from veilkern.errors import OutputError


class KeyBeside:
    """The key in the file beside the bank `out`; where veils of the bank `old` are rotated, its key goes on."""

    def __init__(self, out: Path, old: Path | None):
        self.path = key_path(out)
        self.source = self.path if old is None or self.path.exists() else key_path(old)
        self._key: bytes | None = None
        self._made = False

    def __repr__(self) -> str:
        return f"KeyBeside({str(self.path)!r})"  # never the key

    def found(self, config: vk.CraftConfig) -> bytes | None:
        """The key that is there already; None where there is none yet, or config has a seed, which makes it."""
        return vk.read_key(self.source) if config.seed is None and self.source.exists() else None

    def keep(self, key: bytes | None, config: vk.CraftConfig) -> bytes | None:
        """Have the key of this craft on the disk before it begins: `key`, or that of the seed, or a fresh one. Returns
        what to craft with: None where that is the seed. OutputError where another key is there: none is replaced."""
        self._key = master_key(key, config)
        if self.path.exists():
            if vk.read_key(self.path) != self._key:
                raise OutputError(f"{self.path}: holds another key than this craft's, and photos may be sealed with it")
            errors.print(f"master key: that in {escape(str(self.path))}", soft_wrap=True)
        else:
            atomic_write(self.path, self._key, mode=0o600, replace=False)
            self._made = True
            errors.print(
                f"master key: in {escape(str(self.path))}; without it nobody can open the photos, with it anybody can",
                soft_wrap=True,
            )
        return None if config.seed is not None else self._key

    def forget(self) -> None:
        """Take the key away again, where it was made for this craft, and no veil came of it."""
        if self._made:
            self.path.unlink(missing_ok=True)

    def follow(self, written: Path) -> None:
        """Where the bank had to be written under another name, the key is needed beside it too."""
        path = key_path(written)
        if path != self.path and self._key is not None and not path.exists():
            atomic_write(path, self._key, mode=0o600, replace=False)
