"""recover (eq. 14, corrected): x = clamp(floor((2 t + a) / (2 a)), 0, 255).

t = 255 x' - (255 - a) v from u8, t = p - (255 - a) v from u16 (the lossless blend). protected u8 or u16 [N, 3, H, W],
veils u8 [P, 3, H, W], rows i64 [N] -> out u8 [N, 3, H, W]. Traffic and mapping as in blend.py.

The quotient lies in 0..255 once 2 t + a is clamped to 0..511 a, below 2^18; then
n div (2 a) = (2 n m) >> 32 with m = 2^31 div (2 a) + 1, since n (2 a m - 2^31) < 2^18 510 < 2^31: one multiplication.

recover_gaussian filters the result with integer weights w (4096ths, sum 4096), borders reflected, rounded once:
(sum_ij w_i w_j x_ij + 2^23) div 2^24, which fits 32 bits without a sign. A program takes ROWS rows of one plane,
whole or in pieces of COLS columns: down the columns by reading 2 r + 1 rows (from the L1 cache but for the first), then
along the rows by `tl.gather` in shared memory, where the border is only an index.
"""

import triton
import triton.language as tl
from veilkern.kernels.indexing import chunk_of, photo_place

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
ACCESS = {
    ("recover", "u8"): {"load": {16: None, 8: 1}, "store": {16: None}},  # 8: the row
    ("recover", "u16"): {"load": {16: None, 8: 2}, "store": {8: None}},  # one byte for each two read; 8: veil and row
    ("recover_gaussian", "gaussian"): {"load": {16: None, 8: 1, 4: 2}, "store": {16: None}},  # 4: the weights
}


@triton.jit
def recovered(hidden, v, a, magic):
    """x from x' (u8) or p (u16), and the veil's v, as i32."""
    unit = 4  # 2 n at once: what the high word of a product with `magic` needs
    if hidden.dtype == tl.uint8:
        unit = 1020
    n = hidden.to(tl.int32) * unit + (2 * a - v.to(tl.int32) * (4 * (255 - a)))
    n = tl.minimum(tl.maximum(n, 0), 1022 * a)
    return tl.umulhi(n.to(tl.uint32), magic.to(tl.uint32)).to(tl.int32)


@triton.jit(do_not_specialize=["people", "chunks", "a", "magic"], do_not_specialize_on_alignment=["rows"])
def recover_kernel(
    protected, veils, rows, out, people, size, plane, width, chunks, a, magic,
    protected_n, protected_c, protected_h, protected_w,
    veils_n, veils_c, veils_h, veils_w,
    out_n, out_c, out_h, out_w,
    WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, row, begin, inside, readable = chunk_of(rows, people, size, chunks, BLOCK)
    e = begin + tl.arange(0, BLOCK)
    protected += photo * protected_n
    veils += row * veils_n
    out += photo * out_n
    place = photo_place(e, plane, width, protected_c, protected_h, protected_w, WHOLE)
    hidden = tl.load(protected + place, mask=readable, other=0)
    v = tl.load(veils + photo_place(e, plane, width, veils_c, veils_h, veils_w, WHOLE), mask=readable, other=0)
    x = recovered(hidden, v, a, magic)
    tl.store(out + photo_place(e, plane, width, out_c, out_h, out_w, WHOLE), x.to(tl.uint8), mask=inside)


@triton.jit
def reflected(place, size):
    """Index of a place that may lie up to size - 1 beyond either border."""
    place = tl.where(place < 0, -place, place)
    return tl.where(place >= size, 2 * (size - 1) - place, place)


@triton.jit(
    do_not_specialize=["people", "channels", "bands", "pieces", "radius", "a", "magic"],
    do_not_specialize_on_alignment=["rows"],
)
def recover_gaussian_kernel(
    protected, veils, rows, weights, out, people, channels, height, width, bands, pieces, radius, a, magic,
    protected_n, protected_c, protected_h, protected_w,
    veils_n, veils_c, veils_h, veils_w,
    out_n, out_c, out_h, out_w,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    piece, rest = program % pieces, program // pieces
    band, rest = rest % bands, rest // bands
    channel = (rest % channels).to(tl.int64)
    photo = (rest // channels).to(tl.int64)
    row = tl.load(rows + photo)
    protected += photo * protected_n + channel * protected_c
    veils += row * veils_n + channel * veils_c
    out += photo * out_n + channel * out_c
    y = (band * ROWS + tl.arange(0, ROWS))[:, None]
    first = 0  # of the columns in hand; those that are written lie `radius` within, unless the plane is whole
    if WIDE:
        first = piece * (COLS - 2 * radius) - radius
    x = (first + tl.arange(0, COLS))[None, :]
    inside = (x >= 0) & (x < width)
    read = (x >= 0) & (x < tl.where((row >= 0) & (row < people), width, 0))  # as in recover_kernel
    column = x.to(tl.int64)
    lines = tl.zeros([ROWS, COLS], tl.uint32)
    for tap in range(0, 2 * radius + 1):
        source = reflected(tl.minimum(y, height - 1) + tap - radius, height).to(tl.int64)
        hidden = tl.load(protected + source * protected_h + column * protected_w, mask=read, other=0)
        v = tl.load(veils + source * veils_h + column * veils_w, mask=read, other=0)
        lines += tl.load(weights + tap).to(tl.uint32) * recovered(hidden, v, a, magic).to(tl.uint32)
    total = tl.zeros([ROWS, COLS], tl.uint32)
    for tap in range(0, 2 * radius + 1):
        source = reflected(tl.minimum(x, width - 1) + tap - radius, width) - first
        source = tl.minimum(tl.maximum(source, 0), COLS - 1)  # beyond: places that are not written
        near = tl.gather(lines, tl.broadcast_to(source, [ROWS, COLS]), 1)
        total += tl.load(weights + tap).to(tl.uint32) * near
    value = (total + (1 << 23)) >> 24
    if WIDE:
        inside = inside & (x >= first + radius) & (x < first + COLS - radius)
    place = out + y.to(tl.int64) * out_h + column * out_w
    tl.store(place, value.to(tl.uint8), mask=inside & (y < height))
