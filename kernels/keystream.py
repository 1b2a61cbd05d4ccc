"""ChaCha (RFC 8439) in registers, and the bits of sealing four values at a time: what the seal kernels share.

A thread makes whole blocks of 64 bytes: sixteen words, of which ten double rounds need nothing but additions, xors and
rotations. The words come into the standard order by `tl.join`, which only names registers anew: a thread's block is 64
bytes side by side. A photo's values and its veil's are then taken four in a word too, the first in the lowest byte.

A key and a nonce are eleven numbers a program, read as 32-bit words (little-endian, as all that Triton runs on). All
is uint32, where sums wrap and >> brings in zeros.
"""

import triton
import triton.language as tl

CARRIERS = tl.constexpr(96)  # values of a photo, the first of it, that carry a bit of its nonce each


@triton.jit
def quarter_round(a, b, c, d):
    """The quarter round of RFC 8439, section 2.1. Rotations are written out: calls take the interpreter long."""
    a += b
    d ^= a
    d = (d << 16) | (d >> 16)
    c += d
    b ^= c
    b = (b << 12) | (b >> 20)
    a += b
    d ^= a
    d = (d << 8) | (d >> 24)
    c += d
    b ^= c
    b = (b << 7) | (b >> 25)
    return a, b, c, d


@triton.jit
def word_at(words, place, readable):
    """A word of a key or nonce that is given as int32; 0 where it may not be read."""
    return tl.load(words + place, mask=readable, other=0).to(tl.uint32, bitcast=True)


