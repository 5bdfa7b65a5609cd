// float32 multiply-adds per second of the processor: chains in registers, without memory accesses.
//
//   peak THREADS MILLISECONDS RUNS    prints the best of the runs
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

// Enough chains to fill two units with a latency of five, few enough for sixteen registers.
constexpr int kChains = 12;
constexpr int kSteps = 4096;

using Clock = std::chrono::steady_clock;

// factor < 1 keeps every chain bounded and away from denormal numbers.
void advance(Vector (&chains)[kChains], Vector factor, Vector term) {
  Vector in_registers[kChains];
  for (int i = 0; i < kChains; ++i) in_registers[i] = chains[i];
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) in_registers[i] = in_registers[i] * factor + term;
  }
  for (int i = 0; i < kChains; ++i) chains[i] = in_registers[i];
}

double multiply_adds_per_second(std::chrono::duration<double> at_least, std::atomic<int>& waiting) {
  volatile float from_memory = 0.5f;  // so that the compiler can't know the values
  const Vector factor = Vector{} + from_memory, term = Vector{} + (1.0f - from_memory);
  Vector chains[kChains] = {};
  --waiting;
  while (waiting > 0) std::this_thread::yield();  // start timing only when all threads run

  const auto begin = Clock::now();
  std::chrono::duration<double> elapsed{};
  double steps = 0;
  for (; elapsed < at_least; elapsed = Clock::now() - begin, steps += kSteps) advance(chains, factor, term);

  Vector sum{};
  for (const Vector& chain : chains) sum += chain;
  volatile float used = sum[0];
  static_cast<void>(used);
  return steps * kChains * kLanes / elapsed.count();
}

double run(int threads, std::chrono::duration<double> at_least) {
  std::vector<double> rates(threads);
  std::vector<std::thread> workers;
  std::atomic<int> waiting{threads};
  for (double& rate : rates) workers.emplace_back([&] { rate = multiply_adds_per_second(at_least, waiting); });
  for (std::thread& worker : workers) worker.join();
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "usage: peak THREADS MILLISECONDS RUNS\n");
    return 2;
  }
  double best = 0;
  for (int i = 0; i < std::atoi(words[3]); ++i) {
    best = std::max(best, run(std::atoi(words[1]), std::chrono::duration<double>(std::atof(words[2]) / 1000)));
  }
  std::printf("%.0f\n", best);
}
