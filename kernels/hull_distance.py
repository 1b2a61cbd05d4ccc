"""hull_distance (eq. 3-7): D = min_w ||Y^T w - f||^2 for each feature f of a person whose clean features are Y.

features f32 or f64 [N, d] by offsets i64 [P + 1], clean [M, d] by clean_offsets -> distance [N], weights [N, width],
gradient [N, d] = 2 (f - Y^T w). A program takes one person, all of it in one launch: the small Gram matrix, then the
person's features GROUP at a time, one a lane, and at the end distance and gradient against Y as it came.

convex: on the simplex everything is measured from the centre c of Y, which leaves a well-conditioned Gram matrix; FISTA
with restart from the given weights (or the centre) to a duality gap of 2.5e-7 (f32) or 2.5e-12 (f64) of the squared
lengths at hand. The projection drops what lies below the threshold again and again (Michelot): exact, no sorting. A
lane that is done stays as it is, so that a feature's weights do not depend on its neighbours.
affine, span: conjugate gradients on the Gram matrix in double plus a small ridge, to a residual of 1e-13. For affine,
sum w = 1, w = 1 / m + u: with centred Y every step sums to 0 by itself, but for rounding, which is taken out.

Y (20 KB for ten 512-d features) is read from memory once and from L1 afterwards; Gram matrix and the vector that it
multiplies pass through scratch memory of the person (a few KB, in L1), since a thread cannot see another's registers.

What the op checks on the CPU cannot be checked on a GPU without a wait: a person with more clean features than width,
with none, or with offsets that cannot be, gets NaN, as do features that offsets leave out.
"""

import triton
import triton.language as tl
from veilkern.kernels.indexing import span_of

# What the machine code may show at 3 x 112 x 112: bytes per access -> the most instructions, None for any number.
# 16: clean features in bulk; 8: offsets, and a chunk of one feature over a warp; 4: Gram matrix and weights, from L1.
ACCESS = {
    ("hull_distance", "convex"): {"load": {16: None, 8: None, 4: None}, "store": {16: None, 8: None, 4: None}},
    ("hull_distance", "affine"): {"load": {16: None, 8: None, 4: None}, "store": {16: None, 8: None, 4: None}},
    ("hull_distance", "centre"): {"load": {16: None, 8: None, 4: None}, "store": {8: None, 4: None}},
    ("hull_distance", "100 wide"): {"load": {16: None, 8: None, 4: None}, "store": {4: None}},
}


