// The features of Hopper cards beyond machine.h that the kernels use: clusters of blocks, the copy engine's bulk copies
// with their barriers in shared memory, and wgmma. Compiled only for sm_90a; declarations elsewhere, for an emulator.
#pragma once

#include "cuda/machine.h"

namespace scvae::cuda::hopper {

inline constexpr int kGroup = 128;     // threads in a warp group
inline constexpr int kColumns = 256;   // of a product, per warp group
inline constexpr int kGroupRows = 64;  // of a product, per warp group
inline constexpr int kDepth = 16;      // of one wgmma: 32 bytes

using Barrier = std::uint64_t;  // in shared memory

#if !defined(__CUDACC__)

int rank_in_cluster();
void sync_cluster();
void sync_threads(int barrier, int threads);
void init_barrier(Barrier* barrier, int arrivals);
void publish_barriers();
void expect_bytes(Barrier* barrier, int bytes);
void arrive_at(Barrier* barrier, int rank);
void wait_for(Barrier* barrier, int parity);
void copy_to_cluster(void* to_shared, const void* from, int bytes, Barrier* barrier, int ranks);
void publish_to_async();
void hold(float (&sums)[128]);
void begin_products();
void commit_products();
void wait_for_products(int allowed);
void take_fewer_registers();
void take_more_registers();
void multiply_add(float (&sums)[128], const void* a, const void* b, BFloat16);
void multiply_add(float (&sums)[128], const void* a, const void* b, Float16);

#else

SCVAE_DEVICE int rank_in_cluster() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// Waits for all threads of all blocks of the cluster; the lanes of a warp need not converge before.
SCVAE_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Waits for this many threads of the block.
SCVAE_DEVICE void sync_threads(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Phases of the barrier end after this many arrivals and all expected bytes.
SCVAE_DEVICE void init_barrier(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(machine::shared_address(barrier)), "r"(arrivals)
               : "memory");
}

// Makes the barriers visible to the cluster and the copy engine, before their first use.
SCVAE_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// An arrival; the phase does not end before these bytes have arrived.
SCVAE_DEVICE void expect_bytes(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(machine::shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// An arrival at the corresponding barrier of another block in the cluster. It publishes nothing that this thread wrote:
// it only signals that products have read a stage. A release in the cluster would be a full memory fence at every step.
SCVAE_DEVICE void arrive_at(Barrier* barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(machine::shared_address(barrier)),
      "r"(rank)
      : "memory");
}

// Waits for the end of the phase with that parity. By then the bytes that the barrier counts have arrived, from
// all blocks; an acquire in the cluster would empty the first-level cache at every step.
SCVAE_DEVICE void wait_for(Barrier* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(
          machine::shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Copies to the same place in the shared memory of the first `ranks` blocks of the cluster; the barrier of each block
// counts the bytes.
SCVAE_DEVICE void copy_to_cluster(void* to_shared, const void* from, int bytes, Barrier* barrier, int ranks) {
  const std::uint16_t mask = static_cast<std::uint16_t>((1 << ranks) - 1);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(machine::shared_address(to_shared)),
      "l"(from), "r"(bytes), "r"(machine::shared_address(barrier)), "h"(mask)
      : "memory");
}

// Makes this thread's writes to shared memory visible to wgmma and the copy engine; a thread barrier must follow.
SCVAE_DEVICE void publish_to_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// In a block of three warp groups, one releases registers, and the two others take them.
SCVAE_DEVICE void take_fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 40;"); }
SCVAE_DEVICE void take_more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 232;"); }

// Keeps the compiler from moving reads or writes of the sums across this point: wgmma changes them asynchronously.
SCVAE_DEVICE void hold(float (&sums)[128]) {
#pragma unroll
  for (int e = 0; e < 128; ++e) asm volatile("" : "+f"(sums[e])::"memory");
}

SCVAE_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
SCVAE_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all but the latest `allowed` groups of products are done.
SCVAE_DEVICE void wait_for_products(int allowed) {
  if (allowed == 0)
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  else
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}

// Descriptor of a matrix in shared memory with rows of 64 bytes in the 64-byte swizzle: eight rows per 512 bytes.
SCVAE_DEVICE std::uint64_t descriptor(const void* matrix) {
  constexpr std::uint64_t swizzle_64 = 2, eight_rows = 512 >> 4;
  return (machine::shared_address(matrix) & 0x3ffff) >> 4 | eight_rows << 32 | swizzle_64 << 62;
}

#define SCVAE_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SCVAE_16(i) SCVAE_4(i), SCVAE_4(i + 4), SCVAE_4(i + 8), SCVAE_4(i + 12)
#define SCVAE_64(i) SCVAE_16(i), SCVAE_16(i + 16), SCVAE_16(i + 32), SCVAE_16(i + 48)
// sums (64 x 256) += a (64 rows of 32 bytes) · b (256 columns of 32 bytes), by a warp group.
#define SCVAE_WGMMA(TYPE, NAME)                                                                                       \
  SCVAE_DEVICE void multiply_add(float (&sums)[128], const void* a, const void* b, TYPE) {                            \
    asm volatile(                                                                                                     \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, 1, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32." NAME \
        "." NAME                                                                                                      \
        " {"                                                                                                          \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                      \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                            \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                            \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                            \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                            \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                            \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "                \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "           \
        "%128, %129, accumulate, 1, 1, 0, 0;\n}"                                                                      \
        : SCVAE_64(0), SCVAE_64(64)                                                                                   \
        : "l"(descriptor(a)), "l"(descriptor(b)));                                                                    \
  }
SCVAE_WGMMA(BFloat16, "bf16")
SCVAE_WGMMA(Float16, "f16")
#undef SCVAE_WGMMA
#undef SCVAE_64
#undef SCVAE_16
#undef SCVAE_4

#endif

}  // namespace scvae::cuda::hopper
