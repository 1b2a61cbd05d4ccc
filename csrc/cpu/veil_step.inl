// One person of veil_step_: losses, gradient, normalised momentum and the step, with all that is the person's in the
// nearest caches (a veil of 3 x 112 x 112 f32 is 150 KB; ten photos 380 KB).
//
// A photo enters L_vis by one number, r_i = ||v - x_i||, and its slope only through sum_i x_i / r_i; L_var's slope is that
// of the mean photo (box sums are linear, their variance quadratic). So the photos are read twice, as bytes, the network's
// gradients once, and the veil's own planes (gradient, momentum) stay in cache.
//
// Order of sums: over photos from the first to the last; over values in runs of kRun values, in packs from left to right,
// run after run in double, lanes last.

#include "block_variance.inl"

constexpr std::int64_t kRun = 1024;  // 4 KB of floats: some runs and their sums fit the nearest cache together

VEILKERN_INLINE double not_a_number() { return __builtin_nan(""); }

// One photo's part in a run of the mean and its squared distance from the veil (in 255ths).
template <class T>
VEILKERN_INLINE void add_photo(const T* veil, const std::uint8_t* photo, std::int64_t n, T* mean, Total& squares) {
  constexpr int lanes = Pack<T>::lanes;
  Pack<T> line(T(0));
  const Pack<T> level(T(255));
  std::int64_t c = 0;
  const auto take = [&](const Pack<T>& x, std::int64_t number) __attribute__((always_inline)) {
    const Pack<T> gap = load(veil + c, number) * level - x;
    line = line + (number < lanes ? first(gap * gap, number) : gap * gap);
    if (mean != nullptr) store(mean + c, load(mean + c, number) + x, number);
  };
  for (; c + lanes <= n; c += lanes) take(from_bytes<T>(photo + c), lanes);
  if (c < n) take(some_bytes<T>(photo + c, n - c), n - c);
  squares.add(line);
}

// to = factor * sum of `count` rows of `n` values, which lie `size` apart.
template <class T>
VEILKERN_INLINE void mean_of_rows(const T* from, std::int64_t count, std::int64_t size, std::int64_t n, T factor, T* to) {
  constexpr int lanes = Pack<T>::lanes;
  for (std::int64_t c = 0; c < n; c += lanes) {
    const std::int64_t number = least(lanes, n - c);
    Pack<T> total(T(0));
    for (std::int64_t i = 0; i < count; ++i) total = total + load(from + i * size + c, number);
    store(to + c, total * Pack<T>(factor), number);
  }
}

// to = sum_i share[i] * photo_i over a run, as numbers in 0..1.
template <class T>
VEILKERN_INLINE void weighted_photos(const std::uint8_t* photos, const double* share, std::int64_t count,
                                     std::int64_t size, std::int64_t n, T* to) {
  constexpr int lanes = Pack<T>::lanes;
  std::int64_t c = 0;
  for (; c + lanes <= n; c += lanes) {
    Pack<T> total(T(0));
    for (std::int64_t i = 0; i < count; ++i)
      total = total + from_bytes<T>(photos + i * size + c) * Pack<T>(static_cast<T>(share[i] / 255));
    store(to + c, total);
  }
  if (c == n) return;
  Pack<T> total(T(0));
  for (std::int64_t i = 0; i < count; ++i)
    total = total + some_bytes<T>(photos + i * size + c, n - c) * Pack<T>(static_cast<T>(share[i] / 255));
  store(to + c, total, n - c);
}

// What lies in scratch: three photos of numbers, what a run and block_variance need, and a share a photo.
template <class T>
struct Person {
  T *slope, *mean, *variance, *line, *blocks;
  double* share;
};

template <class T>
std::int64_t person_values(std::int64_t size, std::int64_t plane, std::int64_t width, std::int64_t most_photos) {
  const std::int64_t photos = most_photos * static_cast<std::int64_t>(sizeof(double) / sizeof(T));
  return 3 * (size + 64) + kRun + photos + 64 + width + plane + 2 * 64;
}

