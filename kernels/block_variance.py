"""block_variance (eq. 9-11): the variance of sliding box sums S = B x of each plane, and its gradient, B the box sum.

images f32 or f64 [N, C, H, W] -> loss of each plane [N, C], gradient [N, C, H, W] times scale [N]. With n boxes of
h x w, area = h w, m = mean S, z = x - m / area (so that B z = S - m):
  gradient = 2 k / n B^T B z,   Var(S) = <z, B^T B z> / n,   k = 1 + 1 / area^2,   loss = k Var(S);
`literal` adds ((area - 1) / area)^2 m^2. B^T B is a stencil, (B^T B z)(p) = sum_q c(p, q) z(q), c the number of boxes
that hold both pixels, a product of a row's and a column's count: exact at the borders and for any stride. So the
variance comes with the gradient, nothing but the image is read and nothing but the gradient written.

A program takes one plane. First it sums x times the number of boxes on it, for m: one read. Then it reads the plane
again (50 KB at 112 x 112: from L1 or L2, not from memory) for the stencil. For 3 x 3 boxes at stride 1 it walks down
the rows in BANDS bands at once: five neighbours along a row become one number per pixel, and the rows above are carried
in registers. Any other block or stride takes the plain stencil, (2 h - 1)(2 w - 1) reads a pixel from the L1 cache.
"""

import triton
import triton.language as tl
from veilkern.kernels.indexing import covering

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
# 16: the first read, the middle of five neighbours, and the gradient; 8 and 4: the other neighbours, from L1.
ACCESS = {
    ("block_variance", "loss"): {"load": {16: None, 8: None, 4: None}, "store": {4: 1}},
    ("block_variance", "gradient"): {"load": {16: None, 8: None, 4: None}, "store": {16: None, 4: 1}},
    ("block_variance", "f64"): {"load": {16: None, 8: None}, "store": {16: None, 8: 1}},
    ("block_variance", "any block"): {"load": {16: None, 4: None}, "store": {16: None, 4: 1}},
}


