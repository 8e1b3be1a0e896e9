#pragma once

namespace llamaherd::kernels {

/// Which CPU kernels an engine computes with: ggml's, those of deterministic=True, or ours.
enum class Mode { kStock, kReference, kFast };

}  // namespace llamaherd::kernels
