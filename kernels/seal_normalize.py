"""seal_normalize: ((w (256 - M) + u) / 255 - mean) / std, u being what seal adds, straight into a network's input.

images u8 [N, 3, H, W], veils w f32 or f64 [P, 3, H, W], rows i64 [N], keys [P, 32] and nonces [N, 12] bytes, given as
i32 words -> out f32, f64, bf16 or f16 [N, 3, H, W] in channels_last. u is seal.py's; then, as in blend_normalize.py,
u A_c + w B_c + C_c, where A_c = 1 / 255 / std_c, B_c = (256 - M) / 255 / std_c, C_c = -mean_c / std_c, in the dtype of
the veils, rounded once to that of out. Traffic: as in blend_normalize.py.

A program takes BLOCK pixels of one photo, and writes their channels side by side as blend_normalize does. Its keystream
lies in three places, one a channel, each BLOCK / 64 blocks and one more where a channel does not begin with a block.
They are made together, by 4 BLOCK / 64 threads, of which the last few have nothing to do (a fifth at BLOCK = 1024), and
each channel's bytes come out of shared memory (`tl.gather`) from wherever they begin: a plane may have any size.
"""

import triton
import triton.language as tl
from veilkern.kernels.blend_normalize import mixed, write_channels_last
from veilkern.kernels.indexing import chunk_of, plane_place
from veilkern.kernels.keystream import added, bytes_of, in_each_byte, shifted, stream_of, words_of

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
ACCESS = {
    # 8: the row; 4: key, nonce, and the nonce again for each channel that may carry it
    ("seal_normalize", "f32"): {"load": {16: None, 8: 1, 4: 20}, "store": {16: None}},
    ("seal_normalize", "bf16"): {"load": {16: None, 8: 1, 4: 20}, "store": {16: None}},
    ("seal_normalize", "f64"): {"load": {16: None, 8: None, 4: 20}, "store": {16: None}},
}


@triton.jit
def channel_of(stream, first, channel, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK bytes, as words, of the keystream that a program has made of a channel, from the photo's byte `first` on.
    ALIGNED: that is a multiple of four."""
    place = (first % 64 // 4).to(tl.int32) + channel * (BLOCK // 4 + 16) + tl.arange(0, BLOCK // 4)
    words = tl.gather(stream, place, 0)
    if not ALIGNED:
        words = shifted(words, tl.gather(stream, place + 1, 0), (first % 4 * 8).to(tl.uint32))
    return words


@triton.jit(
    do_not_specialize=["people", "chunks", "bits", "rounds", "lead"],
    do_not_specialize_on_alignment=["rows", "keys", "nonces"],
)
def seal_normalize_kernel(
    images, veils, rows, keys, nonces, out, people, plane, width, chunks, bits, rounds, lead,
    images_n, images_c0, images_c1, images_c2, images_h, images_w,
    veils_n, veils_c0, veils_c1, veils_c2, veils_h, veils_w,
    of_u0: "fp64", of_u1: "fp64", of_u2: "fp64", of_w0: "fp64", of_w1: "fp64", of_w2: "fp64",
    add0: "fp64", add1: "fp64", add2: "fp64",
    WHOLE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, row, begin, _, readable = chunk_of(rows, people, plane, chunks, BLOCK)
    known = (row >= 0) & (row < people)
    here = tl.arange(0, BLOCK)
    e = begin + here
    images += photo * images_n
    veils += row * veils_n
    nonces += photo * 3
    # The channels in the network's order: their offsets come from the host, and `lead`, the number of the first.
    b0, b1, b2 = begin + lead * plane, begin + plane, begin + (2 - lead) * plane
    EACH: tl.constexpr = BLOCK // 64 + 1
    thread = tl.arange(0, BLOCK // 16)
    channel = thread // EACH
    block = tl.where(channel == 0, b0 // 64, tl.where(channel == 1, b1 // 64, b2 // 64)) + thread % EACH
    stream = stream_of(keys + row * 8, nonces, block.to(tl.uint32), rounds, known)
    k0 = channel_of(stream, b0, 0, ALIGNED, BLOCK)
    k1 = channel_of(stream, b1, 1, ALIGNED, BLOCK)
    k2 = channel_of(stream, b2, 2, ALIGNED, BLOCK)
    x_place = plane_place(e, width, images_h, images_w, WHOLE)
    v_place = plane_place(e, width, veils_h, veils_w, WHOLE)
    x0 = words_of(tl.load(images + images_c0 + x_place, mask=readable, other=0))
    x1 = words_of(tl.load(images + images_c1 + x_place, mask=readable, other=0))
    x2 = words_of(tl.load(images + images_c2 + x_place, mask=readable, other=0))
    up, levels = bits.to(tl.uint32), tl.where(known, in_each_byte((1 << bits) - 1), 0)
    u0 = bytes_of(added(x0, k0, levels, up, nonces, b0, known)).to(tl.int32)
    u1 = bytes_of(added(x1, k1, levels, up, nonces, b1, known)).to(tl.int32)
    u2 = bytes_of(added(x2, k2, levels, up, nonces, b2, known)).to(tl.int32)
    kind: tl.constexpr = out.dtype.element_ty
    p0 = mixed(u0, veils + veils_c0, v_place, readable, of_u0, of_w0, add0, kind)
    p1 = mixed(u1, veils + veils_c1, v_place, readable, of_u1, of_w1, add1, kind)
    p2 = mixed(u2, veils + veils_c2, v_place, readable, of_u2, of_w2, add2, kind)
    write_channels_last(out + photo * 3 * plane, begin, plane, p0, p1, p2)
