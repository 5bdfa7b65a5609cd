#define SCVAE_ISA portable
#define SCVAE_VECTOR_BYTES 16
#if defined(__aarch64__)
#define SCVAE_WIDE 8
#else
#define SCVAE_WIDE 4
#endif
#include "cpu/kernels_impl.h"
#include "cpu/lasso_kernels_impl.h"
#include "cpu/norm_kernels_impl.h"
