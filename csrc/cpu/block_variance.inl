// One plane of block_variance: mean, variance of the box sums S and, where asked for, the gradient.
//
// With the mean m of S known, D = S - m, the variance is mean(D^2) and the gradient k * (sum of D + e over the boxes that
// hold the pixel), k = 2 (1 + 1 / (hw)^2) / n. The literal form adds ((hw - 1) / (hw))^2 m^2 to the loss, whose slope,
// the same for every box, is the e.
//
// Order of sums: for the mean eight rows in halves, for the squares two rows at once, then packs from left to right, then
// rows in double from top to bottom, lanes last (Total).

struct Weights {
  double variance, brightness;  // loss = variance * Var(S) + brightness * mean(S)^2

  VEILKERN_INLINE Weights(const Boxes& boxes) {  // NOLINT
    const double area = static_cast<double>(boxes.high * boxes.wide);
    variance = 1 + 1 / (area * area);
    brightness = boxes.literal ? (area - 1) / area * ((area - 1) / area) : 0;
  }
};

// 3 x 3, stride 1: one pass for the mean, one for everything else; S and D live in registers, only the last two rows of D
// go through (the nearest) memory.

// Sum of S: each pixel counts as often as boxes hold it, 1 2 3 .. 3 2 1 along either side: three times all, less twice the
// outer and once the next row and column.
template <class T>
struct Sum3x3 {
  static constexpr int lanes = Pack<T>::lanes;
  const T* x;
  std::int64_t stride, height, width;
  Pack<T> near, far;  // of the first and the last pack of a row: what is taken off

  VEILKERN_INLINE explicit Sum3x3(const Plane<T>& plane)
      : x(plane.x), stride(plane.stride), height(plane.height), width(plane.width) {
    T often[2][lanes] = {};
    const std::int64_t last = width < lanes ? 0 : 1, end = width < lanes ? width : lanes;
    often[0][0] += T(2);
    often[0][1] += T(1);
    often[last][end - 2] += T(1);
    often[last][end - 1] += T(2);
    near = load(often[0]);
    far = load(often[1]);
  }

  // Rows r .. r + rows - 1, lane by lane.
  template <int rows>
  VEILKERN_INLINE Pack<T> lines(std::int64_t r) const {
    const auto column = [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
      const T* const top = x + r * stride + c;
      Pack<T> sums[rows];
      for (int i = 0; i < rows; ++i) sums[i] = n >= lanes ? load(top + i * stride) : load(top + i * stride, n);
      for (int half = rows / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
      return sums[0];
    };
    Pack<T> line{T(0)};
    std::int64_t c = 0;
    for (; c + lanes <= width; c += lanes) line = line + column(c, lanes);
    if (c < width) line = line + column(c, width - c);
    line = line * Pack<T>(T(3)) - column(0, width) * near;
    return width < lanes ? line : line - column(width - lanes, lanes) * far;
  }

  VEILKERN_INLINE double value() const {
    Total all, edges;
    std::int64_t r = 0;
    for (; r + 8 <= height; r += 8) all.add(lines<8>(r));
    for (; r < height; ++r) all.add(lines<1>(r));
    edges.add((lines<1>(0) + lines<1>(height - 1)) * Pack<T>(T(2)) + (lines<1>(1) + lines<1>(height - 2)));
    return 3 * all.value() - edges.value();
  }
};

// What the walk over the rows of one plane carries.
template <class T>
struct Walk3x3 {
  Plane<T> plane;
  T *before, *last;  // rows r - 2 and r - 1 of D + e
  Pack<T> third, extra, k;  // third: of the mean

