#define SCVAE_ISA avx2
#define SCVAE_VECTOR_BYTES 32
#define SCVAE_WIDE 4
#include "cpu/kernels_impl.h"
#include "cpu/lasso_kernels_impl.h"
#include "cpu/norm_kernels_impl.h"
