// veil_step_ (eq. 13, MI-FGSM) for all people in one launch: g = dL/dv; g /= mean|g|; m = decay m + g;
// v = clamp(v - step sign(m), 0, 1). L = mean of L_fea - lam L_vis + mu L_var (the mathematics: veil_step.py).
//
// veils, momentum f32 or f64 [P, 3, H, W] (changed), gradients [M, 3, H, W] by gradient_offsets, images u8 [N, 3, H, W] by
// offsets, mean_images [P, 3, H, W] or none -> statistics [P, 3].
//
// Three things of a person need all of its photo before anything can go on: the distances ||v - x_i||, the mean of the box
// sums, and mean|g|. Triton's version makes three launches of it and keeps what lies between in memory. Here a cluster of
// eight blocks takes one person (Hopper; before it, a block alone), each block a band of rows of all three channels: 14
// rows of 112. Its protected mean photo, that photo's row sums and its gradient stay in shared memory (56 KB; three blocks a
// processor, by registers), the blocks reach each other's rows there, and two barriers of the cluster take the place of the
// launches.
// Traffic of a person with n photos and k gradients of s values, in f32: 4 k s + n s + 16 s bytes (20 with mean_images), of
// which 8 s are written; the photos are read a second time for the slope of `norm`, from L2 (the veil is, too). Triton's: 4
// k s + 2 n s + 36 s. At n = k = 10 with mean_images: 70 s + 10 s of L2 against 96 s or more, in one launch, not three.
// A thread takes four pixels of all three channels at a time, in reads of 16 bytes (of photos 4), so that gradients in
// channels_last, as the engine makes them, are read whole too. About 110 instructions a value: a processor of an H200 has
// time for 430 while memory brings a value's 70 bytes. In flight: 96 bytes a thread and 672 threads, 64 KB a processor,
// where 4.8 TB/s at 0.7 us take 25 KB; the photos, 4 bytes a read, are asked for into L2 meanwhile.
// Sums go in a fixed order: threads, warps, blocks by rank. Photos larger than shared memory keep the three arrays in
// memory that the caller gives.
// ACCESS veil_step_kernel<float, 4, false>: load 16, store 16
// ACCESS veil_step_kernel<float, 4, true>: load 16, store 16
// ACCESS veil_step_kernel<double, 2, false>: load 16, store 16
#include "cuda/veil_step.h"

#include <math.h>

#include "band.cuh"
#include "boxes.cuh"
#include "device.cuh"
#include "veil_losses.cuh"

namespace veilkern {
namespace {

constexpr unsigned THREADS = 256;  // of a block, at most
template <class T>
constexpr unsigned BLOCKS = sizeof(T) == 4 ? 3 : 2;  // of them a processor, at least: 80 registers a thread, or 128

// m = decay m + g scale; v = clamp(v - step sign(m), 0, 1).
template <class T, int VEC>
__device__ void move(const VeilStep<T>& call, const Band<T>& band, T scale, int units) {
  const T step = rate_of<T>(call.step, band.person), decay = rate_of<T>(call.decay, band.person);
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const Pixels<T, VEC> at = pixels<T, VEC>(band, unit);
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      T* momentum = call.momentum.data + band.person * call.momentum.n + c * call.momentum.c + at.y * call.momentum.h +
                    at.x * call.momentum.w;
      T* veil = call.veils.data + band.person * call.veils.n + c * call.veils.c + at.y * call.veils.h + at.x * call.veils.w;
      const Several<T, VEC> slope = read<VEC>(band.slopes() + c * band.plane() + at.place);
      Several<T, VEC> m = read<VEC>(momentum), v = read<VEC>(veil);
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        m.of[i] = decay * m.of[i] + slope.of[i] * scale;
        const T moved = v.of[i] + (m.of[i] > 0 ? -step : m.of[i] < 0 ? step : T(0));
        v.of[i] = moved < 0 ? T(0) : moved > 1 ? T(1) : moved;
      }
      write(momentum, m);
      write(veil, v);
    }
  }
}

