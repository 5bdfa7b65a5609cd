// Independent tasks on a team of threads: OpenMP's where the compiler has it, the standard library's elsewhere.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace scvae::cpu {

// How many of `threads` are worth waking for `tasks` independent tasks.
inline int team_size(int threads, std::int64_t tasks) {
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, tasks)));
}

// The first exception of a team. None may leave a thread or an OpenMP region: that would end the process.
class FirstException {
 public:
  template <typename Call>
  void guard(const Call& call) noexcept {
    try {
      call();
    } catch (...) {
      if (!caught_.exchange(true)) first_ = std::current_exception();
    }
  }

  bool caught() const { return caught_.load(std::memory_order_relaxed); }

  // Once the whole team is done.
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::atomic<bool> caught_{false};
  std::exception_ptr first_;
};

// Calls body(task, thread) for every task, 0 <= thread < team; a team of one is the caller itself. Tasks must be
// independent: which thread runs one is left open. Where a body throws, tasks that nobody has begun are left out and
// the first exception reaches the caller.
template <typename Body>
void parallel_for(std::int64_t tasks, int team, const Body& body) {
  if (team == 1) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  FirstException failure;
  const auto run = [&](std::int64_t task, int thread) {
    if (!failure.caught()) failure.guard([&] { body(task, thread); });
  };
#if defined(_OPENMP)
#pragma omp parallel for num_threads(team) schedule(dynamic)
  for (std::int64_t task = 0; task < tasks; ++task) run(task, omp_get_thread_num());
#else
  std::atomic<std::int64_t> next{0};
  const auto work = [&](int thread) {
    for (std::int64_t task = next++; task < tasks; task = next++) run(task, thread);
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(team - 1));
  failure.guard([&] {  // starting a thread can fail, and those that run must be joined all the same
    for (int thread = 1; thread < team; ++thread) others.emplace_back(work, thread);
    work(0);
  });
  for (std::thread& other : others) other.join();
#endif
  failure.rethrow();
}

}  // namespace scvae::cpu
