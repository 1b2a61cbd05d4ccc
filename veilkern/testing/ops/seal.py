"""seal in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, bytes8, laid_out, on, sealable_photos


def _photos(n=5, people=3, h=13, w=13, *, layout="dense", veil_layout="dense", **options) -> Arguments:
    made = sealable_photos(n, people, h, w, levels=options.get("levels", 64))
    made |= {"images": laid_out(made["images"], layout), "veils": laid_out(made["veils"], veil_layout)}
    return made | options


def _strided() -> Arguments:
    """Every other row, key and nonce."""
    made = sealable_photos(8, 6, 12, 12)
    made |= {name: made[name][::2] for name in ("images", "rows", "nonces", "veils", "keys")}
    return made | {"rows": made["rows"] // 2}


def _turned() -> Arguments:
    """Keys and nonces whose bytes lie apart."""
    made = sealable_photos(5, 3, 12, 12)
    return made | {name: made[name].t().contiguous().t() for name in ("keys", "nonces")}


def _one_photo_many_times() -> Arguments:
    made = sealable_photos(4, 5, 12, 12)
    return made | {"images": made["images"][:1].expand(4, -1, -1, -1)}


def _out(lossless: bool = False) -> Arguments:
    dtype = torch.uint16 if lossless else torch.uint8
    return _photos(lossless=lossless, out=torch.zeros((10, 3, 13, 13), dtype=dtype)[::2])


def _in_place() -> Arguments:
    made = _photos()
    return made | {"out": made["images"]}


def _ends(levels: int, lossless: bool) -> Arguments:
    """Black and white photos and veils in every combination, keys and nonces of zeros and ones. White veils pass the
    end of a byte, which must not matter."""
    made = _photos(4, 2, 7, 9, lossless=lossless, levels=levels)
    made["images"][0::2], made["images"][1::2], made["veils"][0], made["veils"][1] = 0, 255, 0, 255
    made["keys"][0], made["keys"][1], made["nonces"][0::2], made["nonces"][1::2] = 0, 255, 0, 255
    return made | {"rows": torch.tensor([0, 0, 1, 1])}


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    given = (
        *(made[k] for k in ("images", "veils", "rows", "keys", "nonces")),
        made.get("levels", 64), made.get("rounds", 20), made.get("lossless", False),
    )  # fmt: skip
    return [("seal_out", (*given, made["out"])) if "out" in made else ("seal", given)]


SAMPLES = (
    Sample("ordinary", "", _photos, traced=True),
    Sample("ordinary", "lossless", lambda: _photos(lossless=True), traced=True),
    *(
        Sample("ordinary", f"{levels} levels, {rounds} rounds, {'16' if wide else '8'} bits",
               lambda m=levels, r=rounds, wide=wide: _photos(2, 2, 10, 9, levels=m, rounds=r, lossless=wide))
        for levels, rounds, wide in itertools.product((16, 32, 64, 128), (12, 20), (False, True))
    ),
    Sample("ragged", "rows unsorted, some veils of nobody", lambda: (
        _photos(6, 4) | {"rows": torch.tensor([2, 0, 2, 2, 0, 2])}
    )),
    Sample("empty", "8 bits", lambda: _photos(0)),
    Sample("empty", "16 bits", lambda: _photos(0, lossless=True)),
    *(
        Sample("one" if n == 1 else "odd", f"{n} x {h} x {w}, {'16' if wide else '8'} bits",
               lambda n=n, h=h, w=w, wide=wide: _photos(n, 3, h, w, lossless=wide))
        for n, h, w in ((1, 1, 32), (1, 7, 5), (3, 13, 37), (2, 33, 33), (1, 32, 33))
        for wide in (False, True)
    ),
    Sample("channels_last", "images", lambda: _photos(2, layout="channels_last")),
    Sample("channels_last", "veils", lambda: _photos(2, veil_layout="channels_last")),
    Sample("channels_last", "both, lossless", lambda: _photos(
        2, 3, 31, 45, layout="channels_last", veil_layout="channels_last", lossless=True
    )),
    Sample("channels_last", "out", lambda: _photos(
        2, out=torch.zeros((2, 13, 13, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    )),
    *(
        Sample("strided", layout, lambda layout=layout: _photos(2, layout=layout, veil_layout=layout))
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    Sample("strided", "every other row, key and nonce", _strided),
    Sample("strided", "bytes of keys and nonces apart", _turned),
    Sample("strided", "one photo many times", _one_photo_many_times),
    Sample("strided", "every other photo of out", _out),
    Sample("strided", "every other photo of out, lossless", lambda: _out(True)),
    Sample("strided", "in place", _in_place),
    *(
        Sample("extreme", f"ends, {levels} levels, {'16' if wide else '8'} bits",
               lambda m=levels, wide=wide: _ends(m, wide))
        for levels in (16, 64, 128)
        for wide in (False, True)
    ),
    Sample("many", "", lambda: _photos(64, 9, 112, 112), light=False),
    Sample("many", "lossless, channels last", lambda: _photos(
        64, 9, 112, 112, lossless=True, layout="channels_last"
    ), light=False),
)  # fmt: skip

BAD = (
    Bad({"images": torch.zeros(5, 3, 13, 13)}, TypeError, "seal: images must be uint8"),
    Bad({"images": torch.zeros(5, 1, 13, 13, dtype=torch.uint8)}, ValueError, r"images must be uint8 \[N, 3, H, W\]"),
    Bad({"images": torch.zeros(5, 3, 5, 6, dtype=torch.uint8), "veils": torch.zeros(3, 3, 5, 6, dtype=torch.uint8)},
        ValueError, r"images must have at least 96 values a photo, which carry its nonce, got \[3, 5, 6\]"),
    Bad({"veils": torch.zeros(3, 3, 5, 5, dtype=torch.uint8)}, ValueError, "veils must hold photos like images"),
    Bad({"veils": torch.zeros(3, 3, 13, 13)}, TypeError, "veils must be uint8"),
    Bad({"rows": torch.zeros(3, dtype=torch.int64)}, ValueError, "rows must have one entry per photo, 5, got 3"),
    Bad({"rows": torch.tensor([0, 1, 2, 3, 0])}, ValueError, "rows must lie in 0..2"),
    Bad({"rows": torch.tensor([0, 1, 2, -1, 0])}, ValueError, "rows must lie in 0..2"),
    Bad({"keys": bytes8(2, 32)}, ValueError, r"keys must be uint8 \[3, 32\], got \[2, 32\]"),
    Bad({"keys": bytes8(3, 16)}, ValueError, r"keys must be uint8 \[3, 32\], got \[3, 16\]"),
    Bad({"keys": b"k" * 32}, TypeError, "keys must be a tensor"),
    Bad({"nonces": bytes8(4, 12)}, ValueError, r"nonces must be uint8 \[5, 12\], got \[4, 12\]"),
    Bad({"nonces": torch.zeros(5, 12)}, TypeError, "nonces must be uint8"),
    Bad({"levels": 48}, ValueError, "levels must be one of 16, 32, 64, 128, got 48"),
    Bad({"levels": 256}, ValueError, "levels must be one of"),
    Bad({"levels": 64.0}, TypeError, "levels must be an integer"),
    Bad({"rounds": 8}, ValueError, "rounds must be one of 12, 20, got 8"),
    Bad({"rounds": True}, TypeError, "rounds must be an integer"),
    Bad({"out": torch.zeros(5, 3, 13, 13)}, TypeError, "out must be uint8"),
    Bad({"out": torch.zeros(5, 3, 13, 13, dtype=torch.uint8), "lossless": True}, TypeError, "out must be uint16"),
    Bad({"out": torch.zeros(6, 3, 13, 13, dtype=torch.uint8)}, ValueError, "out must be"),
    Bad({"out": lambda good: good["images"].transpose(2, 3)}, ValueError, "out must not overlap images"),
    Bad({"out": lambda good: good["veils"][:1].expand(5, -1, -1, -1)}, ValueError, "out must have memory of its own"),
)  # fmt: skip


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Photos of mixed people; each is read once and written once (64 veils stay in a cache)."""
    return tuple(
        Size(
            f"{photos} photos u8, mixed rows, {rounds} rounds",
            lambda device, photos=photos, rounds=rounds: on(
                device, sealable_photos(photos, 64, SIDE, SIDE) | {"rounds": rounds}
            ),
            2 * photos * 3 * SIDE * SIDE,
        )
        for photos, rounds in (((4096, 20), (32768, 20)) if on_gpu else ((64, 20), (512, 20), (512, 12)))
    )


def _kernel(work: Workload, lossless: bool) -> Arguments:
    count, people = len(work.images), len(work.veils)
    made = {"keys": bytes8(people, 32, seed=5).to(work.veils), "nonces": bytes8(count, 12, seed=6).to(work.veils)}
    return {"images": work.images, "veils": work.veils, "rows": work.rows, **made, "lossless": lossless}


CALLS = (
    KernelCall("u8", "u8", lambda work: _kernel(work, False)),
    KernelCall("u16", "u16", lambda work: _kernel(work, True)),
)
ENTRIES = (
    Entry("seal", "seal", reference.seal, SAMPLES, BAD, registered, writes=("out",), sizes=sizes, calls=CALLS),
)  # fmt: skip
