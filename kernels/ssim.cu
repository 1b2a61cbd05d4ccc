// ssim (Wang et al. 2004) and its gradients in one launch (the mathematics: ssim.py).
//
// x, y f32 or f64 [N, C, H, W] -> sums of S [N C, pieces of a plane], dS/dx and dS/dy [N, C, H, W] times scale [N].
// S = (2 mx my + c1)(2 cov + c2) / ((mx^2 + my^2 + c1)(vx + vy + c2)) comes from four quantities under the window K:
// x, y, x^2 + y^2 and x y. Of its slopes q (for x^2 + y^2, twice), r (x y), px and py: dS/dx = K px + x K q + y K r,
// dS/dy = K py + y K q + x K r. K is its own transpose, for each S is told by the middle of its window and its slopes
// are zero where there is none. All is measured from the middle of the range: variances stay the same, and less is
// lost to rounding.
//
// Traffic: x and y once, each gradient once: 16 bytes a pixel in f32, 12 for one gradient, 8 for S alone, where
// Triton's version moves 56, 44 and 8. Arithmetic is the limit: 11 products down and 11 along for each of eight
// quantities are 176 a pixel, and with all else it is 271 instructions on sm_90 (one gradient 241, S alone 133, both
// and a window of 7 202). A processor of an H200 issues 128 a cycle: 2.1 cycles for a pixel whose bytes take memory
// 0.8 (4.8 TB/s: 20.7 a cycle), 36 % of the memory's speed at best. Shared memory moves 208 bytes a pixel, 1.6 cycles
// of 128. Tensor cores are no way out: three products of TF32 for one of f32, and a band of 11 fills half of their
// tiles.
//
// A block takes whole planes, as many as fill its warps (two of 112 columns are 7 warps; two such blocks a
// processor), and walks down them, four rows at a time. Few planes are cut into bands, wide ones into strips, whose
// surroundings are found again: the launcher weighs that.
//   down: a thread has a column and keeps, in registers, ten sums of each quantity that wait for rows to come; a
//     row's value goes to all of them at once. Of both gradients these are 80 registers of 128: 16 warps a processor
//     (f64: 160 of 255, 8 warps).
//   along: the four rows lie in shared memory, 16 bytes for a pixel's four quantities. A thread has four columns of
//     one row, in 14 reads of 16 bytes. Four neighbours have the same 4 x 4 pixels down and along, so that slopes
//     need no barrier of the block on their way from along to down.
// Pixels wait for their gradient in shared memory, too: 20 rows. That leaves two barriers each four rows. Sums go in
// a fixed order: a thread's rows, a plane's threads, the pieces. What a column has in shared memory are 336 bytes
// (f64: 624), 82 KB a block.
// ACCESS ssim_kernel<float, 5, 2>: load 4, store 16
// ACCESS ssim_kernel<float, 5, 1>: load 4, store 16
#include "cuda/ssim.h"

#include "device.cuh"
#include "ssim_windows.cuh"

