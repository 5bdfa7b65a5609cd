// Marks functions for the processor and, with nvcc, the card.
#pragma once

#if defined(__CUDACC__)
#define SCVAE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SCVAE_HOST_DEVICE inline
#endif
