// The features that only Hopper cards have: barriers in shared memory, copies to all blocks of a cluster, wgmma.
#include <array>
#include <cstring>

#include "cuda/hopper/machine.h"
#include "emulator.h"

namespace scvae::cuda::hopper {
namespace {

using namespace emulator;

BarrierInMemory& barrier_at(const Barrier* barrier) {
  const auto found = running().barriers.find(barrier);
  if (found == running().barriers.end()) stop("a barrier that was not initialised");
  return found->second;
}

// An address in the shared memory of another block of the cluster.
template <typename T>
T* of_rank(T* pointer, int rank) {
  const Cluster& cluster = running();
  return reinterpret_cast<T*>(cluster.shared_of(rank) +
                              (reinterpret_cast<char*>(pointer) - cluster.shared_of(cluster.rank())));
}

void end_phase_if_complete(BarrierInMemory& barrier) {
  if (barrier.missing > 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.arrivals;
  ++barrier.phase;
  ++running().events;
}

void arrive(BarrierInMemory& barrier) {
  if (barrier.missing == 0) stop("more arrivals at a barrier than its phase has");
  --barrier.missing;
  ++running().events;
  end_phase_if_complete(barrier);
}

// An element of a matrix with rows of 64 bytes: the units swap 16-byte chunks depending on the address.
template <typename E>
float element(const char* matrix, const char* shared, int row, int k) {
  const std::int64_t at = (matrix - shared) + row * 64 + k * static_cast<int>(sizeof(E));
  E value;
  std::memcpy(&value, shared + (at ^ (at >> 3 & 0x30)), sizeof(E));
  return to_float(value);
}

struct Product {
  const char *shared, *a, *b;
  std::array<float*, kGroup> sums;
};

template <typename E>
void multiply(const Product& product) {
  static double a[kGroupRows][kDepth], b[kColumns][kDepth];  // too large for a coroutine's stack
  for (int k = 0; k < kDepth; ++k) {
    for (int row = 0; row < kGroupRows; ++row) a[row][k] = element<E>(product.a, product.shared, row, k);
    for (int column = 0; column < kColumns; ++column) b[column][k] = element<E>(product.b, product.shared, column, k);
  }
  for (int thread = 0; thread < kGroup; ++thread)
    for (int e = 0; e < 128; ++e) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + e / 2 % 2 * 8, column = e / 4 * 8 + thread % 4 * 2 + e % 2;
      double products[kDepth];
      for (int k = 0; k < kDepth; ++k) products[k] = a[row][k] * b[column][k];
      float& sum = product.sums[static_cast<std::size_t>(thread)][e];
      sum = cut_sum(sum, products, kDepth);
    }
}

// Committed groups of this thread's warp group, followed by the open one.
std::vector<std::vector<Work>>& products() {
  auto& found = running().products[running().current / kGroup];
  if (found.empty()) found.emplace_back();
  return found;
}

void finish_products(int allowed) {
  auto& groups = products();
  while (static_cast<int>(groups.size()) - 1 > allowed) {
    for (const Work& work : groups.front()) work();
    groups.erase(groups.begin());
  }
}

Offer offer(int instruction) {
  Offer result;
  result.instruction = instruction;
  return result;
}

template <typename E>
void offer_products(float (&sums)[128], const void* a, const void* b) {
  check_shared(a, 64 * kGroupRows - 32, 32, "the left factor of wgmma");
  check_shared(b, 64 * kColumns - 32, 32, "the right factor of wgmma");
  Offer mine = offer(32 + static_cast<int>(kKind<E>));
  mine.in[0] = a;
  mine.in[1] = b;
  mine.out = sums;
  together(kGroup, mine, [](const Thread* group) {
    Product product{machine::shared_memory(),
                    static_cast<const char*>(group->offer.in[0]),
                    static_cast<const char*>(group->offer.in[1]),
                    {}};
    for (int i = 0; i < kGroup; ++i) {
      product.sums[static_cast<std::size_t>(i)] = static_cast<float*>(group[i].offer.out);
      if (group[i].offer.in[0] != product.a || group[i].offer.in[1] != product.b) stop("wgmma of different matrices");
    }
    // Now, or when they are waited for; in order.
    products().back().push_back([product] { multiply<E>(product); });
    if (running().coin()) {
      for (auto& earlier : products()) {
        for (const Work& work : earlier) work();
        earlier.clear();
      }
    }
  });
}

}  // namespace

int rank_in_cluster() { return running().rank(); }
void sync_cluster() { meet(-1, running().extent.threads * running().extent.cluster); }
void sync_threads(int barrier, int threads) { meet(barrier, threads); }

void init_barrier(Barrier* barrier, int arrivals) {
  check_shared(barrier, sizeof(Barrier), sizeof(Barrier), "a barrier");
  running().barriers[barrier] = {arrivals, arrivals, 0, 0};
}

void publish_barriers() {}

void expect_bytes(Barrier* barrier, int bytes) {
  BarrierInMemory& found = barrier_at(barrier);
  found.bytes += bytes;
  arrive(found);
}

void arrive_at(Barrier* barrier, int rank) { arrive(barrier_at(of_rank(barrier, rank))); }

void wait_for(Barrier* barrier, int parity) {
  while (barrier_at(barrier).phase % 2 == parity) give_way(State::polling);
}

void copy_to_cluster(void* to_shared, const void* from, int bytes, Barrier* barrier, int ranks) {
  check_shared(to_shared, bytes, 16, "a bulk copy");
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) stop("a bulk copy from an address that is not aligned");
  for (int rank = 0; rank < ranks; ++rank) {
    void* const to = of_rank(static_cast<char*>(to_shared), rank);
    BarrierInMemory* const there = &barrier_at(of_rank(barrier, rank));
    running().copies.push_back([=] {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
      there->bytes -= bytes;
      end_phase_if_complete(*there);
    });
  }
}

void publish_to_async() {}
void hold(float (&)[128]) {}
void begin_products() {}
void commit_products() {
  together(kGroup, offer(33 + 16), [](const Thread*) { products().emplace_back(); });
}
void wait_for_products(int allowed) {
  together(kGroup, offer(34 + 16 + allowed), [allowed](const Thread*) { finish_products(allowed); });
}

void take_fewer_registers() {}
void take_more_registers() {}

void multiply_add(float (&sums)[128], const void* a, const void* b, BFloat16) { offer_products<BFloat16>(sums, a, b); }
void multiply_add(float (&sums)[128], const void* a, const void* b, Float16) { offer_products<Float16>(sums, a, b); }

}  // namespace scvae::cuda::hopper