  VEILKERN_INLINE Walk3x3(const Plane<T>& all, T* two_up, T* one_up)
      : plane(all), before(two_up), last(one_up), third(T(0)), extra(T(0)), k(T(0)) {}
};

// Sums over x - 2 .. x of `here`, whose left neighbour is `left`.
template <class T>
VEILKERN_INLINE Pack<T> reach_back(const Pack<T>& left, const Pack<T>& here) {
  return here + slide<Pack<T>::lanes - 1>(left, here) + slide<Pack<T>::lanes - 2>(left, here);
}

// Of D, over all boxes.
struct Totals {
  Total squares, plain;
  VEILKERN_INLINE Totals() : squares(), plain() {}  // spelled out, as that of Total
};

// What a walk makes: the squares for the loss, the gradient, and that past the caches.
template <bool loss_, bool literal_, bool slope_, bool past_>
struct Makes {
  static constexpr bool loss = loss_, literal = literal_, slope = slope_, past = past_;
};

// Rows r .. r + rows - 1 of S, in pairs: neighbours share a third of the additions. How many at once changes no bit.
template <class T, int rows, class Make>
VEILKERN_INLINE void rows_3x3(const Walk3x3<T>& walk, std::int64_t r, Totals& totals) {
  constexpr int lanes = Pack<T>::lanes, pairs = (rows + 1) / 2;
  const Plane<T>& plane = walk.plane;
  const std::int64_t width = plane.width, columns = width - 2, ahead = plane.ahead;
  const Pack<T> third = walk.third, extra = walk.extra, k = walk.k;
  T *const before = walk.before, *const last = walk.last;
  const T* x[rows + 2];
  T* out[rows];
  Pack<T> here[rows], right[rows], left[rows], line[pairs], plain[pairs];
  for (int i = 0; i < rows + 2; ++i) x[i] = plane.x + (r + i) * plane.stride;
  for (int i = 0; i < rows; ++i) out[i] = Make::slope ? plane.gradient + (r + i) * plane.gradient_stride : nullptr;
  for (int i = 0; i < rows; ++i) left[i] = Pack<T>(T(0));
  for (int i = 0; i < pairs; ++i) line[i] = plain[i] = Pack<T>(T(0));
  const auto column_sums = [&](std::int64_t c, auto inside, Pack<T>* sums) __attribute__((always_inline)) {
    const auto at = [&](int row) __attribute__((always_inline)) {
      return inside ? load(x[row] + c) : load(x[row] + c, width - c);
    };
    for (int i = 0; i < rows; i += 2) {
      const Pack<T> shared = at(i + 1) + at(i + 2) - third;
      sums[i] = at(i) + shared;
      if (i + 1 < rows) sums[i + 1] = shared + at(i + 3);
    }
  };
  const auto gradients = [&](std::int64_t c, auto inside, Pack<T>* d) __attribute__((always_inline)) {
    d[0] = load(before + c);
    d[1] = load(last + c);
    for (int i = 0; i < rows; ++i) {
      const Pack<T> shared = i % 2 == 0 ? d[i + 1] + d[i + 2] : d[i] + d[i + 1];
      const Pack<T> three = i % 2 == 0 ? d[i] + shared : shared + d[i + 2];
      const Pack<T> g = k * reach_back(left[i], three);
      if (Make::past) store_past(out[i] + c, g);
      else inside ? store(out[i] + c, g) : store(out[i] + c, g, width - c);
      left[i] = three;
    }
    store(before + c, d[rows]);
    store(last + c, d[rows + 1]);
  };
  const auto step = [&](std::int64_t c, auto inside) __attribute__((always_inline)) {  // inside: no lane past an end
    if (inside || c + lanes < width)
      column_sums(c + lanes, inside, right);
    else
      for (int i = 0; i < rows; ++i) right[i] = Pack<T>(T(0));
    for (int i = 0; Make::slope && i < rows; ++i) fetch(x[i] + c + ahead);
    Pack<T> d[rows + 2];  // rows r - 2 .. r + rows - 1 of D
    for (int i = 0; i < rows; ++i) {
      d[i + 2] = here[i] + slide<1>(here[i], right[i]) + slide<2>(here[i], right[i]);
      if (!inside) d[i + 2] = first(d[i + 2], columns - c);
      here[i] = right[i];
    }
    if (Make::loss)
      for (int i = 0; i < rows; i += 2) {
        const Pack<T> square = d[i + 2] * d[i + 2];
        line[i / 2] = line[i / 2] + (i + 1 < rows ? square + d[i + 3] * d[i + 3] : square);
        if (!Make::slope) plain[i / 2] = plain[i / 2] + (i + 1 < rows ? d[i + 2] + d[i + 3] : d[i + 2]);
      }
    if (!Make::slope) return;
    if (Make::literal)
      for (int i = 2; i < rows + 2; ++i) d[i] = inside ? d[i] + extra : first(d[i] + extra, columns - c);
    gradients(c, inside, d);
  };
  column_sums(0, std::false_type{}, here);
  std::int64_t c = 0;
  for (; c + 2 * lanes <= width; c += lanes) step(c, std::true_type{});
  for (; c < width; c += lanes) step(c, std::false_type{});
  if (Make::loss)
    for (int i = 0; i < pairs; ++i) {
      totals.squares.add(line[i]);
      if (!Make::slope) totals.plain.add(plain[i]);
    }
}

// Below the last boxes: two rows of the gradient, no new row of D.
template <class T>
VEILKERN_INLINE void last_rows_3x3(const Walk3x3<T>& walk) {
  const Plane<T>& plane = walk.plane;
  constexpr int lanes = Pack<T>::lanes;
  for (std::int64_t r = plane.height - 2; r < plane.height; ++r) {
    Pack<T> left{T(0)};
    for (std::int64_t c = 0; c < plane.width; c += lanes) {
      const Pack<T> three = r == plane.height - 2 ? load(walk.last + c) + load(walk.before + c) : load(walk.last + c);
      store(plane.gradient + r * plane.gradient_stride + c, walk.k * reach_back(left, three), plane.width - c);
      left = three;
    }
  }
}

template <class T, class Make>
Totals walk_3x3(const Walk3x3<T>& walk) {
  const std::int64_t rows = walk.plane.height - 2;
  constexpr int at_once = VEILKERN_REGISTER == 64 ? 4 : 2;  // as the registers suffice for
  Totals totals;
  std::int64_t r = 0;
  for (; r + at_once <= rows; r += at_once) rows_3x3<T, at_once, Make>(walk, r, totals);
  for (; r + 2 <= rows; r += 2) rows_3x3<T, 2, Make>(walk, r, totals);
  if (r < rows) rows_3x3<T, 1, Make>(walk, r, totals);
  if (Make::slope) last_rows_3x3(walk);
  if (Make::past) fence_past();
  return totals;
}

// The loss alone, in one pass: D from a mean of some of the boxes, put right at the end. Every 16th row of boxes is
// looked at, so that mean is off by at most four standard deviations, whatever the photo: the squares lose four bits.
template <class T>
double loss_3x3(const Plane<T>& plane, const Boxes& boxes) {
  constexpr std::int64_t step = 16;
  const std::int64_t rows = plane.height - 2, columns = plane.width - 2, looked_at = (rows + step - 1) / step;
  const Sum3x3<T> sums(plane);
  Total sample;
  for (std::int64_t r = 0; r < rows; r += step)
    for (std::int64_t i = r; i < r + 3; ++i) sample.add(sums.template lines<1>(i));
  Walk3x3<T> walk{plane, nullptr, nullptr};
  walk.third = Pack<T>(static_cast<T>(sample.value() / static_cast<double>(3 * columns * looked_at)));
  const Totals totals = walk_3x3<T, Makes<true, false, false, false>>(walk);
  const Weights weights(boxes);
  const double number = static_cast<double>(rows * columns), off = totals.plain.value() / number;
  const double mean = 3 * static_cast<double>(walk.third.part[0][0]) + off;
  const double variance = totals.squares.value() / number - off * off;
  return weights.variance * (variance < 0 ? 0 : variance) + weights.brightness * mean * mean;
}

template <class T, bool loss, bool literal>
VEILKERN_INLINE auto written(bool past) {
  return past ? walk_3x3<T, Makes<loss, literal, true, true>> : walk_3x3<T, Makes<loss, literal, true, false>>;
}

// The gradient and, where it is wanted, the loss: the mean has to be known before.
template <class T>
double gradient_3x3(const Plane<T>& plane, const Boxes& boxes, T* scratch) {
  const std::int64_t padded = (plane.width + Pack<T>::lanes - 1) / Pack<T>::lanes * Pack<T>::lanes;
  const double number = static_cast<double>((plane.height - 2) * (plane.width - 2));
  const Weights weights(boxes);
  const double mean = Sum3x3<T>(plane).value() / number, extra = weights.brightness * mean / weights.variance;
  Walk3x3<T> walk{plane, scratch, scratch + padded};
  walk.third = Pack<T>(static_cast<T>(mean / 3));
  walk.extra = Pack<T>(static_cast<T>(extra));
  walk.k = Pack<T>(static_cast<T>(plane.scale * 2 * weights.variance / number));
  std::memset(scratch, 0, sizeof(T) * static_cast<std::size_t>(2 * padded));
  const auto run = boxes.literal ? written<T, true, true>(plane.past)
                   : plane.loss  ? written<T, true, false>(plane.past)
                                 : written<T, false, false>(plane.past);
  return weights.variance * (run(walk).squares.value() / number) + weights.brightness * mean * mean;
}

// Any block and stride: S as a matrix in scratch, its rows by sliding sums; slower, and as exact.

template <class T>
double box_sums(const T* x, std::int64_t stride, std::int64_t width, const Boxes& boxes, std::int64_t rows,
                std::int64_t columns, T* line, T* sums) {
  double total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memset(line, 0, sizeof(T) * static_cast<std::size_t>(width));
    for (std::int64_t i = 0; i < boxes.high; ++i) {
      const T* row = x + (r * boxes.stride + i) * stride;
      for (std::int64_t c = 0; c < width; ++c) line[c] += row[c];
    }
    T* out = sums + r * columns;
    std::memset(out, 0, sizeof(T) * static_cast<std::size_t>(columns));
    for (std::int64_t j = 0; j < boxes.wide; ++j)
      for (std::int64_t c = 0; c < columns; ++c) out[c] += line[c * boxes.stride + j];
    for (std::int64_t c = 0; c < columns; ++c) total += static_cast<double>(out[c]);
  }
  return total / static_cast<double>(rows * columns);
}

