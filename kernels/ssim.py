"""ssim (Wang et al. 2004): the mean of S = (2 mx my + c1)(2 cov + c2) / ((mx^2 + my^2 + c1)(vx + vy + c2)).

x, y f32 or f64 [N, C, H, W] -> partial sums of S [N C, tiles], and for the gradients maps [N C, 3 or 4, Ho, pitch].
mx, my, vx + mx^2, vy + my^2, cov + mx my are x, y, x^2, y^2, x y under the same Gaussian window, K = K_rows K_columns.
Of the blurred quantities, S's slopes are q = -S / (vx + vy + c2) for x^2 and for y^2, r for x y, px for x and py for y:
  dS/dx = K^T px + 2 x K^T q + y K^T r,    dS/dy = K^T py + 2 y K^T q + x K^T r.
Maps are q, r, px and, where dS/dy is wanted too, py.
Traffic of score and gradients: x and y twice, the maps once each way, the gradients once: 56 bytes a pixel in f32, 44
for dS/dx alone.

A window is separable but a thread cannot see its neighbours' columns, so a tile of ROWS x COLS goes in two steps: down
the columns straight from the image (whole vectors; rows are read again from L1), the result to the program's own SLOT
of scratch memory, then along the rows from there. Programs stay and take tile after tile: the slots of all of them
fit the L2 cache and are hardly ever written to memory. Tiles begin on multiples of 16 columns (lead, room) and rows of
maps are padded to them with zeros (pitch), so that vectors stay whole.
"""

import triton
import triton.language as tl

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
# 16: images, maps and the slot as it is written; 8: the window; 4: the slot as it is read at shifted places, from L1.
ACCESS = {
    ("ssim", "score"): {"load": {16: None, 8: 2, 4: 40}, "store": {16: None, 4: 1}},
    ("ssim", "gradient"): {"load": {16: None, 8: 2, 4: 41}, "store": {16: None, 4: 1}},
    ("ssim", "one gradient"): {"load": {16: None, 8: 2, 4: 41}, "store": {16: None, 4: 1}},
    ("ssim", "f64"): {"load": {16: None, 8: None}, "store": {16: None, 8: 1}},
    ("ssim_gradient", "f64"): {"load": {16: None, 8: None}, "store": {16: None}},
    ("ssim_gradient", "gradient"): {"load": {16: None, 8: 2, 4: 32}, "store": {16: None}},
    ("ssim_gradient", "one gradient"): {"load": {16: None, 8: 2, 4: 24}, "store": {16: None}},
}


