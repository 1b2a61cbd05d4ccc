// Pack: 64 bytes of numbers, worked on together, whatever registers the instruction set has: one register of AVX-512,
// two of AVX2, four of SSE or NEON. Included once per instruction set by foreach_isa.h, inside its namespace.
//
// Rounding: every operation is one IEEE operation per lane, and nothing is contracted (-ffp-contract=off), so a kernel
// gives the same bits on every instruction set. sum() adds lanes in halves: 0 + 8, 1 + 9, .. then 0 + 4, .. down to one.
#define VEILKERN_INLINE inline __attribute__((always_inline))

VEILKERN_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
VEILKERN_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <class T>
struct Pack {
  static constexpr int lanes = 64 / static_cast<int>(sizeof(T));
  static constexpr int parts = 64 / VEILKERN_REGISTER;
  typedef T Part __attribute__((vector_size(VEILKERN_REGISTER)));
  Part part[parts];

  Pack() = default;
  VEILKERN_INLINE Pack(T value) {  // NOLINT: a number stands for a pack of it
    for (int p = 0; p < parts; ++p) part[p] = value - Part{};  // not +: that would add, for -0
  }
};

// The integers that comparisons of T give: all bits set for true.
template <class T>
struct MaskOf;
template <>
struct MaskOf<float> {
  using type = std::int32_t;
};
template <>
struct MaskOf<double> {
  using type = std::int64_t;
};
template <class T>
using Mask = Pack<typename MaskOf<T>::type>;

#define VEILKERN_PACK_OPERATOR(op)                                          \
  template <class T>                                                        \
  VEILKERN_INLINE Pack<T> operator op(const Pack<T>& a, const Pack<T>& b) { \
    Pack<T> c;                                                              \
    for (int p = 0; p < Pack<T>::parts; ++p) c.part[p] = a.part[p] op b.part[p]; \
    return c;                                                               \
  }                                                                         \
  template <class T>                                                        \
  VEILKERN_INLINE Pack<T> operator op(const Pack<T>& a, T b) {              \
    return a op Pack<T>(b);                                                 \
  }
VEILKERN_PACK_OPERATOR(+)
VEILKERN_PACK_OPERATOR(-)
VEILKERN_PACK_OPERATOR(*)
VEILKERN_PACK_OPERATOR(/)
VEILKERN_PACK_OPERATOR(&)
VEILKERN_PACK_OPERATOR(|)
VEILKERN_PACK_OPERATOR(^)
#undef VEILKERN_PACK_OPERATOR

template <class T>
VEILKERN_INLINE Pack<T> operator<<(const Pack<T>& a, int bits) {
  Pack<T> c;
  for (int p = 0; p < Pack<T>::parts; ++p) c.part[p] = a.part[p] << static_cast<T>(bits);
  return c;
}

template <class T>
VEILKERN_INLINE Pack<T> operator>>(const Pack<T>& a, int bits) {
  Pack<T> c;
  for (int p = 0; p < Pack<T>::parts; ++p) c.part[p] = a.part[p] >> static_cast<T>(bits);
  return c;
}

template <class T>
VEILKERN_INLINE Mask<T> operator>(const Pack<T>& a, const Pack<T>& b) {
  Mask<T> c;
  for (int p = 0; p < Pack<T>::parts; ++p) c.part[p] = a.part[p] > b.part[p];
  return c;
}

template <class T>
VEILKERN_INLINE Pack<T> select(const Mask<T>& mask, const Pack<T>& yes, const Pack<T>& no) {
  Pack<T> c;
  for (int p = 0; p < Pack<T>::parts; ++p) c.part[p] = mask.part[p] ? yes.part[p] : no.part[p];
  return c;
}

template <class T>
VEILKERN_INLINE Pack<T> larger(const Pack<T>& a, const Pack<T>& b) {
  return select<T>(a > b, a, b);
}

template <class T>
VEILKERN_INLINE Pack<T> smaller(const Pack<T>& a, const Pack<T>& b) {
  return select<T>(b > a, a, b);
}

// Square roots, correctly rounded.
template <class T>
VEILKERN_INLINE Pack<T> root(const Pack<T>& a) {
  T line[Pack<T>::lanes];
  std::memcpy(line, &a, 64);
  for (int i = 0; i < Pack<T>::lanes; ++i) line[i] = std::sqrt(line[i]);
  Pack<T> c;
  std::memcpy(&c, line, 64);
  return c;
}