template <class T>
Person<T> place_person(std::int64_t size, std::int64_t most_photos, T* memory) {
  const std::int64_t rounded = (size + 15) / 16 * 16;
  Person<T> person;
  person.share = reinterpret_cast<double*>(memory);
  memory += (most_photos * static_cast<std::int64_t>(sizeof(double) / sizeof(T)) + 15) / 16 * 16;
  person.slope = memory;
  person.mean = memory + rounded;
  person.variance = memory + 2 * rounded;
  person.line = memory + 3 * rounded;
  person.blocks = memory + 3 * rounded + kRun;
  return person;
}

// L_vis; leaves in `share` each photo's 1 / (n r_i), and the mean photo in person.mean unless it is given.
template <class T>
double visual(const VeilStep<T>& all, const Person<T>& person, const T* veil, const std::uint8_t* photos,
              std::int64_t count, bool make_mean) {
  const std::int64_t size = all.channels * all.height * all.width;
  const double number = static_cast<double>(count);
  if (make_mean) std::memset(person.mean, 0, sizeof(T) * static_cast<std::size_t>(size));
  double total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    Total squares;
    for (std::int64_t c = 0; c < size; c += kRun)
      add_photo(veil + c, photos + i * size + c, least(kRun, size - c), make_mean ? person.mean + c : nullptr, squares);
    const double square = squares.value() / (255.0 * 255.0), distance = __builtin_sqrt(square);
    person.share[i] = distance > 0 ? 1 / (distance * number) : 0;
    total += all.norm ? distance : square / static_cast<double>(size);
  }
  if (make_mean) {
    const Pack<T> scale(static_cast<T>(1 / (255 * number)));
    std::int64_t c = 0;
    for (; c < size; c += Pack<T>::lanes)
      store(person.mean + c, load(person.mean + c, size - c) * scale, size - c);
  }
  const double weight = 1 - all.alpha;
  return (all.norm ? weight : weight * weight) * total / number;
}

// L_var of the mean protected photo; its gradient with respect to that photo goes to person.variance.
template <class T>
double variance(const VeilStep<T>& all, const Person<T>& person, const T* veil, const T* mean) {
  const std::int64_t plane = all.height * all.width;
  const Pack<T> alpha(static_cast<T>(all.alpha)), rest(static_cast<T>(1 - all.alpha));
  double total = 0;
  for (std::int64_t channel = 0; channel < all.channels; ++channel) {
    const std::int64_t at = channel * plane;
    T* const mixed = person.slope + at;  // not in use yet
    for (std::int64_t c = 0; c < plane; c += Pack<T>::lanes)
      store(mixed + c, alpha * load(mean + at + c, plane - c) + rest * load(veil + at + c, plane - c), plane - c);
    const Plane<T> one{mixed, all.width, all.height, all.width, person.variance + at, all.width, 0, 1.0, true, false};
    total += plane_variance(one, all.boxes, person.blocks);
  }
  return total;
}

