// Working memory of a kernel: kept by each thread between calls, since fresh pages cost more than most kernels take.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace veilkern {

// `values` of T, aligned to 64 bytes, of no particular content. One at a time in a thread.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t values) {
    const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(values);
    if (bytes > kKeep) {
      own_ = allocate(bytes);
      data_ = own_.get();
      return;
    }
    thread_local Block kept;
    thread_local std::size_t size = 0;
    if (size < bytes) {
      kept = allocate(bytes);
      size = bytes;
    }
    data_ = kept.get();
  }
  T* data() const { return static_cast<T*>(data_); }

 private:
#ifdef VEILKERN_SANITIZE
  static constexpr std::size_t kKeep = 0;  // every block exactly as large as asked for, so that its ends are watched
#else
  static constexpr std::size_t kKeep = std::size_t{4} << 20;  // larger blocks go back when the call ends
#endif
  struct Free {
    void operator()(void* block) const { ::operator delete(block, std::align_val_t{64}); }
  };
  using Block = std::unique_ptr<void, Free>;
  static Block allocate(std::size_t bytes) { return Block(::operator new(bytes, std::align_val_t{64})); }
  Block own_;
  void* data_;
};

}  // namespace veilkern