namespace veilkern {
namespace {

// A number that is the same in a whole warp, in one of the registers that the warp shares.
__device__ __forceinline__ int uniform(int value) {
#ifdef __CUDACC__
  return __reduce_max_sync(0xFFFFFFFFu, value);
#else
  return value;
#endif
}

__device__ __forceinline__ int least(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int most(int a, int b) { return a > b ? a : b; }

// What a thread needs once each ROWS rows: in shared memory, for registers are short.
template <class T>
struct alignas(16) Aside {
  const T *x, *y;       // its next pixels
  std::int64_t target;  // where its gradients are written, but for the row
  T weight;             // of S in them
  unsigned flags;       // as a piece tells them
};

// What a column has in shared memory, in units of 16 bytes: ROWS rows of four values on their way forth, as many on
// their way back, the pixels of both photos until their gradient is due, and what its thread keeps aside. An odd
// number of units, and a tile's rows side by side: no two of eight neighbours meet in a bank, whether each has a column
// or four of them the rows of a tile. (Where pixels are read again, two do: a twelfth of all that is read.)
template <class T, int HALF, int GRADIENTS>
struct Column {
  static constexpr int UNIT = 16 / sizeof(T);                                  // in values, as all that follows
  static constexpr int KEPT = (2 * HALF + 2 * ROWS + ROWS - 1) / ROWS * ROWS;  // rows of pixels
  static constexpr int FORTH = 0, BACK = 4 * ROWS, PIXELS = 2 * BACK;          // where they begin
  static constexpr int ASIDE = GRADIENTS > 0 ? PIXELS + 2 * KEPT : BACK;
  static constexpr int SIZE = ((ASIDE + int(sizeof(Aside<T>) / sizeof(T))) / UNIT | 1) * UNIT;
};

// The rows and columns of a block, the same for all its threads. Each S is told by the middle of its window.
template <class T, int HALF, int GRADIENTS>
struct Piece {
  static constexpr int REACH = GRADIENTS > 0 ? HALF : 0;  // how far around the piece S is needed
  std::int64_t plane;                                     // the first of the block's
  int number, many;                                       // of the piece; how many a plane has
  int row0, row1, column0, column1;                       // whose gradient it finds
  int count0, count1;                                     // rows whose S it counts
  int left, right;                                        // columns that it reads
  int map0;                                               // the first row whose S it finds
  int first, forth, end;                                  // the first row; the end of those that S needs, and of all

  __device__ __forceinline__ explicit Piece(const Ssim<T>& call) {
    const SsimPieces& of = call.pieces;
    many = of.bands * of.strips;
    number = int(blockIdx.x % unsigned(many));
    plane = std::int64_t(blockIdx.x / unsigned(many)) * of.together;
    row0 = uniform(number / of.strips * of.rows);
    row1 = uniform(least(row0 + of.rows, call.height));
    column0 = number % of.strips * of.columns;
    column1 = least(column0 + of.columns, call.width);
    constexpr int around = (HALF + REACH + COLUMNS - 1) / COLUMNS * COLUMNS;
    left = most(column0 - around, 0);
    right = least(column1 + around, call.width);
    count0 = uniform(most(row0, call.border));
    count1 = uniform(least(row1, call.height - call.border));
    map0 = uniform(most(row0 - REACH, call.border));
    first = uniform(map0 - HALF);
    forth = uniform(least(row1 + REACH, call.height - call.border) + HALF);
    end = GRADIENTS > 0 ? row1 + 2 * HALF : forth;
  }

  // What a thread does with its own column and the four from `x` on, a bit each: whether S counts (bits 0 to 3),
  // whether the gradient is written (4 to 7); whether there is S in its own column (8).
  __device__ __forceinline__ unsigned flags(const Ssim<T>& call, int x, int own) const {
    const int begin = call.border, end_ = call.width - call.border;
    unsigned bits = unsigned(own >= begin && own < end_) << 8;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      bits |= unsigned(x + c >= most(column0, begin) && x + c < least(column1, end_)) << c;
      bits |= unsigned(x + c >= column0 && x + c < column1) << (4 + c);
    }
    return bits;
  }
};

// A thread's way down the piece. It has one column, for the window down, and of each ROWS rows four columns of one row,
// for the window along.
template <class T, int HALF, int GRADIENTS>
struct Walk {
  using Its = Column<T, HALF, GRADIENTS>;
  static constexpr int MAPS = GRADIENTS > 0 ? 2 + GRADIENTS : 1;
  const Ssim<T>& call;
  const Piece<T, HALF, GRADIENTS>& piece;
  const bool fours;          // whether gradients are written four at a time
  bool there, in_photo;      // whether it has a plane, and a column of it
  T* own;                    // its column in shared memory
  T total = 0;               // of S
  int slot = 0;              // of the next rows of pixels
  T pixels[ROWS][2];         // the next rows
  Down<T, HALF, 4> down = {};
  Down<T, HALF, MAPS> back = {};

  __device__ __forceinline__ Walk(const Ssim<T>& call_, const Piece<T, HALF, GRADIENTS>& piece_, bool fours_)
      : call(call_), piece(piece_), fours(fours_) {
    const int wide = call.pieces.wide, index = int(threadIdx.x) / wide, at = int(threadIdx.x) % wide;
    const int x = piece.left + at / COLUMNS * COLUMNS, column = piece.left + at;
    const std::int64_t plane = piece.plane + index;
    there = index < call.pieces.together && plane < call.planes;
    in_photo = there && column < piece.right;
    T* columns = reinterpret_cast<T*>(block_memory()) + index * (wide + 2 * HALF) * Its::SIZE;
    own = columns + (HALF + at) * Its::SIZE;
    if (!there) return;
    const std::int64_t image = plane / call.channels, channel = plane % call.channels;
    Aside<T>& mine = aside();
    mine.x = call.x + image * call.x_n + channel * call.x_c + piece.first * call.x_h + column * call.x_w;
    mine.y = call.y + image * call.y_n + channel * call.y_c + piece.first * call.y_h + column * call.y_w;
    mine.target = (plane * call.height + row()) * call.width + x;
    mine.flags = piece.flags(call, x, column);
    mine.weight = call.scale == nullptr ? call.weight : call.weight * call.scale[image];
    surround(columns, at, wide);
  }

  // Which of ROWS: as a plane's threads are a multiple of four. Read again each time: a register less.
  __device__ __forceinline__ static int row() { return int(threadIdx.x) % ROWS; }

  // Its row of the column that lies HALF before its four.
  __device__ __forceinline__ T* line() const { return own - HALF * Its::SIZE - row() * (Its::SIZE - Its::UNIT); }

