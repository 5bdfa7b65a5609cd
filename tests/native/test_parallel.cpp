// parallel_for: every task once, on the requested team, and an exception that reaches the caller.
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/interrupt.h"
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

// A task that runs until it is stopped; others that wait for it.
void check_interruption(int team) {
  static std::atomic<int> asked;
  asked = 0;
  const cpu::Interruptible interruptible([] { return ++asked == 2; });
  bool interrupted = false;
  try {
    cpu::parallel_for(2 * team, team, [](std::int64_t, int, const cpu::Turn& turn) {
      for (;;) turn.look();
    });
  } catch (const cpu::Interrupted&) {
    interrupted = true;
  }
  expect(interrupted && asked == 2, "a call ends when it is interrupted, on " + std::to_string(team) + " threads");
}

// Another thread's failure ends a task that would never end on its own.
void check_failure_ends_the_others() {
  std::string caught;
  try {
    cpu::parallel_for(2, 2, [](std::int64_t task, int, const cpu::Turn& turn) {
      if (task == 0) throw std::runtime_error("failed");
      for (;;) turn.look();
    });
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  expect(caught == "failed", "a failure ends the other tasks");
}

void check_nobody_asks() {
  int calls = 0;
  {
    const cpu::Interruptible outer([] { return true; });
    const cpu::Interruptible inner(nullptr);
    cpu::parallel_for(3, 1, [&](std::int64_t, int) { ++calls; });
  }
  cpu::parallel_for(3, 1, [&](std::int64_t, int) { ++calls; });
  expect(calls == 6, "without an Interruptible a call is never stopped");
}

}  // namespace

void test_parallel() {
  for (const std::int64_t tasks : {0, 1, 2, 100})
    for (const int team : {1, 2, 3}) check_tasks(tasks, team);
  for (const int team : {1, 3}) check_exception(team);
  for (const int team : {1, 3}) check_interruption(team);
  check_failure_ends_the_others();
  check_nobody_asks();
  cpu::parallel_for(4, 1, [caller = std::this_thread::get_id()](std::int64_t, int) {
    expect(std::this_thread::get_id() == caller, "a team of one is the caller");
  });
  expect(
      cpu::team_size(4, 0) == 1 && cpu::team_size(4, 2) == 2 && cpu::team_size(4, 9) == 4 && cpu::team_size(0, 9) == 1,
      "a team has no more threads than tasks, and at least one");
}

}  // namespace scvae::test
