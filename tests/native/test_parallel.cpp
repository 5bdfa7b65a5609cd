// parallel_for: every task once, on the team that was asked for, and an exception that reaches the caller.
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/parallel.h"
#include "suites.h"

namespace scvae::test {
namespace {

void check_tasks(std::int64_t tasks, int team) {
  const std::string what = std::to_string(tasks) + " tasks on " + std::to_string(team) + " threads: ";
  std::vector<int> runs(static_cast<std::size_t>(tasks));
  std::atomic<bool> numbered{true};
  cpu::parallel_for(tasks, team, [&](std::int64_t task, int thread) {
    ++runs[static_cast<std::size_t>(task)];
    if (thread < 0 || thread >= team) numbered = false;
  });
  expect(runs == std::vector<int>(static_cast<std::size_t>(tasks), 1), what + "each runs once");
  expect(numbered, what + "threads are numbered from 0");
}

void check_exception(int team) {
  std::string caught;
  try {
    cpu::parallel_for(100, team, [](std::int64_t task, int) {
      if (task % 2 == 1) throw std::runtime_error("odd");
    });
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  expect(caught == "odd", "an exception reaches the caller of " + std::to_string(team) + " threads");
}

}  // namespace

void test_parallel() {
  for (const std::int64_t tasks : {0, 1, 2, 100})
    for (const int team : {1, 2, 3}) check_tasks(tasks, team);
  for (const int team : {1, 3}) check_exception(team);
  cpu::parallel_for(4, 1, [caller = std::this_thread::get_id()](std::int64_t, int) {
    expect(std::this_thread::get_id() == caller, "a team of one is the caller");
  });
  expect(
      cpu::team_size(4, 0) == 1 && cpu::team_size(4, 2) == 2 && cpu::team_size(4, 9) == 4 && cpu::team_size(0, 9) == 1,
      "a team has no more threads than tasks, and at least one");
}

}  // namespace scvae::test
