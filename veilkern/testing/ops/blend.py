"""blend in the table."""

from __future__ import annotations

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, laid_out, mixed_photos, on


def _photos(n=5, people=3, h=13, w=13, *, layout="dense", veil_layout="dense", **options) -> Arguments:
    made = mixed_photos(n, people, h, w)
    made |= {"images": laid_out(made["images"], layout), "veils": laid_out(made["veils"], veil_layout)}
    return made | options


def _ragged() -> Arguments:
    return _photos(6, 4) | {"rows": torch.tensor([2, 0, 2, 2, 0, 2])}


def _strided_rows() -> Arguments:
    made = mixed_photos(8, 5, 12, 12)
    return made | {"images": made["images"][::2], "rows": made["rows"][::2]}


def _one_photo_many_times() -> Arguments:
    made = mixed_photos(4, 5, 12, 12)
    return made | {"images": made["images"][:1].expand(4, -1, -1, -1)}


def _out(lossless: bool = False) -> Arguments:
    dtype = torch.uint16 if lossless else torch.uint8
    return _photos(lossless=lossless, out=torch.zeros((10, 3, 13, 13), dtype=dtype)[::2])


def _in_place() -> Arguments:
    made = _photos()
    return made | {"out": made["images"]}


def _ends(a: int, lossless: bool) -> Arguments:
    """Black and white photos and veils in every combination, at either end of a."""
    made = _photos(4, 2, 7, 9, lossless=lossless, a=a)
    made["images"][0::2], made["images"][1::2], made["veils"][0], made["veils"][1] = 0, 255, 0, 255
    return made | {"rows": torch.tensor([0, 0, 1, 1])}


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    given = (*(made[k] for k in ("images", "veils", "rows", "a")), made.get("lossless", False))
    return [("blend_out", (*given, made["out"])) if "out" in made else ("blend", given)]


SAMPLES = (
    Sample("ordinary", "", _photos, traced=True),
    Sample("ordinary", "lossless", lambda: _photos(lossless=True), traced=True),
    Sample("ragged", "rows unsorted, some veils of nobody", _ragged),
    *(
        Sample("empty" if n == 0 else "one" if n == 1 else "odd", f"{n} x {side} x {side}, {words}", make)
        for n, side in ((0, 8), (1, 1), (1, 7), (3, 13), (9, 33))
        for words, make in (
            ("8 bits", lambda n=n, side=side: _photos(n, 3, side, side)),
            ("16 bits", lambda n=n, side=side: _photos(n, 3, side, side, lossless=True)),
        )
    ),
    Sample("odd", "13 x 37", lambda: _photos(3, 2, 13, 37)),
    Sample("channels_last", "images", lambda: _photos(layout="channels_last")),
    Sample("channels_last", "veils", lambda: _photos(veil_layout="channels_last")),
    Sample("channels_last", "both, lossless", lambda: _photos(
        layout="channels_last", veil_layout="channels_last", lossless=True
    )),
    Sample("channels_last", "out", lambda: _photos(
        out=torch.zeros((5, 13, 13, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    )),
    *(
        Sample("strided", layout, lambda layout=layout: _photos(layout=layout, veil_layout=layout))
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    Sample("strided", "every other row", _strided_rows),
    Sample("strided", "one photo many times", _one_photo_many_times),
    Sample("strided", "every other photo of out", _out),
    Sample("strided", "every other photo of out, lossless", lambda: _out(True)),
    Sample("strided", "in place", _in_place),
    *(
        Sample("extreme", f"black and white, a = {a}, {'16' if wide else '8'} bits",
               lambda a=a, wide=wide: _ends(a, wide))
        for a in (0, 51, 255)
        for wide in (False, True)
    ),
    Sample("many", "", lambda: _photos(64, 9, 112, 112), light=False),
    Sample("many", "lossless", lambda: _photos(64, 9, 112, 112, lossless=True), light=False),
)  # fmt: skip

BAD = (
    Bad({"images": torch.zeros(5, 3, 13, 13)}, TypeError, "blend: images must be uint8"),
    Bad({"images": [1]}, TypeError, "blend: images must be a tensor"),
    Bad({"images": torch.zeros(5, 1, 13, 13, dtype=torch.uint8)}, ValueError, r"images must be uint8 \[N, 3, H, W\]"),
    Bad({"veils": torch.zeros(3, 3, 5, 5, dtype=torch.uint8)}, ValueError, "veils must hold photos like images"),
    Bad({"veils": torch.zeros(3, 3, 13, 13)}, TypeError, "veils must be uint8"),
    Bad({"rows": torch.zeros(5)}, TypeError, "rows must be int64"),
    Bad({"rows": torch.zeros(3, dtype=torch.int64)}, ValueError, "rows must have one entry per photo, 5, got 3"),
    Bad({"rows": torch.tensor([0, 1, 2, 3, 0])}, ValueError, "rows must lie in 0..2"),
    Bad({"rows": torch.tensor([0, 1, 2, -1, 0])}, ValueError, "rows must lie in 0..2"),
    Bad({"a": 256}, ValueError, "a must lie in 0..255"),
    Bad({"a": -1}, ValueError, "a must lie in 0..255"),
    Bad({"a": 0.2}, TypeError, "a must be an integer"),
    Bad({"a": True}, TypeError, "a must be an integer"),
    Bad({"out": torch.zeros(5, 3, 13, 13)}, TypeError, "out must be uint8"),
    Bad({"out": torch.zeros(5, 3, 13, 13, dtype=torch.uint8), "lossless": True}, TypeError, "out must be uint16"),
    Bad({"out": torch.zeros(6, 3, 13, 13, dtype=torch.uint8)}, ValueError, "out must be"),
    Bad({"out": lambda good: good["images"].transpose(2, 3)}, ValueError, "out must not overlap images"),
    Bad({"out": lambda good: good["veils"][:1].expand(5, -1, -1, -1)}, ValueError, "out must have memory of its own"),
)


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Photos of mixed people; each is read once and written once (64 veils stay in a cache)."""
    return tuple(
        Size(
            f"{photos} photos u8, mixed rows",
            lambda device, photos=photos: on(device, mixed_photos(photos, 64, SIDE, SIDE)),
            2 * photos * 3 * SIDE * SIDE,
        )
        for photos in ((4096, 32768) if on_gpu else (64, 512))
    )


def _kernel(work: Workload, lossless: bool) -> Arguments:
    return {"images": work.images, "veils": work.veils, "rows": work.rows, "a": 51, "lossless": lossless}


CALLS = (
    KernelCall("u8", "u8", lambda work: _kernel(work, False)),
    KernelCall("u16", "u16", lambda work: _kernel(work, True)),
)
ENTRIES = (
    Entry("blend", "blend", reference.blend, SAMPLES, BAD, registered, writes=("out",), sizes=sizes, calls=CALLS),
)  # fmt: skip