template <class T>
__device__ __forceinline__ void tell(const VeilStep<T>& call, std::int64_t person, T size, T visual, T variance) {
  T* statistics = call.statistics + person * 3;
  statistics[0] = size;
  statistics[1] = visual;
  statistics[2] = variance;
}

template <class T>
__device__ __forceinline__ Band<T> band_of(const VeilStep<T>& call) {
  Band<T> band;
  band.person = blockIdx.x >> call.shift;
  band.rank = int(blockIdx.x & ((1u << call.shift) - 1));
  band.height = call.height;
  band.width = call.width;
  band.rows = call.rows;
  band.first = band.rank * band.rows;
  band.shared = call.arrays == nullptr;
  band.apart = 3 * CHANNELS * std::int64_t(band.plane());
  band.arrays = band.shared ? reinterpret_cast<T*>(block_memory() + (sizeof(Shared<T>) + 15) / 16 * 16)
                            : call.arrays + std::int64_t(blockIdx.x) * band.apart;
  return band;
}

template <class T, int VEC, bool LAST>
__global__ void __launch_bounds__(THREADS, BLOCKS<T>) veil_step_kernel(const __grid_constant__ VeilStep<T> call) {
  const Band<T> band = band_of(call);
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(block_memory());
  const Span span = span_of(call.offsets, band.person, call.photos);
  const Span slopes = span_of(call.gradient_offsets, band.person, call.slopes);
  const bool moving = call.active == nullptr || call.active[band.person], teller = band.rank == 0 && threadIdx.x == 0;
  if (!moving || span.begin == span.end || slopes.begin == slopes.end) {  // the whole cluster leaves
    const T nothing = moving ? T(NAN) : T(0);
    if (teller) tell(call, band.person, nothing, nothing, nothing);
    return;
  }
  const Boxes down{call.block_h, call.stride, (call.height - call.block_h) / call.stride + 1};
  const Boxes along{call.block_w, call.stride, (call.width - call.block_w) / call.stride + 1};
  const T rest_alpha = 1 - T(call.a) / 255, centre = T(0.5);
  const int units = band.own() * (band.width / VEC);

  ask_for_photos(call, band, span);
  add_gradients<T, VEC, LAST>(call, band, slopes, rest_alpha, units);
  measure_all<T, VEC>(call, band, span, units, shared);
  T parts[CHANNELS] = {};
  mix<T, VEC>(call, band, span, rest_alpha, down, along, units, parts);
  for (int c = 0; c < CHANNELS; ++c) {
    parts[c] = block_sum(parts[c], shared.scratch[TOGETHER + c]);  // its barrier ends the writing of `mixed`
    if (threadIdx.x == 0) shared.sums[c] = parts[c];
  }
  add_along<T, VEC>(band, along, centre, units);
  cluster_sync();  // everybody's squares, sums and lines

  const T area = T(call.block_h * call.block_w), number = T(down.boxes) * T(along.boxes);
  if (threadIdx.x < CHANNELS) {
    T total = 0;
    for (int rank = 0; rank < (1 << call.shift); ++rank) total += *of_rank(&shared.sums[threadIdx.x], rank);
    shared.means[threadIdx.x] = total / number;
  }
  __syncthreads();
  T visual = add_visual<T, VEC>(call, band, span, rest_alpha, units, shared), variance = 0, absolute = 0;
  add_variance<T, VEC>(call, band, rest_alpha, down, along, centre, shared.means, units, variance, absolute);
  absolute = block_sum(absolute, shared.scratch[0]);
  variance = block_sum(variance, shared.scratch[1]);
  visual = block_sum(visual, shared.scratch[2]);
  if (threadIdx.x < 1u << call.shift) {  // to every block, so that none need wait for the others' end
    of_rank(shared.absolutes, int(threadIdx.x))[band.rank] = absolute;
    of_rank(shared.variances, int(threadIdx.x))[band.rank] = variance;
  }
  cluster_sync();

  T size = 0;
  variance = 0;
  for (int rank = 0; rank < (1 << call.shift); ++rank) {
    size += shared.absolutes[rank];
    variance += shared.variances[rank];
  }
  variance *= (1 + 1 / (area * area)) / number;
  const T shrink = (area - 1) / area;
  for (int c = 0; call.literal && c < CHANNELS; ++c) variance += shrink * shrink * shared.means[c] * shared.means[c];
  size /= T(CHANNELS) * call.height * call.width;
  const bool finite = size < T(INFINITY);  // false for NaN too
  const T weight = call.norm ? rest_alpha : rest_alpha * rest_alpha;
  if (teller) tell(call, band.person, finite ? size : T(NAN), weight * visual, variance);
  if (finite) move<T, VEC>(call, band, size > 0 ? 1 / size : T(0), units);
}

