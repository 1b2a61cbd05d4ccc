// One plane of ssim. Four maps go through the window at once: x, y, x^2 + y^2 and x y (the two variances only appear as
// their sum), each first along the rows, then down the columns over the last `size` rows, so that nothing but those rows
// is kept. The gradient takes the slopes of the score back through the same window, in the same pass: a row of slopes
// goes on as soon as it is there. Three slopes for the gradient with respect to one of the two, four for both.
//
// Everything is measured from the middle of the range: variances do not change, and less is lost to rounding.
// Order of sums: the middle tap first, then pairs of taps from the middle outwards; scores of a row in packs from left to
// right, rows in double from top to bottom, lanes last (Total).

constexpr int kMaps = 4;
constexpr int kUsualHalf = 5;       // of a window of 11 taps, whose loops are unrolled; 0 stands for any other
constexpr int kRows = 2;            // that go down the columns together, for what they share is read once
constexpr std::int64_t kAhead = 4;  // rows asked of memory before their turn; harmless where there are none

template <class T>
std::int64_t padded(std::int64_t values) {
  return (values + Pack<T>::lanes - 1) / Pack<T>::lanes * Pack<T>::lanes;
}

// How a plane lies before and behind a window.
struct Frame {
  std::int64_t size, pad, height, width;  // of the window; border on every side; of the plane that goes in
  std::int64_t rows() const { return height + 2 * pad - size + 1; }
  std::int64_t columns() const { return width + 2 * pad - size + 1; }
};

// A plane of `maps` maps on its way through the window: rows go into `line`, from there along themselves into the ring.
template <class T, int maps>
struct Filter {
  Frame frame;
  const T* taps;  // the middle tap, then outwards: size / 2 + 1 of them
  std::int64_t lines, width, kept;  // values of a row going in and of one coming out, whole packs; rows in the ring
  T *line, *ring, *border;
  const T** rows;

  static std::int64_t pointers(std::int64_t size) {
    return padded<T>((size + kRows) * static_cast<std::int64_t>(sizeof(const T*) / sizeof(T)));
  }
  static std::int64_t line_values(const Frame& f) {  // what `along` reads, in whole packs
    return padded<T>(f.columns()) + padded<T>(f.size - 1) + Pack<T>::lanes;
  }
  static std::int64_t values(const Frame& f) {
    return pointers(f.size) + kRows * maps * line_values(f) + (f.size + kRows) * maps * padded<T>(f.columns());
  }
  Filter(const Frame& f, const T* t, T* memory)
      : frame(f), taps(t), lines(line_values(f)), width(padded<T>(f.columns())), kept(f.size + kRows - 1),
        line(memory + pointers(f.size)), ring(line + kRows * maps * lines), border(ring + kept * maps * width),
        rows(reinterpret_cast<const T**>(memory)) {}

  T* in(int row, int map) const { return line + (row * maps + map) * lines; }
  T* filtered(std::int64_t row) const { return ring + row % kept * maps * width; }
  // Rows that can come out once rows 0 .. row have gone in.
  std::int64_t ready(std::int64_t row) const {
    return row + 1 == frame.height ? frame.rows() : row + frame.pad - frame.size + 2;
  }
  // Sets `rows` to the `count` filtered rows from row `from` of the plane on.
  void window(std::int64_t from, std::int64_t count) const {
    std::int64_t slot = most(from, 0) % kept;
    for (std::int64_t t = 0; t < count; ++t) {
      const bool inside = from + t >= 0 && from + t < frame.height;
      rows[t] = inside ? ring + slot * maps * width : border;
      if (inside && ++slot == kept) slot = 0;
    }
  }
};

// The pack of a row that begins `at` values behind the first of a, b, c, which follow one another.
template <int at, class T>
VEILKERN_INLINE Pack<T> values_at(const Pack<T>& a, const Pack<T>& b, const Pack<T>& c) {
  constexpr int lanes = Pack<T>::lanes;
  if constexpr (at < lanes) return slide<at>(a, b);
  else return slide<at - lanes>(b, c);
}

template <int half, class T, std::size_t... t>
VEILKERN_INLINE Pack<T> along_usual(const Pack<T>* taps, const Pack<T>& a, const Pack<T>& b, const Pack<T>& c,
                                    std::index_sequence<t...>) {
  Pack<T> total = values_at<half>(a, b, c) * taps[0];
  ((total = total + (values_at<half - 1 - int(t)>(a, b, c) + values_at<half + 1 + int(t)>(a, b, c)) * taps[t + 1]), ...);
  return total;
}

