// One plane of ssim. Four maps go through the window at once: x, y, x^2 + y^2 and x y (the two variances only appear as
// their sum), each first along the rows, then down the columns over the last `size` rows, so that nothing but those rows
// is kept. The gradient takes the four slopes of the score back through the same window.
//
// Everything is measured from the middle of the range: variances do not change, and less is lost to rounding.
// Order of sums: the middle tap first, then pairs of taps from the middle outwards; scores of a row in packs from left to
// right, rows in double from top to bottom, lanes last (Total).

constexpr int kMaps = 4;

// Row buffers of one plane on its way through the window.
template <class T>
struct Filter {
  const T* taps;                             // the middle tap, then outwards: size / 2 + 1 of them
  std::int64_t size, lines, width, columns;  // lengths of a row going in and of one coming out, and values of that
  T *line, *ring;                            // kMaps rows in, kMaps x size filtered rows
  const T** pointers;                        // to the filtered rows in order

  VEILKERN_INLINE T* in(int map) const { return line + map * lines; }
  VEILKERN_INLINE T* filtered(int map, std::int64_t row) const { return ring + (map * size + row % size) * width; }
};

template <class T>
std::int64_t padded(std::int64_t values) {
  return (values + Pack<T>::lanes - 1) / Pack<T>::lanes * Pack<T>::lanes;
}

template <class T>
std::int64_t filter_values(std::int64_t size, std::int64_t in, std::int64_t out) {
  const auto pointers = static_cast<std::int64_t>(kMaps * sizeof(const T*) / sizeof(T)) * size;
  return padded<T>(pointers) + kMaps * (padded<T>(in) + 2 * Pack<T>::lanes + size * padded<T>(out));
}

template <class T>
Filter<T> make_filter(const T* taps, std::int64_t size, std::int64_t in, std::int64_t out, T* memory) {
  const std::int64_t lines = padded<T>(in) + 2 * Pack<T>::lanes;
  const auto pointers = static_cast<std::int64_t>(kMaps * sizeof(const T*) / sizeof(T)) * size;
  T* const line = memory + padded<T>(pointers);
  return {taps, size, lines, padded<T>(out), out, line, line + kMaps * lines, reinterpret_cast<const T**>(memory)};
}

// The row in line along itself, kept as row `row`.
template <class T>
VEILKERN_INLINE void along(const Filter<T>& f, std::int64_t row) {
  const std::int64_t half = f.size / 2;
  for (int map = 0; map < kMaps; ++map) {
    const T* from = f.in(map) + half;
    T* to = f.filtered(map, row);
    for (std::int64_t c = 0; c < f.width; c += Pack<T>::lanes) {
      Pack<T> total = load(from + c) * Pack<T>(f.taps[0]);
      for (std::int64_t t = 1; t <= half; ++t)
        total = total + (load(from + c - t) + load(from + c + t)) * Pack<T>(f.taps[t]);
      store(to + c, total);
    }
  }
}

// Rows last - size + 1 .. last down the columns, at column c of one map.
template <class T>
VEILKERN_INLINE Pack<T> down(const Filter<T>& f, const T* const* rows, std::int64_t c) {
  const std::int64_t half = f.size / 2;
  Pack<T> total = load(rows[half] + c) * Pack<T>(f.taps[0]);
  for (std::int64_t t = 1; t <= half; ++t)
    total = total + (load(rows[half - t] + c) + load(rows[half + t] + c)) * Pack<T>(f.taps[t]);
  return total;
}

