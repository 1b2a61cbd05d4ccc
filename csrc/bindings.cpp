// Python's door to the C++ kernels: data pointers, sizes and strides come as integers, so that no torch header is
// needed and one build serves every torch version. veilkern/backends/cpu.py checks everything before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/bank.h"
#include "cpu/blend.h"
#include "cpu/blend_normalize.h"
#include "cpu/block_variance.h"
#include "cpu/hull_distance.h"
#include "cpu/pool.h"
#include "cpu/recover.h"
#include "cpu/rectify.h"
#include "cpu/seal.h"
#include "cpu/seal_normalize.h"
#include "cpu/ssim.h"
#include "cpu/unseal.h"
#include "cpu/veil_step.h"

namespace py = pybind11;
using namespace veilkern;
using Address = std::uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using Strides = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // of images, channels, rows, in values
using Sizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
using Batch = std::pair<Address, std::int64_t>;  // photos that lie whole in memory, and their stride
using BankAt = std::tuple<Address, std::int64_t, std::array<std::int64_t, 4>>;  // veils, how many, and all four strides

template <class T>
Planes<T> planes(Address address, const Strides& strides) {
  return {at<T>(address), std::get<0>(strides), std::get<1>(strides), std::get<2>(strides)};
}

template <class T>
Photos<T> photos(const Batch& batch) {
  return {at<T>(batch.first), batch.second};
}

using BytesAt = std::tuple<Address, std::int64_t, std::int64_t>;  // [count, width], row after row

// Integers that addresses follow from (rows, offsets), as they are now: without the GIL another thread may write to the
// caller's after they were looked at. None where there is no address.
std::vector<std::int64_t> taken(Address integers, std::int64_t count) {
  const std::int64_t* const first = at<const std::int64_t>(integers);
  return first == nullptr || count < 0 ? std::vector<std::int64_t>() : std::vector<std::int64_t>(first, first + count);
}

// The veils, once it is sure that every row names one of them: the kernels follow rows without a look.
template <class T>
Bank<T> bank_of(const BankAt& veils, const std::vector<std::int64_t>& rows, const Sizes& sizes) {
  const auto& [address, people, strides] = veils;
  const auto [count, channels, height, width] = sizes;
  if (count < 0 || channels != 3 || height < 1 || width < 1)
    throw std::invalid_argument("photos must be [N, 3, height, width]");
  for (const std::int64_t row : rows)
    if (row < 0 || row >= people) throw std::invalid_argument("rows must name a veil");
  return {at<const T>(address), people, strides[0], strides[1], strides[2], strides[3], height, width};
}

void check_blend(int a, int low, int threads) {
  if (a < low || a > 255 || threads < 1)
    throw std::invalid_argument("blend must lie in " + std::to_string(low) + "..255, threads must be at least 1");
}

// blend and recover; channels_last: the order in which input and output lie.
template <class In, class Out, int low, auto kernel>
void launch(Batch input, BankAt veils, Address rows, Batch output, Sizes sizes, bool channels_last, int a, int threads) {
  check_blend(a, low, threads);
  const std::vector<std::int64_t> row = taken(rows, std::get<0>(sizes));
  const Bank<std::uint8_t> bank = bank_of<std::uint8_t>(veils, row, sizes);
  const py::gil_scoped_release unlocked;
  kernel(photos<const In>(input), Veils(bank, channels_last), row.data(), photos<Out>(output), std::get<0>(sizes),
         3 * bank.plane(), a, threads);
}

Boxes boxes_of(std::pair<std::int64_t, std::int64_t> block, std::int64_t stride, bool literal) {
  if (block.first < 1 || block.second < 1 || stride < 1) throw std::invalid_argument("block and stride must be positive");
  return {block.first, block.second, stride, literal};
}

template <class T>
void launch_block_variance(Address images, Strides image_strides, Address gradient, Strides gradient_strides,
                           Address scale, Address loss, Sizes sizes, std::pair<std::int64_t, std::int64_t> block,
                           std::int64_t stride, bool literal, int threads) {
  const Boxes boxes = boxes_of(block, stride, literal);
  const auto [count, channels, height, width] = sizes;
  const py::gil_scoped_release unlocked;
  block_variance<T>(planes<const T>(images, image_strides), planes<T>(gradient, gradient_strides), at<const T>(scale),
                    at<T>(loss), count, channels, height, width, boxes, threads);
}