@triton.jit
def down_pairs(x_plane, y_plane, taps, y, x, window, pad, height, width, x_h, x_w, y_h, y_w, slot,
               ROWS: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    """Five quantities blurred down the columns, into the slot [5, ROWS, COLS]."""
    dtype: tl.constexpr = x_plane.dtype.element_ty
    of_x, of_y = tl.zeros([ROWS, COLS], dtype), tl.zeros([ROWS, COLS], dtype)
    of_xx, of_yy, of_xy = of_x, of_x, of_x
    inside_x = (x >= 0) & (x < width)
    column = x.to(tl.int64)
    for tap in range(0, window):
        row = y + (tap - pad)
        inside = inside_x & (row >= 0) & (row < height)
        a = tl.load(x_plane + row.to(tl.int64) * x_h + column * x_w, mask=inside, other=0.0)
        b = tl.load(y_plane + row.to(tl.int64) * y_h + column * y_w, mask=inside, other=0.0)
        weight = tl.load(taps + tap).to(dtype)
        wa, wb = weight * a, weight * b
        of_x += wa
        of_y += wb
        of_xx += wa * a
        of_yy += wb * b
        of_xy += wa * b
    place = slot + tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    tl.store(place, of_x)
    tl.store(place + ROWS * COLS, of_y)
    tl.store(place + 2 * ROWS * COLS, of_xx)
    tl.store(place + 3 * ROWS * COLS, of_yy)
    tl.store(place + 4 * ROWS * COLS, of_xy)


@triton.jit(do_not_specialize=["tasks", "tiles", "pieces", "channels"], do_not_specialize_on_alignment=["scale"])
def ssim_kernel(
    x_images, y_images, taps, scale, partial, maps, slots, tasks, tiles, pieces, channels, height, width, out_h, out_w,
    map_size, pitch, window, pad, lead, room, c1: "fp64", c2: "fp64",
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w,
    BOTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = x_images.dtype.element_ty
    slot = slots + tl.program_id(0).to(tl.int64) * (5 * ROWS * COLS)
    k1, k2 = tl.full([1, 1], c1, dtype), tl.full([1, 1], c2, dtype)
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        plane, tile = (task // tiles).to(tl.int64), task % tiles
        image, channel = plane // channels, plane % channels
        top, left = tile // pieces * ROWS, tile % pieces * room
        down_pairs(
            x_images + image * x_n + channel * x_c, y_images + image * y_n + channel * y_c, taps,
            top + r, left - lead + c, window, pad, height, width, x_h, x_w, y_h, y_w, slot, ROWS, COLS,
        )  # fmt: skip
        tl.debug_barrier()  # the slot is read by other threads than wrote it
        mx, my = tl.zeros([ROWS, COLS], dtype), tl.zeros([ROWS, COLS], dtype)
        xx, yy, xy = mx, mx, mx
        for tap in range(0, window):
            source = c + (tap + lead - pad)
            near = slot + r * COLS + source
            inside = (source < COLS) & (r >= 0)
            weight = tl.load(taps + tap).to(dtype)
            mx += weight * tl.load(near, mask=inside, other=0.0)
            my += weight * tl.load(near + ROWS * COLS, mask=inside, other=0.0)
            xx += weight * tl.load(near + 2 * ROWS * COLS, mask=inside, other=0.0)
            yy += weight * tl.load(near + 3 * ROWS * COLS, mask=inside, other=0.0)
            xy += weight * tl.load(near + 4 * ROWS * COLS, mask=inside, other=0.0)
        tl.debug_barrier()  # before the next tile overwrites it
        inside = (top + r < out_h) & (c < room) & (left + c < out_w)
        above1, above2 = 2 * mx * my + k1, 2 * (xy - mx * my) + k2
        below1, below2 = mx * mx + my * my + k1, (xx - mx * mx) + (yy - my * my) + k2
        one = 1 / (below1 * below2)
        score = above1 * above2 * one
        tl.store(partial + plane * tiles + tile, tl.sum(tl.where(inside, score, 0.0)))
        if maps is not None:
            factor = 1 / (
                tl.full([1, 1], out_h, dtype) * tl.full([1, 1], out_w, dtype) * tl.full([1, 1], channels, dtype)
            )
            if scale is not None:
                factor *= tl.load(scale + image)
            q, s = -score / below2 * factor, 2 * above1 * one * factor
            straight, lean = 2 * above2 * one * factor, 2 * score / below1 * factor
            place = maps + plane * (4 if BOTH else 3) * map_size + (top + r).to(tl.int64) * pitch + (left + c)
            px = my * straight - mx * lean - 2 * mx * q - my * s
            padded = (top + r < out_h) & (c < room) & (left + c < pitch)
            tl.store(place, tl.where(inside, q, 0.0), mask=padded)
            tl.store(place + map_size, tl.where(inside, s, 0.0), mask=padded)
            tl.store(place + 2 * map_size, tl.where(inside, px, 0.0), mask=padded)
            if BOTH:
                py = mx * straight - my * lean - 2 * my * q - mx * s
                tl.store(place + 3 * map_size, tl.where(inside, py, 0.0), mask=padded)


@triton.jit
def down_maps(maps, size, pitch, taps, y, x, window, pad, out_h, slot, BOTH: tl.constexpr, ROWS: tl.constexpr,
              COLS: tl.constexpr):  # fmt: skip
    """The maps under the transposed window down the columns, into the slot [3 or 4, ROWS, COLS]."""
    dtype: tl.constexpr = maps.dtype.element_ty
    q, s = tl.zeros([ROWS, COLS], dtype), tl.zeros([ROWS, COLS], dtype)
    px, py = q, q
    inside_x = (x >= 0) & (x < pitch)  # columns from out_w to pitch hold zeros
    for tap in range(0, window):
        row = y + (pad - tap)
        inside = inside_x & (row >= 0) & (row < out_h)
        near = maps + row.to(tl.int64) * pitch + x
        weight = tl.load(taps + tap).to(dtype)
        q += weight * tl.load(near, mask=inside, other=0.0)
        s += weight * tl.load(near + size, mask=inside, other=0.0)
        px += weight * tl.load(near + 2 * size, mask=inside, other=0.0)
        if BOTH:
            py += weight * tl.load(near + 3 * size, mask=inside, other=0.0)
    place = slot + tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    tl.store(place, q)
    tl.store(place + ROWS * COLS, s)
    tl.store(place + 2 * ROWS * COLS, px)
    if BOTH:
        tl.store(place + 3 * ROWS * COLS, py)


@triton.jit(do_not_specialize=["tasks", "tiles", "pieces", "channels"])
def ssim_gradient_kernel(
    x_images, y_images, taps, maps, gradient_x, gradient_y, slots, tasks, tiles, pieces, channels, height, width, out_h,
    out_w, map_size, pitch, window, pad, lead, room,
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    BOTH: tl.constexpr = gradient_y is not None
    dtype: tl.constexpr = x_images.dtype.element_ty
    slot = slots + tl.program_id(0).to(tl.int64) * (5 * ROWS * COLS)
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        plane, tile = (task // tiles).to(tl.int64), task % tiles
        image, channel = plane // channels, plane % channels
        top, left = tile // pieces * ROWS, tile % pieces * room
        down_maps(
            maps + plane * (4 if BOTH else 3) * map_size, map_size, pitch, taps, top + r, left - lead + c, window, pad,
            out_h, slot, BOTH, ROWS, COLS,
        )  # fmt: skip
        tl.debug_barrier()
        q, s = tl.zeros([ROWS, COLS], dtype), tl.zeros([ROWS, COLS], dtype)
        px, py = q, q
        for tap in range(0, window):
            source = c + (lead + pad - tap)
            near = slot + r * COLS + source
            inside = (source < COLS) & (r >= 0)
            weight = tl.load(taps + tap).to(dtype)
            q += weight * tl.load(near, mask=inside, other=0.0)
            s += weight * tl.load(near + ROWS * COLS, mask=inside, other=0.0)
            px += weight * tl.load(near + 2 * ROWS * COLS, mask=inside, other=0.0)
            if BOTH:
                py += weight * tl.load(near + 3 * ROWS * COLS, mask=inside, other=0.0)
        tl.debug_barrier()
        y, x = top + r, left + c
        inside = (y < height) & (c < room) & (x < width)
        row, column = y.to(tl.int64), x.to(tl.int64)
        a = tl.load(x_images + image * x_n + channel * x_c + row * x_h + column * x_w, mask=inside, other=0.0)
        b = tl.load(y_images + image * y_n + channel * y_c + row * y_h + column * y_w, mask=inside, other=0.0)
        place = plane * height * width + row * width + column
        tl.store(gradient_x + place, px + 2 * a * q + b * s, mask=inside)
        if BOTH:
            tl.store(gradient_y + place, py + 2 * b * q + a * s, mask=inside)