  __device__ __forceinline__ Aside<T>& aside() const { return *reinterpret_cast<Aside<T>*>(own + Its::ASIDE); }

  // What lies before and behind the photo's columns: pixels of zero, slopes of zero.
  __device__ __forceinline__ void surround(T* columns, int at, int wide) const {
    const T middle = call.middle, square = middle * middle, outside[4] = {-middle, -middle, 2 * square, square};
    const T nothing[4] = {};
    for (int i = at; i < wide + 2 * HALF; i += wide)
      for (int j = 0; j < ROWS && (i < HALF || i >= piece.right - piece.left + HALF); ++j) {
        T* place = columns + i * Its::SIZE + j * Its::UNIT;
        put(place + Its::FORTH, outside);
        if (GRADIENTS > 0) put(place + Its::BACK, nothing);
      }
  }

  // The pixels of the rows from t on, zeros outside.
  __device__ __forceinline__ void fetch(int t) {
    const bool needed = in_photo && t < piece.forth, whole = t >= 0 && t + ROWS <= call.height;
#pragma unroll
    for (int j = 0; j < ROWS; ++j) pixels[j][0] = pixels[j][1] = 0;
    if (!needed) return;
    const T *x = aside().x, *y = aside().y;
    if (whole) {
#pragma unroll
      for (int j = 0; j < ROWS; ++j) {
        pixels[j][0] = __ldg(x + j * call.x_h);
        pixels[j][1] = __ldg(y + j * call.y_h);
      }
    } else {
#pragma unroll
      for (int j = 0; j < ROWS; ++j) {
        if (t + j < 0 || t + j >= call.height) continue;
        pixels[j][0] = __ldg(x + j * call.x_h);
        pixels[j][1] = __ldg(y + j * call.y_h);
      }
    }
    aside().x = x + ROWS * call.x_h;
    aside().y = y + ROWS * call.y_h;
  }

  // Those pixels down the window.
  __device__ __forceinline__ void send_forth() {
    Several<T, 2 * ROWS> kept;
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
      const T a = pixels[j][0] - call.middle, b = pixels[j][1] - call.middle;
      kept.of[2 * j] = a;
      kept.of[2 * j + 1] = b;
      T values[4] = {a, b, a * a + b * b, a * b};
      down(values, call.taps);
      put(own + Its::FORTH + j * Its::UNIT, values);
    }
    if (GRADIENTS > 0) write(own + Its::PIXELS + 2 * slot, kept);
  }

  // S of the rows from `centre` on, and its slopes.
  __device__ __forceinline__ void find_scores(int centre) {
    T blurred[COLUMNS][4];
    along<T, HALF, 4, Its::SIZE>(line() + Its::FORTH, call.taps, blurred);
    const T weight = aside().weight;
    const int here = centre + row();
    const unsigned counts = here >= piece.count0 && here < piece.count1 ? aside().flags : 0;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      T slopes[4];
      const T found = score<T, GRADIENTS>(blurred[c], call, weight, slopes);
      if (counts >> c & 1) total += found;
      if (GRADIENTS > 0) put(line() + (HALF + c) * Its::SIZE + Its::BACK, slopes);
    }
  }

  // The slopes of the rows from `centre` on down the window; its four threads have written them.
  __device__ __forceinline__ void send_back(int centre) {
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
      T values[4] = {};
      const bool found = aside().flags >> 8 & 1 && centre + j >= piece.map0 && centre + j + HALF < piece.forth;
      if (found) get(own + Its::BACK + j * Its::UNIT, values);
      back(values, call.taps);
      put(own + Its::BACK + j * Its::UNIT, values);
    }
  }

  // The gradient of the rows from `begin` on.
  __device__ __forceinline__ void finish(int begin) {
    T slopes[COLUMNS][4];
    along<T, HALF, MAPS, Its::SIZE>(line() + Its::BACK, call.taps, slopes);
    if (begin + row() < piece.row0 || begin + row() >= piece.row1) return;
    int from = slot + row() + Its::KEPT - ROWS - 2 * HALF;
    if (from >= Its::KEPT) from -= Its::KEPT;
    const T* kept = line() + HALF * Its::SIZE + Its::PIXELS + 2 * from - row() * Its::UNIT;
    Several<T, COLUMNS> of_x, of_y;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const Several<T, 2> pair = read<2>(kept + c * Its::SIZE);
      const T a = pair.of[0], b = pair.of[1];
      of_x.of[c] = slopes[c][2] + a * slopes[c][0] + b * slopes[c][1];
      if (GRADIENTS > 1) of_y.of[c] = slopes[c][3] + b * slopes[c][0] + a * slopes[c][1];
    }
    const std::int64_t target = aside().target + std::int64_t(begin) * call.width;
    deliver(call.gradient_x + target, of_x);
    if (GRADIENTS > 1) deliver(call.gradient_y + target, of_y);
  }

  __device__ __forceinline__ void deliver(T* place, const Several<T, COLUMNS>& values) const {
    if (fours) {
      if (aside().flags >> 4 & 1) write(place, values);
      return;
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
      if (aside().flags >> (4 + c) & 1) place[c] = values.of[c];
  }

  // Two barriers each ROWS rows: rows filtered down, forth and back, lie in shared memory; then all are filtered along.
  __device__ __forceinline__ void run() {
    fetch(piece.first);
#pragma unroll 1
    for (int t = piece.first;; t += ROWS) {
      if (in_photo && t < piece.forth) send_forth();
      const int done = t - ROWS - 2 * HALF;
      if (GRADIENTS > 0 && there && done + ROWS > piece.row0) finish(done);
      if (t >= piece.end) return;
      slot = slot + ROWS < Its::KEPT ? slot + ROWS : 0;
      __syncthreads();
      const int centre = t - HALF;
      if (there && centre + ROWS > piece.map0 && t < piece.forth) find_scores(centre);
      fetch(t + ROWS);
      if (GRADIENTS > 0) {
        __syncwarp();
        if (there) send_back(centre);
      }
      __syncthreads();
    }
  }
};

