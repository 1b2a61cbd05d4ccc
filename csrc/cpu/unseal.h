#pragma once
#include "sealing.h"

namespace veilkern {

// x = (256 / M) (((x' - v) mod M) xor (k mod M)) + 128 / M, M = 2^bits; photo i takes veil rows[i], the key of stream i, and
// brings its nonce, which is put into the stream: all of them before anything is written, since `out` may be `sealed`.
void unseal_u8(Photos<const std::uint8_t> sealed, const Veils& veils, const std::int64_t* rows, Streams& streams,
               Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads);

// The same from the lossless form, exactly.
void unseal_u16(Photos<const std::uint16_t> sealed, const Veils& veils, const std::int64_t* rows, Streams& streams,
                Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads);

}  // namespace veilkern
