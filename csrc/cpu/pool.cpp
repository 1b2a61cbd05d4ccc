#include "pool.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#ifndef _WIN32
#include <pthread.h>
#endif

namespace veilkern {
namespace {

// Set while a thread does parts of a batch: its own calls of run_parts then do their work alone.
thread_local bool in_a_part = false;

class Pool {
 public:
  // False when another call holds the helpers.
  bool run(int parts, int threads, const std::function<void(int)>& work) {
    const std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine) return false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      grow(std::min(parts, threads) - 1);
      seats_ = std::min(parts, threads) - 1;
      work_ = &work;
      parts_ = parts;
      next_ = 0;
      left_ = parts;
      std::fegetenv(&floats_);
      ++batch_;
    }
    wake_.notify_all();
    in_a_part = true;
    take(work, parts);
    in_a_part = false;
    spin([&] { return left_ == 0 && inside_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return left_ == 0 && inside_ == 0; });
    work_ = nullptr;
    if (const auto error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
    return true;
  }

 private:
  // Parts are handed out one by one, so a helper that wakes late takes none from a quick one.
  void take(const std::function<void(int)>& work, int parts) {
    for (int part; (part = next_.fetch_add(1)) < parts;) {
      try {
        work(part);
      } catch (...) {  // out of memory, say: the caller gets it, the helper lives on
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
      left_.fetch_sub(1);
    }
  }

  // Looks again and again for a short while, since going to sleep and being woken takes longer than most waits here.
  // Only a hint: whoever spins takes the lock afterwards and waits properly.
  template <class Ready>
  static void spin(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(60);
    while (!ready() && std::chrono::steady_clock::now() < end) relax();
  }

  static void relax() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_ia32_pause();
#endif
  }

  void grow(int wanted) {  // under mutex_
    try {
      while (helpers_ < wanted) {
        std::thread([this] { help(); }).detach();
        ++helpers_;
      }
    } catch (const std::system_error&) {
      // No more threads to be had: those there, and the caller, do the work.
    }
  }

  [[noreturn]] void help() {
    in_a_part = true;
    unsigned long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      lock.unlock();
      spin([&] { return batch_ != seen; });
      lock.lock();
      wake_.wait(lock, [&] { return batch_ != seen && work_ != nullptr && seats_ > 0; });
      seen = batch_;
      const auto* work = work_;
      const int parts = parts_;
      const std::fenv_t floats = floats_;
      --seats_;
      ++inside_;
      lock.unlock();
      std::fesetenv(&floats);  // flushing of denormals and rounding, as the caller has them: the same bits
      take(*work, parts);
      lock.lock();
      --inside_;
      if (left_ == 0 && inside_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* work_ = nullptr;
  std::exception_ptr error_;
  std::fenv_t floats_{};
  std::atomic<int> next_{0}, left_{0};
  std::atomic<int> inside_{0};
  std::atomic<unsigned long> batch_{0};
  int parts_ = 0, helpers_ = 0, seats_ = 0;
};

// Never destroyed: helpers may still wait on it while the process ends. A forked child, which has none of the helpers
// and perhaps a lock held by nobody, gets a new one and leaves the old alone.
std::atomic<Pool*> pool{new Pool};
#ifndef _WIN32
[[maybe_unused]] const int after_fork = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif

}  // namespace

void run_parts(int parts, int threads, const std::function<void(int)>& work) {
  if (parts > 1 && threads > 1 && !in_a_part && pool.load()->run(parts, threads, work)) return;
  for (int part = 0; part < parts; ++part) work(part);
}

}  // namespace veilkern
