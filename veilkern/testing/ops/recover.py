"""recover in the table."""

from __future__ import annotations

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, laid_out, mixed_photos, on


def _photos(n=5, people=3, h=13, w=13, *, layout="dense", veil_layout="dense", wide=False, **options) -> Arguments:
    made = mixed_photos(n, people, h, w, name="protected")
    hidden = (made["protected"].int() * 255).to(torch.uint16) if wide else made["protected"]
    made |= {"protected": laid_out(hidden, layout), "veils": laid_out(made["veils"], veil_layout)}
    return made | options


def _strided_rows() -> Arguments:
    made = mixed_photos(8, 5, 12, 12, name="protected")
    return made | {"protected": made["protected"][::2], "rows": made["rows"][::2]}


def _out(**options) -> Arguments:
    return _photos(out=torch.zeros((10, 3, 13, 13), dtype=torch.uint8)[::2], **options)


def _in_place(sigma: float | None = None) -> Arguments:
    made = _photos(gaussian_sigma=sigma)
    return made | {"out": made["protected"]}


def _ends(a: int, wide: bool) -> Arguments:
    """The least and the largest numbers there are, in photos and veils: most recover to what must be clamped."""
    made = _photos(4, 2, 7, 9, wide=wide, a=a)
    made["protected"][0::2], made["protected"][1::2] = 0, 65535 if wide else 255
    made["veils"][0], made["veils"][1] = 0, 255
    return made | {"rows": torch.tensor([0, 0, 1, 1])}


def _as_far_as_it_goes(height: int, width: int) -> Arguments:
    """The filter's border is reflected without the edge: side - 1 pixels are there."""
    return _photos(3, 2, height, width, gaussian_sigma=(min(height, width) - 1) / 2)


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    given = (*(made[k] for k in ("protected", "veils", "rows", "a")), made.get("gaussian_sigma"))
    return [("recover_out", (*given, made["out"])) if "out" in made else ("recover", given)]


