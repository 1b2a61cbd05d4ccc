"""The main job on the embedded default: synthetic people, a small network, veils, photos protected and recovered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veilkern.config import CraftConfig
from veilkern.craft import CraftResult, craft
from veilkern.evaluate.report import write_report
from veilkern.evaluate.run import Evaluation, evaluate
from veilkern.files import inside, make_folder
from veilkern.folders import Outcome, protect_folder, recover_folder
from veilkern.people import People
from veilkern.photos import write_png
from veilkern.samples import load_model, synthetic_people

PEOPLE, PHOTOS, HELD_OUT, GALLERY = 8, 20, 10, 200


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
    """Write faces/, veils.safetensors, protected/, recovered/ and the report into `out` (files there are replaced).

    tell is called with the name of each stage as it begins.
    """
    tell("drawing synthetic people")
    out = make_folder(out)
    model = load_model()
    everyone = synthetic_people(people, PHOTOS, seed=21)
    gallery = synthetic_people(GALLERY, 1, seed=22).images
    _write_photos(everyone, out / "faces")
    crafting, _ = everyone.split(HELD_OUT)
    tell("crafting veils")
    result = craft(model, crafting, config or CraftConfig(seed=0), progress=progress)
    result.bank.save(out / "veils.safetensors")
    tell("protecting and recovering the photos")
    written = [
        protect_folder(out / "faces", result.bank, out / "protected", overwrite=True, progress=False),
        recover_folder(out / "protected", result.bank, out / "recovered", overwrite=True, progress=False),
    ]
    tell("evaluating")
    evaluation = evaluate(model, everyone, result.bank, gallery=gallery)
    report = write_report(out, evaluation, everyone, result.bank, title="veilkern demo: synthetic people")
    return Demo(result, evaluation, written, report)


def _write_photos(people: People, folder: Path) -> None:
    for image, file in zip(people.images, people.files, strict=True):
        person, name = file.split("/")
        make_folder(folder / person)
        write_png(inside(folder, person, name), image)
