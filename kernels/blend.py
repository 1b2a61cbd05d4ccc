"""blend (eq. 12): x' = (a x + (255 - a) v + 127) div 255, the veil of photo n being veils[rows[n]].

images u8 [N, 3, H, W], veils u8 [P, 3, H, W], rows i64 [N] -> out u8 (x') or u16 (p = a x + (255 - a) v), [N, 3, H, W].
Traffic: one read of the photo, one write, one read of the veil (from the L2 cache where persons repeat).

A program takes BLOCK values of one photo, so that its veil row is one number and everything else is a copy with
arithmetic: 16 bytes a thread where each photo lies whole and its size is a multiple of 16 (3 x 112 x 112 is). Any other
strides take the same kernel with WHOLE off, value by value. (p + 127) div 255 = ((p + 128) 257) >> 16 for p in
0..65025 (tested for every p), so there is no division.
"""

import triton
import triton.language as tl
from veilkern.kernels.indexing import chunk_of, photo_place

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
ACCESS = {
    ("blend", "u8"): {"load": {16: None, 8: 1}, "store": {16: None}},  # 8: the row
    ("blend", "u16"): {"load": {8: None}, "store": {16: None}},  # two bytes written for each one read
}


@triton.jit(do_not_specialize=["people", "chunks", "a"], do_not_specialize_on_alignment=["rows"])
def blend_kernel(
    images, veils, rows, out, people, size, plane, width, chunks, a,
    images_n, images_c, images_h, images_w,
    veils_n, veils_c, veils_h, veils_w,
    out_n, out_c, out_h, out_w,
    WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, row, begin, inside, readable = chunk_of(rows, people, size, chunks, BLOCK)
    e = begin + tl.arange(0, BLOCK)
    images += photo * images_n
    veils += row * veils_n
    out += photo * out_n
    x = tl.load(images + photo_place(e, plane, width, images_c, images_h, images_w, WHOLE), mask=readable, other=0)
    v = tl.load(veils + photo_place(e, plane, width, veils_c, veils_h, veils_w, WHOLE), mask=readable, other=0)
    p = a * x.to(tl.int32) + (255 - a) * v.to(tl.int32)
    if out.dtype.element_ty == tl.uint8:
        p = ((p + 128) * 257) >> 16
    place = photo_place(e, plane, width, out_c, out_h, out_w, WHOLE)
    tl.store(out + place, p.to(out.dtype.element_ty), mask=inside)
