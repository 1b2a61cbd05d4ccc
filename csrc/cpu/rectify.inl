// Values begin .. end - 1 of one photo, `begin` a multiple of 512. Bit j % 8 of byte j / 8 is that of value j; a NaN has a
// 0 and stays. Each value: one sum, one comparison or two, one product.

// Groups of four packs, whose bits are read, or written, at once; then what is left, pack by pack. step(at, channel, n,
// bits) does values at .. at + n - 1 and returns their bits; bits: those there, where it `reads`, else 0. channel: that of
// the first, counted on through the group: tables are repeated for four packs, so that only groups need to turn back.
template <bool reads, class T, class Step>
VEILKERN_INLINE void walk_bits(std::uint8_t* bits, std::int64_t begin, std::int64_t end, std::int64_t channels,
                               const Step& step) {
  constexpr int lanes = Pack<T>::lanes, group = 4 * lanes;
  constexpr unsigned all = (1u << lanes) - 1;
  const std::int64_t on = group % channels;
  std::int64_t at = begin, channel = begin % channels;
  for (; at + group <= end; at += group) {
    std::uint64_t there = 0, made = 0;  // all machines that this runs on put the lowest byte first
    if constexpr (reads) std::memcpy(&there, bits + at / 8, group / 8);
    for (int k = 0; k < group; k += lanes) {
      const unsigned found = step(at + k, channel + k, lanes, static_cast<unsigned>(there >> k) & all);
      made |= static_cast<std::uint64_t>(found) << k;
    }
    if constexpr (!reads) std::memcpy(bits + at / 8, &made, group / 8);
    channel = channel + on >= channels ? channel + on - channels : channel + on;
  }
  for (; at < end; at += lanes, channel += lanes) {
    const std::int64_t n = least(lanes, end - at);
    unsigned there = 0;
    for (std::int64_t i = 0; reads && 8 * i < n; ++i) there |= static_cast<unsigned>(bits[at / 8 + i]) << (8 * i);
    const unsigned made = step(at, channel, n, there) & all >> (lanes - n);  // those beyond the last value are 0
    for (std::int64_t i = 0; !reads && 8 * i < n; ++i) bits[at / 8 + i] = static_cast<std::uint8_t>(made >> (8 * i));
  }
}

enum class Adds { nothing, channel, map };

// What a run is compiled for: what is added, whether there is a slope, a top.
template <Adds adds, bool leans, bool tops, class T>
VEILKERN_INLINE void rectify_forth(T* x, std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate) {
  const Pack<T> top(gate.top), zero(T(0));
  const auto step = [&](std::int64_t at, std::int64_t channel, std::int64_t n, unsigned) __attribute__((always_inline)) {
    Pack<T> z = load(x + at, n);
    if constexpr (adds == Adds::channel) z = z + load(gate.add + channel);
    if constexpr (adds == Adds::map) z = z + load(gate.add + at, n);
    Lanes<T> inside = above(z, zero);
    Pack<T> y;
    if constexpr (leans) y = select(inside, z, z * load(gate.slope + channel));
    else y = larger(zero, z) + zero;  // NaN is larger; the sum makes 0 of -0
    if constexpr (tops) {
      y = select(above(y, top), top, y);
      inside = inside & above(top, z);
    }
    store(x + at, y, n);
    return bits_of(inside);
  };
  walk_bits<false, T>(bits, begin, end, gate.channels, step);
}

template <bool leans, class T>
VEILKERN_INLINE void rectify_back(T* x, std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate) {
  const auto step = [&](std::int64_t at, std::int64_t channel, std::int64_t n, unsigned inside)
                        __attribute__((always_inline)) {
    const Pack<T> g = load(x + at, n);
    Pack<T> low(T(0));
    if constexpr (leans) low = g * load(gate.slope + channel);
    store(x + at, select(lanes_of<T>(inside), g, low), n);
    return 0u;
  };
  walk_bits<true, T>(bits, begin, end, gate.channels, step);
}

template <bool leans, bool tops, class T>
VEILKERN_INLINE void rectify_added(T* x, std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate) {
  if (gate.add == nullptr) return rectify_forth<Adds::nothing, leans, tops>(x, bits, begin, end, gate);
  if (gate.map) return rectify_forth<Adds::map, leans, tops>(x, bits, begin, end, gate);
  rectify_forth<Adds::channel, leans, tops>(x, bits, begin, end, gate);
}

template <class T>
void rectify_run(T* x, std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate, bool back) {
  const bool leans = gate.slope != nullptr, tops = gate.top < __builtin_inf();
  if (back) return leans ? rectify_back<true>(x, bits, begin, end, gate) : rectify_back<false>(x, bits, begin, end, gate);
  if (leans) return rectify_added<true, false>(x, bits, begin, end, gate);
  if (tops) return rectify_added<false, true>(x, bits, begin, end, gate);
  rectify_added<false, false>(x, bits, begin, end, gate);
}
