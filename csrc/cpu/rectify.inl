// Values begin .. end - 1 of one photo, `begin` a multiple of 512. Bit j % 8 of byte j / 8 is that of value j; a NaN has a
// 0 and stays. Each value: one sum, one comparison or two, one product.

// What a run is compiled for: whether anything is added, whether there is a slope, a top.
template <bool adds, bool leans, bool tops, class T>
VEILKERN_INLINE void rectify_pack(T* x, std::uint8_t* bits, const Pack<T>& add, const Pack<T>& slope, const Pack<T>& top,
                                  std::int64_t n) {
  const Pack<T> zero(T(0));
  Pack<T> z = load(x, n);
  if constexpr (adds) z = z + add;
  unsigned inside = bits_above(z, zero);
  if constexpr (tops) inside &= bits_above(top, z);
  Pack<T> y;
  if constexpr (leans) {
    y = select<T>(z > zero, z, z * slope);
  } else {
    y = larger(zero, z) + zero;  // NaN is larger; the sum makes 0 of -0
    if constexpr (tops) y = select<T>(y > top, top, y);
  }
  store(x, y, n);
  put_bits<T>(bits, inside, n);
}

template <bool adds, bool leans, bool tops, class T>
VEILKERN_INLINE void rectify_forth(T* x, std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate) {
  constexpr int lanes = Pack<T>::lanes;
  const Pack<T> top(gate.top), none(T(0));
  const std::int64_t step = lanes % gate.channels, whole = end - (end - begin) % lanes;
  std::int64_t channel = begin % gate.channels, at = begin;
  const auto next = [&](std::int64_t n) {
    const Pack<T> slope = leans ? load(gate.slope + channel) : none;
    const Pack<T> add = !adds ? none : gate.map ? load(gate.add + at, n) : load(gate.add + channel);
    rectify_pack<adds, leans, tops>(x + at, bits + at / 8, add, slope, top, n);
    channel += step;
    channel = channel >= gate.channels ? channel - gate.channels : channel;
  };
  for (; at < whole; at += lanes) next(lanes);
  if (at < end) next(end - at);
}

template <bool leans, class T>
VEILKERN_INLINE void rectify_back(T* x, const std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate) {
  constexpr int lanes = Pack<T>::lanes;
  const Pack<T> zero(T(0));
  const std::int64_t step = lanes % gate.channels, whole = end - (end - begin) % lanes;
  std::int64_t channel = begin % gate.channels, at = begin;
  const auto next = [&](std::int64_t n) {
    const Pack<T> g = load(x + at, n);
    Pack<T> low = zero;
    if constexpr (leans) low = g * load(gate.slope + channel);
    store(x + at, select_bits(get_bits<T>(bits + at / 8, n), g, low), n);
    channel += step;
    channel = channel >= gate.channels ? channel - gate.channels : channel;
  };
  for (; at < whole; at += lanes) next(lanes);
  if (at < end) next(end - at);
}

template <class T>
void rectify_run(T* x, std::uint8_t* bits, std::int64_t begin, std::int64_t end, const Gate<T>& gate, bool back) {
  const bool adds = gate.add != nullptr, leans = gate.slope != nullptr, tops = gate.top < __builtin_inf();
  if (back) return leans ? rectify_back<true>(x, bits, begin, end, gate) : rectify_back<false>(x, bits, begin, end, gate);
  if (leans && adds) return rectify_forth<true, true, false>(x, bits, begin, end, gate);
  if (leans) return rectify_forth<false, true, false>(x, bits, begin, end, gate);
  if (tops && adds) return rectify_forth<true, false, true>(x, bits, begin, end, gate);
  if (tops) return rectify_forth<false, false, true>(x, bits, begin, end, gate);
  if (adds) return rectify_forth<true, false, false>(x, bits, begin, end, gate);
  rectify_forth<false, false, false>(x, bits, begin, end, gate);
}