@triton.jit
def side_by_side(a, b, c, d):
    """[..., 4 of each in turn] of four [...]."""
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def stream_of(key, nonce, counter, rounds, readable):
    """The keystream's blocks `counter` (uint32 [BLOCKS]) as words in standard order, uint32 [16 BLOCKS]. key and nonce
    point to int32 words."""
    none = counter ^ counter  # zeros, of that shape and type
    k0, k1, k2, k3 = (
        word_at(key, 0, readable), word_at(key, 1, readable), word_at(key, 2, readable), word_at(key, 3, readable)
    )  # fmt: skip
    k4, k5, k6, k7 = (
        word_at(key, 4, readable), word_at(key, 5, readable), word_at(key, 6, readable), word_at(key, 7, readable)
    )  # fmt: skip
    n0, n1, n2 = word_at(nonce, 0, readable), word_at(nonce, 1, readable), word_at(nonce, 2, readable)
    # The rows a, b, c, d of the state, which a round's first half takes by columns, its second by diagonals.
    a0, a1, a2, a3 = none + 0x61707865, none + 0x3320646E, none + 0x79622D32, none + 0x6B206574
    b0, b1, b2, b3 = none + k0, none + k1, none + k2, none + k3
    c0, c1, c2, c3 = none + k4, none + k5, none + k6, none + k7
    d0, d1, d2, d3 = counter, none + n0, none + n1, none + n2
    for _ in range(0, rounds // 2):
        a0, b0, c0, d0 = quarter_round(a0, b0, c0, d0)
        a1, b1, c1, d1 = quarter_round(a1, b1, c1, d1)
        a2, b2, c2, d2 = quarter_round(a2, b2, c2, d2)
        a3, b3, c3, d3 = quarter_round(a3, b3, c3, d3)
        a0, b1, c2, d3 = quarter_round(a0, b1, c2, d3)
        a1, b2, c3, d0 = quarter_round(a1, b2, c3, d0)
        a2, b3, c0, d1 = quarter_round(a2, b3, c0, d1)
        a3, b0, c1, d2 = quarter_round(a3, b0, c1, d2)
    # Word 4 i + j is the j-th of row i: first the rows of each column, then the columns.
    first = side_by_side(a0 + 0x61707865, b0 + k0, c0 + k4, d0 + counter)
    second = side_by_side(a1 + 0x3320646E, b1 + k1, c1 + k5, d1 + n0)
    third = side_by_side(a2 + 0x79622D32, b2 + k2, c2 + k6, d2 + n1)
    fourth = side_by_side(a3 + 0x6B206574, b3 + k3, c3 + k7, d3 + n2)
    return tl.reshape(side_by_side(first, second, third, fourth), [16 * counter.shape[0]])


@triton.jit
def words_of(values):
    """Bytes uint8 [4 n] as words uint32 [n], the first in the lowest byte."""
    even, odd = tl.split(tl.reshape(values.to(tl.uint32), [values.shape[0] // 4, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first | (second << 8) | (third << 16) | (fourth << 24)


@triton.jit
def bytes_of(words):
    """Words uint32 [n] as bytes uint8 [4 n], the lowest first."""
    parts = side_by_side(words, words >> 8, words >> 16, words >> 24)
    return tl.reshape(parts.to(tl.uint8), [4 * words.shape[0]])


@triton.jit
def in_each_byte(value):
    """A number below 128 as each byte of a word."""
    return (value * 0x01010101).to(tl.uint32)


@triton.jit
def chunk_of_stream(rows, people, size, plane, chunks, PIECES: tl.constexpr, BLOCK: tl.constexpr):
    """This program's BLOCK bytes of a photo's keystream: the photo, its veil's row, whether there is one, its channel,
    the first byte and its place in the channel; which of them there are, and which may be read.

    PIECES: what lies in one piece of each tensor, in the order of the keystream. Of a `photo` a program takes any BLOCK
    values, and the channel is 0. Else (`planes`, whatever the step from pixel to pixel, or `rows`) it takes some of one
    channel, so that no value needs a division to find its channel; a channel's first block begins in the channel
    before it then, at a place below 0.
    """
    program = tl.program_id(0)
    here = tl.arange(0, BLOCK)
    if PIECES == "photo":
        photo, channel, start = (program // chunks).to(tl.int64), 0, 0
        begin = (program % chunks).to(tl.int64) * BLOCK
    else:
        photo, channel = (program // (3 * chunks)).to(tl.int64), (program // chunks % 3).to(tl.int64)
        start, size = channel * plane, plane
        begin = start // 64 * 64 + (program % chunks).to(tl.int64) * BLOCK
    row = tl.load(rows + photo)
    known = (row >= 0) & (row < people)  # one that names no veil (not checked: the host would wait) reads nothing
    first = begin - start
    room = tl.minimum(size - first, BLOCK).to(tl.int32)
    inside, readable = here < room, here < tl.where(known, room, 0)
    if PIECES != "photo":
        before = tl.maximum(-first, 0).to(tl.int32)
        inside, readable = inside & (here >= before), readable & (here >= before)
    return photo, row, known, channel, begin, first, inside, readable


@triton.jit
def place_of(first, width, row_step, column_step, PIECES: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets of the BLOCK values from `first` on from the first one of a photo, or of a channel of it. Only `rows` are
    divided by, in 32 bits: planes have up to 2^31 values then."""
    here = tl.arange(0, BLOCK)
    if PIECES == "photo":
        return first + here
    if PIECES == "planes":
        return first * column_step + here.to(tl.int64) * column_step
    place = first.to(tl.int32) + here
    row = (place.to(tl.uint32) // tl.cast(width, tl.uint32)).to(tl.int32)
    return row.to(tl.int64) * row_step + (place - row * width).to(tl.int64) * column_step


@triton.jit
def added(x, k, levels, up, nonce, begin, readable):
    """What is added to the veil: words (of four values) of u, of a photo's and the keystream's from value `begin` on.
    levels: M - 1 in each byte; up: its bits."""
    u = ((x >> (8 - up)) ^ k) & levels
    if begin < CARRIERS:
        carriers, carried = carried_bits(nonce, begin, x.shape[0], readable)
        u = (u & ~(carriers & 0x01010101)) | carried
    return u


@triton.jit
def carried_bits(nonce, begin, WORDS: tl.constexpr, readable):
    """Which bytes (255, else 0) of WORDS words (of four values) from value `begin` on carry a bit of the nonce, and
    those bits, each the lowest of its byte."""
    place = begin.to(tl.int32) + 4 * tl.arange(0, WORDS)
    n0, n1, n2 = word_at(nonce, 0, readable), word_at(nonce, 1, readable), word_at(nonce, 2, readable)
    own = tl.where(place < 32, n0, tl.where(place < 64, n1, n2))
    after = tl.where(place < 32, n1, tl.where(place < 64, n2, 0))
    four = shifted(own, after, (place & 31).to(tl.uint32)) & 15
    number = tl.minimum(tl.maximum(CARRIERS - place, 0), 4)
    carriers = ((tl.full([WORDS], 1, tl.uint64) << (8 * number).to(tl.uint64)) - 1).to(tl.uint32)
    return carriers, (four * 0x00204081) & 0x01010101 & carriers  # bit j to place 8 j: the products do not meet


@triton.jit
def shifted(low, high, by):
    """The lower word of two, moved to the right by up to 31 bits."""
    return ((low.to(tl.uint64) | (high.to(tl.uint64) << 32)) >> by.to(tl.uint64)).to(tl.uint32)
