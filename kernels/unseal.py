"""unseal: x = (256/M) (((x' - v) mod M) xor (k mod M)) + 128/M, M = 2^bits levels, k the keystream of photo n.

sealed u8 or u16 [N, 3, H, W], veils u8 [P, 3, H, W], rows i64 [N], keys [P, 32] bytes, given as i32 words -> out u8
[N, 3, H, W]: exact from u16, from u8 the middle of what the known bits leave open. Traffic and mapping as in seal.py.

A photo carries its nonce in its first 96 values, and each program of the photo needs it before its keystream. In place,
the program of those values may write over them before another one has read them, and nothing orders programs: so a
first kernel gathers the nonces, a program a photo, into a buffer of their own (four words a photo, three of them used).
"""

import triton
import triton.language as tl
from veilkern.kernels.indexing import photo_place
from veilkern.kernels.keystream import CARRIERS, bytes_of, chunk_of_stream, in_each_byte, place_of, stream_of, words_of

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
ACCESS = {
    ("unseal", "u8"): {"load": {16: None, 8: 1, 4: 11}, "store": {16: None}},  # 8: the row; 4: key and nonce
    ("unseal", "u16"): {"load": {16: None, 8: None, 4: 11}, "store": {16: None}},
    ("unseal_nonces", "u8"): {"load": {8: 1, 4: None}, "store": {4: 1}},  # 96 values of a photo to a warp
    ("unseal_nonces", "u16"): {"load": {8: None, 4: None}, "store": {4: 1}},
}


@triton.jit
def under(sealed, v):
    """Words of x' - v, right in the lower seven bits of each byte: no difference borrows from the byte beside it."""
    return (sealed | 0x80808080) - (v & 0x7F7F7F7F)


@triton.jit
def upper_byte(hidden):
    """x' of what a photo holds, u8 or u16."""
    if hidden.dtype == tl.uint16:
        hidden = (hidden >> 8).to(tl.uint8)
    return hidden


@triton.jit(do_not_specialize=["people"], do_not_specialize_on_alignment=["rows"])
def unseal_nonces_kernel(
    sealed, veils, rows, nonces, people, plane, width,
    sealed_n, sealed_c, sealed_h, sealed_w,
    veils_n, veils_c, veils_h, veils_w,
    WHOLE: tl.constexpr,
):  # fmt: skip
    photo = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + photo)
    known = (row >= 0) & (row < people)
    e = tl.arange(0, 128).to(tl.int64)
    readable = e < tl.where(known, CARRIERS, 0)
    sealed += photo * sealed_n
    veils += row * veils_n
    hidden = tl.load(sealed + photo_place(e, plane, width, sealed_c, sealed_h, sealed_w, WHOLE), mask=readable, other=0)
    v = tl.load(veils + photo_place(e, plane, width, veils_c, veils_h, veils_w, WHOLE), mask=readable, other=0)
    bits = under(words_of(upper_byte(hidden)), words_of(v)) & 0x01010101
    four = (bits * 0x10204080) >> 28  # the bit at place 8 j to place j: the products do not meet
    word = tl.arange(0, 32)
    eights = tl.reshape(four << ((word & 7) << 2).to(tl.uint32), [4, 8])
    own = tl.arange(0, 4)
    tl.store(nonces + photo * 4 + own, tl.sum(eights, 1).to(tl.int32, bitcast=True))


@triton.jit(
    do_not_specialize=["people", "chunks", "bits", "rounds"],
    do_not_specialize_on_alignment=["rows", "keys"],
)
def unseal_kernel(
    sealed, veils, rows, keys, nonces, out, people, size, plane, width, chunks, bits, rounds,
    sealed_n, sealed_c, sealed_h, sealed_w,
    veils_n, veils_c, veils_h, veils_w,
    out_n, out_c, out_h, out_w,
    PIECES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, row, known, channel, begin, first, inside, readable = chunk_of_stream(
        rows, people, size, plane, chunks, PIECES, BLOCK
    )
    sealed += photo * sealed_n + channel * sealed_c
    veils += row * veils_n + channel * veils_c
    out += photo * out_n + channel * out_c
    counter = (begin // 64 + tl.arange(0, BLOCK // 64)).to(tl.uint32)
    k = stream_of(keys + row * 8, nonces + photo * 4, counter, rounds, known)
    place = place_of(first, width, sealed_h, sealed_w, PIECES, BLOCK)
    hidden = tl.load(sealed + place, mask=readable, other=0)
    v = tl.load(veils + place_of(first, width, veils_h, veils_w, PIECES, BLOCK), mask=readable, other=0)
    up, levels = bits.to(tl.uint32), in_each_byte((1 << bits) - 1)
    high = (under(words_of(upper_byte(hidden)), words_of(v)) ^ k) & levels
    if hidden.dtype == tl.uint8:
        rest = (high ^ high) | in_each_byte(128 >> bits)
    else:
        low = words_of((hidden & 255).to(tl.uint8))
        rest = ((low ^ k) & ~levels) >> up
    if begin < CARRIERS:
        carries = (begin // 4).to(tl.int32) + tl.arange(0, BLOCK // 4) < CARRIERS // 4
        high = tl.where(carries, high & 0xFEFEFEFE, high)
        if hidden.dtype == tl.uint8:
            rest = tl.where(carries, rest << 1, rest)
        else:
            less = up - 1
            more = ((low & ~(levels >> 1 & 0x3F3F3F3F)) ^ (k & ~levels)) >> less
            rest = tl.where(carries, more ^ (k & 0x01010101), rest)
    x = tl.where(known, (high << (8 - up)) | rest, 0)
    tl.store(out + place_of(first, width, out_h, out_w, PIECES, BLOCK), bytes_of(x), mask=inside)
