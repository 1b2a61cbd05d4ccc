// ChaCha (RFC 8439), as many blocks at a time as a register has 32-bit words: register w holds word w of each. At the end
// words are put in order within registers, so that blocks come out as the standard has them, byte after byte.
// All of it is integer arithmetic modulo 2^32, so every instruction set gives the same bits. Shuffles of compile-time
// order: compilers make one instruction of each.

constexpr int kAbreast = VEILKERN_REGISTER / 4;
typedef std::uint32_t Words __attribute__((vector_size(VEILKERN_REGISTER)));
typedef std::uint8_t WordBytes __attribute__((vector_size(VEILKERN_REGISTER)));
using EveryWord = std::make_index_sequence<kAbreast>;

// Sets of kAbreast blocks at a time. One set alone waits for its own results (every step needs the last); two fill the
// 32 registers of AVX-512, and are faster (by a sixth) with the 16 of AVX2 too, though some words then go to the stack.
#if VEILKERN_REGISTER >= 32
constexpr int kSets = 2;
#else
constexpr int kSets = 1;
#endif
static_assert(kSets * kAbreast <= kBlocksAtOnce);

// Turns by whole bytes are shuffles of bytes where there is no instruction that turns words.
template <int bytes, std::size_t... place>
VEILKERN_INLINE Words turn_bytes(const Words& a, std::index_sequence<place...>) {
  const WordBytes all = (WordBytes)a;
  return (Words)__builtin_shufflevector(
      all, all, (static_cast<int>((place & ~std::size_t{3}) | ((place + 4 - bytes) & 3)))...);
}

template <int bits>
VEILKERN_INLINE Words turn_left(const Words& a) {
#if VEILKERN_REGISTER == 32 || !defined(VEILKERN_X86)
  if constexpr (bits % 8 == 0) return turn_bytes<bits / 8>(a, std::make_index_sequence<VEILKERN_REGISTER>());
#endif
  return (a << bits) | (a >> (32 - bits));
}

// Four quarter rounds side by side, j = 0 .. 3: of columns (diagonal = 0) or of diagonals (1).
template <int diagonal, std::size_t... j>
VEILKERN_INLINE void four_quarters(Words* x, std::index_sequence<j...>) {
#define VEILKERN_A x[j]
#define VEILKERN_B x[4 + (j + diagonal) % 4]
#define VEILKERN_C x[8 + (j + 2 * diagonal) % 4]
#define VEILKERN_D x[12 + (j + 3 * diagonal) % 4]
  ((VEILKERN_A += VEILKERN_B), ...);
  ((VEILKERN_D = turn_left<16>(VEILKERN_D ^ VEILKERN_A)), ...);
  ((VEILKERN_C += VEILKERN_D), ...);
  ((VEILKERN_B = turn_left<12>(VEILKERN_B ^ VEILKERN_C)), ...);
  ((VEILKERN_A += VEILKERN_B), ...);
  ((VEILKERN_D = turn_left<8>(VEILKERN_D ^ VEILKERN_A)), ...);
  ((VEILKERN_C += VEILKERN_D), ...);
  ((VEILKERN_B = turn_left<7>(VEILKERN_B ^ VEILKERN_C)), ...);
#undef VEILKERN_A
#undef VEILKERN_B
#undef VEILKERN_C
#undef VEILKERN_D
}

// Within each 128 bits: units of `unit` words, from a and b in turn, of the lower (half = 0) or the upper half.
template <int unit, int half, std::size_t... w>
VEILKERN_INLINE Words zip(const Words& a, const Words& b, std::index_sequence<w...>) {
  constexpr auto from = [](int word) {
    const int lane = word & ~3, place = word & 3, of_b = place / unit & 1;
    const int within = half * 2 + (unit == 2 ? place % 2 : place / 2);
    return lane + within + of_b * kAbreast;
  };
  return __builtin_shufflevector(a, b, from(static_cast<int>(w))...);
}

// Words 4q .. 4q + 3 of all blocks: x[t] then holds, in its 128-bit lane j, those of block 4j + t.
VEILKERN_INLINE void turn_quad(Words* x) {
  constexpr EveryWord every;
  const Words a = zip<1, 0>(x[0], x[1], every), b = zip<1, 0>(x[2], x[3], every);
  const Words c = zip<1, 1>(x[0], x[1], every), d = zip<1, 1>(x[2], x[3], every);
  x[0] = zip<2, 0>(a, b, every);
  x[1] = zip<2, 1>(a, b, every);
  x[2] = zip<2, 0>(c, d, every);
  x[3] = zip<2, 1>(c, d, every);
}

