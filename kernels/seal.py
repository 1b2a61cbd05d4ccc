"""seal: x' = v + ((x div (256/M)) xor (k mod M)), M = 2^bits levels, k the keystream of photo n under keys[rows[n]].

images u8 [N, 3, H, W], veils u8 [P, 3, H, W], rows i64 [N], keys [P, 32] and nonces [N, 12] bytes, given as i32 words
-> out u8 (x') or u16 (x' in the high byte, what it drops of x in the low one), [N, 3, H, W]. The value of logical index
i = (c H + h) W + w has byte i of the keystream. At the first 96 values, which carry the nonce, the lowest bit of what
is added is a bit of it, and the bits of x and k that give way go to the low byte.
Traffic as in blend.py, and 44 bytes of key and nonce a program. 20 rounds are 15 instructions a value (96 a double
round of 64 values), more than all the rest.

A program takes BLOCK values of one photo, a thread one block of the keystream (64 values) or more. The keystream
changes places once, from the threads that made it to those that read the photo 16 bytes at a time; then all is done for
four values in a word: no sum passes from one byte to the next, as what is added to the lower seven bits of v is below
128. Only the program with a photo's first values (a branch of the whole program) looks at the nonce again. Photos that
do not lie in one piece, in that order of values, go channel by channel, value by value. In place, a value is read by
the program that writes it.

As shipped a program is a warp with 2048 values: it needs no barrier, and of the 18.4 programs that a photo of
3 x 112 x 112 takes, the last does 3 % of all work in vain; of 9.2 of two warps each it would be 8 %.
"""

import triton
import triton.language as tl
from veilkern.kernels.keystream import (
    CARRIERS,
    added,
    bytes_of,
    carried_bits,
    chunk_of_stream,
    in_each_byte,
    place_of,
    stream_of,
    words_of,
)

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
ACCESS = {
    ("seal", "u8"): {"load": {16: None, 8: 1, 4: 14}, "store": {16: None}},  # 8: the row; 4: key, nonce, nonce again
    ("seal", "u16"): {"load": {16: None, 8: 1, 4: 14}, "store": {16: None}},
}


@triton.jit(
    do_not_specialize=["people", "chunks", "bits", "rounds"],
    do_not_specialize_on_alignment=["rows", "keys", "nonces"],
)
def seal_kernel(
    images, veils, rows, keys, nonces, out, people, size, plane, width, chunks, bits, rounds,
    images_n, images_c, images_h, images_w,
    veils_n, veils_c, veils_h, veils_w,
    out_n, out_c, out_h, out_w,
    PIECES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    photo, row, known, channel, begin, first, inside, readable = chunk_of_stream(
        rows, people, size, plane, chunks, PIECES, BLOCK
    )
    images += photo * images_n + channel * images_c
    veils += row * veils_n + channel * veils_c
    out += photo * out_n + channel * out_c
    nonces += photo * 3
    counter = (begin // 64 + tl.arange(0, BLOCK // 64)).to(tl.uint32)
    k = stream_of(keys + row * 8, nonces, counter, rounds, known)
    x = tl.load(images + place_of(first, width, images_h, images_w, PIECES, BLOCK), mask=readable, other=0)
    v = tl.load(veils + place_of(first, width, veils_h, veils_w, PIECES, BLOCK), mask=readable, other=0)
    x, v = words_of(x), words_of(v)
    up, levels = bits.to(tl.uint32), in_each_byte((1 << bits) - 1)
    u = added(x, k, levels, up, nonces, begin, known)
    low = ((x << up) ^ k) & ~levels
    if begin < CARRIERS:
        carriers, _ = carried_bits(nonces, begin, BLOCK // 4, known)
        less = up - 1
        more = ((x << less) ^ (k & ~levels) ^ ((k & 0x01010101) << less)) & ~(levels >> 1 & 0x3F3F3F3F)
        low = (low & ~carriers) | (more & carriers)
    high = ((v & 0x7F7F7F7F) + u) ^ (v & 0x80808080)
    high = tl.where(known, high, 0)
    place = place_of(first, width, out_h, out_w, PIECES, BLOCK)
    if out.dtype.element_ty == tl.uint8:
        tl.store(out + place, bytes_of(high), mask=inside)
    else:
        low = tl.where(known, low, 0)
        both = (bytes_of(high).to(tl.uint16) << 8) | bytes_of(low).to(tl.uint16)
        tl.store(out + place, both, mask=inside)
