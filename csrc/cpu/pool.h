// A few helper threads kept between calls, since waking one is cheaper than starting one.
#pragma once
#include <functional>

namespace veilkern {

// Calls work(0) .. work(parts - 1), each once, on up to `threads` threads, the caller's among them; returns when all
// are done.
// The first exception of a part comes out of run_parts, once the others are done.
// Helpers compute with the caller's floating-point environment (set_flush_denormal, rounding).
// A part that calls run_parts itself does that work alone, on its own thread.
// One batch at a time: a caller that finds the helpers busy (another Python thread's call) does its work alone, so
// that many callers never run more threads than cores. After a fork the child starts helpers of its own.
void run_parts(int parts, int threads, const std::function<void(int)>& work);

}  // namespace veilkern
