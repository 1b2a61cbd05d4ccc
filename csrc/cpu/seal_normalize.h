#pragma once
#include "blend_normalize.h"
#include "sealing.h"

namespace veilkern {

// images u8, planes of H W values, and veils T, photo i taking veil rows[i] and stream i -> out [N, H, W, 3] of the kind
// `number`: channels.of_image times what seal adds to a veil, channels.of_veil times the veil, and the constant.
template <class T>
void seal_normalize(Photos<const std::uint8_t> images, const Bank<T>& veils, const std::int64_t* rows,
                    const Streams& streams, void* out, Number number, std::int64_t count, const Channels& channels,
                    const Sealing& how, int threads);

}  // namespace veilkern