template <class T>
void launch_ssim(Address x, Strides x_strides, Address y, Strides y_strides, Address gradient_x, Strides gradient_x_strides,
                 Address gradient_y, Strides gradient_y_strides, Address scale, Address score, Sizes sizes, Address taps,
                 std::int64_t window, bool same, double data_range, int threads) {
  const auto [count, channels, height, width] = sizes;
  if (window < 1 || window % 2 == 0) throw std::invalid_argument("window must be odd and positive");
  const py::gil_scoped_release unlocked;
  ssim<T>(planes<const T>(x, x_strides), planes<const T>(y, y_strides), planes<T>(gradient_x, gradient_x_strides),
          planes<T>(gradient_y, gradient_y_strides), at<const T>(scale), at<T>(score), count, channels, height, width,
          {at<const double>(taps), window, same, data_range}, threads);
}

template <class T>
void launch_hull_distance(Address features, Address clean, Address offsets, Address clean_offsets, Sizes sizes, int subspace,
                          Address start, Address own, Address distance, Address weights, std::int64_t width,
                          Address gradient, int threads) {
  const auto [people, count, clean_count, dimensions] = sizes;
  const auto marks = taken(offsets, people + 1), clean_marks = taken(clean_offsets, people + 1), chosen = taken(own, count);
  if (subspace < 0 || subspace > static_cast<int>(Subspace::self)) throw std::invalid_argument("no such subspace");
  const py::gil_scoped_release unlocked;
  hull_distance<T>({at<const T>(features), at<const T>(clean), marks.data(), clean_marks.data(), people, dimensions, count,
                    clean_count},
                   static_cast<Subspace>(subspace), at<const T>(start), own == 0 ? nullptr : chosen.data(),
                   at<T>(distance), at<T>(weights), width, at<T>(gradient), threads);
}

template <class T>
void launch_veil_step(Address veils, Address momentum, Address gradients, Address images, Address mean_images,
                      Address offsets, Address gradient_offsets, std::pair<std::int64_t, std::int64_t> counts,
                      Address lam, Address mu, Address step, Address decay, Address active, Address statistics,
                      Sizes sizes, int a, bool norm,
                      std::pair<std::int64_t, std::int64_t> block, std::int64_t stride, bool literal, int threads) {
  const auto [people, channels, height, width] = sizes;
  const auto marks = taken(offsets, people + 1), slope_marks = taken(gradient_offsets, people + 1);
  const VeilStep<T> all{at<T>(veils), at<T>(momentum), at<const T>(gradients), at<const std::uint8_t>(images),
                        at<const T>(mean_images), marks.data(), slope_marks.data(), at<const double>(lam),
                        at<const double>(mu), at<const double>(step), at<const double>(decay), at<const std::uint8_t>(active), people, channels,
                        height, width, counts.first, counts.second, a / 255.0, norm, boxes_of(block, stride, literal)};
  const py::gil_scoped_release unlocked;
  veil_step<T>(all, at<T>(statistics), threads);
}

// recover with a filter, planes after planes; weights from the centre outwards.
template <class In, auto kernel>
void launch_gaussian(Batch input, BankAt veils, Address rows, Batch output, Sizes sizes, int a,
                     const std::vector<std::uint32_t>& weights, int threads) {
  check_blend(a, 1, threads);
  const std::vector<std::int64_t> row = taken(rows, std::get<0>(sizes));
  const Bank<std::uint8_t> bank = bank_of<std::uint8_t>(veils, row, sizes);
  const auto radius = static_cast<std::int64_t>(weights.size()) - 1;
  if (radius < 0 || radius >= std::min(bank.height, bank.width))
    throw std::invalid_argument("the filter must be smaller than the photo");
  const py::gil_scoped_release unlocked;
  kernel(photos<const In>(input), Veils(bank, false), row.data(), photos<std::uint8_t>(output), std::get<0>(sizes), a,
         {weights.data(), radius, 3, bank.height, bank.width}, threads);
}

// Per channel of the output; `number` is a kind of Number.
Channels channels_of(int number, const std::array<int, 3>& source, const std::array<double, 3>& of_image,
                     const std::array<double, 3>& of_veil, const std::array<double, 3>& constant) {
  if (number < 0 || number > 3) throw std::invalid_argument("no such kind of number");
  Channels channels;
  for (std::size_t c = 0; c < 3; ++c) {
    if (source[c] < 0 || source[c] > 2) throw std::invalid_argument("a channel comes from channel 0, 1 or 2");
    channels.source[c] = source[c];
    channels.of_image[c] = of_image[c];
    channels.of_veil[c] = of_veil[c];
    channels.constant[c] = constant[c];
  }
  return channels;
}

