"""Where values lie: what the kernels of this folder share. Offsets are int64 before anything is multiplied.

Numbers that follow the size of a batch (people, chunks, tiles ...) and tables read value by value (rows, offsets) are
`do_not_specialize`: Triton would compile anew for 1 and for multiples of 16, in the middle of serving or of a capture.
Sizes and strides of photos keep it: on them hangs how wide memory is accessed.
"""

import triton
import triton.language as tl


@triton.jit
def chunk_of(rows, people, size, chunks, BLOCK: tl.constexpr):
    """This program's BLOCK places of a photo of `size` places: the photo, its veil's row, the first place, which of
    them there are, and which may be read."""
    program = tl.program_id(0)
    photo = (program // chunks).to(tl.int64)
    begin = (program % chunks).to(tl.int64) * BLOCK
    row = tl.load(rows + photo)
    here = tl.arange(0, BLOCK)
    inside = here < size - begin
    # A row that names no veil (not checked: the host would wait) reads nothing; its photo comes out black.
    readable = here < tl.where((row >= 0) & (row < people), size - begin, 0)
    return photo, row, begin, inside, readable


@triton.jit
def span_of(offsets, person, total):
    """Where a person's rows of `total` begin and end by offsets. Nobody has checked them (the host would wait): a pair
    that does not lie in order within 0..total is none, 0 to 0, so that nothing is read or written beyond."""
    begin, end = tl.load(offsets + person), tl.load(offsets + person + 1)
    possible = (begin >= 0) & (begin <= end) & (end <= total)
    return tl.where(possible, begin, 0), tl.where(possible, end, 0)


@triton.jit
def photo_place(e, plane, width, channel_step, row_step, column_step, WHOLE: tl.constexpr):
    """Offset of value e of a photo [C, H, W] from its first value. WHOLE: the photo lies in one piece, in the order
    that the caller counts in; else by its strides, with three divisions."""
    if WHOLE:
        return e
    channel = e // plane
    within = e - channel * plane
    row = within // width
    column = within - row * width
    return channel * channel_step + row * row_step + column * column_step


@triton.jit
def plane_place(e, width, row_step, column_step, WHOLE: tl.constexpr):
    """Offset of pixel e of a plane [H, W] from its first value."""
    if WHOLE:
        return e
    row = e // width
    return row * row_step + (e - row * width) * column_step


@triton.jit
def covering(place, other, block, stride, boxes):
    """How many boxes of `block` values at `stride`, `boxes` of them in all, hold both `place` and `other` (>= 0)."""
    first = (tl.maximum(tl.maximum(place, other) - block + 1, 0) + stride - 1) // stride
    last = tl.minimum(tl.minimum(place, other) // stride, boxes - 1)
    return tl.maximum(last - first + 1, 0)
