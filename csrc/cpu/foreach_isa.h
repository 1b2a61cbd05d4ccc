// Compiles the kernels of one op for every instruction set, within one translation unit:
//
//   #define VEILKERN_KERNELS "cpu/ssim.inl"
//   #include "foreach_isa.h"
//   ... VEILKERN_CHOOSE(kernel<float>)(...)    // the best one of this processor
//
// Everything a kernel calls must be in its .inl or in pack.inl: whatever is included before stays compiled for the
// baseline, so no function of the standard library can be emitted with instructions that a processor lacks.
// The arithmetic is the same for every instruction set (64-byte packs, no fused multiply-add, see pack.inl), so all of
// them give the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "simd.h"

#ifdef __clang__
#define VEILKERN_TARGET_AVX2 \
  _Pragma("clang attribute push(__attribute__((target(\"avx2\"))), apply_to = function)")
#define VEILKERN_TARGET_AVX512 \
  _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl\"))), apply_to = function)")
#define VEILKERN_TARGET_END _Pragma("clang attribute pop")
#else
#define VEILKERN_TARGET_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2\")")
#define VEILKERN_TARGET_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl\")")
#define VEILKERN_TARGET_END _Pragma("GCC pop_options")
#endif

#define VEILKERN_REGISTER 16
namespace veilkern {
namespace {
namespace baseline {
#include "pack.inl"
#include VEILKERN_KERNELS
}  // namespace baseline
}  // namespace
}  // namespace veilkern
#undef VEILKERN_REGISTER

#ifdef VEILKERN_X86
#define VEILKERN_REGISTER 32
VEILKERN_TARGET_AVX2
namespace veilkern {
namespace {
namespace avx2 {
#include "pack.inl"
#include VEILKERN_KERNELS
}  // namespace avx2
}  // namespace
}  // namespace veilkern
VEILKERN_TARGET_END
#undef VEILKERN_REGISTER

#define VEILKERN_REGISTER 64
VEILKERN_TARGET_AVX512
namespace veilkern {
namespace {
namespace avx512 {
#include "pack.inl"
#include VEILKERN_KERNELS
}  // namespace avx512
}  // namespace
}  // namespace veilkern
VEILKERN_TARGET_END
#undef VEILKERN_REGISTER

#define VEILKERN_CHOOSE(...) \
  (isa() == Isa::avx512 ? avx512::__VA_ARGS__ : isa() == Isa::avx2 ? avx2::__VA_ARGS__ : baseline::__VA_ARGS__)
#else
#define VEILKERN_CHOOSE(...) (baseline::__VA_ARGS__)
#endif