@triton.jit
def plane_sum(
    plane, height, width, step_h, step_w, block_h, block_w, stride, boxes_h, boxes_w,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Sum over a plane's boxes: of each pixel times the number of boxes on it. ROWS: enough of them that the reads of
    one turn cover the memory's latency, since the next turn waits for their sum."""
    dtype: tl.constexpr = plane.dtype.element_ty
    total = tl.zeros([ROWS, COLS], dtype)
    for y0 in range(0, height, ROWS):
        y = (y0 + tl.arange(0, ROWS))[:, None]
        rows = covering(y, y, block_h, stride, boxes_h).to(dtype)
        for x0 in range(0, width, COLS):
            x = (x0 + tl.arange(0, COLS))[None, :]
            inside = (y < height) & (x < width)
            value = tl.load(plane + y.to(tl.int64) * step_h + x.to(tl.int64) * step_w, mask=inside, other=0.0)
            total += value * (rows * covering(x, x, block_w, stride, boxes_w).to(dtype))
    return tl.sum(total)


@triton.jit
def box_stencil(
    plane, y, x, height, width, step_h, step_w, centre, block_h, block_w, stride, boxes_h, boxes_w,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """B^T B (x - centre) at pixels (y [ROWS, 1], x [1, COLS]), for any block and stride."""
    dtype: tl.constexpr = plane.dtype.element_ty
    total = tl.zeros([ROWS, COLS], dtype)
    for dy in range(1 - block_h, block_h):
        other_y = y + dy
        inside_y = (other_y >= 0) & (other_y < height)
        rows = tl.where(inside_y, covering(y, tl.maximum(other_y, 0), block_h, stride, boxes_h), 0).to(dtype)
        for dx in range(1 - block_w, block_w):
            other_x = x + dx
            inside_x = (other_x >= 0) & (other_x < width)
            columns = tl.where(inside_x, covering(x, tl.maximum(other_x, 0), block_w, stride, boxes_w), 0).to(dtype)
            place = plane + other_y.to(tl.int64) * step_h + other_x.to(tl.int64) * step_w
            value = tl.load(place, mask=inside_y & inside_x, other=0.0)
            total += rows * columns * (value - centre)
    return total


@triton.jit
def begins(place, size, dtype: tl.constexpr):
    """1 where a box of three at stride 1 begins two before, one before and at each place, else 0."""
    return (
        ((place >= 2) & (place < size)).to(dtype),
        ((place >= 1) & (place < size - 1)).to(dtype),
        (place < size - 2).to(dtype),
    )


@triton.jit
def across(plane, y, x, height, width, step_h, step_w, centre, box_before2, box_before1, box_here):
    """B^T B z along rows y only, for boxes 3 wide: the sum of the boxes that hold x, each of three z; 0 outside.

    The last three: `begins` of x. Returns z at (y, x) too.
    """
    dtype: tl.constexpr = plane.dtype.element_ty
    row = plane + y.to(tl.int64) * step_h
    valid = (y >= 0) & (y < height)
    total = tl.zeros(y.shape, dtype) + tl.zeros(x.shape, dtype)
    here = total
    for dx in tl.static_range(-2, 3):
        weight = tl.zeros(x.shape, dtype)
        if dx >= 0:
            weight += box_here
        if dx >= -1 and dx <= 1:
            weight += box_before1
        if dx <= 0:
            weight += box_before2
        inside = valid & (x + dx >= 0) & (x + dx < width)
        value = tl.load(row + (x + dx).to(tl.int64) * step_w, mask=inside, other=0.0)
        z = tl.where(inside, value - centre, 0.0)
        total += weight * z
        if dx == 0:
            here = z
    return total, here


@triton.jit
def box_stencil_3x3(plane, y, x, height, width, step_h, step_w, centre, ROWS: tl.constexpr, COLS: tl.constexpr):
    """box_stencil for 3 x 3 boxes at stride 1."""
    dtype: tl.constexpr = plane.dtype.element_ty
    before2, before1, here = begins(x, width, dtype)
    total = tl.zeros([ROWS, COLS], dtype)
    for dy in tl.range(-2, 3, loop_unroll_factor=1):  # unrolled, it holds too many registers
        rows = covering(y, tl.maximum(y + dy, 0), 3, 1, height - 2)
        line, _ = across(plane, y + dy, x, height, width, step_h, step_w, centre, before2, before1, here)
        total += rows.to(dtype) * line
    return total


@triton.jit(
    do_not_specialize=["channels", "block_h", "block_w", "stride", "boxes_h", "boxes_w"],
    do_not_specialize_on_alignment=["scale"],
)
def block_variance_kernel(
    images, gradient, scale, loss, channels, height, width, block_h, block_w, stride, boxes_h, boxes_w,
    images_n, images_c, images_h, images_w,
    gradient_n, gradient_c, gradient_h, gradient_w,
    LITERAL: tl.constexpr, WALK: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    image = (program // channels).to(tl.int64)
    channel = (program % channels).to(tl.int64)
    dtype: tl.constexpr = images.dtype.element_ty
    plane = images + image * images_n + channel * images_c
    area = (block_h * block_w).to(dtype)
    number = (boxes_h * boxes_w).to(dtype)
    mean = plane_sum(
        plane, height, width, images_h, images_w, block_h, block_w, stride, boxes_h, boxes_w, 4 * ROWS, COLS
    ) / number  # fmt: skip
    centre = mean / area
    factor = 1 + 1 / (area * area)
    squares = tl.zeros([ROWS, COLS], dtype)
    slope, add = factor * 2 / number, mean * 0
    shrink = (area - 1) / area
    if LITERAL:
        add = 2 * shrink * shrink * mean / number
    if scale is not None:
        times = tl.load(scale + image)
        slope, add = slope * times, add * times
    target = plane
    if gradient is not None:
        target = gradient + image * gradient_n + channel * gradient_c
    if WALK:
        squares = walk_down(
            plane, target, height, width, images_h, images_w, gradient_h, gradient_w, centre, slope, add,
            gradient is not None, ROWS, COLS,
        )  # fmt: skip
    else:
        for y0 in range(0, height, ROWS):
            y = (y0 + tl.arange(0, ROWS))[:, None]
            for x0 in range(0, width, COLS):
                x = (x0 + tl.arange(0, COLS))[None, :]
                inside = (y < height) & (x < width)
                found = box_stencil(
                    plane, y, x, height, width, images_h, images_w, centre, block_h, block_w, stride, boxes_h, boxes_w,
                    ROWS, COLS,
                )  # fmt: skip
                here = tl.load(plane + y.to(tl.int64) * images_h + x.to(tl.int64) * images_w, mask=inside, other=0.0)
                squares += tl.where(inside, (here - centre) * found, 0.0)
                if gradient is not None:
                    boxes = covering(y, y, block_h, stride, boxes_h) * covering(x, x, block_w, stride, boxes_w)
                    value = slope * found + add * boxes.to(dtype)
                    tl.store(target + y.to(tl.int64) * gradient_h + x.to(tl.int64) * gradient_w, value, mask=inside)
    result = factor * tl.sum(squares) / number
    if LITERAL:
        result += shrink * shrink * mean * mean
    tl.store(loss + image * channels + channel, result)


@triton.jit
def walk_down(
    plane, target, height, width, step_h, step_w, target_h, target_w, centre, slope, add,
    WRITE: tl.constexpr, BANDS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The gradient of a plane for 3 x 3 boxes at stride 1, and sum(z B^T B z) lane by lane.

    BANDS bands of rows go down together. box = three rows' `across`, kept where a box begins there; a row's result is
    the three boxes that hold it. Carried: two rows of `across`, two of boxes, two of z.
    """
    dtype: tl.constexpr = plane.dtype.element_ty
    squares = tl.zeros([BANDS, COLS], dtype)
    deep = (height + BANDS - 1) // BANDS
    for x0 in range(0, width, COLS):
        x = (x0 + tl.arange(0, COLS))[None, :]
        before2_x, before1_x, here_x = begins(x, width, dtype)
        begin = (tl.arange(0, BANDS) * deep)[:, None]
        # Of the two rows above the band: they are read again, as are the first two of the next band.
        row1, _ = across(plane, begin - 2, x, height, width, step_h, step_w, centre, before2_x, before1_x, here_x)
        row2, _ = across(plane, begin - 1, x, height, width, step_h, step_w, centre, before2_x, before1_x, here_x)
        box1, box2 = tl.zeros([BANDS, COLS], dtype), tl.zeros([BANDS, COLS], dtype)
        z1, z2 = tl.zeros([BANDS, COLS], dtype), tl.zeros([BANDS, COLS], dtype)
        count_x = before2_x + before1_x + here_x
        for down in range(0, deep + 2):
            y = begin + down
            row3, z3 = across(plane, y, x, height, width, step_h, step_w, centre, before2_x, before1_x, here_x)
            box3 = tl.where((y >= 2) & (y < height), row1 + row2 + row3, 0.0)  # the box that begins at row y - 2
            at = y - 2  # is complete now: its boxes begin at y - 4, y - 3, y - 2
            inside = (down >= 2) & (at < height) & (x < width)
            found = box1 + box2 + box3
            squares += z1 * found  # z is 0 beyond the image, and until the walk has reached the band
            if WRITE:
                before2_y, before1_y, here_y = begins(at, height, dtype)
                value = slope * found + add * ((before2_y + before1_y + here_y) * count_x)
                place = target + at.to(tl.int64) * target_h + x.to(tl.int64) * target_w
                tl.store(place, value, mask=inside)
            row1, row2, box1, box2, z1, z2 = row2, row3, box2, box3, z2, z3
    return squares
