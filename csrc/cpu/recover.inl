// Gaussian filter of one plane of bytes, in integers: x = (sum_ij w_i w_j x_ij + 2^23) div 2^24, w in 4096ths, borders
// reflected without the edge. Down the columns into a line of 20-bit sums, then along it; pairs of equal weights first.
// Everything fits 32 bits: 4096 * 4096 * 255 + 2^23 < 2^32. Plain loops: the compiler makes packs of them.

VEILKERN_INLINE std::int64_t reflected(std::int64_t i, std::int64_t n) {
  return i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i;
}

void gaussian_plane(const std::uint8_t* __restrict from, std::uint8_t* __restrict to,
                    std::int64_t height, std::int64_t width, const std::uint32_t* weights,
                    std::int64_t radius, std::uint32_t* __restrict line, std::uint32_t* __restrict total) {
  std::uint32_t* const inner = line + radius;
  for (std::int64_t r = 0; r < height; ++r) {
    const std::uint8_t* const middle = from + r * width;
    for (std::int64_t c = 0; c < width; ++c) inner[c] = weights[0] * middle[c];
    for (std::int64_t i = 1; i <= radius; ++i) {
      const std::uint8_t* const above = from + reflected(r - i, height) * width;
      const std::uint8_t* const below = from + reflected(r + i, height) * width;
      const std::uint32_t w = weights[i];
      for (std::int64_t c = 0; c < width; ++c) inner[c] += w * (static_cast<std::uint32_t>(above[c]) + below[c]);
    }
    for (std::int64_t i = 1; i <= radius; ++i) {
      inner[-i] = inner[reflected(-i, width)];
      inner[width - 1 + i] = inner[reflected(width - 1 + i, width)];
    }
    for (std::int64_t c = 0; c < width; ++c) total[c] = weights[0] * inner[c] + (1u << 23);
    for (std::int64_t i = 1; i <= radius; ++i) {
      const std::uint32_t w = weights[i];
      for (std::int64_t c = 0; c < width; ++c) total[c] += w * (inner[c - i] + inner[c + i]);
    }
    std::uint8_t* const out = to + r * width;
    for (std::int64_t c = 0; c < width; ++c) out[c] = static_cast<std::uint8_t>(total[c] >> 24);
  }
}
