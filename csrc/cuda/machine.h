// The machine operations of the kernels: PTX instructions when compiled by nvcc; otherwise declarations, which an
// emulator defines (tests/cuda_emulator), so that the same kernels run on a processor.
//
// Layouts of fragments are those of the PTX manual, "Matrix fragments for mma.m16n8k16" and "…k8".
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/scalars.h"

#if defined(__CUDACC__)
#define SCVAE_KERNEL __global__
#define SCVAE_BOUNDS(threads) __launch_bounds__(threads, 1)
#define SCVAE_DEVICE __device__ __forceinline__
#define SCVAE_GRID_CONSTANT const __grid_constant__
#else
#define SCVAE_KERNEL
#define SCVAE_BOUNDS(threads)
#define SCVAE_DEVICE inline
#define SCVAE_GRID_CONSTANT const
#endif

namespace scvae::cuda::machine {

#if !defined(__CUDACC__)

int thread();
int threads();
int block(int axis);
int blocks(int axis);
char* shared_memory();
void sync_block();
Pair<float> load_constant(const float* pair);
void copy_async(void* to_shared, const void* from, bool there);
void commit_copies();
void wait_for_copies(int allowed);
void load_matrices(std::uint32_t (&into)[4], const void* row_in_shared);
void load_matrices_transposed(std::uint32_t (&into)[4], const void* row_in_shared);
void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, BFloat16);
void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, Float16);
void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float);
float round_to_tf32(float value);

#else

SCVAE_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
SCVAE_DEVICE int threads() { return static_cast<int>(blockDim.x); }
SCVAE_DEVICE int block(int axis) {
  return static_cast<int>(axis == 0 ? blockIdx.x : axis == 1 ? blockIdx.y : blockIdx.z);
}
SCVAE_DEVICE int blocks(int axis) {
  return static_cast<int>(axis == 0 ? gridDim.x : axis == 1 ? gridDim.y : gridDim.z);
}

SCVAE_DEVICE char* shared_memory() {
  extern __shared__ __align__(1024) char memory[];
  return memory;
}

SCVAE_DEVICE void sync_block() { __syncthreads(); }

SCVAE_DEVICE std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// From memory that no thread writes while the kernel runs.
SCVAE_DEVICE Pair<float> load_constant(const float* pair) {
  Pair<float> result;
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(result.first), "=f"(result.second) : "l"(pair));
  return result;
}

// Copies 16 bytes between addresses that are multiples of 16; writes zeros if the source does not exist.
SCVAE_DEVICE void copy_async(void* to_shared, const void* from, bool there) {
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from), "r"(bytes)
               : "memory");
}

SCVAE_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the latest `allowed` groups of this thread's copies have arrived.
SCVAE_DEVICE void wait_for_copies(int allowed) {
  if (allowed == 0)
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  else if (allowed == 1)
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  else
    asm volatile("cp.async.wait_group 2;" ::: "memory");
}

// Four matrices of 8 rows of 16 bytes: lanes 0-7 give the rows of the first, 8-15 those of the second, and so on. Lane
// l gets the 4 bytes at row l / 4, column 4 (l % 4) of each.
SCVAE_DEVICE void load_matrices(std::uint32_t (&into)[4], const void* row_in_shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
               : "r"(shared_address(row_in_shared))
               : "memory");
}

// The same for 2-byte elements, with each matrix transposed.
SCVAE_DEVICE void load_matrices_transposed(std::uint32_t (&into)[4], const void* row_in_shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
               : "r"(shared_address(row_in_shared))
               : "memory");
}

// sums (16 x 8) += a (16 rows of 32 bytes) · b (8 columns of 32 bytes), summed in float32.
#define SCVAE_MULTIPLY_ADD(TYPE, SHAPE)                                                                             \
  SCVAE_DEVICE void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, \
                                 TYPE) {                                                                            \
    asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"       \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                   \
  }
SCVAE_MULTIPLY_ADD(BFloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
SCVAE_MULTIPLY_ADD(Float16, "m16n8k16.row.col.f32.f16.f16.f32")
SCVAE_MULTIPLY_ADD(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef SCVAE_MULTIPLY_ADD

// Rounds to 11 significant bits, ties away from zero.
SCVAE_DEVICE float round_to_tf32(float value) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

#endif

}  // namespace scvae::cuda::machine
