#include "cuda/hopper/launch_impl.h"

namespace scvae::cuda {

template struct HopperLauncher<BFloat16>;

}  // namespace scvae::cuda