template <class T>
VEILKERN_INLINE Pack<T> load(const T* from) {
  Pack<T> a;  // register by register: compilers then keep packs in registers
  for (int p = 0; p < Pack<T>::parts; ++p)
    std::memcpy(&a.part[p], from + p * (Pack<T>::lanes / Pack<T>::parts), VEILKERN_REGISTER);
  return a;
}

#if VEILKERN_REGISTER == 64
VEILKERN_INLINE Pack<float> load_some(const float* from, unsigned lanes) {
  Pack<float> a;
  a.part[0] = (Pack<float>::Part)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), from);
  return a;
}
VEILKERN_INLINE Pack<double> load_some(const double* from, unsigned lanes) {
  Pack<double> a;
  a.part[0] = (Pack<double>::Part)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), from);
  return a;
}
VEILKERN_INLINE Pack<float> keep_some(Pack<float> a, unsigned lanes) {
  a.part[0] = (Pack<float>::Part)_mm512_maskz_mov_ps(static_cast<__mmask16>(lanes), (__m512)a.part[0]);
  return a;
}
VEILKERN_INLINE Pack<double> keep_some(Pack<double> a, unsigned lanes) {
  a.part[0] = (Pack<double>::Part)_mm512_maskz_mov_pd(static_cast<__mmask8>(lanes), (__m512d)a.part[0]);
  return a;
}
VEILKERN_INLINE void store_some(float* to, const Pack<float>& a, unsigned lanes) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes), (__m512)a.part[0]);
}
VEILKERN_INLINE void store_some(double* to, const Pack<double>& a, unsigned lanes) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(lanes), (__m512d)a.part[0]);
}
#endif

// The first n lanes from memory, zeros beyond: nothing past from[n - 1] is read.
template <class T>
VEILKERN_INLINE Pack<T> load(const T* from, std::int64_t n) {
  if (n >= Pack<T>::lanes) return load(from);
#if VEILKERN_REGISTER == 64
  return load_some(from, (1u << most(0, n)) - 1);
#else
  T line[Pack<T>::lanes] = {};
  for (std::int64_t i = 0; i < n; ++i) line[i] = from[i];
  return load(line);
#endif
}

// Asks for the line of memory at `from`, which need not be anyone's, into the second cache.
template <class T>
VEILKERN_INLINE void fetch(const T* from) {
  __builtin_prefetch(from, 0, 2);
}

template <class T>
VEILKERN_INLINE void store(T* to, const Pack<T>& a) {
  for (int p = 0; p < Pack<T>::parts; ++p)
    std::memcpy(to + p * (Pack<T>::lanes / Pack<T>::parts), &a.part[p], VEILKERN_REGISTER);
}

template <class T>
VEILKERN_INLINE void store(T* to, const Pack<T>& a, std::int64_t n) {
  if (n >= Pack<T>::lanes) return store(to, a);
#if VEILKERN_REGISTER == 64
  return store_some(to, a, (1u << most(0, n)) - 1);
#endif
  T line[Pack<T>::lanes];
  store(line, a);
  for (std::int64_t i = 0; i < n; ++i) to[i] = line[i];
}

// Past the caches; `to` begins a line of memory (64 bytes). A fence belongs behind the last of these.
template <class T>
VEILKERN_INLINE void store_past(T* to, const Pack<T>& a) {
#if VEILKERN_REGISTER == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)a.part[0]);
#elif VEILKERN_REGISTER == 32
  for (int p = 0; p < 2; ++p) _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + p, (__m256i)a.part[p]);
#else
  store(to, a);
#endif
}

VEILKERN_INLINE void fence_past() {
#if VEILKERN_REGISTER > 16
  _mm_sfence();
#endif
}

// Lanes below n kept, the others zero.
template <class T>
VEILKERN_INLINE Pack<T> first(const Pack<T>& a, std::int64_t n) {
#if VEILKERN_REGISTER == 64
  const unsigned kept = (1u << least(Pack<T>::lanes, most(0, n))) - 1;
  return keep_some(a, kept);
#endif
  using I = typename MaskOf<T>::type;
  constexpr int lanes = Pack<T>::lanes;
  alignas(64) static constexpr std::int64_t kept_bits[16] = {-1, -1, -1, -1, -1, -1, -1, -1};  // 64 bytes set, 64 not
  const I* from = reinterpret_cast<const I*>(kept_bits) + lanes - least(lanes, most(0, n));
  return select<T>(load(from), a, Pack<T>(T(0)));
}

