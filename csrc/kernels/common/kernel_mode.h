#pragma once

namespace llamaherd::kernels {

/// Which CPU kernels an engine computes with: ggml's, those of deterministic=True, or ours.
enum class Mode { kStock, kReference, kFast };

/// What an engine's calls are like. An engine computes alike in all of its calls, so kernels that
/// are slow for few rows are for those whose calls have many.
enum class BatchProfile { kFewRows, kManyRows };

}  // namespace llamaherd::kernels
