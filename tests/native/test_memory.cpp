// Scratch that is kept between calls: reused, bounded for all sizes, aligned.
#include <cstdint>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/memory.h"
#include "suites.h"

namespace scvae::test {
namespace {

// Each block is requested with a size a little under the previous one's, so that it is reused.
void check_bound() {
  std::size_t largest = 0;
  for (int cycle = 0; cycle < 40; ++cycle)
    for (double bytes = 16 << 20; bytes > 64 << 10; bytes *= 0.82) {
      const cpu::Scratch scratch = cpu::take_scratch(static_cast<std::size_t>(bytes));
      expect(scratch.bytes >= static_cast<std::size_t>(bytes), "a block is as large as was asked for");
      cpu::give_scratch(scratch);
      largest = std::max(largest, cpu::scratch_kept());
    }
  expect(largest <= cpu::kMostScratchKept, "what is kept stays within its bound");
}

void check_reuse() {
  if (cpu::kMostScratchKept == 0) return;  // a sanitizer is at work
  const cpu::Scratch first = cpu::take_scratch(1 << 20);
  cpu::give_scratch(first);
  const cpu::Scratch second = cpu::take_scratch((1 << 20) - 1000);
  expect(second.block == first.block && second.bytes == first.bytes, "a block that fits serves again, at its own size");
  cpu::give_scratch(second);
}

void check_threads() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([] {
      for (int k = 0; k < 2000; ++k) {
        const cpu::Scratch scratch = cpu::take_scratch((64 << 10) + 4096 * (k % 50));
        static_cast<char*>(scratch.block)[scratch.bytes - 1] = 1;
        cpu::give_scratch(scratch);
      }
    });
  for (std::thread& thread : threads) thread.join();
  expect(cpu::scratch_kept() <= cpu::kMostScratchKept, "what several threads keep stays within its bound");
}

}  // namespace

void test_memory() {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{100}, std::size_t{1} << 20}) {
    const cpu::Scratch scratch = cpu::take_scratch(bytes);
    expect(reinterpret_cast<std::uintptr_t>(scratch.block) % cpu::kLine == 0, "scratch is aligned");
    cpu::give_scratch(scratch);
  }
  check_bound();
  check_reuse();
  check_threads();
}

}  // namespace scvae::test