// One register: x[shift], .., x[last], y[0], .., y[shift - 1].
#if VEILKERN_REGISTER == 32
template <int shift, class V, std::size_t... i>
VEILKERN_INLINE V join(const V& x, const V& y, std::index_sequence<i...>) {  // compilers take many more steps
  constexpr int bytes = shift * 32 / static_cast<int>(sizeof...(i));
  const __m256i middle = _mm256_permute2x128_si256((__m256i)x, (__m256i)y, 0x21);
  if constexpr (bytes == 16) return (V)middle;
  else if constexpr (bytes < 16) return (V)_mm256_alignr_epi8(middle, (__m256i)x, bytes);
  else return (V)_mm256_alignr_epi8((__m256i)y, middle, bytes - 16);
}
#elif VEILKERN_REGISTER == 64
template <int shift, class V, std::size_t... i>
VEILKERN_INLINE V join(const V& x, const V& y, std::index_sequence<i...>) {  // compilers overwrite a register, and copy it
  constexpr int words = shift * 16 / static_cast<int>(sizeof...(i));
  return (V)_mm512_alignr_epi32((__m512i)y, (__m512i)x, words);
}
#else
template <int shift, class V, std::size_t... i>
VEILKERN_INLINE V join(const V& x, const V& y, std::index_sequence<i...>) {
  return __builtin_shufflevector(x, y, (shift + static_cast<int>(i))...);
}
#endif

// a[shift], .., a[last], b[0], .., b[shift - 1]
template <int shift, class T>
VEILKERN_INLINE Pack<T> slide(const Pack<T>& a, const Pack<T>& b) {
  constexpr int width = Pack<T>::lanes / Pack<T>::parts, whole = shift / width, rest = shift % width;
  const auto part = [&](int p) -> const typename Pack<T>::Part& {
    return p < Pack<T>::parts ? a.part[p] : b.part[p - Pack<T>::parts];
  };
  Pack<T> c;
  for (int p = 0; p < Pack<T>::parts; ++p)
    if constexpr (rest == 0) c.part[p] = part(p + whole);
    else c.part[p] = join<rest>(part(p + whole), part(p + whole + 1), std::make_index_sequence<width>());
  return c;
}

template <class T>
VEILKERN_INLINE T sum(const Pack<T>& a) {
  T line[Pack<T>::lanes];
  store(line, a);
  for (int half = Pack<T>::lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) line[i] += line[i + half];
  return line[0];
}

// Whether any lane of a mask is set.
template <class I>
VEILKERN_INLINE bool any(const Pack<I>& mask) {
  I line[Pack<I>::lanes], all = 0;
  store(line, mask);
  for (int i = 0; i < Pack<I>::lanes; ++i) all |= line[i];
  return all != 0;
}

// Which lanes of a Pack<T>: a bit for each, as AVX-512 keeps them, elsewhere a mask.
template <class T>
struct Lanes {
#if VEILKERN_REGISTER == 64
  unsigned bits;
#else
  Mask<T> mask;
#endif
};

// The lanes where a > b.
template <class T>
VEILKERN_INLINE Lanes<T> above(const Pack<T>& a, const Pack<T>& b) {
#if VEILKERN_REGISTER == 64
  if constexpr (sizeof(T) == 4) return {_mm512_cmp_ps_mask((__m512)a.part[0], (__m512)b.part[0], _CMP_GT_OQ)};
  else return {_mm512_cmp_pd_mask((__m512d)a.part[0], (__m512d)b.part[0], _CMP_GT_OQ)};
#else
  return {a > b};
#endif
}

template <class T>
VEILKERN_INLINE Lanes<T> operator&(const Lanes<T>& a, const Lanes<T>& b) {
#if VEILKERN_REGISTER == 64
  return {a.bits & b.bits};
#else
  return {a.mask & b.mask};
#endif
}

template <class T>
VEILKERN_INLINE Pack<T> select(const Lanes<T>& lanes, const Pack<T>& yes, const Pack<T>& no) {
#if VEILKERN_REGISTER == 64
  using Part = typename Pack<T>::Part;
  Pack<T> c;
  if constexpr (sizeof(T) == 4)
    c.part[0] = (Part)_mm512_mask_blend_ps(static_cast<__mmask16>(lanes.bits), (__m512)no.part[0], (__m512)yes.part[0]);
  else
    c.part[0] = (Part)_mm512_mask_blend_pd(static_cast<__mmask8>(lanes.bits), (__m512d)no.part[0], (__m512d)yes.part[0]);
  return c;
#else
  return select<T>(lanes.mask, yes, no);
#endif
}

