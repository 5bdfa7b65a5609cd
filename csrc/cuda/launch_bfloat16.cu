#include "cuda/launch_impl.h"

namespace scvae::cuda {

template struct Launcher<BFloat16, false>;

}  // namespace scvae::cuda
