#pragma once
#include "sealing.h"

namespace veilkern {

// x' = v + ((x div (256 / M)) xor (k mod M)), M = 2^bits; photo i takes veil rows[i] and stream i.
void seal_u8(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows, const Streams& streams,
             Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads);

// The lossless form: x' in the high byte, and what it leaves out of x, sealed too, in the low one.
void seal_u16(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows, const Streams& streams,
              Photos<std::uint16_t> out, std::int64_t count, const Sealing& how, int threads);

// The same of n values that are at hand, without the nonce, by the best instructions: x, v, k -> out.
using SealRun = void (*)(const std::uint8_t* x, const std::uint8_t* v, const std::uint8_t* k, std::uint8_t* out,
                         std::int64_t n, int bits);
SealRun seal_run();

// Of n values of which those with less = 1 carry a bit of the nonce.
using SealCarriers = void (*)(const std::uint8_t* x, const std::uint8_t* v, const std::uint8_t* k, const std::uint8_t* less,
                              const std::uint8_t* nonce_bits, std::uint8_t* out, std::int64_t n, int bits);
SealCarriers seal_carriers();

}  // namespace veilkern