template <class T>
double plane_general(const Plane<T>& plane, const Boxes& boxes, T* scratch) {
  const std::int64_t height = plane.height, width = plane.width;
  const std::int64_t rows = (height - boxes.high) / boxes.stride + 1, columns = (width - boxes.wide) / boxes.stride + 1;
  const Weights weights(boxes);
  T *line = scratch, *sums = scratch + width;
  const double mean = box_sums(plane.x, plane.stride, width, boxes, rows, columns, line, sums);
  const T middle = static_cast<T>(mean), extra = static_cast<T>(weights.brightness * mean / weights.variance);
  double squares = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const T d = sums[i] - middle;
    squares += static_cast<double>(d) * static_cast<double>(d);
    sums[i] = d + extra;
  }
  if (plane.gradient != nullptr) {
    const T k = static_cast<T>(plane.scale * 2 * weights.variance / static_cast<double>(rows * columns));
    for (std::int64_t y = 0; y < height; ++y)
      std::memset(plane.gradient + y * plane.gradient_stride, 0, sizeof(T) * static_cast<std::size_t>(width));
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memset(line, 0, sizeof(T) * static_cast<std::size_t>(width));
      for (std::int64_t j = 0; j < boxes.wide; ++j)
        for (std::int64_t c = 0; c < columns; ++c) line[c * boxes.stride + j] += sums[r * columns + c];
      for (std::int64_t i = 0; i < boxes.high; ++i) {
        T* out = plane.gradient + (r * boxes.stride + i) * plane.gradient_stride;
        for (std::int64_t c = 0; c < width; ++c) out[c] += k * line[c];
      }
    }
  }
  return weights.variance * (squares / static_cast<double>(rows * columns)) + weights.brightness * mean * mean;
}

template <class T>
double plane_variance(const Plane<T>& plane, const Boxes& boxes, T* scratch) {
  const bool special = boxes.high == 3 && boxes.wide == 3 && boxes.stride == 1;
  if (!special) return plane_general(plane, boxes, scratch);
  return plane.gradient == nullptr ? loss_3x3(plane, boxes) : gradient_3x3(plane, boxes, scratch);
}
