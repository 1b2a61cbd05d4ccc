// block_variance (eq. 9-11): the variance of sliding box sums S = B x of each plane, and its gradient (the mathematics:
// block_variance.py).
//
// images f32 or f64 [N, C, H, W] -> loss of each plane [N, C], gradient [N, C, H, W] times scale [N].
// gradient = 2 k / n B^T B z, loss = k <z, B^T B z> / n, z = x - mean S / area; `literal` adds to both.
//
// Traffic: each plane is read once and its gradient written once, 8 bytes a pixel in f32. A block takes one plane and
// keeps it in shared memory (50 KB at 112 x 112: four blocks a processor), where Triton's version reads it again from L1
// or L2; the mean comes from the registers that the plane passes through.
//   3 x 3 boxes at stride 1: a thread has four columns (28 threads a row of 112) and walks down a band of rows. Eight
//   neighbours along a row, in three reads, give the six boxes and the four sums of boxes there; two rows above are
//   carried in registers. 12 bytes of shared memory and about 15 instructions a pixel: less than the 2.6 pixels a cycle
//   that memory brings to a processor of an H200 would allow for (128 bytes and 128 instructions a cycle).
//   Any other block: B^T B is a row's sums, then a column's: 2 w - 1 and 2 h - 1 reads of shared memory a pixel, where
//   Triton's version makes (2 w - 1)(2 h - 1) reads of L1: 34 instead of 289 for 9 x 9. Takes a second plane of memory.
// ACCESS block_variance_kernel<float, 4, true>: load 16, store 16
// ACCESS block_variance_kernel<double, 2, true>: load 16, store 16
#include "cuda/block_variance.h"

#include "boxes.cuh"
#include "device.cuh"

namespace veilkern {
namespace {

constexpr unsigned THREADS = 256;
constexpr int BATCH = 4;  // rows that a thread reads at once
template <class T>
constexpr int BLOCKS = sizeof(T) == 4 ? 4 : 2;  // of a processor: planes of 112 x 112 leave shared memory for so many

// A plane as a thread sees it: its columns (the next ones `columns` further on) and its rows.
template <int VEC>
struct Place {
  int width, x, columns, y, rows;

  __device__ __forceinline__ explicit Place(int width_) : width(width_) {
    const int wide = (width + VEC - 1) / VEC, across = wide < int(THREADS) ? wide : int(THREADS), thread = threadIdx.x;
    x = thread % across * VEC;
    y = thread / across;
    columns = across * VEC;
    rows = int(THREADS) / across;
    if (y >= rows) x = width;  // a thread too many
  }
};

// The plane into shared memory, and this thread's part of the sum of its boxes.
template <class T, int VEC>
__device__ T fetch(const T* plane, std::int64_t step_h, std::int64_t step_w, T* kept, int height, const Place<VEC>& at,
                   const Boxes& down, const Boxes& along) {
  T total = 0;
  for (int x = at.x; x < at.width; x += at.columns) {
    T columns[VEC];
    for (int i = 0; i < VEC; ++i) columns[i] = T(along.covering(x + i, x + i));
    for (int y0 = at.y; y0 < height; y0 += BATCH * at.rows) {
      Several<T, VEC> values[BATCH];
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        const int y = y0 + k * at.rows;
        if (y < height) values[k] = read<VEC>(plane + y * step_h + x * step_w);
      }
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        const int y = y0 + k * at.rows;
        if (y >= height) break;
        write(kept + std::int64_t(y) * at.width + x, values[k]);
        T row = 0;
#pragma unroll
        for (int i = 0; i < VEC; ++i) row += columns[i] * values[k].of[i];
        total += T(down.covering(y, y)) * row;
      }
    }
  }
  return total;
}

// What is written of a pixel whose sum of boxes is known: slope times that, and for `literal` add times its boxes.
template <class T>
struct Slope {
  T slope, add;
};

// B^T B z along one row for 3-wide boxes, of VEC columns from x on, and z there; 0 beyond the plane.
template <class T, int VEC>
__device__ __forceinline__ void across(const T* kept, int y, int x, int height, int width, T centre, T (&sums)[VEC], T (&z)[VEC]) {
  if (y < 0 || y >= height) {
#pragma unroll
    for (int i = 0; i < VEC; ++i) sums[i] = z[i] = 0;
    return;
  }
  along_three<T, VEC>(kept + std::int64_t(y) * width, x, width, centre, sums, z);
}

