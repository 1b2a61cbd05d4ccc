"""unseal in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, bytes8, laid_out, on, sealable_photos

GIVEN = ("veils", "rows", "keys")


def _sealed(n: int, people: int, h: int, w: int, wide: bool, levels: int = 64, rounds: int = 20) -> Arguments:
    """Photos as the reference seals them."""
    made = sealable_photos(n, people, h, w, levels=levels)
    hidden = reference.seal(**made, levels=levels, rounds=rounds, lossless=wide)
    return {"sealed": hidden, **{name: made[name] for name in GIVEN}, "levels": levels, "rounds": rounds}


def _photos(
    n=5, people=3, h=13, w=13, *, layout="dense", veil_layout="dense", wide=False, levels=64, rounds=20, **options
) -> Arguments:
    made = _sealed(n, people, h, w, wide, levels, rounds)
    made |= {"sealed": laid_out(made["sealed"], layout), "veils": laid_out(made["veils"], veil_layout)}
    return made | options


def _strided() -> Arguments:
    made = _sealed(8, 6, 12, 12, False)
    made |= {name: made[name][::2] for name in ("sealed", *GIVEN)}
    return made | {"rows": made["rows"] // 2}


def _turned() -> Arguments:
    made = _sealed(5, 3, 12, 12, False)
    return made | {"keys": made["keys"].t().contiguous().t()}


def _out(wide: bool = False) -> Arguments:
    return _photos(out=torch.zeros((10, 3, 13, 13), dtype=torch.uint8)[::2], wide=wide)


def _in_place(layout: str = "dense", side: int = 13) -> Arguments:
    made = _photos(5 if layout == "dense" else 2, 3, side, side, layout=layout)
    return made | {"out": made["sealed"]}


def _ends(levels: int, wide: bool) -> Arguments:
    """Numbers that no seal writes, under veils that pass the end of a byte: noise, the same everywhere."""
    made = _photos(4, 2, 7, 9, wide=wide, levels=levels)
    made["sealed"][0::2], made["sealed"][1::2] = 0, 65535 if wide else 255
    made["veils"][0], made["veils"][1], made["keys"][0], made["keys"][1] = 0, 255, 0, 255
    return made | {"rows": torch.tensor([0, 0, 1, 1])}


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    given = (*(made[k] for k in ("sealed", "veils", "rows", "keys")), made.get("levels", 64), made.get("rounds", 20))
    return [("unseal_out", (*given, made["out"])) if "out" in made else ("unseal", given)]


SAMPLES = (
    Sample("ordinary", "", _photos, traced=True),
    Sample("ordinary", "16 bits", lambda: _photos(wide=True), traced=True),
    *(
        Sample("ordinary", f"{levels} levels, {rounds} rounds, {'16' if wide else '8'} bits",
               lambda m=levels, r=rounds, wide=wide: _photos(2, 2, 10, 9, levels=m, rounds=r, wide=wide))
        for levels, rounds, wide in itertools.product((16, 32, 64, 128), (12, 20), (False, True))
    ),
    Sample("ragged", "rows unsorted, some veils of nobody", lambda: (
        _photos(6, 4) | {"rows": torch.tensor([2, 0, 2, 2, 0, 2])}
    )),
    Sample("empty", "8 bits", lambda: _photos(0)),
    Sample("empty", "16 bits", lambda: _photos(0, wide=True)),
    *(
        Sample("one" if n == 1 else "odd", f"{n} x {h} x {w}, {'16' if wide else '8'} bits",
               lambda n=n, h=h, w=w, wide=wide: _photos(n, 3, h, w, wide=wide))
        for n, h, w in ((1, 1, 32), (1, 7, 5), (3, 13, 37), (2, 33, 33), (1, 32, 33))
        for wide in (False, True)
    ),
    Sample("channels_last", "sealed", lambda: _photos(2, layout="channels_last")),
    Sample("channels_last", "both, 16 bits", lambda: _photos(
        2, 3, 31, 45, layout="channels_last", veil_layout="channels_last", wide=True
    )),
    *(
        Sample("strided", layout, lambda layout=layout: _photos(2, layout=layout, veil_layout=layout))
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    Sample("strided", "every other row and key", _strided),
    Sample("strided", "bytes of keys apart", _turned),
    Sample("strided", "every other photo of out", _out),
    Sample("strided", "every other photo of out, 16 bits", lambda: _out(True)),
    Sample("strided", "in place", _in_place),
    Sample("strided", "in place, channels last", lambda: _in_place("channels_last", 31)),
    *(
        Sample("extreme", f"ends, {levels} levels, {'16' if wide else '8'} bits",
               lambda m=levels, wide=wide: _ends(m, wide))
        for levels in (16, 64, 128)
        for wide in (False, True)
    ),
    Sample("many", "", lambda: _photos(40, 9, 112, 112), light=False),
    Sample("many", "in place", lambda: _in_place(side=112), light=False),
    Sample("many", "16 bits, channels last", lambda: _photos(
        40, 9, 112, 112, wide=True, layout="channels_last"
    ), light=False),
)  # fmt: skip

BAD = (
    Bad({"sealed": torch.zeros(5, 3, 13, 13)}, TypeError, "unseal: sealed must be uint8 or uint16"),
    Bad({"sealed": torch.zeros(5, 1, 13, 13, dtype=torch.uint8)}, ValueError, r"sealed must be .*\[N, 3, H, W\]"),
    Bad({"sealed": torch.zeros(5, 3, 5, 6, dtype=torch.uint8), "veils": torch.zeros(3, 3, 5, 6, dtype=torch.uint8)},
        ValueError, "sealed must have at least 96 values a photo"),
    Bad({"veils": torch.zeros(3, 3, 5, 5, dtype=torch.uint8)}, ValueError, "veils must hold photos like sealed"),
    Bad({"rows": torch.tensor([5, 0, 0, 0, 0])}, ValueError, "rows must lie in 0..2"),
    Bad({"rows": torch.zeros(4, dtype=torch.int64)}, ValueError, "rows must have one entry per photo, 5, got 4"),
    Bad({"keys": bytes8(2, 32)}, ValueError, r"keys must be uint8 \[3, 32\], got \[2, 32\]"),
    Bad({"keys": torch.zeros(3, 32)}, TypeError, "keys must be uint8"),
    Bad({"levels": 8}, ValueError, "levels must be one of 16, 32, 64, 128, got 8"),
    Bad({"levels": True}, TypeError, "levels must be an integer"),
    Bad({"rounds": 21}, ValueError, "rounds must be one of 12, 20, got 21"),
    Bad({"out": torch.zeros(5, 3, 13, 13, dtype=torch.uint16)}, TypeError, "out must be uint8"),
    Bad({"out": torch.zeros(5, 3, 13, 12, dtype=torch.uint8)}, ValueError, "out must be"),
    Bad({"out": lambda good: good["sealed"].transpose(2, 3)}, ValueError, "out must not overlap sealed"),
)  # fmt: skip


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Photos of mixed people; each is read once and written once."""
    return tuple(
        Size(
            f"{photos} photos u8, mixed rows, {rounds} rounds",
            lambda device, photos=photos, rounds=rounds: on(
                device, sealable_photos(photos, 64, SIDE, SIDE, name="sealed") | {"rounds": rounds}
            ),
            2 * photos * 3 * SIDE * SIDE,
        )
        for photos, rounds in (((4096, 20), (32768, 20)) if on_gpu else ((64, 20), (512, 20), (512, 12)))
    )


def _kernel(work: Workload, wide: bool) -> Arguments:
    sealed = (work.images.int() * 257).to(torch.uint16) if wide else work.images
    keys = bytes8(len(work.veils), 32, seed=5).to(work.veils)
    return {"sealed": sealed, "veils": work.veils, "rows": work.rows, "keys": keys}


CALLS = (
    KernelCall("u8", "u8", lambda work: _kernel(work, False)),
    KernelCall("u16", "u16", lambda work: _kernel(work, True)),
)
ENTRIES = (
    Entry("unseal", "unseal", reference.unseal, SAMPLES, BAD, registered, writes=("out",), sizes=sizes, calls=CALLS),
)  # fmt: skip
