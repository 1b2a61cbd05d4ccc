// n pixels of one photo: blended and normalised in T, channels put side by side in registers, and where
// another kind of number is wanted rounded to it once (to nearest, ties to even), a short run at a time.
// Order: x of_image + (v of_veil + constant). The veil's share and the constant are large and of opposite signs: what their
// difference leaves is small, so the last sum costs least.

constexpr std::int64_t kPixels = 256;

VEILKERN_INLINE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

VEILKERN_INLINE std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}

VEILKERN_INLINE std::uint16_t to_f16(float value) {
  const std::uint32_t bits = bits_of(value), size = bits & 0x7FFFFFFF, sign = bits >> 16 & 0x8000;
  // Normal numbers: move the exponent and round; small ones: let the adder round at the right place.
  const std::uint32_t normal = (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13;
  float shifted;
  std::memcpy(&shifted, &size, 4);
  const std::uint32_t small = bits_of(shifted + 0.5f) - 0x3F000000;
  const std::uint32_t finite = size < 0x38800000 ? small : normal;
  const std::uint32_t large = size > 0x7F800000 ? 0x7E00 : 0x7C00;
  return static_cast<std::uint16_t>(sign | (size >= 0x47800000 || finite > 0x7C00 ? large : finite));
}

// Of three registers a, b, c side by side (a0 b0 c0 a1 b1 c1 ..) the k-th: lane j holds value k * width + j. The first
// shuffle places what comes from a and b, the second adds c.
template <int k, class V, std::size_t... j>
VEILKERN_INLINE V side_by_side(const V& a, const V& b, const V& c, std::index_sequence<j...>) {
  constexpr int width = static_cast<int>(sizeof...(j));
  constexpr auto place = [](int lane) { return (k * width + lane) / 3; };
  constexpr auto channel = [](int lane) { return (k * width + lane) % 3; };
  const V two = __builtin_shufflevector(
      a, b, (channel(static_cast<int>(j)) == 1 ? width + place(static_cast<int>(j)) : place(static_cast<int>(j)))...);
  return __builtin_shufflevector(
      two, c, (channel(static_cast<int>(j)) == 2 ? width + place(static_cast<int>(j)) : static_cast<int>(j))...);
}

template <class T>
VEILKERN_INLINE void store_side_by_side(T* to, const Pack<T>* channels) {
  constexpr int width = Pack<T>::lanes / Pack<T>::parts;
  constexpr auto lanes = std::make_index_sequence<width>();
  for (int p = 0; p < Pack<T>::parts; ++p) {
    const auto &a = channels[0].part[p], &b = channels[1].part[p], &c = channels[2].part[p];
    const typename Pack<T>::Part out[3] = {side_by_side<0>(a, b, c, lanes), side_by_side<1>(a, b, c, lanes),
                                           side_by_side<2>(a, b, c, lanes)};
    for (int k = 0; k < 3; ++k) std::memcpy(to + (3 * p + k) * width, &out[k], VEILKERN_REGISTER);
  }
}

// Pixels at .. at + n - 1, blended and normalised, channels side by side.
template <class T>
VEILKERN_INLINE void mix(ThreeChannels<std::uint8_t> image, ThreeChannels<T> veil, std::int64_t at, std::int64_t n,
                         const Channels& channels, T* mixed) {
  constexpr int lanes = Pack<T>::lanes;
  const std::uint8_t* x[3];
  const T* v[3];
  T a[3], b[3], constant[3];
  for (int c = 0; c < 3; ++c) {
    x[c] = image.data + channels.source[c] * image.step + at;
    v[c] = veil.data + channels.source[c] * veil.step + at;
    a[c] = static_cast<T>(channels.of_image[c]);
    b[c] = static_cast<T>(channels.of_veil[c]);
    constant[c] = static_cast<T>(channels.constant[c]);
  }
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    Pack<T> values[3];
    for (int c = 0; c < 3; ++c)
      values[c] = from_bytes<T>(x[c] + i) * Pack<T>(a[c]) + (load(v[c] + i) * Pack<T>(b[c]) + Pack<T>(constant[c]));
    store_side_by_side(mixed + 3 * i, values);
  }
  for (; i < n; ++i)
    for (int c = 0; c < 3; ++c) mixed[3 * i + c] = static_cast<T>(x[c][i]) * a[c] + (v[c][i] * b[c] + constant[c]);
}

template <class T, class Out, class Rounded>
VEILKERN_INLINE void round_to(const T* mixed, void* out, std::int64_t at, std::int64_t n, const Rounded& rounded) {
  Out* const to = static_cast<Out*>(out) + 3 * at;
  for (std::int64_t i = 0; i < 3 * n; ++i) to[i] = rounded(mixed[i]);
}

template <class T>
void normalize_run(ThreeChannels<std::uint8_t> image, ThreeChannels<T> veil, void* out, Number number, std::int64_t size,
                   const Channels& channels) {
  if (number == (sizeof(T) == 4 ? Number::f32 : Number::f64))
    return mix(image, veil, 0, size, channels, static_cast<T*>(out));
  T mixed[3 * kPixels];
  for (std::int64_t at = 0; at < size; at += kPixels) {
    const std::int64_t n = least(kPixels, size - at);
    mix(image, veil, at, n, channels, mixed);
    if (number == Number::f32) round_to<T, float>(mixed, out, at, n, [](T x) { return static_cast<float>(x); });
    if (number == Number::f64) round_to<T, double>(mixed, out, at, n, [](T x) { return static_cast<double>(x); });
    if (number == Number::bf16)
      round_to<T, std::uint16_t>(mixed, out, at, n, [](T x) { return to_bf16(static_cast<float>(x)); });
    if (number == Number::f16)
      round_to<T, std::uint16_t>(mixed, out, at, n, [](T x) { return to_f16(static_cast<float>(x)); });
  }
}
