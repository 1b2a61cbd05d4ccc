// n values of a photo sealed. M = 2^bits levels; what x' leaves out of x are its lowest 8 - bits.
//
// All in bytes: u = ((x >> (8 - bits)) ^ k) & (M - 1), x' = v + u, low byte ((x << bits) ^ k) & ~(M - 1). A carrier has the
// nonce's bit as the lowest of u, and in the low byte one bit more of x, sealed with the keystream's lowest.
#include "sealing.inl"

// `less`: 1 for a carrier, whose bit of the nonce is `bit`, else 0 and 0.
VEILKERN_INLINE void seal_value(std::uint8_t x, std::uint8_t v, std::uint8_t k, int less, int bit, int bits,
                                std::uint8_t* out) {
  const int u = (((x >> (8 - bits)) ^ k) & ((1 << bits) - 1 - less)) | bit;
  *out = static_cast<std::uint8_t>(v + u);
}

VEILKERN_INLINE void seal_value(std::uint8_t x, std::uint8_t v, std::uint8_t k, int less, int bit, int bits,
                                std::uint16_t* out) {
  std::uint8_t high;
  seal_value(x, v, k, less, bit, bits, &high);
  const int rest = (k & -(1 << bits)) | (k & less) << (bits - 1);
  const int low = ((x << (bits - less)) ^ rest) & 255;
  *out = static_cast<std::uint16_t>(high << 8 | low);
}

template <class Out>
void seal_carriers(const std::uint8_t* x, const std::uint8_t* v, const std::uint8_t* k, const std::uint8_t* less,
                   const std::uint8_t* nonce_bits, Out* out, std::int64_t n, int bits) {
  for (std::int64_t i = 0; i < n; ++i) seal_value(x[i], v[i], k[i], less[i], nonce_bits[i], bits, out + i);
}

VEILKERN_INLINE Octets sealed(const std::uint8_t* x, const std::uint8_t* v, const std::uint8_t* k, int bits,
                              const std::uint8_t*) {
  const Octets u = (shifted_right(load(x), 8 - bits) ^ load(k)) & static_cast<std::uint8_t>((1 << bits) - 1);
  return load(v) + u;
}

VEILKERN_INLINE Doublets sealed(const std::uint8_t* x, const std::uint8_t* v, const std::uint8_t* k, int bits,
                                const std::uint16_t*) {
  const Doublets photo = widened(x), stream = widened(k);
  const Doublets u = ((photo >> (8 - bits)) ^ stream) & static_cast<std::uint16_t>((1 << bits) - 1);
  const Doublets low = ((photo << bits) ^ stream) & static_cast<std::uint16_t>(256 - (1 << bits));
  return ((widened(v) + u) << 8) | low;
}

// Values that carry nothing; `past`: past the caches.
template <bool past, class Out>
void seal_run(const std::uint8_t* x, const std::uint8_t* v, const std::uint8_t* k, Out* out, std::int64_t n, int bits) {
  std::int64_t i = 0;
  for (const std::int64_t line = until_line<past>(out, n); i < line; ++i) seal_value(x[i], v[i], k[i], 0, 0, bits, out + i);
  for (; i + Pack<Out>::lanes <= n; i += Pack<Out>::lanes) put<past>(out + i, sealed(x + i, v + i, k + i, bits, out));
  if (past) fence_past();
  for (; i < n; ++i) seal_value(x[i], v[i], k[i], 0, 0, bits, out + i);
}
