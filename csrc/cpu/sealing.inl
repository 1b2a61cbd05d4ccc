// What seal.inl and unseal.inl share: bytes in packs, and from bytes to words of 16 bits and back.

using Octets = Pack<std::uint8_t>;
using Doublets = Pack<std::uint16_t>;
typedef std::uint8_t HalfOctets __attribute__((vector_size(VEILKERN_REGISTER / 2)));

template <class To, class From>
VEILKERN_INLINE Pack<To> same_bits(const Pack<From>& a) {
  Pack<To> b;
  for (int p = 0; p < Pack<To>::parts; ++p) b.part[p] = (typename Pack<To>::Part)a.part[p];
  return b;
}

// All bytes at once: what a byte takes from its neighbour, in the bits that it had not, is for the caller to take out.
VEILKERN_INLINE Octets shifted_right(const Octets& a, int bits) {
  return same_bits<std::uint8_t>(same_bits<std::uint64_t>(a) >> bits);
}
VEILKERN_INLINE Octets shifted_left(const Octets& a, int bits) {
  return same_bits<std::uint8_t>(same_bits<std::uint64_t>(a) << bits);
}

VEILKERN_INLINE Doublets widened(const std::uint8_t* from) {
  Doublets a;
  for (int p = 0; p < Doublets::parts; ++p) {
    HalfOctets half;
    std::memcpy(&half, from + p * VEILKERN_REGISTER / 2, sizeof(half));
    a.part[p] = __builtin_convertvector(half, Doublets::Part);
  }
  return a;
}

template <std::size_t... place>
VEILKERN_INLINE Octets::Part joined(const HalfOctets& a, const HalfOctets& b, std::index_sequence<place...>) {
  return __builtin_shufflevector(a, b, static_cast<int>(place)...);
}

// The lower bytes of a, then of b.
VEILKERN_INLINE Octets narrowed(const Doublets& a, const Doublets& b) {
  constexpr int parts = Doublets::parts;
  HalfOctets halves[2 * parts];
  for (int p = 0; p < parts; ++p) {
    halves[p] = __builtin_convertvector(a.part[p], HalfOctets);
    halves[parts + p] = __builtin_convertvector(b.part[p], HalfOctets);
  }
  Octets c;
  for (int p = 0; p < parts; ++p)
    c.part[p] = joined(halves[2 * p], halves[2 * p + 1], std::make_index_sequence<VEILKERN_REGISTER>());
  return c;
}

// How many of n values come before the first that begins a line of memory: none where nothing goes past the caches.
template <bool past, class T>
VEILKERN_INLINE std::int64_t until_line(const T* out, std::int64_t n) {
  const auto bytes = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(out) % 64);
  return past ? least(n, bytes / static_cast<std::int64_t>(sizeof(T))) : 0;
}

template <bool past, class T>
VEILKERN_INLINE void put(T* to, const Pack<T>& a) {
  if constexpr (past) store_past(to, a);
  else store(to, a);
}
