// The losses of veil_step_ and their slopes, phase by phase, over a block's part of a person: veil_step.cu says how they hang
// together.
#pragma once

#include <math.h>

#include "band.cuh"
#include "boxes.cuh"
#include "device.cuh"

namespace veilkern {
namespace {

constexpr int TOGETHER = 4;        // photos whose distances are summed at once
constexpr int SOON = 16;           // photos that are asked for before they are read: L2 keeps those of all people at work
constexpr int SHARES = 128;        // photos whose shares lie in shared memory at once

// What a block's threads share besides the three arrays. The numbers of a rank are read by the others of the cluster.
template <class T>
struct Shared {
  T scratch[CHANNELS + TOGETHER][WARPS];
  T shares[SHARES];
  T sums[CHANNELS];              // this block's part of the sum of the boxes
  T means[CHANNELS];             // of the boxes of the whole photo
  T absolutes[8], variances[8];  // written by each rank
};

template <class T>
__device__ __forceinline__ T rate_of(const Rate& rate, std::int64_t person) {
  return T(rate.table == nullptr ? rate.number : rate.table[person]);
}

// Asks for the first photos while the gradients are read: they are small, so that too few bytes of them are on their way
// from memory at a time, but enough from L2.
template <class T>
__device__ void ask_for_photos(const VeilStep<T>& call, const Band<T>& band, const Span& span) {
  if (call.images.w != 1 || call.images.h != call.width) return;
  const int bytes = band.own() * call.width, lines = (bytes + LINE - 1) / LINE, photos = CHANNELS * lines;
  const std::uint8_t* first = call.images.data + std::int64_t(band.first) * call.width;
  for (int i = threadIdx.x; i < SOON * photos && i / photos < span.end - span.begin; i += blockDim.x) {
    const int channel = i % photos / lines, line = i % lines;
    soon(first + (span.begin + i / photos) * call.images.n + channel * call.images.c + line * LINE);
  }
}

// The mean gradient of what went through the network, times 1 - alpha, into `slopes`.
template <class T, int VEC, bool LAST>
__device__ void add_gradients(const VeilStep<T>& call, const Band<T>& band, const Span& span, T rest_alpha, int units) {
  const T weight = rest_alpha / T(span.end - span.begin);
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
    Values<T, VEC> total = {};
    std::int64_t n = span.begin;
    for (; n + 1 < span.end; n += 2) {  // two at once: six reads of 16 bytes are on their way
      const Values<T, VEC> one = of_photo<LAST, T>(call.gradients, n, at), two = of_photo<LAST, T>(call.gradients, n + 1, at);
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
        for (int i = 0; i < VEC; ++i) total.of[c][i] = total.of[c][i] + one.of[c][i] + two.of[c][i];
    }
    if (n < span.end) {
      const Values<T, VEC> one = of_photo<LAST, T>(call.gradients, n, at);
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
        for (int i = 0; i < VEC; ++i) total.of[c][i] += one.of[c][i];
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
      for (int i = 0; i < VEC; ++i) total.of[c][i] *= weight;
    keep(band.slopes(), band.plane(), at.place, total);
  }
}

// 255^2 ||v - x_i||^2 of the block's rows, for `count` photos from n on, and their sum added to `mixed`.
template <class T, int VEC>
__device__ void measure(const VeilStep<T>& call, const Band<T>& band, std::int64_t n, int count, bool first, int units,
                        T (&squares)[TOGETHER]) {
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
    Values<T, VEC> veil = of_photo<false, T>(call.veils, band.person, at), total = {};
    if (!first) total = kept<T, VEC>(band.mixed(), band.plane(), at.place);
    Bytes<VEC> photos[TOGETHER];
    fetch(call.images, n, count, at, photos);
#pragma unroll
    for (int k = 0; k < TOGETHER; ++k) {
      if (k >= count) break;
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
          const T photo = T(photos[k].of[c].of[i]), gap = veil.of[c][i] * 255 - photo;
          squares[k] += gap * gap;
          total.of[c][i] += photo;
        }
    }
    keep(band.mixed(), band.plane(), at.place, total);
  }
}

