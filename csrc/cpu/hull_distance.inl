// One person of hull_distance: w = argmin ||Y^T w - f||^2 for each feature f of the person, Y the clean features.
//
// convex: on the simplex (sum w = 1) the clean features may be measured from their centre c, ||(Y - c)^T w - (f - c)||,
// which leaves the small Gram matrix of what sets the photos apart: FISTA then needs far fewer steps.
// Up to 16 features (8 in double) go through FISTA side by side, one a lane; a lane that has reached its duality gap stays
// as it is, so a feature's weights do not depend on its neighbours. The projection onto the simplex drops, again and
// again, what lies below the threshold (Michelot): the exact projection, without sorting.
// affine, span: Cholesky of the Gram matrix plus a small ridge, in double.
//
// Order of sums: inner products in packs from left to right, lanes last; over clean features from the first to the last.

constexpr int kMostSteps = 2000, kStepsPerCheck = 4;

// Inner products of a with `number` (at most four) rows: side by side, since one alone would wait for its own additions.
template <int number, class T>
VEILKERN_INLINE void dot(const T* a, const T* rows, std::int64_t n, T* found) {
  Pack<T> total[number];
  for (int j = 0; j < number; ++j) total[j] = Pack<T>(T(0));
  for (std::int64_t i = 0; i < n; i += Pack<T>::lanes) {
    const Pack<T> here = load(a + i);
    for (int j = 0; j < number; ++j) total[j] = total[j] + here * load(rows + j * n + i);
  }
  for (int j = 0; j < number; ++j) found[j] = sum(total[j]);
}

// Inner products of a with `count` rows of n values, every `step`-th place of `found`.
template <class T>
void dots(const T* a, const T* rows, std::int64_t count, std::int64_t n, T* found, std::int64_t step) {
  T four[4];
  for (std::int64_t j = 0; j < count; j += 4) {
    const std::int64_t number = least(4, count - j);
    if (number == 4) dot<4>(a, rows + j * n, n, four);
    if (number == 3) dot<3>(a, rows + j * n, n, four);
    if (number == 2) dot<2>(a, rows + j * n, n, four);
    if (number == 1) dot<1>(a, rows + j * n, n, four);
    for (std::int64_t i = 0; i < number; ++i) found[(j + i) * step] = four[i];
  }
}

// What one person needs, in scratch memory; rows of `wide` values, a whole number of packs, zeros at the end.
template <class T>
struct Hull {
  std::int64_t count, wide;
  T *clean, *centre, *feature;          // clean and feature measured from `centre`
  T* gram;                              // [count, count]
  T* cross;                             // [count, lanes]
  T *w, *ahead, *tried, *slope;         // [count, lanes]
};

template <class T>
std::int64_t hull_values(std::int64_t most_clean, std::int64_t dimensions) {
  constexpr std::int64_t lanes = Pack<T>::lanes;
  const std::int64_t wide = (dimensions + lanes - 1) / lanes * lanes;
  const std::int64_t square = (most_clean * most_clean + lanes - 1) / lanes * lanes;
  return (most_clean + 2) * wide + square + 5 * most_clean * lanes
         + static_cast<std::int64_t>(sizeof(double) / sizeof(T)) * (square + 2 * (most_clean + lanes));
}

template <class T>
Hull<T> place_hull(std::int64_t count, std::int64_t dimensions, T* memory) {
  constexpr std::int64_t lanes = Pack<T>::lanes;
  const std::int64_t wide = (dimensions + lanes - 1) / lanes * lanes, column = count * lanes;
  const auto take = [&memory](std::int64_t values) {
    T* const here = memory;
    memory += values;
    return here;
  };
  Hull<T> hull;
  hull.count = count;
  hull.wide = wide;
  hull.clean = take(count * wide);
  hull.centre = take(wide);
  hull.feature = take(wide);
  hull.cross = take(column);
  hull.w = take(column);
  hull.ahead = take(column);
  hull.tried = take(column);
  hull.slope = take(column);
  hull.gram = take((count * count + lanes - 1) / lanes * lanes);
  return hull;
}

// to = from - centre in whole packs, zeros beyond.
template <class T>
VEILKERN_INLINE void copy_from_centre(const T* from, const T* centre, std::int64_t n, std::int64_t wide, T* to) {
  for (std::int64_t c = 0; c < wide; c += Pack<T>::lanes) store(to + c, load(from + c, n - c) - load(centre + c));
}