// Whether photos can be read `wide` values at once along their rows, or, LAST, along pixels whose channels lie together.
template <class T>
bool whole(const Photos<T>& photos, int wide, bool last = false) {
  if (photos.data == nullptr) return true;
  if (reinterpret_cast<std::uintptr_t>(photos.data) % (wide * sizeof(T)) != 0) return false;
  if (photos.n % wide != 0 || photos.h % wide != 0) return false;
  return last ? photos.c == 1 && photos.w == CHANNELS : photos.w == 1 && photos.c % wide == 0;
}

// As many threads as leave the fewest idle in the last turn.
unsigned threads_for(std::int64_t units) {
  unsigned best = 128;
  std::int64_t least = INT64_MAX;
  for (unsigned threads = 128; threads <= THREADS; threads += WARP) {
    const std::int64_t places = (units + threads - 1) / threads * threads;
    if (places <= least) best = threads, least = places;
  }
  return best;
}

int rows_of(int height, int cluster) { return (height + cluster - 1) / cluster; }

}  // namespace

std::size_t veil_step_array(int height, int width, int cluster) {
  return std::size_t(CHANNELS) * rows_of(height, cluster) * width;
}

template <class T>
std::size_t veil_step_memory(int height, int width, int cluster, bool arrays) {
  return (sizeof(Shared<T>) + 15) / 16 * 16 + (arrays ? 3 * sizeof(T) * veil_step_array(height, width, cluster) : 0);
}

template <class T>
cudaError_t veil_step(VeilStep<T> call, int cluster, cudaStream_t stream) {
  constexpr int WIDE = 16 / sizeof(T);
  for (call.shift = 0; 1 << call.shift < cluster;) ++call.shift;
  call.rows = rows_of(call.height, cluster);
  const bool several = call.width % WIDE == 0 && whole(call.veils, WIDE) && whole(call.momentum, WIDE) &&
                       whole(call.mean_images, WIDE) && whole(call.images, WIDE);
  const bool last = several && whole(call.gradients, WIDE, true), plain = several && whole(call.gradients, WIDE);
  const unsigned threads = threads_for(std::int64_t(call.rows) * (call.width / (plain || last ? WIDE : 1)));
  const std::size_t memory = veil_step_memory<T>(call.height, call.width, cluster, call.arrays == nullptr);
  const Grid grid{call.people * cluster, threads, unsigned(cluster), memory};
  if (plain) return launch(veil_step_kernel<T, WIDE, false>, grid, stream, call);
  if (last) return launch(veil_step_kernel<T, WIDE, true>, grid, stream, call);
  return launch(veil_step_kernel<T, 1, false>, grid, stream, call);
}

template cudaError_t veil_step(VeilStep<float>, int, cudaStream_t);
template cudaError_t veil_step(VeilStep<double>, int, cudaStream_t);
template std::size_t veil_step_memory<float>(int, int, int, bool);
template std::size_t veil_step_memory<double>(int, int, int, bool);

}  // namespace veilkern