// g = (1 - alpha) mean gradient - lam dL_vis/dv + mu dL_var/dv into person.slope; returns mean|g|.
template <class T>
double total_slope(const VeilStep<T>& all, const Person<T>& person, std::int64_t p, const T* veil, const T* mean) {
  constexpr int lanes = Pack<T>::lanes;
  const std::int64_t size = all.channels * all.height * all.width, count = all.offsets[p + 1] - all.offsets[p];
  const std::int64_t rows = all.gradient_offsets[p + 1] - all.gradient_offsets[p];
  const double weight = 1 - all.alpha;
  double shares = 0;
  for (std::int64_t i = 0; i < count; ++i) shares += person.share[i];
  // norm: dL_vis/dv = weight (v sum_i s_i - sum_i s_i x_i); mse: weight^2 * 2 / size * (v - mean).
  const double visual_weight = -all.lam[p] * (all.norm ? weight : weight * weight * 2 / static_cast<double>(size));
  const Pack<T> of_veil(static_cast<T>(all.norm ? visual_weight * shares : visual_weight));
  const Pack<T> of_photos(static_cast<T>(-visual_weight)), of_variance(static_cast<T>(all.mu[p] * weight));
  Total absolute;
  for (std::int64_t begin = 0; begin < size; begin += kRun) {
    const std::int64_t n = least(kRun, size - begin);
    mean_of_rows(all.gradients + all.gradient_offsets[p] * size + begin, rows, size, n,
                 static_cast<T>(weight / static_cast<double>(rows)), person.slope + begin);
    if (all.norm) weighted_photos(all.images + all.offsets[p] * size + begin, person.share, count, size, n, person.line);
    const T* photos = all.norm ? person.line : mean + begin;
    Pack<T> line(T(0));
    for (std::int64_t c = 0; c < n; c += lanes) {
      const std::int64_t number = least(lanes, n - c);
      const Pack<T> g = load(person.slope + begin + c, number) + of_veil * load(veil + begin + c, number)
                        + of_photos * load(photos + c, number) + of_variance * load(person.variance + begin + c, number);
      const Pack<T> kept = number < lanes ? first(g, number) : g;
      line = line + larger(kept, Pack<T>(T(0)) - kept);
      store(person.slope + begin + c, g, number);
    }
    absolute.add(line);
  }
  return absolute.value() / static_cast<double>(size);
}

// m = decay m + g / mean|g|; v = clamp(v - step sign(m), 0, 1).
template <class T>
void move(const VeilStep<T>& all, std::int64_t p, const T* slope, double size_of_g, T* veil, T* momentum) {
  const std::int64_t size = all.channels * all.height * all.width;
  const Pack<T> scale(static_cast<T>(size_of_g > 0 ? 1 / size_of_g : 0)), decay(static_cast<T>(all.decay[p]));
  const Pack<T> up(static_cast<T>(all.step[p])), zero(T(0)), one(T(1)), down = zero - up;
  for (std::int64_t c = 0; c < size; c += Pack<T>::lanes) {
    const std::int64_t n = size - c;
    const Pack<T> m = decay * load(momentum + c, n) + load(slope + c, n) * scale;
    store(momentum + c, m, n);
    const Pack<T> change = select<T>(m > zero, down, select<T>(zero > m, up, zero));
    store(veil + c, smaller(larger(load(veil + c, n) + change, zero), one), n);
  }
}

template <class T>
void person_step(const VeilStep<T>& all, std::int64_t p, T* statistics, std::int64_t most_photos, T* memory) {
  const std::int64_t size = all.channels * all.height * all.width, count = all.offsets[p + 1] - all.offsets[p];
  const std::int64_t rows = all.gradient_offsets[p + 1] - all.gradient_offsets[p];
  T *const veil = all.veils + p * size, *const momentum = all.momentum + p * size;
  if (all.active != nullptr && !all.active[p]) {
    statistics[0] = statistics[1] = statistics[2] = T(0);
    return;
  }
  if (count == 0 || rows == 0) {
    statistics[0] = statistics[1] = statistics[2] = static_cast<T>(not_a_number());
    return;
  }
  const Person<T> person = place_person<T>(size, most_photos, memory);
  const bool make_mean = all.mean_images == nullptr;
  const T* mean = make_mean ? person.mean : all.mean_images + p * size;
  statistics[1] = static_cast<T>(visual(all, person, veil, all.images + all.offsets[p] * size, count, make_mean));
  statistics[2] = static_cast<T>(variance(all, person, veil, mean));
  const double size_of_g = total_slope(all, person, p, veil, mean);
  const bool finite = size_of_g - size_of_g == 0;
  statistics[0] = static_cast<T>(finite ? size_of_g : not_a_number());
  if (finite) move(all, p, person.slope, size_of_g, veil, momentum);
}
