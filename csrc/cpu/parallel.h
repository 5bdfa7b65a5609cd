#pragma once

#include <algorithm>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace scvae::cpu {

// How many of `threads` are worth waking for `tasks` independent tasks.
inline int team_size(int threads, std::int64_t tasks) {
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, tasks)));
}

// Calls body(task, thread) for every task. Tasks must be independent: which thread runs one is left open.
template <typename Body>
void parallel_for(std::int64_t tasks, int team, const Body& body) {
#if defined(_OPENMP)
#pragma omp parallel for num_threads(team) schedule(dynamic)
  for (std::int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
#else
  (void)team;
  for (std::int64_t task = 0; task < tasks; ++task) body(task, 0);
#endif
}

}  // namespace scvae::cpu