// Centre (of nothing but zeros unless `centred`), clean features measured from it, and their Gram matrix.
template <class T>
void gram_of(const Hull<T>& hull, const T* clean, std::int64_t dimensions, bool centred) {
  constexpr int lanes = Pack<T>::lanes;
  const Pack<T> share(T(1) / static_cast<T>(hull.count));
  for (std::int64_t c = 0; c < hull.wide; c += lanes) {
    Pack<T> total(T(0));
    for (std::int64_t j = 0; centred && j < hull.count; ++j)
      total = total + load(clean + j * dimensions + c, dimensions - c);
    store(hull.centre + c, total * share);
  }
  for (std::int64_t j = 0; j < hull.count; ++j)
    copy_from_centre(clean + j * dimensions, hull.centre, dimensions, hull.wide, hull.clean + j * hull.wide);
  for (std::int64_t j = 0; j < hull.count; ++j) {
    dots(hull.clean + j * hull.wide, hull.clean, j + 1, hull.wide, hull.gram + j * hull.count, 1);
    for (std::int64_t k = 0; k < j; ++k) hull.gram[k * hull.count + j] = hull.gram[j * hull.count + k];
  }
}

// A bound on the largest eigenvalue: the largest sum of absolute values in a row.
template <class T>
T largest_row(const Hull<T>& hull) {
  T found = 0;
  for (std::int64_t j = 0; j < hull.count; ++j) {
    T total = 0;
    for (std::int64_t k = 0; k < hull.count; ++k) {
      const T value = hull.gram[j * hull.count + k];
      total += value < 0 ? -value : value;
    }
    found = total > found ? total : found;
  }
  return found;
}

// slope = gram x - cross, lane by lane, for rows j .. j + number - 1 of the matrix: side by side, as in dot().
template <int number, class T>
VEILKERN_INLINE void slope_rows(const Hull<T>& hull, const T* x, T* slope, std::int64_t j) {
  constexpr int lanes = Pack<T>::lanes;
  Pack<T> total[number];
  for (int i = 0; i < number; ++i) total[i] = Pack<T>(T(0)) - load(hull.cross + (j + i) * lanes);
  for (std::int64_t k = 0; k < hull.count; ++k) {
    const Pack<T> here = load(x + k * lanes);
    for (int i = 0; i < number; ++i) total[i] = total[i] + Pack<T>(hull.gram[(j + i) * hull.count + k]) * here;
  }
  for (int i = 0; i < number; ++i) store(slope + (j + i) * lanes, total[i]);
}

template <class T>
VEILKERN_INLINE void slopes(const Hull<T>& hull, const T* x, T* slope) {
  std::int64_t j = 0;
  for (; j + 4 <= hull.count; j += 4) slope_rows<4>(hull, x, slope, j);
  for (; j < hull.count; ++j) slope_rows<1>(hull, x, slope, j);
}

// Euclidean projection of every lane of x [count, lanes] onto the simplex, in place.
template <class T>
VEILKERN_INLINE void project(const Hull<T>& hull, T* x) {
  constexpr int lanes = Pack<T>::lanes;
  const Pack<T> zero(T(0)), one(T(1));
  Pack<T> threshold(T(-1e30)), kept_before(static_cast<T>(hull.count + 1));
  for (;;) {
    Pack<T> total = zero - one, kept = zero;
    for (std::int64_t j = 0; j < hull.count; ++j) {
      const Pack<T> value = load(x + j * lanes);
      const Mask<T> above = value > threshold;
      total = total + select<T>(above, value, zero);
      kept = kept + select<T>(above, one, zero);
    }
    // Rounding may drop the last one: a lane whose number of kept entries no longer falls keeps its threshold.
    const Mask<T> fewer = (kept_before > kept) & (kept > zero);
    if (!any(fewer)) break;
    threshold = select<T>(fewer, total / larger(kept, one), threshold);
    kept_before = select<T>(fewer, kept, kept_before);
  }
  for (std::int64_t j = 0; j < hull.count; ++j) store(x + j * lanes, larger(load(x + j * lanes) - threshold, zero));
}

// Lanes that are not yet within `wanted` of the optimum: the duality gap of ||Y^T w - f||^2 / 2 is w . slope - min slope.
template <class T>
VEILKERN_INLINE Mask<T> too_far(const Hull<T>& hull, const Pack<T>& wanted) {
  constexpr int lanes = Pack<T>::lanes;
  slopes(hull, hull.w, hull.slope);
  Pack<T> inner(T(0)), least_slope = load(hull.slope);
  for (std::int64_t j = 0; j < hull.count; ++j) {
    const Pack<T> slope = load(hull.slope + j * lanes);
    inner = inner + slope * load(hull.w + j * lanes);
    least_slope = smaller(least_slope, slope);
  }
  return inner - least_slope > wanted;
}