template <class T, int VEC>
__device__ void measure_all(const VeilStep<T>& call, const Band<T>& band, const Span& span, int units, Shared<T>& shared) {
  const unsigned warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (std::int64_t n = span.begin; n < span.end; n += TOGETHER) {
    const int count = span.end - n < TOGETHER ? int(span.end - n) : TOGETHER;
    T squares[TOGETHER] = {};
    measure<T, VEC>(call, band, n, count, n == span.begin, units, squares);
#pragma unroll
    for (int k = 0; k < TOGETHER; ++k) {
      const T of_warp = warp_sum(squares[k]);
      if (threadIdx.x % WARP == 0) shared.scratch[k][warp] = of_warp;
    }
    __syncthreads();
    if (threadIdx.x < unsigned(count)) {
      T total = 0;
      for (unsigned i = 0; i < warps; ++i) total += shared.scratch[threadIdx.x][i];
      call.squares[(n + threadIdx.x) * (1 << call.shift) + band.rank] = total;
    }
    __syncthreads();
  }
}

// The mean protected photo into `mixed`, and this thread's part of the sum of its boxes; of `mse` its slope too.
template <class T, int VEC>
__device__ void mix(const VeilStep<T>& call, const Band<T>& band, const Span& span, T rest_alpha, const Boxes& down,
                    const Boxes& along, int units, T (&sums)[CHANNELS]) {
  const T alpha = T(call.a) / 255, share = 1 / (255 * T(span.end - span.begin)), values = T(CHANNELS) * call.height * call.width;
  const T slope = call.norm ? T(0) : rate_of<T>(call.lam, band.person) * rest_alpha * rest_alpha * 2 / values;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
    const T rows = T(down.covering(at.y, at.y));
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      const int place = c * band.plane() + at.place;
      const Several<T, VEC> veil = of_channel(call.veils, band.person, c, at);
      Several<T, VEC> mean, slopes = read<VEC>(band.slopes() + place);
      if (call.mean_images.data != nullptr) {
        mean = of_channel(call.mean_images, band.person, c, at);
      } else {
        mean = read<VEC>(band.mixed() + place);
#pragma unroll
        for (int i = 0; i < VEC; ++i) mean.of[i] *= share;
      }
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        slopes.of[i] -= slope * (veil.of[i] - mean.of[i]);
        mean.of[i] = alpha * mean.of[i] + rest_alpha * veil.of[i];
        sums[c] += mean.of[i] * (rows * T(along.covering(at.x + i, at.x + i)));
      }
      if (!call.norm) write(band.slopes() + place, slopes);
      write(band.mixed() + place, mean);
    }
  }
}

// The sums of boxes along the block's rows into `lines`, about `centre`, which all blocks know before they know the mean.
template <class T, int VEC>
__device__ void add_along(const Band<T>& band, const Boxes& along, T centre, int units) {
  const bool three = along.block == 3 && along.stride == 1;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
    Values<T, VEC> sums;
    for (int c = 0; c < CHANNELS; ++c) {
      const T* row = band.mixed() + c * band.plane() + (at.place - at.x);
      T z[VEC];
      if (three) {
        along_three<T, VEC>(row, at.x, band.width, centre, sums.of[c], z);
      } else {
#pragma unroll
        for (int i = 0; i < VEC; ++i) sums.of[c][i] = along_any<T>(row, at.x + i, band.width, centre, along);
      }
      Several<T, VEC> some;
#pragma unroll
      for (int i = 0; i < VEC; ++i) some.of[i] = sums.of[c][i];
      write(band.lines() + c * band.plane() + at.place, some);
    }
  }
}

