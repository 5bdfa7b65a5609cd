#define SCVAE_ISA avx512
#define SCVAE_VECTOR_BYTES 64
#define SCVAE_WIDE 8
#include "cpu/kernels_impl.h"
#include "cpu/lasso_kernels_impl.h"
#include "cpu/norm_kernels_impl.h"
