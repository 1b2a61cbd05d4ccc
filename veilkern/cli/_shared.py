"""What the commands share: where they print, the options that several take, the network, and the summary at the end."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape

import veilkern as vk
from veilkern.errors import OutputError

if TYPE_CHECKING:
    from veilkern.data.people import Problem

console, errors = Console(emoji=False), Console(stderr=True, emoji=False)  # :b: in a path is no picture
NARROW: dict[str, Any] = {"box": box.SIMPLE, "padding": (0, 1, 0, 0)}  # a table of many columns in 80 characters

INPUT = "The network's input"
Faces = Annotated[Path, typer.Argument(metavar="FACES", help="One folder per person, PNG, JPEG or WebP inside.")]
Net = Annotated[str, typer.Option("--model", help="file.py:callable, ARCH:checkpoint, or a network file.")]
Nets = Annotated[
    list[str],
    typer.Option(
        "--model", help="file.py:callable, ARCH:checkpoint, or a network file; given again, veils that serve each."
    ),
]
Veils = Annotated[Path, typer.Option("--veils", help="The veil bank.")]
Resize = Annotated[bool, typer.Option("--resize", help="Bring photos of another size to the wanted one.")]
Convert = Annotated[
    bool, typer.Option("--convert", help="Turn greyscale, RGBA, CMYK and 16-bit photos into 8-bit RGB.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]
KeyFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--key-file", help="The master key of a sealed bank (several, of a merged one); default: BANK.key, craft's."
    ),
]
Size = Annotated[int, typer.Option("--input-size", help="Side of the network's input, pixels.", rich_help_panel=INPUT)]
Mean = Annotated[
    str | None, typer.Option("--input-mean", help="Mean of the network's input, 'm' or 'm,m,m'.", rich_help_panel=INPUT)
]
Std = Annotated[
    str | None, typer.Option("--input-std", help="Standard deviation of the network's input.", rich_help_panel=INPUT)
]
Bgr = Annotated[bool, typer.Option("--input-bgr", help="The network reads blue, green, red.", rich_help_panel=INPUT)]
Range = Annotated[
    float | None,
    typer.Option("--input-range", help="Largest value of the network's input: 1 or 255.", rich_help_panel=INPUT),
]

ON_RAY = "On Ray"
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Share the work out to Ray workers: local (this machine), auto, or a cluster's host:port.",
        rich_help_panel=ON_RAY,
    ),
]
CHECKED = 32  # people that --check looks at: the first ones
Workers = Annotated[
    int | None, typer.Option(min=1, help="How many; default: all there is room for.", rich_help_panel=ON_RAY)
]
Cores = Annotated[int, typer.Option(min=1, help="Of each worker.", rich_help_panel=ON_RAY)]
Gpus = Annotated[float, typer.Option(min=0, help="Of each worker.", rich_help_panel=ON_RAY)]
Shards = Annotated[
    int | None, typer.Option(min=1, help="Into how many a folder of persons is cut.", rich_help_panel=ON_RAY)
]
Join = Annotated[
    bool,
    typer.Option("--join/--no-join", help="One bank at --out; or --out is a folder of them.", rich_help_panel=ON_RAY),
]


def input_of(size: int, mean: str | None, std: str | None, bgr: bool, value_range: float | None) -> dict[str, Any]:
    """What the --input options say, as FaceModel.load takes it."""
    given: dict[str, Any] = {} if size == 112 else {"size": size}
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            try:
                numbers = [float(part) for part in text.split(",")]
            except ValueError:
                raise typer.BadParameter(
                    f"wanted one number or three, got {text!r}", param_hint=f"--input-{name}"
                ) from None
            given[name] = numbers * 3 if len(numbers) == 1 else numbers
    if bgr:
        given["bgr"] = True
    if value_range is not None:
        given["value_range"] = value_range
    return given


def load_network(
    net: str, size: int, mean: str | None, std: str | None, bgr: bool, value_range: float | None
) -> vk.FaceModel:
    return vk.FaceModel.load(net, **input_of(size, mean, std, bgr, value_range))


def load_networks(nets: list[str], weights: list[float] | None, *input_spec: Any) -> vk.FaceModel:
    """One network, or the ensemble of several."""
    if weights and len(nets) == 1:
        raise typer.BadParameter("is for several networks: give --model more than once", param_hint="--weight")
    networks = [load_network(net, *input_spec) for net in nets]
    return networks[0] if len(networks) == 1 else vk.Ensemble(networks, weights or None)


def check_network(network: vk.FaceModel, people: Iterable[vk.People], threads: int | None) -> None:
    """Prints whether the network tells these people, one each, apart, as far as they have photos enough to say;
    ModelError when it does not."""
    from veilkern.threads import using_threads

    try:
        parts = list(people)
    except vk.PhotoError:
        return  # no usable photo among the first: others may have some
    if len(parts) > 1 and max(len(one.images) for one in parts) > 1:
        some = vk.People.from_images([one.images for one in parts], [one.names[0] for one in parts])
        with using_threads(threads):
            errors.print(f"{escape(network.name)}: {network.check(some)}", soft_wrap=True)


def read_gallery(folder: Path, size: tuple[int, int], resize: bool, convert: bool, problems: list[Problem]) -> Any:
    """`gallery_photos` all at once, uint8 [G, 3, H, W]."""
    import torch

    from veilkern.data.people import gallery_photos

    return torch.stack(list(gallery_photos(folder, size, resize, convert, problems)))


def completing_names(*banks: str) -> Callable[[typer.Context, str], list[str]]:
    """For TAB: the names in the bank that the first of these parameters to be given names. Names that a shell would
    take for more than a word are left out: whoever made the bank chose them."""

    def names(context: typer.Context, incomplete: str) -> list[str]:
        given = next((context.params[bank] for bank in banks if context.params.get(bank)), None)
        if given is None:
            return []
        there = vk.VeilBank.load(given, mmap=True, check=False).names
        return [name for name in there if name.startswith(incomplete) and re.fullmatch(r"\w[\w.@+-]*", name)]

    return names


def key_path(veils: Path) -> Path:
    """Where the key of a bank lies if craft made it."""
    return veils.with_name(veils.name + ".key")


def key_files(scheme: str, veils: Path, key_file: list[Path] | None) -> list[Path] | None:
    """The files with the master keys of sealed veils: those that are named, or the one beside them; None for veils that
    blend. OutputError when there is none, ValueError when a key is one too many."""
    if scheme == "blend":
        if key_file:
            raise ValueError(f"--key-file is for sealed banks; {veils} blends, and its veils are the keys")
        return None
    path = key_path(veils)
    if not key_file and not path.exists():
        raise OutputError(f"{veils}: a sealed bank, and its key is not in {path}: name its file with --key-file")
    return key_file or [path]


def master_key(bank: vk.VeilBank, veils: Path, key_file: list[Path] | None) -> list[bytes] | None:
    """The master keys in the `key_files` of a bank."""
    files = key_files(bank.scheme, veils, key_file)
    return None if files is None else [vk.read_key(file) for file in files]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Terminated:
        errors.print("[red]terminated[/]")
        raise typer.Exit(143) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def refuse(why: str, **options: object) -> None:
    """What is asked for and would mean nothing is refused, not passed over."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"--{name.replace('_', '-')} {why}")


def finish(problems: list[Problem], notices: list[Problem] = ()) -> None:  # type: ignore[assignment]
    """The summary of what was skipped; exit code 1 when anything was."""
    for notice in notices:
        errors.print(f"[yellow]note[/] {escape(str(notice))}", soft_wrap=True)
    if problems:
        errors.print(f"[red]{len(problems)} left out:[/]")
        for problem in problems:
            errors.print(f"  {escape(str(problem))}", soft_wrap=True)
        raise typer.Exit(1)
