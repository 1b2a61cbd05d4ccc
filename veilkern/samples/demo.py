"""The main job on the embedded default: synthetic people, a small network, veils, photos protected and recovered, in
both schemes side by side, and what the average of a person's protected photos gives away in each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from veilkern.auditing.attacks import minus_average
from veilkern.auditing.case import Case
from veilkern.auditing.scores import score, strangers_of
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import CraftResult, craft
from veilkern.data.files import atomic_write, inside, make_folder
from veilkern.data.people import People
from veilkern.data.photos import write_png
from veilkern.errors import OutputError
from veilkern.evaluate.report import write_report
from veilkern.evaluate.run import Evaluation, evaluate
from veilkern.networks.face_model import FaceModel
from veilkern.samples import load_model, synthetic_people
from veilkern.veils.folder_plan import Outcome
from veilkern.veils.folders import protect_folder, recover_folder
from veilkern.veils.keyed import fresh_key

PEOPLE, PHOTOS, HELD_OUT, GALLERY = 8, 20, 10, 200
MADE = ".veilkern-demo.json"  # in the demo's folder: the SHA-256 of each file it made there
SHOWN = 3  # photos of the picture


@dataclass
class Job:
    """One scheme's part. report: the path of its report.html. leak: SSIM of photos with what their person's average
    gives away of them; by_chance: the same with other people's photos."""

    result: CraftResult
    evaluation: Evaluation
    written: list[Outcome]
    report: Path
    leak: float
    by_chance: float


@dataclass
class Demo:
    """Everything the demo made: both schemes' jobs, and the path of the picture of both."""

    sealed: Job
    blend: Job
    picture: Path

    @property
    def jobs(self) -> dict[str, Job]:
        """By scheme."""
        return {"sealed": self.sealed, "blend": self.blend}


def run_demo(
    out: Path,
    steps: int | None = None,
    *,
    people: int = PEOPLE,
    progress: bool | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Demo:
    """Write faces/, side_by_side.png, veils.safetensors and its key, protected/, recovered/ and the report into `out`,
    and the same of the paper's scheme into out/blend. steps: of each craft, by default the scheme's.

    `out` is made, or empty, or as an earlier demo left it, file by file: then all is replaced. Anything else there is
    an OutputError before the work begins. tell is called with the name of each stage as it begins.
    """
    with _own_folder(Path(out)):
        return _run(Path(out), steps, people, progress, tell)


def _run(out: Path, steps: int | None, count: int, progress: bool | None, tell: Callable[[str], None]) -> Demo:
    tell("drawing synthetic people")
    model = load_model()
    people = synthetic_people(count, PHOTOS, seed=21)
    gallery = synthetic_people(GALLERY, 1, seed=22).images
    _write_photos(people, out / "faces")
    given: dict[str, Any] = {} if steps is None else {"steps": steps}
    sealed, seen = _job(out, out, model, people, gallery, CraftConfig(scheme="sealed", **given), progress, tell)
    config = CraftConfig(seed=0, **given)
    blend, blend_seen = _job(out, out / "blend", model, people, gallery, config, progress, tell)
    picture = out / "side_by_side.png"
    atomic_write(picture, _side_by_side(people, {"sealed": seen, "blend": blend_seen}))
    return Demo(sealed, blend, picture)


def _job(root: Path, out: Path, model: FaceModel, people: People, gallery, config: CraftConfig, progress, tell):
    """One scheme from craft to report; and what is seen of some photos: protected, and after the average."""
    tell(f"crafting veils ({config.scheme})")
    crafting, _ = people.split(HELD_OUT)
    key = fresh_key() if config.scheme == "sealed" else None
    result = craft(model, crafting, config, key=key, progress=progress)
    make_folder(out)
    result.bank.save(out / "veils.safetensors")
    if key is not None:
        atomic_write(out / "veils.safetensors.key", key, mode=0o600)
    tell("protecting and recovering the photos")
    options: dict[str, Any] = {"overwrite": True, "progress": False}
    written = [
        protect_folder(root / "faces", result.bank, out / "protected", key=key, **options),
        recover_folder(out / "protected", result.bank, out / "recovered", key=key, **options),
    ]
    tell("evaluating, and attacking by averages")
    evaluation = evaluate(model, people, result.bank, gallery=gallery, key=key)
    title = f"veilkern demo: synthetic people, {config.scheme}"
    report = write_report(out, evaluation, people, result.bank, key=key, title=title, overwrite=True)
    case = Case.of(people, result.bank, key)
    output = minus_average(case)
    found = score(case, output, strangers_of(case))
    leak, by_chance = found.ssim.mean().item(), found.ssim_others.mean().item()
    seen = case.protected[:SHOWN], output.variants[found.best][:SHOWN]
    return Job(result, evaluation, written, report, leak, by_chance), seen


def _side_by_side(people: People, seen: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> bytes:
    """PNG: some photos of the first person, and of each scheme their protected forms and what their average gives."""
    rows = {"original": people.images[:SHOWN]}
    for scheme, (protected, attacked) in seen.items():
        rows |= {f"{scheme}: protected": protected, f"{scheme}: minus the average of {PHOTOS}": attacked}
    height, width = people.images.shape[2:]
    sheet = Image.new("RGB", (SHOWN * width, len(rows) * (height + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (words, images) in enumerate(rows.items()):
        draw.text((4, line * (height + 14)), words, fill="black")
        strip = np.concatenate(list(images.permute(0, 2, 3, 1).numpy()), 1)
        sheet.paste(Image.fromarray(strip), (0, line * (height + 14) + 14))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


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