SAMPLES = (
    Sample("ordinary", "", _photos, traced=True),
    Sample("ordinary", "16 bits", lambda: _photos(wide=True), traced=True),
    Sample("ordinary", "Gaussian", lambda: _photos(gaussian_sigma=1.0)),
    Sample("ordinary", "16 bits, Gaussian", lambda: _photos(wide=True, gaussian_sigma=1.7)),
    Sample("ragged", "rows unsorted, some veils of nobody", lambda: (
        _photos(6, 4) | {"rows": torch.tensor([2, 0, 2, 2, 0, 2])}
    )),
    Sample("empty", "8 bits", lambda: _photos(0)),
    Sample("empty", "16 bits", lambda: _photos(0, wide=True)),
    Sample("empty", "Gaussian", lambda: _photos(0, gaussian_sigma=1.0)),
    *(
        Sample("one" if n == 1 else "odd", f"{n} x {side} x {side}, {'16' if wide else '8'} bits",
               lambda n=n, side=side, wide=wide: _photos(n, 3, side, side, wide=wide))
        for n, side in ((1, 1), (1, 7), (3, 13), (9, 33))
        for wide in (False, True)
    ),
    *(
        Sample("odd", f"Gaussian over all of {h} x {w}", lambda h=h, w=w: _as_far_as_it_goes(h, w))
        for h, w in ((3, 30), (30, 3), (3, 3), (2, 2), (5, 9))
    ),
    Sample("channels_last", "protected", lambda: _photos(layout="channels_last")),
    Sample("channels_last", "both, 16 bits", lambda: _photos(
        layout="channels_last", veil_layout="channels_last", wide=True
    )),
    Sample("channels_last", "Gaussian", lambda: _photos(layout="channels_last", gaussian_sigma=1.0)),
    *(
        Sample("strided", layout, lambda layout=layout: _photos(layout=layout, veil_layout=layout))
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    Sample("strided", "every other row", _strided_rows),
    Sample("strided", "every other photo of out", _out),
    Sample("strided", "every other photo of out, 16 bits", lambda: _out(wide=True)),
    Sample("strided", "in place", _in_place),
    Sample("strided", "in place, Gaussian", lambda: _in_place(2.5)),
    *(
        Sample("extreme", f"ends, a = {a}, {'16' if wide else '8'} bits", lambda a=a, wide=wide: _ends(a, wide))
        for a in (1, 51, 255)
        for wide in (False, True)
    ),
    Sample("many", "", lambda: _photos(64, 9, 112, 112), light=False),
    Sample("many", "16 bits", lambda: _photos(64, 9, 112, 112, wide=True), light=False),
    Sample("many", "Gaussian", lambda: _photos(20, 9, 112, 112, gaussian_sigma=1.0), light=False),
)  # fmt: skip

BAD = (
    Bad({"protected": torch.zeros(5, 3, 13, 13)}, TypeError, "recover: protected must be uint8 or uint16"),
    Bad({"protected": torch.zeros(5, 1, 13, 13, dtype=torch.uint8)}, ValueError, r"protected must be .*\[N, 3, H, W\]"),
    Bad({"veils": torch.zeros(3, 3, 5, 5, dtype=torch.uint8)}, ValueError, "veils must hold photos like protected"),
    Bad({"a": 0}, ValueError, "a must lie in 1..255"),
    Bad({"a": 51.0}, TypeError, "a must be an integer"),
    Bad({"rows": torch.tensor([5, 0, 0, 0, 0])}, ValueError, "rows must lie in 0..2"),
    Bad({"rows": torch.zeros(4, dtype=torch.int64)}, ValueError, "rows must have one entry per photo, 5, got 4"),
    Bad({"gaussian_sigma": 0.0}, ValueError, "gaussian_sigma must lie in"),
    Bad({"gaussian_sigma": float("nan")}, ValueError, "gaussian_sigma must lie in"),
    Bad({"gaussian_sigma": "1"}, TypeError, "gaussian_sigma must be a number"),
    Bad({"gaussian_sigma": 9.0}, ValueError, "reaches 18 pixels, too far for photos of 13 x 13"),
    Bad({"gaussian_sigma": 6.5}, ValueError, "reaches 13 pixels, too far for photos of 13 x 13"),
    Bad({"out": torch.zeros(5, 3, 13, 13, dtype=torch.uint16)}, TypeError, "out must be uint8"),
    Bad({"out": torch.zeros(5, 3, 13, 12, dtype=torch.uint8)}, ValueError, "out must be"),
    Bad({"out": lambda good: good["protected"].transpose(2, 3)}, ValueError, "out must not overlap protected"),
)


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Photos of mixed people, without and with the filter; each is read once and written once."""
    smooth = 4096 if on_gpu else 512  # the reference filters in float64: 8 bytes a value, several times over
    cases = [(photos, None) for photos in ((4096, 32768) if on_gpu else (64, 512))] + [(smooth, 1.0)]
    return tuple(
        Size(
            f"{photos} photos u8, {'mixed rows' if sigma is None else 'Gaussian 5 x 5'}",
            lambda device, photos=photos, sigma=sigma: on(
                device, mixed_photos(photos, 64, SIDE, SIDE, name="protected") | {"gaussian_sigma": sigma}
            ),
            2 * photos * 3 * SIDE * SIDE,
        )
        for photos, sigma in cases
    )


def _kernel(work: Workload, wide: bool = False, sigma: float | None = None) -> Arguments:
    protected = (work.images.int() * 255).to(torch.uint16) if wide else work.images
    return {"protected": protected, "veils": work.veils, "rows": work.rows, "a": 51, "gaussian_sigma": sigma}


CALLS = (
    KernelCall("u8", "u8", _kernel),
    KernelCall("u16", "u16", lambda work: _kernel(work, wide=True)),
    KernelCall("gaussian", "gaussian", lambda work: _kernel(work, sigma=1.0)),
)
ENTRIES = (
    Entry(
        "recover", "recover", reference.recover, SAMPLES, BAD, registered, writes=("out",), sizes=sizes, calls=CALLS,
    ),
)  # fmt: skip
