// n values of a photo unsealed. M = 2^bits levels; a carrier keeps a bit less.
//
// All in bytes: 8 bit: x = (((x' - v) ^ k) << (8 - bits)) & -2^(8 - bits), and the middle of what is missing; 16 bit: the
// same of the high byte, and (low ^ k) >> bits.
#include "sealing.inl"

// What the high part tells, in its place; `less`: 1 for a carrier, else 0.
VEILKERN_INLINE int known_bits(int shown, int v, int k, int less, int bits) {
  return (((shown - v) ^ k) & ((1 << bits) - 1 - less)) << (8 - bits);
}

VEILKERN_INLINE std::uint8_t unseal_value(std::uint8_t hidden, std::uint8_t v, std::uint8_t k, int less, int bits) {
  return static_cast<std::uint8_t>(known_bits(hidden, v, k, less, bits) + (1 << (7 - bits + less)));
}

VEILKERN_INLINE std::uint8_t unseal_value(std::uint16_t hidden, std::uint8_t v, std::uint8_t k, int less, int bits) {
  const int rest = k >> bits << less | (k & less);
  return static_cast<std::uint8_t>(known_bits(hidden >> 8, v, k, less, bits) | (((hidden & 255) >> (bits - less)) ^ rest));
}

template <class In>
void unseal_carriers(const In* hidden, const std::uint8_t* v, const std::uint8_t* k, const std::uint8_t* less,
                     std::uint8_t* out, std::int64_t n, int bits) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = unseal_value(hidden[i], v[i], k[i], less[i], bits);
}

VEILKERN_INLINE Octets unsealed(const std::uint8_t* hidden, const std::uint8_t* v, const std::uint8_t* k, int bits) {
  const Octets known = shifted_left((load(hidden) - load(v)) ^ load(k), 8 - bits);
  return (known & static_cast<std::uint8_t>(256 - (1 << (8 - bits)))) | static_cast<std::uint8_t>(1 << (7 - bits));
}

VEILKERN_INLINE Doublets unsealed_half(const std::uint16_t* hidden, const std::uint8_t* v, const std::uint8_t* k,
                                       int bits) {
  const Doublets both = load(hidden), stream = widened(k);
  const Doublets known = (((both >> 8) - widened(v)) ^ stream) << (8 - bits);
  const Doublets rest = (both ^ stream) >> bits;
  const auto rest_mask = static_cast<std::uint16_t>((1 << (8 - bits)) - 1);
  return (known & static_cast<std::uint16_t>(255 - rest_mask)) | (rest & rest_mask);
}

VEILKERN_INLINE Octets unsealed(const std::uint16_t* hidden, const std::uint8_t* v, const std::uint8_t* k, int bits) {
  constexpr int half = Doublets::lanes;
  return narrowed(unsealed_half(hidden, v, k, bits), unsealed_half(hidden + half, v + half, k + half, bits));
}

// Values that carry nothing; `past`: past the caches.
template <bool past, class In>
void unseal_run(const In* hidden, const std::uint8_t* v, const std::uint8_t* k, std::uint8_t* out, std::int64_t n,
                int bits) {
  std::int64_t i = 0;
  for (const std::int64_t line = until_line<past>(out, n); i < line; ++i)
    out[i] = unseal_value(hidden[i], v[i], k[i], 0, bits);
  for (; i + Octets::lanes <= n; i += Octets::lanes) put<past>(out + i, unsealed(hidden + i, v + i, k + i, bits));
  if (past) fence_past();
  for (; i < n; ++i) out[i] = unseal_value(hidden[i], v[i], k[i], 0, bits);
}