// 3 x 3 boxes at stride 1: the gradient, and this thread's part of <z, B^T B z>. A thread walks down a band of rows; a
// row's result is the three boxes that hold it, each three rows' `across`, carried: two rows of those, two of boxes, two
// of z.
template <class T, int VEC>
__device__ T walk(const T* kept, T* target, std::int64_t step_h, std::int64_t step_w, int height, const Place<VEC>& at,
                  const Boxes& down, const Boxes& along, T centre, const Slope<T>& of) {
  const int width = at.width, deep = (height + at.rows - 1) / at.rows, begin = at.y * deep;
  const int end = begin + deep < height ? begin + deep : height;
  T squares = 0;
  for (int x = at.x; x < width; x += at.columns) {
    T row1[VEC], row2[VEC], box1[VEC] = {}, box2[VEC] = {}, z1[VEC] = {}, z2[VEC] = {};
    across<T, VEC>(kept, begin - 2, x, height, width, centre, row1, z1);
    across<T, VEC>(kept, begin - 1, x, height, width, centre, row2, z2);
    for (int y = begin; y < end + 2; ++y) {
      T row3[VEC], z3[VEC];
      across<T, VEC>(kept, y, x, height, width, centre, row3, z3);
      const int done = y - 2;  // its boxes begin at y - 4, y - 3, y - 2: all there now
      const bool box = y >= 2 && y < height, inside = done >= begin;
      Several<T, VEC> value;
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        const T box3 = box ? row1[i] + row2[i] + row3[i] : T(0), found = box1[i] + box2[i] + box3;
        if (inside) squares += z1[i] * found;
        value.of[i] = of.slope * found;
        row1[i] = row2[i], row2[i] = row3[i], box1[i] = box2[i], box2[i] = box3, z1[i] = z2[i], z2[i] = z3[i];
      }
      if (target == nullptr || !inside) continue;
      if (of.add != 0) {
        const T boxes = of.add * T(down.covering(done, done));
        for (int i = 0; i < VEC; ++i) value.of[i] += boxes * T(along.covering(x + i, x + i));
      }
      write(target + done * step_h + x * step_w, value);
    }
  }
  return squares;
}

// Any block and stride: the rows' sums into `lines`, then the columns'.
template <class T>
__device__ T separate(const T* kept, T* lines, T* target, std::int64_t step_h, std::int64_t step_w, int height,
                      const Place<1>& at, const Boxes& down, const Boxes& along, T centre, const Slope<T>& of) {
  const int width = at.width;
  for (int y = at.y; y < height; y += at.rows)
    for (int x = at.x; x < width; x += at.columns) {
      const std::int64_t row = std::int64_t(y) * width;
      lines[row + x] = along_any<T>(kept + row, x, width, centre, along);
    }
  __syncthreads();
  T squares = 0;
  for (int y = at.y; y < height; y += at.rows) {
    const T add = of.add * T(down.covering(y, y));
    for (int x = at.x; x < width; x += at.columns) {
      T found = 0;
      for (int other = down.first(y); other < down.past(y, height); ++other)
        found += T(down.covering(y, other)) * lines[std::int64_t(other) * width + x];
      squares += (kept[std::int64_t(y) * width + x] - centre) * found;
      if (target != nullptr) target[y * step_h + x * step_w] = of.slope * found + add * T(along.covering(x, x));
    }
  }
  return squares;
}

// What the sizes say, divided once on the host: in the kernel each quotient takes a hundred instructions in f64, and
// those that the loss needs take registers all through the walk, which made ptxas spill. values: how many all boxes
// hold, by which the kernel does divide, so that flat planes have no variance; the others are the factors of what their
// names say, `add` of the centre and `square` of its square (`literal`).
template <class T>
struct Factors {
  T values, slope, add, loss, square;
};

