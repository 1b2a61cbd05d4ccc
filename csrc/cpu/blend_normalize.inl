// Pixels begin .. end - 1 of one photo: blended and normalised in T plane by plane, a short run at a time, then put side by
// side and rounded once (to nearest, ties to even) to the wanted kind. Plain loops: the compiler makes packs of them.

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

template <class T>
void normalize_run(const std::uint8_t* image, const T* veil, void* out, Number number, std::int64_t plane,
                   std::int64_t begin, std::int64_t end, const Channels& channels) {
  T mixed[3 * kPixels];
  for (std::int64_t at = begin; at < end; at += kPixels) {
    const std::int64_t n = least(kPixels, end - at);
    for (int c = 0; c < 3; ++c) {
      const std::uint8_t* const x = image + channels.source[c] * plane + at;
      const T* const v = veil + channels.source[c] * plane + at;
      const T a = static_cast<T>(channels.of_image[c]), b = static_cast<T>(channels.of_veil[c]);
      const T constant = static_cast<T>(channels.constant[c]);
      for (std::int64_t i = 0; i < n; ++i) mixed[3 * i + c] = static_cast<T>(x[i]) * a + v[i] * b + constant;
    }
    if (number == Number::f32) {
      float* const to = static_cast<float*>(out) + 3 * at;
      for (std::int64_t i = 0; i < 3 * n; ++i) to[i] = static_cast<float>(mixed[i]);
    } else if (number == Number::f64) {
      double* const to = static_cast<double*>(out) + 3 * at;
      for (std::int64_t i = 0; i < 3 * n; ++i) to[i] = static_cast<double>(mixed[i]);
    } else if (number == Number::bf16) {
      std::uint16_t* const to = static_cast<std::uint16_t*>(out) + 3 * at;
      for (std::int64_t i = 0; i < 3 * n; ++i) to[i] = to_bf16(static_cast<float>(mixed[i]));
    } else {
      std::uint16_t* const to = static_cast<std::uint16_t*>(out) + 3 * at;
      for (std::int64_t i = 0; i < 3 * n; ++i) to[i] = to_f16(static_cast<float>(mixed[i]));
    }
  }
}
