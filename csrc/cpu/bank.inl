// Bytes of three channels from planes to side by side and back, 16 pixels at a time. As 3 has an inverse modulo 16, place
// p of channel c comes to its own lane (3 p + c) mod 16 of one of the three results: one shuffle a channel puts all where
// they belong, and lanes are then only chosen. (SSE2 has no shuffle of bytes: one by one there.)

#if defined(VEILKERN_X86) && VEILKERN_REGISTER == 16
constexpr std::int64_t kBytes = 0;
#else
constexpr std::int64_t kBytes = 16;
#endif
typedef std::uint8_t Bytes __attribute__((vector_size(16)));

VEILKERN_INLINE Bytes load_bytes(const std::uint8_t* from) {
  Bytes a;
  std::memcpy(&a, from, 16);
  return a;
}

// Of channels already in their lanes, those of lanes where (lane + first) mod 3 is 0, 1, 2.
template <int first, std::size_t... lane>
VEILKERN_INLINE Bytes choose(const Bytes& a, const Bytes& b, const Bytes& c, std::index_sequence<lane...>) {
  const Bytes two = __builtin_shufflevector(a, b, ((static_cast<int>(lane) + first) % 3 == 1 ? 16 + lane : lane)...);
  return __builtin_shufflevector(two, c, ((static_cast<int>(lane) + first) % 3 == 2 ? 16 + lane : lane)...);
}

// Lane (3 p + c) mod 16 gets place p; 11 is the inverse of 3.
template <int c, std::size_t... lane>
VEILKERN_INLINE Bytes spread(const Bytes& a, std::index_sequence<lane...>) {
  return __builtin_shufflevector(a, a, ((static_cast<int>(lane) - c + 16) * 11 % 16)...);
}

template <std::size_t... place>
VEILKERN_INLINE Bytes gather_third(const Bytes& a, std::index_sequence<place...>) {
  return __builtin_shufflevector(a, a, (3 * static_cast<int>(place) % 16)...);
}

void side_by_side(const std::uint8_t* const* planes, std::int64_t n, std::uint8_t* to) {
  constexpr auto lanes = std::make_index_sequence<16>();
  const std::uint8_t *a = planes[0], *b = planes[1], *c = planes[2];
  std::int64_t i = 0;
  for (; kBytes > 0 && i + kBytes <= n; i += kBytes) {
    const Bytes x = spread<0>(load_bytes(a + i), lanes), y = spread<1>(load_bytes(b + i), lanes),
                z = spread<2>(load_bytes(c + i), lanes);
    const Bytes out[3] = {choose<0>(x, y, z, lanes), choose<1>(x, y, z, lanes), choose<2>(x, y, z, lanes)};
    for (int k = 0; k < 3; ++k) std::memcpy(to + 3 * i + 16 * k, &out[k], 16);
  }
  for (; i < n; ++i) {
    to[3 * i] = a[i];
    to[3 * i + 1] = b[i];
    to[3 * i + 2] = c[i];
  }
}

// from[0], from[3], ..: lane l of register k holds byte 16 k + l, so those wanted lie where (l + k) mod 3 is 0.
void every_third(const std::uint8_t* from, std::int64_t n, std::uint8_t* to) {
  constexpr auto lanes = std::make_index_sequence<16>();
  std::int64_t i = 0;
  for (; kBytes > 0 && i + kBytes < n; i += kBytes) {  // < n: two bytes beyond the last one wanted are loaded
    const std::uint8_t* const at = from + 3 * i;
    const Bytes found = choose<0>(load_bytes(at), load_bytes(at + 32), load_bytes(at + 16), lanes);
    const Bytes ordered = gather_third(found, lanes);
    std::memcpy(to + i, &ordered, 16);
  }
  for (; i < n; ++i) to[i] = from[3 * i];
}