// The taps in registers, of a window whose size is known.
template <int half, class T>
struct Taps {
  Pack<T> pack[half + 1];
  VEILKERN_INLINE explicit Taps(const T* taps) {
    for (int t = 0; t <= half; ++t) pack[t] = Pack<T>(taps[t]);
  }
  VEILKERN_INLINE const Pack<T>& operator[](std::int64_t t) const { return pack[t]; }
};
template <class T>
struct Taps<0, T> {
  const T* taps;
  VEILKERN_INLINE explicit Taps(const T* t) : taps(t) {}
  VEILKERN_INLINE Pack<T> operator[](std::int64_t t) const { return Pack<T>(taps[t]); }
};

// The rows of all maps in line `row` along themselves, to a row of the ring.
template <int half, class T, int maps>
VEILKERN_INLINE void along(const Filter<T, maps>& f, int row, T* to) {
  constexpr int lanes = Pack<T>::lanes;
  const Taps<half, T> taps(f.taps);
  for (int map = 0; map < maps; ++map, to += f.width) {
    const T* from = f.in(row, map);
    if constexpr (half > 0 && VEILKERN_REGISTER == 64) {  // loads that cross lines of memory would take longer
      Pack<T> a = load(from), b = load(from + lanes);
      for (std::int64_t c = 0; c < f.width; c += lanes) {
        const Pack<T> next = load(from + c + 2 * lanes);
        store(to + c, along_usual<half>(taps.pack, a, b, next, std::make_index_sequence<half>()));
        a = b;
        b = next;
      }
    } else {
      const std::int64_t reach = half > 0 ? half : f.frame.size / 2;
      for (std::int64_t c = 0; c < f.width; c += lanes) {
        const T* middle = from + reach + c;
        Pack<T> total = load(middle) * taps[0];
        for (std::int64_t t = 1; t <= reach; ++t) total = total + (load(middle - t) + load(middle + t)) * taps[t];
        store(to + c, total);
      }
    }
  }
}

// Fills the lines with the border and filters a row of nothing else.
template <int half, class T, int maps>
VEILKERN_INLINE void begin(const Filter<T, maps>& f, const Pack<T>* border) {
  for (int row = 0; row < kRows; ++row)
    for (int map = 0; map < maps; ++map)
      for (std::int64_t c = 0; c < f.lines; c += Pack<T>::lanes) store(f.in(row, map) + c, border[map]);
  along<half>(f, 0, f.border);
}

// One or two rows of one map down the columns, at value `at` of the filtered rows. Of two, each tap's step reads only
// what the one before did not: a row above and a row below.
template <int half, int count, class T, int maps>
VEILKERN_INLINE void down(const Filter<T, maps>& f, const Taps<half, T>& taps, std::int64_t at, Pack<T>* totals) {
  const std::int64_t reach = half > 0 ? half : f.frame.size / 2;
  const T* const* middle = f.rows + reach;
  Pack<T> above = load(middle[0] + at), below = count > 1 ? load(middle[1] + at) : above;
  totals[0] = above * taps[0];
  if (count > 1) totals[1] = below * taps[0];
  for (std::int64_t t = 1; t <= reach; ++t) {
    const Pack<T> higher = load(middle[-t] + at), lower = load(middle[count - 1 + t] + at);
    totals[0] = totals[0] + (higher + (count > 1 ? below : lower)) * taps[t];
    if (count > 1) totals[1] = totals[1] + (above + lower) * taps[t];
    above = higher;
    below = lower;
  }
}

// Rows `out` .. of what comes out: take(i, c, packs of all maps) for their columns.
template <int half, int count, class T, int maps, class Take>
VEILKERN_INLINE void come_out(const Filter<T, maps>& f, std::int64_t out, const Take& take) {
  f.window(out - f.frame.pad, f.frame.size + count - 1);
  const Taps<half, T> taps(f.taps);
  for (std::int64_t c = 0; c < f.frame.columns(); c += Pack<T>::lanes) {
    Pack<T> found[maps][count];
    for (int map = 0; map < maps; ++map) down<half, count>(f, taps, map * f.width + c, found[map]);
    for (int i = 0; i < count; ++i) {
      Pack<T> values[maps];
      for (int map = 0; map < maps; ++map) values[map] = found[map][i];
      take(i, c, values);
    }
  }
}