// FISTA with restart on all lanes; hull.w holds the start, and the weights afterwards. Lanes not in `live` stay.
template <class T>
void fista(const Hull<T>& hull, Mask<T> live, T largest, const Pack<T>& wanted) {
  constexpr int lanes = Pack<T>::lanes;
  const Pack<T> zero(T(0)), one(T(1)), two(T(2)), four(T(4)), rate(T(1) / (largest > T(1e-30) ? largest : T(1e-30)));
  project(hull, hull.w);
  std::memcpy(hull.ahead, hull.w, sizeof(T) * static_cast<std::size_t>(hull.count * lanes));
  Pack<T> pace = one;
  live = live & too_far(hull, wanted);
  for (int step = 1; any(live) && step <= kMostSteps; ++step) {
    slopes(hull, hull.ahead, hull.slope);
    for (std::int64_t j = 0; j < hull.count; ++j)
      store(hull.tried + j * lanes, load(hull.ahead + j * lanes) - load(hull.slope + j * lanes) * rate);
    project(hull, hull.tried);
    Pack<T> turn(T(0));
    for (std::int64_t j = 0; j < hull.count; ++j) {
      const Pack<T> tried = load(hull.tried + j * lanes);
      turn = turn + (load(hull.ahead + j * lanes) - tried) * (tried - load(hull.w + j * lanes));
    }
    const Mask<T> restart = turn > zero;
    const Pack<T> faster = select<T>(restart, one, (one + root(one + four * pace * pace)) / two);
    const Pack<T> push = select<T>(restart, zero, (pace - one) / faster);
    pace = faster;
    for (std::int64_t j = 0; j < hull.count; ++j) {
      const Pack<T> before = load(hull.w + j * lanes), tried = load(hull.tried + j * lanes);
      const Pack<T> now = select<T>(live, tried, before);
      store(hull.ahead + j * lanes, now + push * (now - before));
      store(hull.w + j * lanes, now);
    }
    if (step % kStepsPerCheck == 0) live = live & too_far(hull, wanted);
  }
}

// L L^T of gram + ridge, in double, in place of `factor`; a pivot that rounding has eaten counts as the ridge.
template <class T>
void factorise(const Hull<T>& hull, double ridge, double* factor) {
  const std::int64_t n = hull.count;
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t k = 0; k <= j; ++k) {
      double value = static_cast<double>(hull.gram[j * n + k]) + (j == k ? ridge : 0);
      for (std::int64_t i = 0; i < k; ++i) value -= factor[j * n + i] * factor[k * n + i];
      factor[j * n + k] = j == k ? __builtin_sqrt(value > ridge ? value : ridge) : value / factor[k * n + k];
    }
}

VEILKERN_INLINE void solve(const double* factor, std::int64_t n, double* x) {
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t k = 0; k < j; ++k) x[j] -= factor[j * n + k] * x[k];
    x[j] /= factor[j * n + j];
  }
  for (std::int64_t j = n - 1; j >= 0; --j) {
    for (std::int64_t k = j + 1; k < n; ++k) x[j] -= factor[k * n + j] * x[k];
    x[j] /= factor[j * n + j];
  }
}

// Values c .. of the residual r = f - Y^T w, `number` packs side by side; gradient 2 r, and r . r added to total.
template <int number, class T>
VEILKERN_INLINE void residual_packs(const T* feature, const T* clean, const T* weights, std::int64_t count,
                                    std::int64_t dimensions, std::int64_t c, T* gradient, Pack<T>& total) {
  constexpr int lanes = Pack<T>::lanes;
  const std::int64_t n = number == 1 ? dimensions - c : lanes;  // only one alone may be the last, in part
  Pack<T> rest[number];
  for (int i = 0; i < number; ++i) rest[i] = load(feature + c + i * lanes, n);
  for (std::int64_t j = 0; j < count; ++j) {
    if (weights[j] == T(0)) continue;
    const Pack<T> weight(weights[j]);
    for (int i = 0; i < number; ++i) rest[i] = rest[i] - weight * load(clean + j * dimensions + c + i * lanes, n);
  }
  for (int i = 0; i < number; ++i) {
    total = total + rest[i] * rest[i];
    store(gradient + c + i * lanes, rest[i] + rest[i], n);
  }
}

// Distance and gradient against the clean features as they came.
template <class T>
T residual(const T* feature, const T* clean, const T* weights, std::int64_t count, std::int64_t dimensions, T* gradient) {
  constexpr int lanes = Pack<T>::lanes;
  Pack<T> total(T(0));
  std::int64_t c = 0;
  for (; c + 4 * lanes <= dimensions; c += 4 * lanes)
    residual_packs<4>(feature, clean, weights, count, dimensions, c, gradient, total);
  for (; c < dimensions; c += lanes)
    residual_packs<1>(feature, clean, weights, count, dimensions, c, gradient, total);
  return sum(total);
}

