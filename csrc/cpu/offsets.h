#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace veilkern {

// The most of one person, where offsets [people + 1] rise from 0 to `count`; std::invalid_argument where they do not: every
// address that a kernel computes follows from them.
inline std::int64_t most_of(const char* name, const std::int64_t* offsets, std::int64_t people, std::int64_t count) {
  std::int64_t most = 0;
  bool rising = people >= 0 && offsets[0] == 0 && offsets[people] == count;
  for (std::int64_t p = 0; rising && p < people; ++p) {
    rising = offsets[p] <= offsets[p + 1];
    if (rising) most = std::max(most, offsets[p + 1] - offsets[p]);
  }
  if (!rising) throw std::invalid_argument(std::string(name) + " must rise from 0 to " + std::to_string(count));
  return most;
}

}  // namespace veilkern
