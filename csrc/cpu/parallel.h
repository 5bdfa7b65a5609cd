// Independent tasks on a team of threads: OpenMP's if the compiler has it, otherwise the standard library's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <type_traits>

#include "cpu/interrupt.h"

#if defined(_OPENMP)
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace scvae::cpu {

// Ends the threads that OpenMP keeps for this thread's next call; it starts new ones when needed. Call this before a
// fork: the child has none of the threads and would wait for them forever. Returns false if OpenMP can't do it.
bool release_threads();

// How many of `threads` are worth waking for `tasks` independent tasks.
inline int team_size(int threads, std::int64_t tasks) {
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, tasks)));
}

// The first exception in a team. Exceptions must not leave a thread or an OpenMP region: that would end the process.
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

  // To be called after the whole team is done.
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::atomic<bool> caught_{false};
  std::exception_ptr first_;
};

// A thread's part in a team. Long tasks should call `look` occasionally. It throws if the call has to end because it
// was interrupted or because another thread failed.
class Turn {
 public:
  Turn(const FirstException& failure, int thread) : failure_(failure), thread_(thread) {}

  void look() const {
    if (failure_.caught()) throw Interrupted();
    if (thread_ == 0) look_for_interrupt();
  }

 private:
  const FirstException& failure_;
  int thread_;
};

// Calls body(task, thread), or body(task, thread, turn), for every task, 0 <= thread < team; thread 0 is the caller.
// Tasks must be independent: any thread may run any task. If a body throws, tasks that have not started are skipped,
// and the first exception reaches the caller.
template <typename Body>
void parallel_for(std::int64_t tasks, int team, const Body& body) {
  FirstException failure;
  const auto run = [&](std::int64_t task, int thread) {
    const Turn turn(failure, thread);
    turn.look();
    if constexpr (std::is_invocable_v<Body, std::int64_t, int, const Turn&>)
      body(task, thread, turn);
    else
      body(task, thread);
  };
  if (team == 1) {
    for (std::int64_t task = 0; task < tasks; ++task) run(task, 0);
    return;
  }
  const auto guarded = [&](std::int64_t task, int thread) {
    if (!failure.caught()) failure.guard([&] { run(task, thread); });
  };
#if defined(_OPENMP)
#pragma omp parallel for num_threads(team) schedule(dynamic)
  for (std::int64_t task = 0; task < tasks; ++task) guarded(task, omp_get_thread_num());
#else
  std::atomic<std::int64_t> next{0};
  const auto work = [&](int thread) {
    for (std::int64_t task = next++; task < tasks; task = next++) guarded(task, thread);
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(team - 1));
  failure.guard([&] {  // starting a thread can fail, but running ones must still be joined
    for (int thread = 1; thread < team; ++thread) others.emplace_back(work, thread);
    work(0);
  });
  for (std::thread& other : others) other.join();
#endif
  failure.rethrow();
}

}  // namespace scvae::cpu