template <class T>
void launch_blend_normalize(Batch images, BankAt veils, Address rows, Address out, int number, Sizes sizes,
                            std::array<int, 3> source, std::array<double, 3> of_image, std::array<double, 3> of_veil,
                            std::array<double, 3> constant, int threads) {
  const Channels channels = channels_of(number, source, of_image, of_veil, constant);
  const std::vector<std::int64_t> row = taken(rows, std::get<0>(sizes));
  const Bank<T> bank = bank_of<T>(veils, row, sizes);
  const py::gil_scoped_release unlocked;
  blend_normalize<T>(photos<const std::uint8_t>(images), bank, row.data(), at<void>(out), static_cast<Number>(number),
                     std::get<0>(sizes), channels, threads);
}

// x [count, pixels, channels] and bits; tables in the dtype of x, map: one value for each of a photo.
template <class T>
void launch_rectify(Address x, Address bits, std::tuple<std::int64_t, std::int64_t, std::int64_t> sizes, Address add,
                    bool map, Address slope, double top, bool back, int threads) {
  const auto [count, pixels, channels] = sizes;
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  if (count < 1 || pixels < 1 || channels < 1) throw std::invalid_argument("there must be values");
  const Gate<T> gate{at<const T>(add), map, at<const T>(slope), channels, static_cast<T>(top)};
  const py::gil_scoped_release unlocked;
  rectify<T>(at<T>(x), at<std::uint8_t>(bits), count, pixels, gate, back, threads);
}

// How photos are sealed, once it is sure that keys and nonces are as large as the kernels read them.
Sealing sealing_of(const BytesAt& keys, const BankAt& veils, const Sizes& sizes, bool channels_last, int levels, int rounds,
                   int threads) {
  const auto [count, channels, height, width] = sizes;
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  if (rounds != 12 && rounds != 20) throw std::invalid_argument("rounds must be 12 or 20");
  int bits = 4;
  while (bits < 7 && levels != 1 << bits) ++bits;
  if (levels != 1 << bits) throw std::invalid_argument("levels must be 16, 32, 64 or 128");
  constexpr std::int64_t most = kBlock << 32;  // values that a stream's counter reaches
  if (height < 1 || width < 1 || height > most / 3 / width || 3 * height * width < kCarriers)
    throw std::invalid_argument("photos must have at least " + std::to_string(kCarriers) + " values, at most 2^38");
  if (std::get<1>(keys) != std::get<1>(veils) || std::get<2>(keys) != kKeyBytes)
    throw std::invalid_argument("keys must be [people, 32]");
  return {bits, rounds, height * width, channels_last};
}

// The streams of a batch: copies of the keys and of the nonces, which must be [count, 12].
Streams streams_of(const BytesAt& keys, const std::vector<std::int64_t>& rows, const BytesAt& nonces) {
  if (std::get<1>(nonces) != static_cast<std::int64_t>(rows.size()) || std::get<2>(nonces) != kNonceBytes)
    throw std::invalid_argument("nonces must be [N, 12]");
  return Streams(at<const std::uint8_t>(std::get<0>(keys)), rows.data(), at<const std::uint8_t>(std::get<0>(nonces)),
                 static_cast<std::int64_t>(rows.size()));
}

template <class Out, auto kernel>
void launch_seal(Batch images, BankAt veils, Address rows, BytesAt keys, BytesAt nonces, Batch out, Sizes sizes,
                 bool channels_last, int levels, int rounds, int threads) {
  const Sealing how = sealing_of(keys, veils, sizes, channels_last, levels, rounds, threads);
  const std::vector<std::int64_t> row = taken(rows, std::get<0>(sizes));
  const Bank<std::uint8_t> bank = bank_of<std::uint8_t>(veils, row, sizes);
  const Streams streams = streams_of(keys, row, nonces);
  const py::gil_scoped_release unlocked;
  kernel(photos<const std::uint8_t>(images), Veils(bank, channels_last), row.data(), streams, photos<Out>(out),
         std::get<0>(sizes), how, threads);
}

template <class In, auto kernel>
void launch_unseal(Batch sealed, BankAt veils, Address rows, BytesAt keys, Batch out, Sizes sizes, bool channels_last,
                   int levels, int rounds, int threads) {
  const Sealing how = sealing_of(keys, veils, sizes, channels_last, levels, rounds, threads);
  const std::vector<std::int64_t> row = taken(rows, std::get<0>(sizes));
  const Bank<std::uint8_t> bank = bank_of<std::uint8_t>(veils, row, sizes);
  Streams streams(at<const std::uint8_t>(std::get<0>(keys)), row.data(), nullptr, static_cast<std::int64_t>(row.size()));
  const py::gil_scoped_release unlocked;
  kernel(photos<const In>(sealed), Veils(bank, channels_last), row.data(), streams, photos<std::uint8_t>(out),
         std::get<0>(sizes), how, threads);
}

