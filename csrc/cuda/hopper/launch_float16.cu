#include "cuda/hopper/launch_impl.h"

namespace scvae::cuda {

template struct HopperLauncher<Float16>;

}  // namespace scvae::cuda
