"""blend_normalize: ((alpha x / 255 + (1 - alpha) v) - mean) / std, straight into a network's channels-last input.

images u8 [N, 3, H, W], veils f32 or f64 [P, 3, H, W], rows i64 [N] -> out f32, f64, bf16 or f16 [N, 3, H, W] in
channels_last. As one multiply-add a term: x' = x A_c + v B_c + C_c, where A_c = a / 255^2 / std_c,
B_c = (255 - a) / 255 / std_c, C_c = -mean_c / std_c, in the dtype of the veils, rounded once to that of out.
Traffic: one byte read and one value written per value, and the veil (from the L2 cache where persons repeat).

A program takes BLOCK pixels of one photo. It reads each channel's plane in whole vectors, 16 bytes a thread, and writes
the three channels side by side in whole vectors too: they change places in shared memory (`tl.gather` of the planes one
after the other, a fourth for padding; two lanes of a warp at most want the same bank). A store of three interleaved
planes would write each sector three times in part.
"""

import triton
import triton.language as tl
from veilkern.kernels.indexing import chunk_of, plane_place

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
ACCESS = {
    ("blend_normalize", "f32"): {"load": {16: None, 8: 1}, "store": {16: None}},  # 8: the row
    ("blend_normalize", "bf16"): {"load": {16: None, 8: 1}, "store": {16: None}},
    ("blend_normalize", "f64"): {"load": {16: None, 8: None}, "store": {16: None}},
}


@triton.jit
def mixed(x, veils, v_place, inside, of_x, of_v, add, kind: tl.constexpr):
    """One channel of pixels, x (int32) and its veil's, computed in the dtype of the veils, as `kind`."""
    dtype: tl.constexpr = veils.dtype.element_ty
    v = tl.load(veils + v_place, mask=inside, other=0.0)
    # A scalar may be a Python float in the interpreter: tl.full makes one of the right dtype either way.
    scaled = x.to(dtype) * tl.full([1], of_x, dtype) + tl.full([1], add, dtype)
    value = scaled + v * tl.full([1], of_v, dtype)
    if kind == tl.bfloat16:  # torch rounds float64 in two steps too
        value = value.to(tl.float32)
    return value.to(kind)


@triton.jit
def write_channels_last(out, begin, plane, p0, p1, p2):
    """Pixels from `begin` on of a photo [plane, 3] at `out`: their three channels [BLOCK], side by side."""
    BLOCK: tl.constexpr = p0.shape[0]
    planes = tl.permute(tl.join(tl.join(p0, p2), tl.join(p1, p2)), (1, 2, 0))  # [2, 2, BLOCK]: 0, 1, 2 and 2 again
    side = tl.arange(0, 4 * BLOCK)
    source = (side % 3) * BLOCK + side // 3
    value = tl.gather(tl.reshape(planes, [4 * BLOCK]), source, 0)
    room = tl.minimum(plane - begin, BLOCK) * 3
    tl.store(out + begin * 3 + side, value, mask=side < room)


@triton.jit(do_not_specialize=["people", "chunks"], do_not_specialize_on_alignment=["rows"])
def blend_normalize_kernel(
    images, veils, rows, out, people, plane, width, chunks,
    images_n, images_c0, images_c1, images_c2, images_h, images_w,
    veils_n, veils_c0, veils_c1, veils_c2, veils_h, veils_w,
    of_x0: "fp64", of_x1: "fp64", of_x2: "fp64", of_v0: "fp64", of_v1: "fp64", of_v2: "fp64",
    add0: "fp64", add1: "fp64", add2: "fp64",
    WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, row, begin, _, readable = chunk_of(rows, people, plane, chunks, BLOCK)
    e = begin + tl.arange(0, BLOCK)
    images += photo * images_n
    veils += row * veils_n
    x_place = plane_place(e, width, images_h, images_w, WHOLE)
    v_place = plane_place(e, width, veils_h, veils_w, WHOLE)
    kind: tl.constexpr = out.dtype.element_ty
    # The channels in the network's order: their offsets come from the host.
    x0 = tl.load(images + images_c0 + x_place, mask=readable, other=0).to(tl.int32)
    x1 = tl.load(images + images_c1 + x_place, mask=readable, other=0).to(tl.int32)
    x2 = tl.load(images + images_c2 + x_place, mask=readable, other=0).to(tl.int32)
    p0 = mixed(x0, veils + veils_c0, v_place, readable, of_x0, of_v0, add0, kind)
    p1 = mixed(x1, veils + veils_c1, v_place, readable, of_x1, of_v1, add1, kind)
    p2 = mixed(x2, veils + veils_c2, v_place, readable, of_x2, of_v2, add2, kind)
    write_channels_last(out + photo * 3 * plane, begin, plane, p0, p1, p2)