// Sends a plane through the window, `pad` values of `border` around it: row(r, put) calls put(c, four packs, n) for its
// columns, take(r, c, four packs) gets what comes out.
template <class T, class Row, class Take>
VEILKERN_INLINE void through(const Filter<T>& f, std::int64_t height, std::int64_t width, std::int64_t pad,
                             const Pack<T>* border, const Row& row, const Take& take) {
  constexpr int lanes = Pack<T>::lanes;
  const auto all_border = [&](std::int64_t from, std::int64_t to) __attribute__((always_inline)) {
    for (int map = 0; map < kMaps; ++map)
      for (std::int64_t c = from; c < to; c += lanes) store(f.in(map) + c, border[map]);
  };
  const auto put = [&](std::int64_t c, const Pack<T>* values, std::int64_t n) __attribute__((always_inline)) {
    for (int map = 0; map < kMaps; ++map) store(f.in(map) + pad + c, values[map], n);
  };
  all_border(0, f.lines);
  for (std::int64_t r = 0; r < height + 2 * pad; ++r) {
    if (r < pad || r >= height + pad) all_border(pad, pad + width);
    else row(r - pad, put);
    along(f, r);
    const std::int64_t out = r - f.size + 1;
    if (out < 0) continue;
    for (int map = 0; map < kMaps; ++map)
      for (std::int64_t t = 0; t < f.size; ++t) f.pointers[map * f.size + t] = f.filtered(map, out + t);
    for (std::int64_t c = 0; c < f.columns; c += lanes) {
      Pack<T> values[kMaps];
      for (int map = 0; map < kMaps; ++map) values[map] = down(f, f.pointers + map * f.size, c);
      take(out, c, values);
    }
  }
}

// The score of one place and its slopes with respect to the four filtered maps.
template <class T>
struct Place {
  Pack<T> score, slope[kMaps];
  VEILKERN_INLINE Place(const Pair<T>& pair, const Pack<T>* filtered, bool slopes) {
    const Pack<T> &x = filtered[0], &y = filtered[1], &squares = filtered[2], &product = filtered[3];
    const Pack<T> two(T(2)), mean_x = x + pair.middle, mean_y = y + pair.middle;
    const Pack<T> light = two * mean_x * mean_y + pair.c1, light_sum = mean_x * mean_x + mean_y * mean_y + pair.c1;
    const Pack<T> shape = two * (product - x * y) + pair.c2, shape_sum = squares - x * x - y * y + pair.c2;
    const Pack<T> below = Pack<T>(T(1)) / (light_sum * shape_sum);
    score = light * shape * below;
    if (!slopes) return;
    // Slopes at constant filtered squares and product, so the variance and covariance change with x and y too.
    const Pack<T> by_shape = two * light * below, by_sum = score * light_sum * below, by_light = two * shape * below;
    const Pack<T> by_light_sum = two * score * shape_sum * below;
    slope[0] = by_light * mean_y - by_light_sum * mean_x - by_shape * y + two * by_sum * x;
    slope[1] = by_light * mean_x - by_light_sum * mean_y - by_shape * x + two * by_sum * y;
    slope[2] = Pack<T>(T(0)) - by_sum;
    slope[3] = by_shape;
  }
};

// Adds the scores of the plane; keeps their slopes, kMaps x rows x width, where `slopes` is not null.
template <class T>
double plane_scores(const Filter<T>& f, const Pair<T>& pair, std::int64_t pad, T* slopes) {
  constexpr int lanes = Pack<T>::lanes;
  const Pack<T> middle(pair.middle), zero = Pack<T>(T(0)) - middle;
  const Pack<T> border[kMaps] = {zero, zero, zero * zero + zero * zero, zero * zero};
  const std::int64_t rows = pair.height + 2 * pad - f.size + 1;
  Total total;
  Pack<T> line(T(0));
  through(
      f, pair.height, pair.width, pad, border,
      [&](std::int64_t r, const auto& put) __attribute__((always_inline)) {
        const T *from_x = pair.x + r * pair.x_stride, *from_y = pair.y + r * pair.y_stride;
        for (std::int64_t c = 0; c < pair.width; c += lanes) {
          const std::int64_t n = pair.width - c;
          const Pack<T> x = load(from_x + c, n) - middle, y = load(from_y + c, n) - middle;
          const Pack<T> values[kMaps] = {x, y, x * x + y * y, x * y};
          put(c, values, n);
        }
      },
      [&](std::int64_t r, std::int64_t c, const Pack<T>* filtered) __attribute__((always_inline)) {
        const Place<T> place(pair, filtered, slopes != nullptr);
        line = line + first(place.score, f.columns - c);
        if (slopes != nullptr)
          for (int map = 0; map < kMaps; ++map) store(slopes + (map * rows + r) * f.width + c, place.slope[map]);
        if (c + lanes < f.columns) return;
        total.add(line);
        line = Pack<T>(T(0));
      });
  return total.value();
}

