"""Files as targets: veil banks, photos and protected photos, damaged. Only the library's own errors may come of it."""

from __future__ import annotations

import io
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from mutator import mutate
from PIL import Image

import veilkern as vk
from veilkern.data.photos import encode_png, read_photo
from veilkern.errors import BankError, PhotoError, VeilkernError
from veilkern.veils.folders import protect_folder, recover_folder

CORPUS = Path(__file__).parent / "corpus"
SIDE = 16


class Wrong(AssertionError):
    """What came is not what was promised."""


def require(truth: bool, what: str) -> None:
    """Wrong, unless it is true (`assert` could be switched off)."""
    if not truth:
        raise Wrong(what)


class FileTarget:
    """Seeds made by this version of the library, and every file of corpus/<name>; the inputs are damaged ones."""

    name = ""

    def __init__(self, folder: Path):
        self.folder = folder
        warnings.simplefilter("ignore")  # Pillow's remarks on damaged EXIF data
        self.kept = [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]
        self.seeds = self.kept + self.make_seeds()

    def make_seeds(self) -> list[bytes]:
        """Good files of every kind."""
        raise NotImplementedError

    def input(self, number: int, rng: random.Random) -> bytes:
        """Input `number`: first every seed as it is, then damaged ones."""
        return self.seeds[number] if number < len(self.seeds) else mutate(rng, rng.choice(self.seeds), self.seeds)


def small_bank(people: int = 3, side: int = SIDE) -> vk.VeilBank:
    """Random veils, no network asked."""
    veils = torch.from_numpy(np.random.default_rng(people).integers(0, 256, (people, 3, side, side), dtype=np.uint8))
    return vk.VeilBank(veils, [f"person-{i}" for i in range(people)], 51, [{"status": "converged"}] * people)


class Bank(FileTarget):
    """VeilBank.load: BankError that names the file, or a bank that works and comes back the same."""

    name = "bank"

    def make_seeds(self) -> list[bytes]:
        banks = [small_bank(3), small_bank(1, 3), small_bank(0)]
        path = self.folder / "seed.safetensors"
        contents = []
        for bank in banks:
            bank.save(path)
            contents.append(path.read_bytes())
            path.unlink()
        return contents

    def check(self, data: bytes) -> None:
        path = self.folder / "veils.safetensors"
        path.write_bytes(data)
        try:
            bank = vk.VeilBank.load(path)
        except BankError as error:
            require(str(path) in str(error), f"the message does not name the file: {error}")
            return
        require(len(bank.names) == len(set(bank.names)) == len(bank.veils), f"names {bank.names}")
        require(bank.rows(bank.names).tolist() == list(range(len(bank))), "rows")
        require("tensor" not in repr(bank), "repr")
        if len(bank):
            photo = torch.zeros((1, 3, *bank.size), dtype=torch.uint8)
            back = vk.recover(vk.protect(photo, bank, [0], lossless=True), bank, [0])
            require(torch.equal(back, photo), "protect and recover")
        again = self.folder / "again.safetensors"
        again.unlink(missing_ok=True)
        bank.save(again)
        other = vk.VeilBank.load(again)
        require(torch.equal(other.veils, bank.veils) and other.names == bank.names, "saved and loaded again")


class Photo(FileTarget):
    """read_photo, with and without conversions, and protect_folder: PhotoError, or the photo of the size wanted."""

    name = "photo"

    def make_seeds(self) -> list[bytes]:
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        photo, seeds = Image.fromarray(pixels), []

        def keep(image: Image.Image, kind: str, **options) -> None:
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            seeds.append(buffer.getvalue())

        turned = Image.Exif()
        turned[0x0112] = 6
        keep(photo, "PNG")
        keep(photo, "PNG", exif=turned)
        for mode in ("L", "LA", "P", "RGBA", "1"):
            keep(photo.convert(mode), "PNG")
        keep(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG")
        seeds.append(encode_png(torch.from_numpy(pixels).permute(2, 0, 1).to(torch.int32).mul(250).to(torch.uint16)))
        keep(photo, "PNG", save_all=True, append_images=[photo.rotate(90)])
        keep(photo, "JPEG", exif=turned, quality=90)
        keep(photo, "JPEG", progressive=True)
        keep(photo.convert("L"), "JPEG")
        keep(photo.convert("CMYK"), "JPEG")
        keep(photo, "WEBP", lossless=True)
        keep(photo, "WEBP", exif=turned, quality=80)
        keep(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)])
        return seeds

    def check(self, data: bytes) -> None:
        path = self.folder / "faces" / "person-0" / "photo.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        readable = False
        for size, resize, convert in (((SIDE, SIDE), False, False), ((7, 9), True, True), ((SIDE, SIDE), True, False)):
            try:
                image, notices = read_photo(path, size=size, resize=resize, convert=convert)
            except PhotoError as error:
                require(str(path) in str(error), f"the message does not name the file: {error}")
                continue
            readable |= not (resize or convert)
            require(image.dtype == torch.uint8 and image.shape == (3, *size), f"{image.dtype} {list(image.shape)}")
            require(all(isinstance(n, str) for n in notices), f"notices {notices}")
        done = _fresh(self.folder / "hidden", lambda out: protect_folder(path.parents[1], small_bank(), out))
        require(done.written == readable, f"readable: {readable}, written: {done.written}, {done.problems}")
        require(done.written + len(done.problems) >= 1, "neither written nor told why not")


class Protected(FileTarget):
    """recover_folder on a damaged protected photo: written, or listed with the reason."""

    name = "protected"

    def make_seeds(self) -> list[bytes]:
        faces = self.folder / "seeds" / "person-0"
        faces.mkdir(parents=True)
        pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(faces / "photo.png")
        seeds = []
        for lossless in (False, True):
            out = self.folder / f"seeds-{lossless}"
            protect_folder(faces.parent, small_bank(), out, lossless=lossless)
            seeds += [file.read_bytes() for file in sorted(out.rglob("*.png"))]
        return seeds

    def check(self, data: bytes) -> None:
        path = self.folder / "given" / "person-0" / "photo.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        done = _fresh(self.folder / "back", lambda out: recover_folder(path.parents[1], small_bank(), out))
        require((done.written > 0) != (len(done.problems) > 0), f"written {done.written}, problems {done.problems}")
        require(all(str(path.parent) in p.file and p.cause for p in done.problems), f"{done.problems}")


def _fresh(out: Path, call):
    """call(out) with `out` empty; whatever lies there afterwards is a whole photo."""
    shutil.rmtree(out, ignore_errors=True)
    done = call(out)
    files = [file for file in out.rglob("*") if file.is_file() and not file.name.startswith(".")]
    require(len(files) == done.written, f"{done.written} written, there are {files}")
    for file in files:
        try:
            read_photo(file, size=(SIDE, SIDE), convert=True, protected=True)
        except VeilkernError as error:
            raise Wrong(f"what was written cannot be read: {error}") from error
    return done
