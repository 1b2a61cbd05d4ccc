"""The main job on the embedded default: synthetic people, a small network, veils, photos protected and recovered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import CraftResult, craft
from veilkern.data.files import atomic_write, inside, make_folder
from veilkern.data.people import People
from veilkern.data.photos import write_png
from veilkern.errors import OutputError
from veilkern.evaluate.report import write_report
from veilkern.evaluate.run import Evaluation, evaluate
from veilkern.samples import load_model, synthetic_people
from veilkern.veils.folders import Outcome, protect_folder, recover_folder

PEOPLE, PHOTOS, HELD_OUT, GALLERY = 8, 20, 10, 200
MADE = ".veilkern-demo.json"  # in the demo's folder: the SHA-256 of each file it made there


@dataclass
class Demo:
    """Everything the demo made; report is the path of report.html."""

    result: CraftResult
    evaluation: Evaluation
    written: list[Outcome]
    report: Path


def run_demo(
    out: Path,
    config: CraftConfig | None = None,
    *,
    people: int = PEOPLE,
    progress: bool | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Demo:
    """Write faces/, veils.safetensors, protected/, recovered/ and the report into `out`.

    `out` is made, or empty, or as an earlier demo left it, file by file: then all is replaced. Anything else there is
    an OutputError before the work begins. tell is called with the name of each stage as it begins.
    """
    with _own_folder(Path(out)):
        return _run(Path(out), config or CraftConfig(seed=0), people, progress, tell)


def _run(out: Path, config: CraftConfig, people: int, progress: bool | None, tell: Callable[[str], None]) -> Demo:
    tell("drawing synthetic people")
    model = load_model()
    everyone = synthetic_people(people, PHOTOS, seed=21)
    gallery = synthetic_people(GALLERY, 1, seed=22).images
    _write_photos(everyone, out / "faces")
    crafting, _ = everyone.split(HELD_OUT)
    tell("crafting veils")
    result = craft(model, crafting, config, progress=progress)
    result.bank.save(out / "veils.safetensors")
    tell("protecting and recovering the photos")
    written = [
        protect_folder(out / "faces", result.bank, out / "protected", overwrite=True, progress=False),
        recover_folder(out / "protected", result.bank, out / "recovered", overwrite=True, progress=False),
    ]
    tell("evaluating")
    evaluation = evaluate(model, everyone, result.bank, gallery=gallery)
    title = "veilkern demo: synthetic people"
    report = write_report(out, evaluation, everyone, result.bank, title=title, overwrite=True)
    return Demo(result, evaluation, written, report)


def _write_photos(people: People, folder: Path) -> None:
    for image, file in zip(people.images, people.files, strict=True):
        person, name = file.split("/")
        make_folder(folder / person)
        write_png(inside(folder, person, name), image)


@contextlib.contextmanager
def _own_folder(out: Path) -> Iterator[None]:
    """`out` for the demo alone: nothing in it that an earlier demo did not make. Ends with a list of what was made."""
    make_folder(out)
    before = _digests(out)
    foreign = sorted(before.items() - _earlier(out).items())
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise OutputError(
            f"{out}: not empty, and {foreign[0][0]}{more} not as a demo made it; name another folder (--out)"
        )
    _write_list(out, before)  # whether it can be written to
    try:
        yield
    finally:  # also when interrupted: the next demo may go on in this folder
        _write_list(out, _digests(out))


def _write_list(out: Path, made: dict[str, str]) -> None:
    atomic_write(out / MADE, json.dumps(made, indent=0, sort_keys=True).encode())


def _digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file in `out`, but for hidden ones (locks, the desktop's); "" for links and the like."""
    found = {}
    try:
        for path in out.rglob("*"):
            place = path.relative_to(out)
            if path.is_symlink() or not path.is_dir():
                plain = path.is_file() and not path.is_symlink()
                found[place.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
    except OSError as error:
        raise OutputError(f"{out}: cannot be looked through: {error.strerror or error}") from error
    return {name: digest for name, digest in found.items() if not any(p.startswith(".") for p in name.split("/"))}


def _earlier(out: Path) -> dict[str, str]:
    """What an earlier demo says that it made here: nothing, where there was none."""
    if not os.path.lexists(out / MADE):
        return {}
    try:
        if (out / MADE).is_symlink():
            raise ValueError("a link")
        made = json.loads((out / MADE).read_bytes())
        return {str(place): digest for place, digest in made.items() if isinstance(digest, str) and digest}
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(f"{out / MADE}: not as a demo made it; name another folder (--out)") from error
