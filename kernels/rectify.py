"""rectify: ReLU, ReLU6 or PReLU of x + add in place, with a bit a value of its side; and a slope by those bits.

x f32, f64, bf16 or f16 [N, S] in the order of memory (h, w, c), bits u8 [N, (S + 7) // 8]. add: none, [C], or [S];
slope: none, or [C]. Of z = x + add, in f32 for 16-bit x: y = z where 0 < z < top, top above, slope z else.
Traffic: x once each way, and 1/32 (f32) of it for the bits; the tables come from the caches.

A program takes BLOCK values of one photo, BLOCK / 8 bytes of bits.
"""

import triton
import triton.language as tl

# What the machine code may show at 48 x 28 x 28: bytes per access -> the most instructions, None for any number. The
# bits go byte by byte.
ACCESS = {
    **{("rectify", case): {"load": {16: None}, "store": {16: None, 1: 4}} for case in ("f32", "bf16", "f64")},
    **{("rectify_gradient", case): {"load": {16: None, 1: 4}, "store": {16: None}} for case in ("f32", "bf16", "f64")},
}


@triton.jit
def place_of(size, chunks, BLOCK: tl.constexpr):
    """This program's photo, its first value, its places from there on [BLOCK / 8, 8], and which of them there are."""
    program = tl.program_id(0)
    photo = (program // chunks).to(tl.int64)
    first = (program % chunks).to(tl.int64) * BLOCK
    here = tl.arange(0, BLOCK // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    return photo, first, here, here < size - first


@triton.jit
def channel_of(first, here, channels, WIDE: tl.constexpr):
    """The channels of the values. One long division a program; each value's is of 32 bits unless channels are WIDE."""
    if WIDE:
        return (first + here) % channels
    return ((first % channels).to(tl.int32) + here) % channels


@triton.jit(do_not_specialize=["chunks", "bytes"], do_not_specialize_on_alignment=["bits"])
def rectify_kernel(
    x, bits, add, slope, size, channels, bytes, chunks, top: "fp64", TOP: tl.constexpr, MAP: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, first, here, inside = place_of(size, chunks, BLOCK)
    kind: tl.constexpr = x.dtype.element_ty
    exact: tl.constexpr = tl.float64 if kind == tl.float64 else tl.float32
    x += photo * size + first
    z = tl.load(x + here, mask=inside, other=0.0).to(exact)
    if MAP:
        z += tl.load(add + first + here, mask=inside, other=0.0)
    elif add is not None:
        z += tl.load(add + channel_of(first, here, channels, WIDE))
    if slope is not None:
        low = z * tl.load(slope + channel_of(first, here, channels, WIDE))
    else:
        low = tl.where(z < 0, 0.0, z + 0.0)  # NaN stays, -0 is 0
    y, on = tl.where(z > 0, z, low), (z > 0) & inside
    if TOP:
        most = tl.full([1, 1], top, exact)
        y, on = tl.where(y > most, most, y), on & (z < most)
    tl.store(x + here, y.to(kind), mask=inside)
    on = on.to(tl.int32) << tl.arange(0, 8)[None, :]
    byte = first // 8 + tl.arange(0, BLOCK // 8)
    tl.store(bits + photo * bytes + byte, tl.sum(on, 1).to(tl.uint8), mask=byte < bytes)


@triton.jit(do_not_specialize=["chunks", "bytes"], do_not_specialize_on_alignment=["bits"])
def rectify_gradient_kernel(
    gradient, bits, slope, size, channels, bytes, chunks, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    photo, first, here, inside = place_of(size, chunks, BLOCK)
    kind: tl.constexpr = gradient.dtype.element_ty
    exact: tl.constexpr = tl.float64 if kind == tl.float64 else tl.float32
    gradient += photo * size + first
    g = tl.load(gradient + here, mask=inside, other=0.0).to(exact)
    byte = (first // 8 + tl.arange(0, BLOCK // 8))[:, None]
    found = tl.load(bits + photo * bytes + byte, mask=byte < bytes, other=0).to(tl.int32)
    low = tl.zeros(g.shape, exact)
    if slope is not None:
        low = g * tl.load(slope + channel_of(first, here, channels, WIDE))
    on = (found >> tl.arange(0, 8)[None, :]) & 1
    tl.store(gradient + here, tl.where(on != 0, g, low).to(kind), mask=inside)