#if VEILKERN_REGISTER != 64
// Lane i: bit i alone.
template <class T>
VEILKERN_INLINE Mask<T> own_bits() {
  using I = typename MaskOf<T>::type;
  I own[Pack<T>::lanes];
  for (int i = 0; i < Pack<T>::lanes; ++i) own[i] = static_cast<I>(1) << i;
  return load(own);
}
#endif

// A bit for each lane, the lowest first.
template <class T>
VEILKERN_INLINE unsigned bits_of(const Lanes<T>& lanes) {
#if VEILKERN_REGISTER == 64
  return lanes.bits;
#elif VEILKERN_REGISTER == 32
  if constexpr (sizeof(T) == 4)
    return static_cast<unsigned>(_mm256_movemask_ps((__m256)lanes.mask.part[0])) |
           static_cast<unsigned>(_mm256_movemask_ps((__m256)lanes.mask.part[1])) << 8;
  else
    return static_cast<unsigned>(_mm256_movemask_pd((__m256d)lanes.mask.part[0])) |
           static_cast<unsigned>(_mm256_movemask_pd((__m256d)lanes.mask.part[1])) << 4;
#else
  constexpr int width = Pack<T>::lanes / Pack<T>::parts;
  const Mask<T> own = lanes.mask & own_bits<T>();
  const typename Mask<T>::Part both = (own.part[0] | own.part[1]) | (own.part[2] | own.part[3]);
  typename MaskOf<T>::type line[width], all = 0;
  std::memcpy(line, &both, sizeof line);
  for (int i = 0; i < width; ++i) all |= line[i];
  return static_cast<unsigned>(all);
#endif
}

// The lanes whose bit is set: what bits_of was given.
template <class T>
VEILKERN_INLINE Lanes<T> lanes_of(unsigned bits) {
#if VEILKERN_REGISTER == 64
  return {bits};
#else
  using I = typename MaskOf<T>::type;
  const Mask<T> own = own_bits<T>(), hit = Mask<T>(static_cast<I>(bits)) & own;
  Lanes<T> lanes;
  for (int p = 0; p < Mask<T>::parts; ++p) lanes.mask.part[p] = hit.part[p] == own.part[p];
  return lanes;
#endif
}

// Sums of many packs in double, lane by lane: the order of addition is the order of the calls, then that of sum().
struct Total {
  Pack<double> low, high;
  VEILKERN_INLINE Total() : low(0.0), high(0.0) {}  // spelled out: an implicit one would lack the instruction set
  VEILKERN_INLINE void add(const Pack<double>& a) { low = low + a; }
  VEILKERN_INLINE void add(const Pack<float>& a) {
    float narrow[16];
    double wide[16];
    store(narrow, a);
    for (int i = 0; i < 16; ++i) wide[i] = static_cast<double>(narrow[i]);
    low = low + load(wide);
    high = high + load(wide + 8);
  }
  VEILKERN_INLINE double value() const { return sum(low + high); }
};

// Bytes as numbers: 16 floats or 8 doubles.
template <class T>
VEILKERN_INLINE Pack<T> from_bytes(const std::uint8_t* from) {
  T line[Pack<T>::lanes];
  for (int i = 0; i < Pack<T>::lanes; ++i) line[i] = static_cast<T>(from[i]);
  return load(line);
}

#if VEILKERN_REGISTER == 64
template <>
VEILKERN_INLINE Pack<float> from_bytes<float>(const std::uint8_t* from) {
  Pack<float> a;
  a.part[0] = (Pack<float>::Part)_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  return a;
}
#elif VEILKERN_REGISTER == 32
template <>
VEILKERN_INLINE Pack<float> from_bytes<float>(const std::uint8_t* from) {
  Pack<float> a;
  for (int p = 0; p < 2; ++p)
    a.part[p] = (Pack<float>::Part)_mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * p))));
  return a;
}
#endif

// The first n lanes from bytes, zeros beyond.
template <class T>
VEILKERN_INLINE Pack<T> some_bytes(const std::uint8_t* from, std::int64_t n) {
  std::uint8_t line[Pack<T>::lanes] = {};
  for (std::int64_t i = 0; i < least(n, Pack<T>::lanes); ++i) line[i] = from[i];
  return from_bytes<T>(line);
}