// Images in planes.
template <class T>
void launch_seal_normalize(Batch images, BankAt veils, Address rows, BytesAt keys, BytesAt nonces, Address out, int number,
                           Sizes sizes, int levels, int rounds, std::array<int, 3> source,
                           std::array<double, 3> of_added, std::array<double, 3> of_veil,
                           std::array<double, 3> constant, int threads) {
  const Sealing how = sealing_of(keys, veils, sizes, false, levels, rounds, threads);
  const Channels channels = channels_of(number, source, of_added, of_veil, constant);
  const std::vector<std::int64_t> row = taken(rows, std::get<0>(sizes));
  const Bank<T> bank = bank_of<T>(veils, row, sizes);
  const Streams streams = streams_of(keys, row, nonces);
  const py::gil_scoped_release unlocked;
  seal_normalize<T>(photos<const std::uint8_t>(images), bank, row.data(), streams, at<void>(out),
                    static_cast<Number>(number), std::get<0>(sizes), channels, how, threads);
}

const char* name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline";
}

void set_isa(const std::string& wanted) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (wanted != name(isa)) continue;
    if (isa > best_isa()) throw std::invalid_argument("this processor has no " + wanted);
    return set_isa_limit(isa);
  }
  throw std::invalid_argument("isa must be baseline, avx2 or avx512, got " + wanted);
}

void run_python_parts(int parts, int threads, const py::function& work) {
  const py::gil_scoped_release unlocked;
  run_parts(parts, threads, [&](int part) {
    const py::gil_scoped_acquire locked;
    work(part);
  });
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "C++ CPU kernels of veilkern; see veilkern.backends.cpu";
  m.def("blend_u8", launch<std::uint8_t, std::uint8_t, 0, blend_u8>);
  m.def("blend_u16", launch<std::uint8_t, std::uint16_t, 0, blend_u16>);
  m.def("recover_u8", launch<std::uint8_t, std::uint8_t, 1, recover_u8>);
  m.def("recover_u16", launch<std::uint16_t, std::uint8_t, 1, recover_u16>);
  m.def("recover_gaussian_u8", launch_gaussian<std::uint8_t, recover_gaussian_u8>);
  m.def("recover_gaussian_u16", launch_gaussian<std::uint16_t, recover_gaussian_u16>);
  m.def("blend_normalize_f32", launch_blend_normalize<float>);
  m.def("blend_normalize_f64", launch_blend_normalize<double>);
  m.def("seal_u8", launch_seal<std::uint8_t, seal_u8>);
  m.def("seal_u16", launch_seal<std::uint16_t, seal_u16>);
  m.def("unseal_u8", launch_unseal<std::uint8_t, unseal_u8>);
  m.def("unseal_u16", launch_unseal<std::uint16_t, unseal_u16>);
  m.def("seal_normalize_f32", launch_seal_normalize<float>);
  m.def("seal_normalize_f64", launch_seal_normalize<double>);
  m.def("block_variance_f32", launch_block_variance<float>);
  m.def("block_variance_f64", launch_block_variance<double>);
  m.def("ssim_f32", launch_ssim<float>);
  m.def("ssim_f64", launch_ssim<double>);
  m.def("hull_distance_f32", launch_hull_distance<float>);
  m.def("hull_distance_f64", launch_hull_distance<double>);
  m.def("rectify_f32", launch_rectify<float>);
  m.def("rectify_f64", launch_rectify<double>);
  m.def("veil_step_f32", launch_veil_step<float>);
  m.def("veil_step_f64", launch_veil_step<double>);
  m.def("isa", [] { return name(isa()); }, "The instruction set in use.");
  m.def("best_isa", [] { return name(best_isa()); }, "The best instruction set of this processor.");
  m.def("set_isa", set_isa, "Limit the instruction set: baseline, avx2 or avx512 (for tests).");
  m.def("set_stream_from", set_stream_from, py::arg("bytes") = kStreamFrom,
        "From how many bytes on results are written past the caches (for tests).");
  m.def("run_parts", run_python_parts, "Call work(part) for each part on the threads of the kernels (for tests).");
}