// The slope of `norm`: lam (1 - alpha) (v sum of shares - sum of share_i x_i) taken off; a photo's share is 1 / (n r_i).
// Returns this thread's part of L_vis, without its factor.
template <class T, int VEC>
__device__ T add_visual(const VeilStep<T>& call, const Band<T>& band, const Span& span, T rest_alpha, int units, Shared<T>& shared) {
  const T number = T(span.end - span.begin), values = T(CHANNELS) * call.height * call.width;
  const T lam = rate_of<T>(call.lam, band.person) * rest_alpha;
  T loss = 0;
  for (std::int64_t n = span.begin; n < span.end; n += SHARES) {
    const int count = span.end - n < SHARES ? int(span.end - n) : SHARES;
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
      T square = 0;
      for (int rank = 0; rank < (1 << call.shift); ++rank) square += call.squares[(n + k) * (1 << call.shift) + rank];
      square /= 65025;
      const T distance = sqrt(square);
      shared.shares[k] = distance > 0 ? 1 / (distance * number) : T(0);
      loss += call.norm ? distance / number : square / (number * values);
    }
    if (!call.norm) continue;
    __syncthreads();
    for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
      const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
      Values<T, VEC> weighted = {};
      T all = 0;
      for (int first = 0; first < count; first += TOGETHER) {
        Bytes<VEC> photos[TOGETHER];
        fetch(call.images, n + first, count - first, at, photos);
#pragma unroll
        for (int k = 0; k < TOGETHER; ++k) {
          if (first + k >= count) break;
          const T share = shared.shares[first + k], scaled = share / 255;
          all += share;
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
            for (int i = 0; i < VEC; ++i) weighted.of[c][i] += T(photos[k].of[c].of[i]) * scaled;
        }
      }
      const Values<T, VEC> veil = of_photo<false, T>(call.veils, band.person, at);
      Values<T, VEC> slopes = kept<T, VEC>(band.slopes(), band.plane(), at.place);
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
        for (int i = 0; i < VEC; ++i) slopes.of[c][i] -= lam * (veil.of[c][i] * all - weighted.of[c][i]);
      keep(band.slopes(), band.plane(), at.place, slopes);
    }
    __syncthreads();  // before the next photos' shares are written
  }
  return loss;
}

// L_var's slope added, from the rows' sums of all blocks; this thread's parts of <z, B^T B z> and of sum|g|.
template <class T, int VEC>
__device__ void add_variance(const VeilStep<T>& call, const Band<T>& band, T rest_alpha, const Boxes& down, const Boxes& along,
                             T centre, const T (&means)[CHANNELS], int units, T& variance, T& absolute) {
  const T area = T(call.block_h * call.block_w), number = T(down.boxes) * T(along.boxes);
  const T factor = 1 + 1 / (area * area), shrink = (area - 1) / area;
  const T mu = rate_of<T>(call.mu, band.person) * rest_alpha, slope = mu * 2 * factor / number;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
    const T rows = T(down.covering(at.y, at.y));
#pragma unroll 1
    for (int c = 0; c < CHANNELS; ++c) {
      T found[VEC] = {};
      for (int y = down.first(at.y); y < down.past(at.y, band.height); ++y) {
        const T weight = T(down.covering(at.y, y));
        const Several<T, VEC> some = read<VEC>(band.line(c, y) + at.x);
#pragma unroll
        for (int i = 0; i < VEC; ++i) found[i] += weight * some.of[i];
      }
      const int place = c * band.plane() + at.place;
      const Several<T, VEC> mixed = read<VEC>(band.mixed() + place);
      Several<T, VEC> slopes = read<VEC>(band.slopes() + place);
      const T mean = means[c];
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        const T boxes = rows * T(along.covering(at.x + i, at.x + i));
        // About the mean itself: a constant's sum of boxes is area times the boxes on the pixel.
        const T of_blocks = found[i] - (mean - area * centre) * boxes;
        variance += (mixed.of[i] - mean / area) * of_blocks;
        slopes.of[i] += slope * of_blocks;
        if (call.literal) slopes.of[i] += mu * 2 * shrink * shrink * mean / number * boxes;
        absolute += fabs(slopes.of[i]);
      }
      write(band.slopes() + place, slopes);
    }
  }
}

}  // namespace
}  // namespace veilkern