template <class T, int HALF, int GRADIENTS>
__global__ void __launch_bounds__(SSIM_THREADS, sizeof(T) == 4 ? 2 : 1)
    ssim_kernel(const __grid_constant__ Ssim<T> call, const bool fours) {
  const Piece<T, HALF, GRADIENTS> piece(call);
  Walk<T, HALF, GRADIENTS> walk(call, piece, fours);
  walk.run();
  __syncthreads();
  T* totals = reinterpret_cast<T*>(block_memory());  // of each thread, where the columns were
  totals[threadIdx.x] = walk.total;
  __syncthreads();
  const int wide = call.pieces.wide, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (int i = threadIdx.x / WARP; i < call.pieces.together; i += warps) {
    T total = 0;
    for (int k = lane; k < wide; k += WARP) total += totals[i * wide + k];
    total = warp_sum(total);
    if (lane == 0 && piece.plane + i < call.planes) call.scores[(piece.plane + i) * piece.many + piece.number] = total;
  }
}

// Longer windows than 7 take the kernel for 11, the others that for 7: taps beyond the window are zero.
constexpr int half_of(int window) { return window > 7 ? 5 : 3; }

template <class T, int HALF>
cudaError_t launch_for(const Ssim<T>& call, const Grid& grid, cudaStream_t stream) {
  const auto whole = [](const T* gradient) { return reinterpret_cast<std::uintptr_t>(gradient) % 16 == 0; };
  const bool fours = call.width % COLUMNS == 0 && whole(call.gradient_x) && whole(call.gradient_y);
  if (call.gradient_x == nullptr) return launch(ssim_kernel<T, HALF, 0>, grid, stream, call, fours);
  if (call.gradient_y == nullptr) return launch(ssim_kernel<T, HALF, 1>, grid, stream, call, fours);
  return launch(ssim_kernel<T, HALF, 2>, grid, stream, call, fours);
}

template <class T, int HALF>
constexpr std::size_t column_bytes(bool gradients) {
  return sizeof(T) * (gradients ? Column<T, HALF, 1>::SIZE : Column<T, HALF, 0>::SIZE);
}

}  // namespace

template <class T>
std::size_t ssim_memory(int wide, int window, bool gradients) {
  const int half = half_of(window);
  const std::size_t each = half == 5 ? column_bytes<T, 5>(gradients) : column_bytes<T, 3>(gradients);
  return (std::size_t(wide) + 2 * half) * each;
}

template <class T>
cudaError_t ssim(const Ssim<T>& call, cudaStream_t stream) {
  const SsimPieces& of = call.pieces;
  const unsigned threads = (unsigned(of.together * of.wide) + WARP - 1) / WARP * WARP;
  if (threads > SSIM_THREADS) return cudaErrorInvalidValue;
  const std::int64_t groups = (call.planes + of.together - 1) / of.together;
  const Grid grid{groups * of.bands * of.strips, threads, 1,
                  of.together * ssim_memory<T>(of.wide, call.window, call.gradient_x != nullptr)};
  return half_of(call.window) == 5 ? launch_for<T, 5>(call, grid, stream) : launch_for<T, 3>(call, grid, stream);
}

template cudaError_t ssim(const Ssim<float>&, cudaStream_t);
template cudaError_t ssim(const Ssim<double>&, cudaStream_t);
template std::size_t ssim_memory<float>(int, int, bool);
template std::size_t ssim_memory<double>(int, int, bool);

}  // namespace veilkern
