// One plane of block_variance: mean, variance of the box sums S and, where asked for, the gradient.
//
// With the mean m of S known, D = S - m, the variance is mean(D^2) and the gradient k * (sum of D + e over the boxes that
// hold the pixel), k = 2 (1 + 1 / (hw)^2) / n. The literal form adds ((hw - 1) / (hw))^2 m^2 to the loss, whose slope,
// the same for every box, is the e.
//
// Order of sums: a row in packs from left to right, rows in double from top to bottom, lanes last (Total).

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

// Mean of S from the rows' sums: each pixel counts as often as boxes hold it, 1 2 3 .. 3 2 1 along either side.
template <class T>
double mean_3x3(const T* x, std::int64_t stride, std::int64_t height, std::int64_t width) {
  constexpr int lanes = Pack<T>::lanes;
  Total inner;
  double edges = 0;
  for (std::int64_t r = 0; r < height; ++r) {
    const T* row = x + r * stride;
    Pack<T> line{T(0)};
    for (std::int64_t c = 0; c < width; c += lanes) line = line + load(row + c, width - c);
    const double often = static_cast<double>(least(r, height - 3) - most(0, r - 2) + 1);
    inner.add(line * Pack<T>(static_cast<T>(often)));
    edges += often * (width > 3 ? 2.0 * row[0] + row[1] + row[width - 2] + 2.0 * row[width - 1]
                                : 2.0 * row[0] + 2.0 * row[1] + 2.0 * row[2]);
  }
  return (3 * inner.value() - edges) / static_cast<double>((height - 2) * (width - 2));
}

// What the walk over the rows of one plane carries.
template <class T>
struct Walk3x3 {
  const T* x;
  std::int64_t stride, columns, width;
  T *gradient, *before, *last;  // gradient may be null; rows r - 2 and r - 1 of D + e
  std::int64_t gradient_stride;
  Pack<T> middle, extra, k;
};

// Sums over x - 2 .. x of `here`, whose left neighbour is `left`.
template <class T>
VEILKERN_INLINE Pack<T> reach_back(const Pack<T>& left, const Pack<T>& here) {
  return here + slide<Pack<T>::lanes - 1>(left, here) + slide<Pack<T>::lanes - 2>(left, here);
}

// Rows r .. r + rows - 1 of S, two at a time where there are two: neighbours share a third of the additions.
template <class T, int rows, bool literal, bool slope>
VEILKERN_INLINE void rows_3x3(const Walk3x3<T>& walk, std::int64_t r, Total& squares) {
  constexpr int lanes = Pack<T>::lanes;
  const T* const top = walk.x + r * walk.stride;
  T* const out = slope ? walk.gradient + r * walk.gradient_stride : nullptr;
  Pack<T> here[2], right[2], left[2] = {T(0), T(0)}, line[2] = {T(0), T(0)};
  const auto column_sums = [&](std::int64_t c, auto inside, Pack<T>* sums) __attribute__((always_inline)) {
    const auto x = [&](int row) __attribute__((always_inline)) {
      const T* from = top + row * walk.stride + c;
      return inside ? load(from) : load(from, walk.width - c);
    };
    const Pack<T> shared = x(1) + x(2);
    sums[0] = x(0) + shared;
    if (rows == 2) sums[1] = shared + x(3);
  };
  const auto step = [&](std::int64_t c, auto inside) __attribute__((always_inline)) {  // inside: no lane past an end
    if (inside || c + lanes < walk.width)
      column_sums(c + lanes, inside, right);
    else
      right[0] = right[1] = Pack<T>(T(0));
    Pack<T> d[2];
    for (int i = 0; i < rows; ++i) {
      d[i] = here[i] + slide<1>(here[i], right[i]) + slide<2>(here[i], right[i]) - walk.middle;
      if (!inside) d[i] = first(d[i], walk.columns - c);
      line[i] = line[i] + d[i] * d[i];
      if (literal) d[i] = inside ? d[i] + walk.extra : first(d[i] + walk.extra, walk.columns - c);
      here[i] = right[i];
    }
    if (!slope) return;
    const Pack<T> shared = load(walk.last + c) + d[0];
    Pack<T> three[2] = {load(walk.before + c) + shared, T(0)};
    if (rows == 2) three[1] = shared + d[1];
    for (int i = 0; i < rows; ++i) {
      const Pack<T> g = walk.k * reach_back(left[i], three[i]);
      T* const to = out + i * walk.gradient_stride + c;
      inside ? store(to, g) : store(to, g, walk.width - c);
      left[i] = three[i];
    }
    store(walk.before + c, d[0]);
    if (rows == 2) store(walk.last + c, d[1]);
  };
  column_sums(0, std::false_type{}, here);
  std::int64_t c = 0;
  for (; c + 2 * lanes <= walk.width; c += lanes) step(c, std::true_type{});
  for (; c < walk.width; c += lanes) step(c, std::false_type{});
  for (int i = 0; i < rows; ++i) squares.add(line[i]);
}