// Weights of features begin .. end - 1 (one group of lanes), convex.
template <class T>
void convex_group(const Hull<T>& hull, const T* features, std::int64_t dimensions, std::int64_t number, const T* start,
                  T largest, T* weights, std::int64_t width) {
  constexpr int lanes = Pack<T>::lanes;
  constexpr T tolerance = sizeof(T) == 4 ? T(2.5e-7) : T(2.5e-12);  // of the squared lengths at hand
  T wanted[lanes];
  Pack<T> here(T(0));
  std::memset(hull.cross, 0, sizeof(T) * static_cast<std::size_t>(hull.count * lanes));
  for (int i = 0; i < lanes; ++i) wanted[i] = 1;
  for (std::int64_t i = 0; i < number; ++i) {
    copy_from_centre(features + i * dimensions, hull.centre, dimensions, hull.wide, hull.feature);
    dot<1>(hull.feature, hull.feature, hull.wide, wanted + i);
    wanted[i] = tolerance * (wanted[i] + largest);
    dots(hull.feature, hull.clean, hull.count, hull.wide, hull.cross + i, lanes);
  }
  for (std::int64_t j = 0; j < hull.count; ++j)
    for (int i = 0; i < lanes; ++i)
      hull.w[j * lanes + i] = start && i < number ? start[i * width + j] : T(1) / static_cast<T>(hull.count);
  here = first(Pack<T>(T(1)), number);
  fista(hull, here > Pack<T>(T(0)), largest, load(wanted));
  for (std::int64_t i = 0; i < number; ++i)
    for (std::int64_t j = 0; j < hull.count; ++j) weights[i * width + j] = hull.w[j * lanes + i];
}

// Weights of every feature by least squares, with sum w = 1 (affine) or without (span).
template <class T>
void linear_weights(const Hull<T>& hull, const T* features, std::int64_t dimensions, std::int64_t number, bool affine,
                    T* weights, std::int64_t width) {
  const std::int64_t n = hull.count;
  const double ridge = 100 * (sizeof(T) == 4 ? 1.1920929e-07 : 2.220446049250313e-16);
  double* const factor = reinterpret_cast<double*>(hull.gram + (n * n + Pack<T>::lanes - 1) / Pack<T>::lanes * Pack<T>::lanes);
  double *const x = factor + n * n, *const ones = x + n;
  factorise(hull, ridge, factor);
  double reach = 0;
  for (std::int64_t j = 0; j < n; ++j) ones[j] = 1;
  solve(factor, n, ones);
  for (std::int64_t j = 0; j < n; ++j) reach += ones[j];
  for (std::int64_t i = 0; i < number; ++i) {
    copy_from_centre(features + i * dimensions, hull.centre, dimensions, hull.wide, hull.feature);
    double total = 0;
    dots(hull.feature, hull.clean, n, hull.wide, hull.cross, 1);
    for (std::int64_t j = 0; j < n; ++j) x[j] = static_cast<double>(hull.cross[j]);
    solve(factor, n, x);
    for (std::int64_t j = 0; j < n; ++j) total += x[j];
    const double missing = affine ? (1 - total) / reach : 0;
    for (std::int64_t j = 0; j < n; ++j) weights[i * width + j] = static_cast<T>(x[j] + missing * ones[j]);
  }
}

template <class T>
void person_hull(const Hulls<T>& hulls, std::int64_t person, Subspace subspace, const T* start, const std::int64_t* own,
                 T* distance, T* weights, std::int64_t width, T* gradient, T* memory) {
  constexpr int lanes = Pack<T>::lanes;
  const std::int64_t begin = hulls.offsets[person], number = hulls.offsets[person + 1] - begin, d = hulls.dimensions;
  const std::int64_t count = hulls.clean_offsets[person + 1] - hulls.clean_offsets[person];
  const T *features = hulls.features + begin * d, *clean = hulls.clean + hulls.clean_offsets[person] * d;
  T* const w = weights + begin * width;
  if (number == 0) return;
  std::memset(w, 0, sizeof(T) * static_cast<std::size_t>(number * width));
  if (subspace == Subspace::centre || subspace == Subspace::self) {
    for (std::int64_t i = 0; i < number; ++i)
      for (std::int64_t j = 0; j < count; ++j)
        w[i * width + j] = subspace == Subspace::centre          ? T(1) / static_cast<T>(count)
                           : j == (own ? own[begin + i] : i) ? T(1)
                                                             : T(0);
  } else {
    const Hull<T> hull = place_hull(count, d, memory);
    gram_of(hull, clean, d, subspace == Subspace::convex);
    if (subspace != Subspace::convex) {
      linear_weights(hull, features, d, number, subspace == Subspace::affine, w, width);
    } else {
      const T largest = largest_row(hull);
      for (std::int64_t i = 0; i < number; i += lanes)
        convex_group(hull, features + i * d, d, least(lanes, number - i), start ? start + (begin + i) * width : nullptr,
                     largest, w + i * width, width);
    }
  }
  for (std::int64_t i = 0; i < number; ++i)
    distance[begin + i] = residual(features + i * d, clean, w + i * width, count, d, gradient + (begin + i) * d);
}