@triton.jit
def centre_of(clean, centre, count, dimensions, clean_n, clean_d, CENTRED: tl.constexpr,
              MOST: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """centre [d] = the mean of the person's clean features, or zeros."""
    j = tl.arange(0, MOST)[:, None]
    for begin in range(0, dimensions, CHUNK):
        d = begin + tl.arange(0, CHUNK)
        total = tl.zeros([CHUNK], centre.dtype.element_ty)
        if CENTRED:
            place = clean + j.to(tl.int64) * clean_n + d[None, :].to(tl.int64) * clean_d
            rows = tl.load(place, mask=(j < count) & (d[None, :] < dimensions), other=0.0)
            total = tl.sum(rows.to(centre.dtype.element_ty), 0) / count
        tl.store(centre + d, total, mask=d < dimensions)


@triton.jit
def products(vector, vector_d, clean, centre, count, dimensions, clean_n, clean_d, MOST: tl.constexpr,
             CHUNK: tl.constexpr):  # fmt: skip
    """(Y - c)(vector - c) [MOST] and ||vector - c||^2."""
    dtype: tl.constexpr = centre.dtype.element_ty
    j = tl.arange(0, MOST)[:, None]
    total, length = tl.zeros([MOST, CHUNK], dtype), tl.zeros([CHUNK], dtype)
    for begin in range(0, dimensions, CHUNK):
        d = begin + tl.arange(0, CHUNK)
        inside = d < dimensions
        middle = tl.load(centre + d, mask=inside, other=0.0)
        value = tl.load(vector + d.to(tl.int64) * vector_d, mask=inside, other=0.0).to(dtype) - middle
        place = clean + j.to(tl.int64) * clean_n + d[None, :].to(tl.int64) * clean_d
        both = (j < count) & inside[None, :]
        rows = tl.load(place, mask=both, other=0.0).to(dtype)
        total += tl.where(both, rows - middle[None, :], 0.0) * value[None, :]
        length += value * value
    return tl.sum(total, 1), tl.sum(length)


@triton.jit
def times_gram(gram, vectors, x, count, width, MOST: tl.constexpr, GROUP: tl.constexpr):
    """Gram matrix times x [MOST, GROUP]. x goes through `vectors`, so that every thread sees every row of it."""
    j, lane = tl.arange(0, MOST), tl.arange(0, GROUP)
    tl.debug_barrier()
    tl.store(vectors + j[:, None] * GROUP + lane[None, :], x)
    tl.debug_barrier()
    total = tl.zeros([MOST, GROUP], x.dtype)
    for k in range(0, count):
        column = tl.load(gram + k * width + j, mask=j < count, other=0.0)
        total += column[:, None] * tl.load(vectors + k * GROUP + lane)[None, :]
    return total


@triton.jit
def projected(x, valid, count):
    """The nearest point of the simplex to every lane of x [MOST, GROUP]."""
    threshold = tl.min(x, 0, keep_dims=True) * 0 - 1e30
    before = threshold * 0 + (count + 1)
    going = tl.max(before) > 0
    while going:
        above = valid & (x > threshold)
        kept = tl.sum(tl.where(above, 1.0, 0.0).to(x.dtype), 0, keep_dims=True)
        total = tl.sum(tl.where(above, x, 0.0), 0, keep_dims=True) - 1
        # Rounding may drop the last one: a lane whose number of kept entries no longer falls keeps its threshold.
        fewer = (kept < before) & (kept > 0)
        threshold = tl.where(fewer, total / tl.maximum(kept, 1.0), threshold)
        before = tl.where(fewer, kept, before)
        going = tl.max(fewer.to(tl.int32)) > 0
    return tl.where(valid, tl.maximum(x - threshold, 0.0), 0.0)


@triton.jit
def beyond(slope, w, valid, wanted):
    """Lanes whose duality gap w . slope - min slope is above `wanted` [1, GROUP]."""
    least = tl.min(tl.where(valid, slope, 1e30), 0, keep_dims=True)
    return tl.sum(w * slope, 0, keep_dims=True) - least > wanted


@triton.jit
def fista(gram, vectors, cross, w, live, wanted, largest, count, width, steps, MOST: tl.constexpr, GROUP: tl.constexpr):
    """Weights [MOST, GROUP] from the start w; lanes not in `live` [1, GROUP] are left."""
    valid = tl.arange(0, MOST)[:, None] < count
    rate = 1 / tl.maximum(largest, 1e-30)
    w = projected(w, valid, count)
    ahead, pace = w, wanted * 0 + 1
    live = live & beyond(times_gram(gram, vectors, w, count, width, MOST, GROUP) - cross, w, valid, wanted)
    step = count * 0
    while (step < steps) & (tl.max(live.to(tl.int32)) > 0):
        slope = times_gram(gram, vectors, ahead, count, width, MOST, GROUP) - cross
        tried = projected(ahead - slope * rate, valid, count)
        restart = tl.sum((ahead - tried) * (tried - w), 0, keep_dims=True) > 0
        faster = tl.where(restart, 1.0, (1 + tl.sqrt(1 + 4 * pace * pace)) / 2)
        push = tl.where(restart, 0.0, (pace - 1) / faster)
        pace = faster
        now = tl.where(live, tried, w)
        ahead = now + push * (now - w)
        w = now
        step += 1
        if step % 4 == 0:
            live = live & beyond(times_gram(gram, vectors, w, count, width, MOST, GROUP) - cross, w, valid, wanted)
    return w


@triton.jit
def level(x, valid, count, AFFINE: tl.constexpr):
    """x [MOST, GROUP] with its mean over a lane taken out, for affine."""
    if AFFINE:
        x = tl.where(valid, x - tl.sum(x, 0, keep_dims=True) / count, 0.0)
    return x


@triton.jit
def conjugate(gram, vectors, cross, live, ridge, count, width, steps, AFFINE: tl.constexpr,
              MOST: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """Solves (gram + ridge) x = cross lane by lane, from zero."""
    valid = tl.arange(0, MOST)[:, None] < count
    rest = level(cross, valid, count, AFFINE)
    x, way = rest * 0, rest
    size = tl.sum(rest * rest, 0, keep_dims=True)
    wanted = size * 1e-26
    live = live & (size > 0)
    step = count * 0
    while (step < steps) & (tl.max(live.to(tl.int32)) > 0):
        image = times_gram(gram, vectors, way, count, width, MOST, GROUP) + ridge * way
        bend = tl.sum(way * image, 0, keep_dims=True)
        live = live & (bend > 0)
        stride = tl.where(live, size / tl.where(bend > 0, bend, 1.0), 0.0)
        x += stride * way
        rest = level(rest - stride * image, valid, count, AFFINE)
        left = tl.sum(rest * rest, 0, keep_dims=True)
        way = rest + tl.where(size > 0, left / tl.where(size > 0, size, 1.0), 0.0) * way
        size = left
        live = live & (size > wanted)
        step += 1
    return x


@triton.jit
def finish(features, clean, weights, distance, gradient, number, count, dimensions, width,
           features_n, features_d, clean_n, clean_d, MOST: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """Distance and gradient of every feature of the person by its weights."""
    dtype: tl.constexpr = features.dtype.element_ty
    j = tl.arange(0, MOST)
    for i in range(0, number):
        w = tl.load(weights + i * width + j, mask=j < count, other=0.0)
        square = tl.zeros([CHUNK], dtype)
        for begin in range(0, dimensions, CHUNK):
            d = begin + tl.arange(0, CHUNK)
            inside = d < dimensions
            place = clean + j[:, None].to(tl.int64) * clean_n + d[None, :].to(tl.int64) * clean_d
            rows = tl.load(place, mask=(j < count)[:, None] & inside[None, :], other=0.0)
            f = tl.load(features + i * features_n + d.to(tl.int64) * features_d, mask=inside, other=0.0)
            rest = f - tl.sum(w[:, None] * rows, 0)
            square += rest * rest
            tl.store(gradient + i * dimensions + d, rest + rest, mask=inside)
        tl.store(distance + i, tl.sum(square))


@triton.jit
def solve(features, clean, start, weights, centre, gram, vectors, cross, number, count, dimensions, width, ridge,
          features_n, features_d, clean_n, clean_d, start_n, start_m, SUBSPACE: tl.constexpr,
          MOST: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """Weights of every feature of the person: convex, affine or span."""
    dtype: tl.constexpr = gram.dtype.element_ty
    j, lane = tl.arange(0, MOST), tl.arange(0, GROUP)
    centre_of(clean, centre, count, dimensions, clean_n, clean_d, SUBSPACE != "span", MOST, CHUNK)
    tl.debug_barrier()
    bound = tl.zeros([MOST], dtype)  # sums of absolute values in a row: the largest bounds the largest eigenvalue
    for k in range(0, count):
        column, _ = products(
            clean + k * clean_n, clean_d, clean, centre, count, dimensions, clean_n, clean_d, MOST, CHUNK
        )
        tl.store(gram + k * width + j, column, mask=j < count)
        bound += tl.abs(column)
    largest = tl.max(bound)
    valid = j[:, None] < count
    for begin in range(0, number, GROUP):
        here = begin + lane
        length = tl.zeros([GROUP], dtype)
        for i in range(0, tl.minimum(GROUP, number - begin)):
            values, size = products(
                features + (begin + i) * features_n, features_d, clean, centre, count, dimensions, clean_n, clean_d,
                MOST, CHUNK,
            )  # fmt: skip
            tl.store(cross + i * MOST + j, values)
            length = tl.where(lane == i, size, length)
        tl.debug_barrier()
        live = (here < number)[None, :]
        across = tl.load(cross + lane[None, :] * MOST + j[:, None], mask=live & valid, other=0.0)
        if SUBSPACE == "convex":
            share = tl.full([1, 1], 1.0, dtype) / count
            w = tl.where(valid, share, 0.0) + across * 0
            if start is not None:
                place = start + here[None, :] * start_n + j[:, None].to(tl.int64) * start_m
                w = tl.load(place, mask=live & valid, other=0.0)
            wanted = (length + largest)[None, :] * ridge
            w = fista(gram, vectors, across, w, live, wanted, largest, count, width, 2000, MOST, GROUP)
        else:
            w = conjugate(
                gram, vectors, across, live, ridge, count, width, 8 * count + 64, SUBSPACE == "affine", MOST, GROUP
            )
            if SUBSPACE == "affine":
                w = tl.where(valid, w + tl.full([1, 1], 1.0, dtype) / count, 0.0)
        place = weights + here[None, :] * width + j[:, None]
        tl.store(place, w.to(weights.dtype.element_ty), mask=live & (j < width)[:, None])
        tl.debug_barrier()


@triton.jit
def spoil(distance, weights, gradient, low, high, dimensions, width, MOST: tl.constexpr, CHUNK: tl.constexpr):
    """NaN for the features low..high - 1."""
    j = tl.arange(0, MOST)
    for i in range(low, high):
        tl.store(distance + i, float("nan"))
        tl.store(weights + i * width + j, tl.full([MOST], float("nan"), weights.dtype.element_ty), mask=j < width)
        for begin in range(0, dimensions, CHUNK):
            d = begin + tl.arange(0, CHUNK)
            nan = tl.full([CHUNK], float("nan"), gradient.dtype.element_ty)
            tl.store(gradient + i * dimensions + d, nan, mask=d < dimensions)


@triton.jit
def spoil_impossible(offsets, person, people, photos, good, distance, weights, gradient, dimensions, width,
                     MOST: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """NaN for the features of a person who is not `good`; by the first and the last person, for those of nobody."""
    begin = tl.minimum(tl.maximum(tl.load(offsets + person), 0), photos)
    end = tl.minimum(tl.maximum(tl.load(offsets + person + 1), 0), photos)
    low, high = tl.minimum(begin, end), tl.where(good, begin, tl.maximum(begin, end))
    spoil(
        distance, weights, gradient, tl.where(person == 0, 0, low), high, dimensions, width, MOST, CHUNK
    )  # fmt: skip
    spoil(
        distance, weights, gradient, tl.where(person == people - 1, end, photos), photos, dimensions, width, MOST, CHUNK
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["people", "photos", "clean_photos", "width", "start_n"],
    do_not_specialize_on_alignment=["offsets", "clean_offsets", "start", "own"],
)
def hull_distance_kernel(
    features, clean, offsets, clean_offsets, start, own, distance, weights, gradient, centre, gram, vectors, cross,
    people, photos, clean_photos, dimensions, width, ridge: "fp64",
    features_n, features_d, clean_n, clean_d, start_n, start_m,
    SUBSPACE: tl.constexpr, MOST: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    person = tl.program_id(0).to(tl.int64)
    begin, end = span_of(offsets, person, photos)
    clean_begin, clean_end = span_of(clean_offsets, person, clean_photos)
    known = clean_end - clean_begin
    good = (end > begin) & (known > 0) & (known <= width)
    spoil_impossible(
        offsets, person, people, photos, good, distance, weights, gradient, dimensions, width, MOST, CHUNK
    )  # fmt: skip
    number, count = tl.where(good, end - begin, 0), tl.where(good, known, 0)
    features += begin * features_n
    clean += clean_begin * clean_n
    weights += begin * width
    j = tl.arange(0, MOST)
    if SUBSPACE == "centre" or SUBSPACE == "self":
        for i in range(0, number):
            if SUBSPACE == "centre":
                w = tl.where(j < count, 1.0, 0.0).to(weights.dtype.element_ty) / count
            else:
                chosen = i
                if own is not None:
                    chosen = tl.load(own + begin + i)
                w = tl.where(j == chosen, 1.0, 0.0)
                w = tl.where((chosen >= 0) & (chosen < count), w, float("nan"))
            tl.store(weights + i * width + j, w.to(weights.dtype.element_ty), mask=j < width)
    else:
        if start is not None:
            start += begin * start_n
        tolerance = tl.full([1, 1], ridge, gram.dtype.element_ty)
        solve(
            features, clean, start, weights, centre + person * dimensions, gram + person * width * width,
            vectors + person * (MOST * GROUP), cross + person * (MOST * GROUP), number, count, dimensions, width,
            tolerance, features_n, features_d, clean_n, clean_d, start_n, start_m, SUBSPACE, MOST, GROUP, CHUNK,
        )  # fmt: skip
    tl.debug_barrier()
    finish(
        features, clean, weights, distance + begin, gradient + begin * dimensions, number, count, dimensions, width,
        features_n, features_d, clean_n, clean_d, MOST, CHUNK,
    )  # fmt: skip
