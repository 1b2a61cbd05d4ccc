"""What the help of each command says below its options, and its man page as well (`make man`): examples, files, exit
codes, environment variables."""

from __future__ import annotations

from typing import NamedTuple

ENVIRONMENT = {
    "OMP_NUM_THREADS": "Threads on the CPU, where --threads does not say; default: as many as there are cores to use.",
    "OMP_WAIT_POLICY": "How threads wait for each other: passive, unless it is set (or GOMP_SPINCOUNT, KMP_BLOCKTIME).",
    "VEILKERN_LAUNCHES": "Folder of your own launch tables; default: veilkern/launch in XDG_CONFIG_HOME or ~/.config.",
    "NO_COLOR, COLUMNS": "No colours; the width to write for.",
}
EXIT = {
    0: "All was done, nothing left out.",
    1: "Something was left out, each listed at the end; or an error, told in one line.",
    2: "The command line is wrong.",
    130: "Ctrl-C; nothing half-written is left.",
}
TERMINATED = {143: "SIGTERM, as Ctrl-C."}
KEY = {
    "BANK.key": "The master key of a sealed bank, which craft makes beside it (0600). Keep it apart from the photos."
}
BANK = {"veils.safetensors": "A veil bank (0600). Veils that blend are keys: keep it as one."}
PHOTOS = {"FACES/<person>/<photo>.png": "Aligned photos, one folder a person; JPEG and WebP too."}


class Manual(NamedTuple):
    """Examples with a line on each; files; exit codes and variables beside the common ones."""

    examples: dict[str, str]
    files: dict[str, str] = {}  # noqa: RUF012  # never changed
    exits: dict[int, str] = {}  # noqa: RUF012
    environment: dict[str, str] = {}  # noqa: RUF012

    def exit_codes(self) -> dict[int, str]:
        return dict(sorted({**EXIT, **self.exits}.items()))


CRAFT = "veilkern craft faces --model net.py:load --out veils.safetensors"
MANUALS = {
    "": Manual(
        {
            "veilkern demo": "The whole job on people that are drawn: no photos are needed.",
            f"{CRAFT} --scheme sealed": "Veils for everybody in faces/.",
            "veilkern protect faces --veils veils.safetensors --out hidden": "Photos to store.",
            "veilkern recover hidden --veils veils.safetensors --out back": "And back.",
            "veilkern --install-completion": "Commands, options and persons' names on TAB, in bash, zsh and fish.",
        },
        {**PHOTOS, **BANK, **KEY},
    ),
    "align": Manual(
        {
            "veilkern align photos --out faces": "The largest face of each photo, 112 x 112.",
            "veilkern align photos --out faces --model net.py:load": "Of several faces the person's own.",
        },
        {"FACES.report/": "What was found, what was left out and why, with a contact sheet."},
    ),
    "craft": Manual(
        {
            f"{CRAFT} --scheme sealed": "Sealed, the key in veils.safetensors.key.",
            f"{CRAFT} --resume": "Go on after an end of any kind.",
            f"{CRAFT} --add": "More people, crafted as those there were.",
            "veilkern craft faces --model net.py:load --veils old --rotate Ada --out new": "A new veil for Ada.",
        },
        {**PHOTOS, **BANK, **KEY, "OUT.journal": "Veils as they are finished (0600), until the bank is whole."},
        TERMINATED,
    ),
    "protect": Manual(
        {
            "veilkern protect faces --veils veils.safetensors --out hidden": "What is done is skipped.",
            "veilkern protect faces --veils veils.safetensors --out hidden --lossless": "16 bit: recovered exactly.",
        },
        {**BANK, **KEY},
    ),
    "recover": Manual(
        {"veilkern recover hidden --veils veils.safetensors --out back": "Refuses what is not theirs, by name."},
        {**BANK, **KEY},
    ),
    "rotate": Manual(
        {
            "veilkern rotate hidden --veils old --new-veils new --new-key-file new.key": "A new key, in place.",
            "veilkern rotate hidden --veils old --new-veils new --out again": "New veils, into another folder.",
        },
        {**BANK, **KEY},
    ),
    "evaluate": Manual(
        {
            "veilkern evaluate faces --model net.py:load --veils veils.safetensors --out report": "A report.",
            "veilkern evaluate faces --model net.py:load --veils veils.safetensors --gallery others --out report": (
                "Among other people."
            ),
        },
        {"OUT/report.html": "With originals in it: as private as the photos (0600).", **BANK, **KEY},
    ),
    "audit": Manual(
        {"veilkern audit faces --model net.py:load --veils veils.safetensors --out audit": "What attacks give away."},
        {"OUT/audit.html": "With originals in it: as private as the photos (0600).", **BANK, **KEY},
    ),
    "serve": Manual(
        {
            "VEILKERN_TOKEN=.. veilkern serve veils.safetensors": "Everything, to whoever knows the token.",
            "veilkern serve veils.safetensors --role protect": "Protect photos for anybody on this machine.",
        },
        {**BANK, **KEY},
        environment={"VEILKERN_TOKEN": "The token, 16 characters or more. Never an option: those are seen by others."},
    ),
    "paper": Manual(
        {
            "veilkern paper faces --surrogates a.py:load b.py:load --gallery others --out paper": "Every experiment.",
            "veilkern paper --render paper --out again": "The report again, from paper.json.",
        },
        {"OUT/report.html": "With photos in it: as private as they are (0600)."},
        TERMINATED,
    ),
    "train": Manual(
        {
            "veilkern train faces --arch iresnet50 --head arcface --out net.safetensors": "From the start.",
            "veilkern train faces --arch iresnet50 --from net.pth --out tuned.safetensors": "Fine-tuned.",
        },
        {"OUT.training": "What --resume goes on from."},
        TERMINATED,
    ),
    "bank": Manual(
        {
            "veilkern bank list veils.safetensors": "Who has a veil.",
            "veilkern bank remove veils.safetensors Ada": "Without the veil Ada's protected photos are lost.",
            "veilkern bank merge a.safetensors b.safetensors --out all.safetensors": "One bank of two.",
        },
        BANK,
        {1: "check found something; or an error, told in one line."},
    ),
    "demo": Manual({"veilkern demo --out demo": "Both schemes, on people that are drawn."}),
    "tune": Manual(
        {"veilkern tune --op ssim": "One op, on this GPU."},
        {"~/.config/veilkern/launch/": "Your tables, which count before those that ship."},
    ),
    "info": Manual({"veilkern info --model net.py:load": "What the engine makes of a network, too."}),
}


def manual(command: str) -> Manual:
    return MANUALS.get(command, Manual({}))


def epilog(command: str) -> str:
    """The part of a command's help below its options, in rich's markup."""
    about = manual(command)
    variables = about.environment if command else ENVIRONMENT  # the common ones are told once
    parts = {
        "Examples": [f"[bold]{line}[/]  # {text}" for line, text in about.examples.items()],
        "Exit codes": [f"[bold]{code}[/]  {text}" for code, text in about.exit_codes().items()],
        "Files": [f"[bold]{name}[/]  {text}" for name, text in about.files.items()],
        "Environment": [f"[bold]{name}[/]  {text}" for name, text in variables.items()],
    }
    return "\n\n".join("\n".join([f"[yellow]{title}[/]", *lines]) for title, lines in parts.items() if lines)
