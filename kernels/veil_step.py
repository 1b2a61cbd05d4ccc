"""veil_step_ (eq. 13, MI-FGSM) for all people: g = dL/dv; g /= mean|g|; m = decay m + g; v = clamp(v - step sign(m)).

veils, momentum f32 or f64 [P, C, H, W] (changed), gradients [M, C, H, W] of that dtype by gradient_offsets, images
u8 [N, C, H, W] by offsets, mean_images [P, C, H, W] or none, lam, mu, step, decay numbers or f64 [P], active bool [P]
or none -> statistics [P, 3]: mean|g|, L_vis, L_var. L = mean of L_fea - lam L_vis + mu L_var.

Three things of a person need all of its photo before anything can go on: the distances r_i = ||v - x_i||, the mean of
the box sums, and mean|g|. Three launches, whatever the number of people; the first and the last over tiles of
ROWS x COLS pixels of a person's planes:
  veil_losses: reads veils and photos once; writes the mean protected photo and each tile's part of r_i^2 and of the
    box sums.
  veil_distances: a program a person; adds up r_i, and writes each photo's share of the slope, and L_vis.
  veil_move: reads gradients and photos once; g = (1 - alpha) mean gradient - lam dL_vis/dv + mu dL_var/dv, the last by
    the stencil of block_variance on the mean protected photo; writes g and each tile's part of sum|g|. The tile of a
    person that is done last (a counter: an integer, so nothing depends on the order) then moves that person's veil and
    momentum; all tiles' parts are added in their order.
Traffic of a person with n photos and k gradients of s pixels, in f32: 4 k s + 2 n s + about 36 s bytes.
"""

import triton
import triton.language as tl
from veilkern.kernels.block_variance import box_stencil, box_stencil_3x3
from veilkern.kernels.indexing import covering, span_of

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
# 16: veils, momentum, gradients, mean photos; 8: offsets and weights; 4 (2 beside f64): photos, a byte a value.
ACCESS = {
    ("veil_losses", "norm"): {"load": {16: None, 8: 2, 4: None}, "store": {16: None, 4: 3}},
    ("veil_losses", "mse"): {"load": {16: None, 8: 2, 4: None}, "store": {16: None, 4: 3}},
    ("veil_losses", "numbers"): {"load": {16: None, 8: 2, 4: None}, "store": {16: None, 4: 3}},
    **{
        ("veil_distances", case): {"load": {4: None, 8: 2}, "store": {4: None}}  # a few numbers a person
        for case in ("norm", "mse", "numbers")
    },
    ("veil_distances", "f64"): {"load": {8: None}, "store": {8: None}},
    ("veil_move", "numbers"): {"load": {16: None, 8: None, 4: None}, "store": {16: None, 4: None}},
    ("veil_losses", "f64"): {"load": {16: None, 8: None, 2: 4}, "store": {16: None, 8: 3, 4: 1}},
    ("veil_move", "f64"): {"load": {16: None, 8: None, 2: 4}, "store": {16: None, 8: None}},
    ("veil_move", "norm"): {"load": {16: None, 8: None, 4: None}, "store": {16: None, 4: None}},
    ("veil_move", "mse"): {"load": {16: None, 8: None, 4: None}, "store": {16: None, 4: None}},
}