// The score of one place and its slopes with respect to the filtered maps: of x, of y, then of squares and product. The
// score has the same bits the other way round, so that one gradient alone is always that with respect to x.
template <class T>
struct Place {
  Pack<T> score, slope[kMaps];
  VEILKERN_INLINE Place(const Pair<T>& pair, const Pack<T>* filtered, bool slopes) {
    const Pack<T> &x = filtered[0], &y = filtered[1], &squares = filtered[2], &product = filtered[3];
    const Pack<T> two(T(2)), mean_x = x + pair.middle, mean_y = y + pair.middle;
    const Pack<T> light = two * mean_x * mean_y + pair.c1, light_sum = mean_x * mean_x + mean_y * mean_y + pair.c1;
    const Pack<T> shape = two * (product - x * y) + pair.c2, shape_sum = squares - (x * x + y * y) + pair.c2;
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

enum class Wanted { neither, x, both };  // of the gradients

// What a plane's gradients are made of and where they go.
template <class T>
struct Gradients {
  T weight, *x;
  std::int64_t x_stride;
  T* y;
  std::int64_t y_stride;
};

// Rows of gradients: dscore / dx = B(slope of x) + B(of the product) y + 2 B(of the squares) x, the same for y; times
// `weight`.
template <Wanted wanted, int half, int count, class T, int maps>
VEILKERN_INLINE void write_gradients(const Filter<T, maps>& f, const Pair<T>& pair, const Gradients<T>& to,
                                     std::int64_t out) {
  const Pack<T> middle(pair.middle), two(T(2)), scale(to.weight);
  come_out<half, count>(f, out, [&](int i, std::int64_t c, const Pack<T>* back) __attribute__((always_inline)) {
    const std::int64_t n = pair.width - c, r = out + i;
    const Pack<T> x = load(pair.x + r * pair.x_stride + c, n) - middle;
    const Pack<T> y = load(pair.y + r * pair.y_stride + c, n) - middle;
    const Pack<T> &squares = back[maps - 2], &product = back[maps - 1];
    __builtin_prefetch(to.x + (r + kAhead) * to.x_stride + c, 1);
    store(to.x + r * to.x_stride + c, scale * (back[0] + product * y + two * squares * x), n);
    if constexpr (wanted == Wanted::both) {
      __builtin_prefetch(to.y + (r + kAhead) * to.y_stride + c, 1);
      store(to.y + r * to.y_stride + c, scale * (back[1] + product * x + two * squares * y), n);
    }
  });
}

// The way of the slopes: rows of them in, gradients out.
template <class T, Wanted wanted, int half>
struct Back {
  static constexpr int maps = wanted == Wanted::both ? 4 : 3;  // slopes that go back
  Filter<T, maps> filter;
  std::int64_t done = 0;

  VEILKERN_INLINE Back(const Frame& frame, const T* taps, T* memory) : filter(frame, taps, memory) {
    const Pack<T> border[maps] = {};
    begin<half>(filter, border);
  }
  VEILKERN_INLINE void put(int i, std::int64_t c, const Place<T>& place) {
    const std::int64_t n = filter.frame.width - c;
    T* const line = filter.in(i, 0) + filter.frame.pad + c;
    store(line, place.slope[0], n);
    if constexpr (wanted == Wanted::both) store(line + filter.lines, place.slope[1], n);
    for (int map = 2; map < kMaps; ++map) store(line + (maps - kMaps + map) * filter.lines, place.slope[map], n);
  }
  VEILKERN_INLINE void row(int i, std::int64_t r, const Pair<T>& pair, const Gradients<T>& to) {
    along<half>(filter, i, filter.filtered(r));
    const std::int64_t ready = filter.ready(r);
    for (; done + kRows <= ready; done += kRows) write_gradients<wanted, half, kRows>(filter, pair, to, done);
    if (r + 1 < filter.frame.height) return;
    for (; done < ready; ++done) write_gradients<wanted, half, 1>(filter, pair, to, done);
  }
};

template <class T, int half>
struct Back<T, Wanted::neither, half> {
  VEILKERN_INLINE Back(const Frame&, const T*, T*) {}
  VEILKERN_INLINE void put(int, std::int64_t, const Place<T>&) {}
  VEILKERN_INLINE void row(int, std::int64_t, const Pair<T>&, const Gradients<T>&) {}
};

// Row r of the plane into the lines.
template <class T>
VEILKERN_INLINE void put_pair(const Filter<T, kMaps>& f, const Pair<T>& pair, std::int64_t r) {
  const T *from_x = pair.x + r * pair.x_stride, *from_y = pair.y + r * pair.y_stride;
  const Pack<T> middle(pair.middle);
  T* const line = f.in(0, 0) + f.frame.pad;
  for (std::int64_t c = 0; c < pair.width; c += Pack<T>::lanes) {
    const std::int64_t n = pair.width - c;
    __builtin_prefetch(from_x + kAhead * pair.x_stride + c);
    __builtin_prefetch(from_y + kAhead * pair.y_stride + c);
    const Pack<T> x = load(from_x + c, n) - middle, y = load(from_y + c, n) - middle;
    store(line + c, x, n);
    store(line + f.lines + c, y, n);
    store(line + 2 * f.lines + c, x * x + y * y, n);
    store(line + 3 * f.lines + c, x * y, n);
  }
}

// Rows `out` .. of scores; their slopes go back.
template <Wanted wanted, int half, int count, class T>
VEILKERN_INLINE void take_scores(const Filter<T, kMaps>& f, const Pair<T>& pair, Back<T, wanted, half>& back,
                                 const Gradients<T>& to, std::int64_t out, Total& total) {
  Pack<T> line[count];
  for (int i = 0; i < count; ++i) line[i] = Pack<T>(T(0));
  come_out<half, count>(f, out, [&](int i, std::int64_t c, const Pack<T>* filtered) __attribute__((always_inline)) {
    const Place<T> place(pair, filtered, wanted != Wanted::neither);
    line[i] = line[i] + first(place.score, f.frame.columns() - c);
    back.put(i, c, place);
  });
  for (int i = 0; i < count; ++i) {
    total.add(line[i]);
    back.row(i, out + i, pair, to);
  }
}

template <Wanted wanted, int half, class T>
double pass(const Pair<T>& pair, const Frame& frame, const Frame& way_back, const T* taps, const Gradients<T>& to,
            T* memory) {
  const Filter<T, kMaps> f(frame, taps, memory);
  const Pack<T> zero = Pack<T>(T(0)) - Pack<T>(pair.middle);
  const Pack<T> border[kMaps] = {zero, zero, zero * zero + zero * zero, zero * zero};
  begin<half>(f, border);
  Back<T, wanted, half> back(way_back, taps, memory + Filter<T, kMaps>::values(frame));
  Total total;
  std::int64_t done = 0;
  for (std::int64_t r = 0; r < pair.height; ++r) {
    put_pair(f, pair, r);
    along<half>(f, 0, f.filtered(r));
    const std::int64_t ready = f.ready(r);
    for (; done + kRows <= ready; done += kRows) take_scores<wanted, half, kRows>(f, pair, back, to, done, total);
    if (r + 1 < pair.height) continue;
    for (; done < ready; ++done) take_scores<wanted, half, 1>(f, pair, back, to, done, total);
  }
  return total.value();
}

template <Wanted wanted, class T>
double pass(const Pair<T>& pair, const Frame& frame, const Frame& way_back, const T* taps, const Gradients<T>& to,
            T* memory) {
  return frame.size / 2 == kUsualHalf ? pass<wanted, kUsualHalf>(pair, frame, way_back, taps, to, memory)
                                      : pass<wanted, 0>(pair, frame, way_back, taps, to, memory);
}

inline Frame frame_of(std::int64_t size, bool same, std::int64_t height, std::int64_t width) {
  return {size, same ? size / 2 : 0, height, width};
}

inline Frame back_of(const Frame& frame) {
  return {frame.size, frame.size - 1 - frame.pad, frame.rows(), frame.columns()};
}

// Values of scratch that plane_ssim wants.
template <class T>
std::int64_t plane_values(std::int64_t size, bool same, std::int64_t height, std::int64_t width, bool gradient) {
  const Frame frame = frame_of(size, same, height, width);
  return padded<T>(size) + Filter<T, kMaps>::values(frame) + (gradient ? Filter<T, kMaps>::values(back_of(frame)) : 0);
}

// Returns the sum of the scores of one plane; writes gradients of that sum, times `weight`, where they are not null.
template <class T>
double plane_ssim(const Pair<T>& pair, const double* taps, std::int64_t size, bool same, T weight, T* gradient_x,
                  std::int64_t x_stride, T* gradient_y, std::int64_t y_stride, T* scratch) {
  T *outwards = scratch, *memory = scratch + padded<T>(size);
  for (std::int64_t t = 0; t <= size / 2; ++t) outwards[t] = static_cast<T>(taps[size / 2 + t]);
  const Frame frame = frame_of(size, same, pair.height, pair.width), back = back_of(frame);
  const Gradients<T> of_x{weight, gradient_x, x_stride, gradient_y, y_stride};
  const Gradients<T> of_y{weight, gradient_y, y_stride, nullptr, 0};
  const Pair<T> turned{pair.y,     pair.x,      pair.y_stride, pair.x_stride, pair.height,
                       pair.width, pair.middle, pair.c1,       pair.c2};
  if (gradient_x && gradient_y) return pass<Wanted::both>(pair, frame, back, outwards, of_x, memory);
  if (gradient_x) return pass<Wanted::x>(pair, frame, back, outwards, of_x, memory);
  if (gradient_y) return pass<Wanted::x>(turned, frame, back, outwards, of_y, memory);
  return pass<Wanted::neither>(pair, frame, back, outwards, of_x, memory);
}