// The slopes back through the window: dscore / dx = B(s0) + B(s3) y + 2 B(s2) x, and the same for y; times `weight`.
template <class T>
void plane_gradients(const Filter<T>& f, const Pair<T>& pair, std::int64_t pad, const T* slopes, std::int64_t rows,
                     std::int64_t columns, T weight, T* gradient_x, std::int64_t x_stride, T* gradient_y,
                     std::int64_t y_stride) {
  constexpr int lanes = Pack<T>::lanes;
  const std::int64_t width = padded<T>(columns);
  const Pack<T> middle(pair.middle), two(T(2)), scale(weight), border[kMaps] = {T(0), T(0), T(0), T(0)};
  through(
      f, rows, columns, pad, border,
      [&](std::int64_t r, const auto& put) __attribute__((always_inline)) {
        for (std::int64_t c = 0; c < columns; c += lanes) {
          Pack<T> values[kMaps];
          for (int map = 0; map < kMaps; ++map) values[map] = load(slopes + (map * rows + r) * width + c);
          put(c, values, columns - c);
        }
      },
      [&](std::int64_t r, std::int64_t c, const Pack<T>* back) __attribute__((always_inline)) {
        const std::int64_t n = pair.width - c;
        const Pack<T> x = load(pair.x + r * pair.x_stride + c, n) - middle;
        const Pack<T> y = load(pair.y + r * pair.y_stride + c, n) - middle;
        if (gradient_x != nullptr)
          store(gradient_x + r * x_stride + c, scale * (back[0] + back[3] * y + two * back[2] * x), n);
        if (gradient_y != nullptr)
          store(gradient_y + r * y_stride + c, scale * (back[1] + back[3] * x + two * back[2] * y), n);
      });
}

// Values of scratch that plane_ssim wants.
template <class T>
std::int64_t plane_values(std::int64_t size, bool same, std::int64_t height, std::int64_t width, bool gradient) {
  const std::int64_t edge = same ? 0 : size - 1;
  const std::int64_t rows = height - edge, columns = width - edge;
  return padded<T>(size) + filter_values<T>(size, width + size, width) + (gradient ? kMaps * rows * padded<T>(columns) : 0);
}

// Returns the sum of the scores of one plane; writes gradients of that sum, times `weight`, where they are not null.
template <class T>
double plane_ssim(const Pair<T>& pair, const double* taps, std::int64_t size, bool same, T weight, T* gradient_x,
                  std::int64_t x_stride, T* gradient_y, std::int64_t y_stride, T* scratch) {
  const std::int64_t pad = same ? size / 2 : 0, edge = same ? 0 : size - 1;
  const std::int64_t rows = pair.height - edge, columns = pair.width - edge;
  T *outwards = scratch, *memory = scratch + padded<T>(size);
  for (std::int64_t t = 0; t <= size / 2; ++t) outwards[t] = static_cast<T>(taps[size / 2 + t]);
  const bool gradient = gradient_x != nullptr || gradient_y != nullptr;
  T* const slopes = gradient ? memory + filter_values<T>(size, pair.width + size, pair.width) : nullptr;
  const auto forward = make_filter<T>(outwards, size, pair.width + 2 * pad, columns, memory);
  const double total = plane_scores(forward, pair, pad, slopes);
  if (gradient) {
    const auto back = make_filter<T>(outwards, size, pair.width + size - 1, pair.width, memory);
    plane_gradients(back, pair, size - 1 - pad, slopes, rows, columns, weight, gradient_x, x_stride, gradient_y, y_stride);
  }
  return total;
}