template <class T>
Factors<T> factors(const BlockVariance<T>& call) {
  const double down = (call.height - call.block_h) / call.stride + 1;
  const double along = (call.width - call.block_w) / call.stride + 1;
  const double number = down * along, area = double(call.block_h) * call.block_w, factor = 1 + 1 / (area * area);
  const double shrunk = area - 1;  // of centre: mean S shrinks by (area - 1) / area
  return {T(number * area), T(2 * factor / number), T(2 * shrunk * shrunk / (area * number)), T(factor / number),
          T(shrunk * shrunk)};
}

template <class T, int VEC, bool PLAIN>
__global__ void __launch_bounds__(THREADS, BLOCKS<T>)
    block_variance_kernel(const __grid_constant__ BlockVariance<T> call, const __grid_constant__ Factors<T> factors) {
  const std::int64_t image = blockIdx.x / unsigned(call.channels), channel = blockIdx.x % unsigned(call.channels);
  const int height = call.height, width = call.width;
  const Boxes down{call.block_h, call.stride, (height - call.block_h) / call.stride + 1};
  const Boxes along{call.block_w, call.stride, (width - call.block_w) / call.stride + 1};
  T* kept = reinterpret_cast<T*>(block_memory());
  T* lines = kept + std::int64_t(height) * width;
  T* sums = PLAIN ? lines : lines + std::int64_t(height) * width;
  T* squares_of = sums + WARPS;
  const Place<VEC> at(width);

  const T part = fetch<T, VEC>(call.images + image * call.images_n + channel * call.images_c, call.images_h, call.images_w,
                               kept, height, at, down, along);
  const T centre = block_sum(part, sums) / factors.values;  // its barrier also ends the writing of `kept`
  Slope<T> of{factors.slope, call.literal ? factors.add * centre : T(0)};
  if (call.scale != nullptr) of.slope *= call.scale[image], of.add *= call.scale[image];
  T* target = call.gradient == nullptr ? nullptr : call.gradient + image * call.gradient_n + channel * call.gradient_c;
  T squares;
  if constexpr (PLAIN)
    squares = walk<T, VEC>(kept, target, call.gradient_h, call.gradient_w, height, at, down, along, centre, of);
  else
    squares = separate<T>(kept, lines, target, call.gradient_h, call.gradient_w, height, at, down, along, centre, of);
  T loss = factors.loss * block_sum(squares, squares_of);
  if (call.literal) loss += factors.square * centre * centre;
  if (threadIdx.x == 0) call.loss[blockIdx.x] = loss;
}

// Whether each row of each plane can be read and written 16 bytes at a time.
template <class T>
bool in_sixteens(const BlockVariance<T>& call) {
  constexpr std::int64_t wide = 16 / sizeof(T);
  const auto whole = [=](const void* data, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && w == 1 && n % wide == 0 && c % wide == 0 && h % wide == 0;
  };
  return call.width % wide == 0 && whole(call.images, call.images_n, call.images_c, call.images_h, call.images_w) &&
         (call.gradient == nullptr ||
          whole(call.gradient, call.gradient_n, call.gradient_c, call.gradient_h, call.gradient_w));
}

}  // namespace

template <class T>
std::size_t block_variance_memory(int height, int width, bool plain) {
  return sizeof(T) * ((plain ? 1 : 2) * std::size_t(height) * width + 2 * WARPS);
}

template <class T>
cudaError_t block_variance(const BlockVariance<T>& call, cudaStream_t stream) {
  const bool plain = call.block_h == 3 && call.block_w == 3 && call.stride == 1;
  const Grid grid{call.count * call.channels, THREADS, 1, block_variance_memory<T>(call.height, call.width, plain)};
  if (!plain) return launch(block_variance_kernel<T, 1, false>, grid, stream, call, factors(call));
  if (in_sixteens(call)) return launch(block_variance_kernel<T, 16 / sizeof(T), true>, grid, stream, call, factors(call));
  return launch(block_variance_kernel<T, 1, true>, grid, stream, call, factors(call));
}

template cudaError_t block_variance(const BlockVariance<float>&, cudaStream_t);
template cudaError_t block_variance(const BlockVariance<double>&, cudaStream_t);
template std::size_t block_variance_memory<float>(int, int, bool);
template std::size_t block_variance_memory<double>(int, int, bool);

}  // namespace veilkern