@triton.jit
def part_of(tiles, channels):
    """The person, channel and tile of this program."""
    program = tl.program_id(0)
    channel = (program // tiles % channels).to(tl.int64)
    person = (program // tiles // channels).to(tl.int64)
    return person, channel, program % tiles


@triton.jit
def tile_of(task, pieces, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rows [ROWS, 1] and columns [1, COLS] of a tile of a plane."""
    y = (task // pieces * ROWS + tl.arange(0, ROWS))[:, None]
    x = (task % pieces * COLS + tl.arange(0, COLS))[None, :]
    return y, x


@triton.jit
def before(i, end):
    """Whether i < end, [1, 1] (the interpreter's loops count in Python's integers, which make no mask)."""
    return tl.zeros([1, 1], tl.int64) + i < end


@triton.jit
def gap_of(v, images, i, images_n, inside, end):
    """255 v - x_i of a tile, and x_i; both 0 beyond the last photo."""
    there = inside & before(i, end)
    photo = tl.load(images + i * images_n, mask=there, other=0).to(tl.int32).to(v.dtype)
    return tl.where(there, v * 255 - photo, 0.0), photo


@triton.jit(
    do_not_specialize=[
        "photos", "channels", "tiles", "pieces", "a", "block_h", "block_w", "stride", "boxes_h", "boxes_w",
    ],
    do_not_specialize_on_alignment=["offsets", "active"],
)  # fmt: skip
def veil_losses_kernel(
    veils, images, offsets, active, mean_images, mixed, means, squares, sums, counters,
    photos, channels, height, width, tiles, pieces, a, block_h, block_w, stride, boxes_h, boxes_w,
    veils_n, veils_c, veils_h, veils_w, images_n, images_c, images_h, images_w, means_n, means_c, means_h, means_w,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    person, channel, tile = part_of(tiles, channels)
    dtype: tl.constexpr = veils.dtype.element_ty
    part = channel * tiles + tile  # of the person's parts
    parts = channels * tiles
    if part == 0:
        tl.store(counters + person, 0)
    moving = tl.full([], 1, tl.int1)
    if active is not None:
        moving = tl.load(active + person) != 0
    if moving:
        begin, end = span_of(offsets, person, photos)
        y, x = tile_of(tile, pieces, ROWS, COLS)
        inside = (y < height) & (x < width)
        row, column = y.to(tl.int64), x.to(tl.int64)
        place = veils + person * veils_n + channel * veils_c + row * veils_h + column * veils_w
        v = tl.load(place, mask=inside, other=0.0)
        total = tl.zeros([ROWS, COLS], dtype)
        here_in = images + channel * images_c + row * images_h + column * images_w
        for i in range(begin, end, 4):  # four at once: one photo's reads are too few to keep the memory busy
            gap0, photo0 = gap_of(v, here_in, i, images_n, inside, end)
            gap1, photo1 = gap_of(v, here_in, i + 1, images_n, inside, end)
            gap2, photo2 = gap_of(v, here_in, i + 2, images_n, inside, end)
            gap3, photo3 = gap_of(v, here_in, i + 3, images_n, inside, end)
            total = total + photo0 + photo1 + photo2 + photo3
            four = tl.join(tl.join(gap0 * gap0, gap2 * gap2), tl.join(gap1 * gap1, gap3 * gap3))  # [.., .., 2, 2]
            which = i + tl.arange(0, 4)
            found = tl.sum(tl.reshape(four, [ROWS * COLS, 4]), 0)
            tl.store(squares + which * parts + part, found, mask=which < end)
        number = tl.maximum(end - begin, 1).to(dtype)
        mean = total / (255 * number)
        if mean_images is not None:
            place = mean_images + person * means_n + channel * means_c + row * means_h + column * means_w
            mean = tl.load(place, mask=inside, other=0.0)
        size = channels.to(tl.int64) * height * width
        here = person * size + channel * height * width + row * width + column
        if means is not None:
            tl.store(means + here, mean, mask=inside)
        alpha = tl.full([1, 1], a, dtype) / 255
        protected = alpha * mean + (1 - alpha) * v
        tl.store(mixed + here, protected, mask=inside)
        boxes = covering(y, y, block_h, stride, boxes_h) * covering(x, x, block_w, stride, boxes_w)
        tl.store(sums + person * parts + part, tl.sum(tl.where(inside, protected * boxes.to(dtype), 0.0)))


@triton.jit
def add_parts(from_here, count, PARTS: tl.constexpr):
    """The sum of a person's parts, in a fixed order; past the L1 cache, since other programs wrote them."""
    place = tl.arange(0, PARTS)
    return tl.sum(tl.load(from_here + place, mask=place < count, other=0.0, cache_modifier=".cg"))


@triton.jit(do_not_specialize=["photos", "parts"], do_not_specialize_on_alignment=["offsets", "active"])
def veil_distances_kernel(
    squares, offsets, active, shares, visual, photos, parts, values: "fp64", NORM: tl.constexpr, PARTS: tl.constexpr,
    PHOTOS: tl.constexpr,
):  # fmt: skip
    person = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = squares.dtype.element_ty
    begin, end = span_of(offsets, person, photos)
    moving = tl.full([], 1, tl.int1)
    if active is not None:
        moving = tl.load(active + person) != 0
    if moving:  # else nobody wrote the squares
        number = (end - begin).to(dtype)
        total = number * 0
        place = tl.arange(0, PARTS)[None, :]
        for first in range(begin, end, PHOTOS):
            which = first + tl.arange(0, PHOTOS)
            there = (which < end)[:, None] & (place < parts)
            square = tl.sum(tl.load(squares + which[:, None] * parts + place, mask=there, other=0.0), 1) / 65025
            loss = square / (number * tl.full([], values, dtype))
            if NORM:
                distance = tl.sqrt(square)
                share = tl.where(distance > 0, 1 / tl.where(distance > 0, distance * number, 1.0), 0.0)
                tl.store(shares + which, share, mask=which < end)
                loss = distance / number
            total += tl.sum(loss)
        tl.store(visual + person, total)


@triton.jit
def visual_slope(v, images, shares, means, inside, begin, end, images_n, values, NORM: tl.constexpr):
    """dL_vis/dv of a tile, without its factor of 1 - alpha."""
    dtype: tl.constexpr = v.dtype
    if NORM:
        all_shares, weighted = tl.zeros([1, 1], dtype), v * 0
        for i in range(begin, end, 4):
            share0, photo0 = share_of(images, shares, i, images_n, inside, end, dtype)
            share1, photo1 = share_of(images, shares, i + 1, images_n, inside, end, dtype)
            share2, photo2 = share_of(images, shares, i + 2, images_n, inside, end, dtype)
            share3, photo3 = share_of(images, shares, i + 3, images_n, inside, end, dtype)
            weighted += photo0 * (share0 / 255)
            weighted += photo1 * (share1 / 255)
            weighted += photo2 * (share2 / 255)
            weighted += photo3 * (share3 / 255)
            all_shares = all_shares + share0 + share1 + share2 + share3
        slope = v * all_shares - weighted
    else:
        slope = 2 / values * (v - tl.load(means, mask=inside, other=0.0))
    return slope


@triton.jit
def share_of(images, shares, i, images_n, inside, end, dtype: tl.constexpr):
    """The share of photo i in the slope, and its tile; both 0 beyond the last photo."""
    there = before(i, end)
    share = tl.load(shares + i + tl.zeros([1, 1], tl.int64), mask=there, other=0.0)
    return share, tl.load(images + i * images_n, mask=inside & there, other=0).to(tl.int32).to(dtype)


@triton.jit
def move_person(
    veils, momentum, slopes, scale, step, decay, tiles, pieces, channels, height, width,
    veils_c, veils_h, veils_w, momentum_c, momentum_h, momentum_w, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """m = decay m + g scale; v = clamp(v - step sign(m), 0, 1) of one person, all tiles."""
    for part in range(0, channels * tiles):
        channel = (part // tiles).to(tl.int64)
        y, x = tile_of(part % tiles, pieces, ROWS, COLS)
        inside = (y < height) & (x < width)
        row, column = y.to(tl.int64), x.to(tl.int64)
        place = slopes + channel * height * width + row * width + column
        g = tl.load(place, mask=inside, other=0.0, cache_modifier=".cg")
        place = momentum + channel * momentum_c + row * momentum_h + column * momentum_w
        m = decay * tl.load(place, mask=inside, other=0.0) + g * scale
        tl.store(place, m, mask=inside)
        place = veils + channel * veils_c + row * veils_h + column * veils_w
        change = tl.where(m > 0, -step, tl.where(m < 0, step, 0.0))
        v = tl.load(place, mask=inside, other=0.0) + change
        tl.store(place, tl.minimum(tl.maximum(v, 0.0), 1.0), mask=inside)


@triton.jit
def rate_of(each, person, number, dtype: tl.constexpr):
    """A person's own rate, or the one number for all where there is no table of them."""
    rate = tl.full([], number, dtype)
    if each is not None:
        rate = tl.load(each + person).to(dtype)
    return rate


@triton.jit(
    do_not_specialize=[
        "photos", "gradient_photos", "channels", "tiles", "pieces", "a", "block_h", "block_w", "stride", "boxes_h",
        "boxes_w",
    ],
    do_not_specialize_on_alignment=["offsets", "gradient_offsets", "active", "lam", "mu", "step", "decay"],
)  # fmt: skip
def veil_move_kernel(
    veils, momentum, gradients, images, offsets, gradient_offsets, active, lam, mu, step, decay, mixed, means, shares,
    visual, sums, variances, absolutes, slopes, counters, statistics,
    lam_number: "fp64", mu_number: "fp64", step_number: "fp64", decay_number: "fp64", photos, gradient_photos,
    channels, height, width, tiles, pieces, a, block_h, block_w, stride, boxes_h, boxes_w,
    veils_n, veils_c, veils_h, veils_w, momentum_n, momentum_c, momentum_h, momentum_w,
    gradients_n, gradients_c, gradients_h, gradients_w, images_n, images_c, images_h, images_w,
    NORM: tl.constexpr, LITERAL: tl.constexpr, PLAIN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, PARTS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    person, channel, tile = part_of(tiles, channels)
    dtype: tl.constexpr = veils.dtype.element_ty
    part, parts = channel * tiles + tile, channels * tiles
    begin, end = span_of(offsets, person, photos)
    first, last = span_of(gradient_offsets, person, gradient_photos)
    statistics += person * 3 + tl.arange(0, 4)
    three = tl.arange(0, 4) < 3
    moving = tl.full([], 1, tl.int1)
    if active is not None:
        moving = tl.load(active + person) != 0
    known = (end > begin) & (last > first)
    if part == 0:
        if not (moving & known):
            idle = tl.where(moving, float("nan"), 0.0)
            tl.store(statistics, tl.full([4], 0.0, dtype) + idle.to(dtype), mask=three)
    if moving & known:
        y, x = tile_of(tile, pieces, ROWS, COLS)
        inside = (y < height) & (x < width)
        row, column = y.to(tl.int64), x.to(tl.int64)
        size = channels.to(tl.int64) * height * width
        here = person * size + channel * height * width + row * width + column
        rest_alpha = 1 - tl.full([1, 1], a, dtype) / 255
        slope = tl.zeros([ROWS, COLS], dtype)
        place = gradients + channel * gradients_c + row * gradients_h + column * gradients_w
        for i in range(first, last, 4):
            slope0 = tl.load(place + i * gradients_n, mask=inside, other=0.0)
            slope1 = tl.load(place + (i + 1) * gradients_n, mask=inside & before(i + 1, last), other=0.0)
            slope2 = tl.load(place + (i + 2) * gradients_n, mask=inside & before(i + 2, last), other=0.0)
            slope3 = tl.load(place + (i + 3) * gradients_n, mask=inside & before(i + 3, last), other=0.0)
            slope = slope + slope0 + slope1 + slope2 + slope3
        slope *= rest_alpha / (last - first).to(dtype)

        place = veils + person * veils_n + channel * veils_c + row * veils_h + column * veils_w
        v = tl.load(place, mask=inside, other=0.0)
        of_means = mixed
        if means is not None:
            of_means = means
        values = size.to(dtype)
        of_visual = visual_slope(
            v, images + channel * images_c + row * images_h + column * images_w, shares, of_means + here, inside,
            begin, end, images_n, values, NORM,
        )  # fmt: skip
        weight = rest_alpha
        if not NORM:
            weight = rest_alpha * rest_alpha
        slope -= rate_of(lam, person, lam_number, dtype) * weight * of_visual

        area, number = (block_h * block_w).to(dtype), (boxes_h * boxes_w).to(dtype)
        mean = add_parts(sums + person * parts + channel * tiles, tiles, TILES) / number
        factor = 1 + 1 / (area * area)
        shrink = (area - 1) / area
        plane = mixed + person * size + channel * height * width
        if PLAIN:
            of_blocks = box_stencil_3x3(plane, y, x, height, width, width, 1, mean / area, ROWS, COLS)
        else:
            of_blocks = box_stencil(
                plane,
                y,
                x,
                height,
                width,
                width,
                1,
                mean / area,
                block_h,
                block_w,
                stride,
                boxes_h,
                boxes_w,
                ROWS,
                COLS,
            )
        z = tl.load(mixed + here, mask=inside, other=0.0) - mean / area
        tl.store(variances + person * parts + part, tl.sum(tl.where(inside, z * of_blocks, 0.0)))
        of_variance = 2 * factor / number * of_blocks
        if LITERAL:
            boxes = covering(y, y, block_h, stride, boxes_h) * covering(x, x, block_w, stride, boxes_w)
            of_variance += 2 * shrink * shrink * mean / number * boxes.to(dtype)
        slope += rate_of(mu, person, mu_number, dtype) * rest_alpha * of_variance

        tl.store(slopes + here, slope, mask=inside)
        tl.store(absolutes + person * parts + part, tl.sum(tl.where(inside, tl.abs(slope), 0.0)))
        # All threads have written; thread 0 then tells so to the other programs, and sees what they wrote (acquire).
        tl.debug_barrier()
        done = tl.atomic_add(counters + person, 1, sem="acq_rel", scope="gpu")
        tl.debug_barrier()
        if done == parts - 1:
            mean_size = add_parts(absolutes + person * parts, parts, PARTS) / values
            loss_variance = factor * add_parts(variances + person * parts, parts, PARTS) / number
            if LITERAL:
                for c in range(0, channels):
                    m = add_parts(sums + person * parts + c * tiles, tiles, TILES) / number
                    loss_variance += shrink * shrink * m * m
            finite = tl.abs(mean_size) < float("inf")  # False for NaN too
            shown = tl.where(finite, mean_size, float("nan"))
            which = tl.arange(0, 4)
            loss_visual = tl.sum(weight * tl.load(visual + person))
            found = tl.where(which == 0, shown, tl.where(which == 1, loss_visual, loss_variance))
            tl.store(statistics, found.to(dtype), mask=three)
            if finite:
                scale = tl.where(mean_size > 0, 1 / tl.where(mean_size > 0, mean_size, 1.0), 0.0)
                move_person(
                    veils + person * veils_n, momentum + person * momentum_n, slopes + person * size, scale,
                    rate_of(step, person, step_number, dtype), rate_of(decay, person, decay_number, dtype), tiles,
                    pieces, channels, height, width, veils_c, veils_h, veils_w, momentum_c, momentum_h, momentum_w,
                    ROWS, COLS,
                )  # fmt: skip