// Every second 128-bit lane of a, beginning with lane `first`, then of b.
template <int first, std::size_t... w>
VEILKERN_INLINE Words second_lanes(const Words& a, const Words& b, std::index_sequence<w...>) {
  return __builtin_shufflevector(a, b, (static_cast<int>(w % 4 + 4 * first + w / 4 * 8))...);
}

// Block 4j + t from lane j of the four quads x[t], x[4 + t], x[8 + t], x[12 + t]: to `to` + 64 (4j + t).
VEILKERN_INLINE void store_blocks(const Words* x, int t, std::uint8_t* to) {
#if VEILKERN_REGISTER == 64
  constexpr EveryWord every;
  const Words even[2] = {second_lanes<0>(x[t], x[4 + t], every), second_lanes<0>(x[8 + t], x[12 + t], every)};
  const Words odd[2] = {second_lanes<1>(x[t], x[4 + t], every), second_lanes<1>(x[8 + t], x[12 + t], every)};
  const Words block[4] = {second_lanes<0>(even[0], even[1], every), second_lanes<0>(odd[0], odd[1], every),
                          second_lanes<1>(even[0], even[1], every), second_lanes<1>(odd[0], odd[1], every)};
  for (int j = 0; j < 4; ++j) std::memcpy(to + 64 * (4 * j + t), &block[j], 64);
#elif VEILKERN_REGISTER == 32
  constexpr EveryWord every;
  for (int half = 0; half < 2; ++half) {
    const Words &a = x[8 * half + t], &b = x[8 * half + 4 + t];
    const Words first = second_lanes<0>(a, b, every), second = second_lanes<1>(a, b, every);
    std::memcpy(to + 64 * t + 32 * half, &first, 32);
    std::memcpy(to + 64 * (4 + t) + 32 * half, &second, 32);
  }
#else
  for (int quad = 0; quad < 4; ++quad) std::memcpy(to + 64 * t + 16 * quad, &x[4 * quad + t], 16);
#endif
}

// Word w of the state in every block; the counter, word 12, goes up from block to block.
VEILKERN_INLINE Words started(const std::uint32_t* state, int w) {
  Words a = state[w] - Words{};
  if (w == 12) {
    std::uint32_t numbers[kAbreast];
    for (int i = 0; i < kAbreast; ++i) numbers[i] = static_cast<std::uint32_t>(i);
    Words more;
    std::memcpy(&more, numbers, sizeof(more));
    a += more;
  }
  return a;
}

// The next kAbreast blocks after state[12], `sets` times.
template <int sets, std::size_t... w>
VEILKERN_INLINE void some_blocks(const std::uint32_t* state, int rounds, std::uint8_t* to, std::index_sequence<w...>) {
  constexpr auto four = std::make_index_sequence<4>();
  Words x[sets][16];
  for (int k = 0; k < sets; ++k) {
    ((x[k][w] = started(state, static_cast<int>(w))), ...);
    x[k][12] += static_cast<std::uint32_t>(k * kAbreast) - Words{};
  }
  for (int round = 0; round < rounds; round += 2) {
    for (int k = 0; k < sets; ++k) four_quarters<0>(x[k], four);
    for (int k = 0; k < sets; ++k) four_quarters<1>(x[k], four);
  }
  for (int k = 0; k < sets; ++k) {
    ((x[k][w] += started(state, static_cast<int>(w))), ...);
    x[k][12] += static_cast<std::uint32_t>(k * kAbreast) - Words{};
    for (int q = 0; q < 16; q += 4) turn_quad(x[k] + q);
    for (int t = 0; t < 4; ++t) store_blocks(x[k], t, to + k * kAbreast * kBlock);
  }
}

void write_blocks(const Stream& stream, int rounds, std::uint32_t block, std::int64_t blocks, std::uint8_t* to) {
  constexpr auto all = std::make_index_sequence<16>();
  std::uint32_t state[16] = {0x61707865, 0x3320646E, 0x79622D32, 0x6B206574};  // "expand 32-byte k"
  std::memcpy(state + 4, stream.key, sizeof(stream.key));
  state[12] = block;
  std::memcpy(state + 13, stream.nonce, sizeof(stream.nonce));
  for (; kSets > 1 && blocks > kAbreast; blocks -= kSets * kAbreast, to += kSets * kAbreast * kBlock) {
    some_blocks<kSets>(state, rounds, to, all);
    state[12] += kSets * kAbreast;
  }
  for (; blocks > 0; blocks -= kAbreast, to += kAbreast * kBlock) {
    some_blocks<1>(state, rounds, to, all);
    state[12] += kAbreast;
  }
}