template <class T, bool literal, bool slope>
double squares_3x3(Walk3x3<T> walk, std::int64_t rows) {
  constexpr int lanes = Pack<T>::lanes;
  Total squares;
  std::int64_t r = 0;
  for (; r + 2 <= rows; r += 2) rows_3x3<T, 2, literal, slope>(walk, r, squares);
  if (r < rows) {
    rows_3x3<T, 1, literal, slope>(walk, r, squares);
    T* const swap = walk.before;
    walk.before = walk.last;
    walk.last = swap;
  }
  for (r = rows; slope && r < rows + 2; ++r) {  // below the last boxes: no new row of D
    Pack<T> left{T(0)};
    for (std::int64_t c = 0; c < walk.width; c += lanes) {
      const Pack<T> three = r == rows ? load(walk.last + c) + load(walk.before + c) : load(walk.last + c);
      store(walk.gradient + r * walk.gradient_stride + c, walk.k * reach_back(left, three), walk.width - c);
      left = three;
    }
  }
  return squares.value();
}

template <class T>
double plane_3x3(const T* x, std::int64_t stride, std::int64_t height, std::int64_t width, const Boxes& boxes,
                 T* gradient, std::int64_t gradient_stride, double scale, T* scratch) {
  const std::int64_t rows = height - 2, columns = width - 2;
  const std::int64_t padded = (width + Pack<T>::lanes - 1) / Pack<T>::lanes * Pack<T>::lanes;
  const Weights weights(boxes);
  const double mean = mean_3x3(x, stride, height, width), number = static_cast<double>(rows * columns);
  Walk3x3<T> walk{x, stride, columns, width, gradient, scratch, scratch + padded, gradient_stride,
                  static_cast<T>(mean), static_cast<T>(weights.brightness * mean / weights.variance),
                  static_cast<T>(scale * 2 * weights.variance / number)};
  std::memset(scratch, 0, sizeof(T) * static_cast<std::size_t>(2 * padded));
  const auto squares = gradient == nullptr ? squares_3x3<T, false, false>
                       : boxes.literal     ? squares_3x3<T, true, true>
                                           : squares_3x3<T, false, true>;
  return weights.variance * (squares(walk, rows) / number) + weights.brightness * mean * mean;
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
double plane_general(const T* x, std::int64_t stride, std::int64_t height, std::int64_t width, const Boxes& boxes,
                     T* gradient, std::int64_t gradient_stride, double scale, T* scratch) {
  const std::int64_t rows = (height - boxes.high) / boxes.stride + 1, columns = (width - boxes.wide) / boxes.stride + 1;
  const Weights weights(boxes);
  T *line = scratch, *sums = scratch + width;
  const double mean = box_sums(x, stride, width, boxes, rows, columns, line, sums);
  const T middle = static_cast<T>(mean), extra = static_cast<T>(weights.brightness * mean / weights.variance);
  double squares = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const T d = sums[i] - middle;
    squares += static_cast<double>(d) * static_cast<double>(d);
    sums[i] = d + extra;
  }
  if (gradient != nullptr) {
    const T k = static_cast<T>(scale * 2 * weights.variance / static_cast<double>(rows * columns));
    for (std::int64_t y = 0; y < height; ++y)
      std::memset(gradient + y * gradient_stride, 0, sizeof(T) * static_cast<std::size_t>(width));
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memset(line, 0, sizeof(T) * static_cast<std::size_t>(width));
      for (std::int64_t j = 0; j < boxes.wide; ++j)
        for (std::int64_t c = 0; c < columns; ++c) line[c * boxes.stride + j] += sums[r * columns + c];
      for (std::int64_t i = 0; i < boxes.high; ++i) {
        T* out = gradient + (r * boxes.stride + i) * gradient_stride;
        for (std::int64_t c = 0; c < width; ++c) out[c] += k * line[c];
      }
    }
  }
  return weights.variance * (squares / static_cast<double>(rows * columns)) + weights.brightness * mean * mean;
}

template <class T>
double plane_variance(const T* x, std::int64_t stride, std::int64_t height, std::int64_t width, const Boxes& boxes,
                      T* gradient, std::int64_t gradient_stride, double scale, T* scratch) {
  const bool special = boxes.high == 3 && boxes.wide == 3 && boxes.stride == 1;
  return (special ? plane_3x3<T> : plane_general<T>)(x, stride, height, width, boxes, gradient, gradient_stride, scale,
                                                     scratch);
}
