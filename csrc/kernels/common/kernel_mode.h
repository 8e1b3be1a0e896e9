#pragma once

namespace llamaherd::kernels {

/// CPU kernels of an engine: ggml's, those of deterministic=True, or llamaherd's fast kernels.
enum class Mode { kStock, kReference, kFast };

/// Size of an engine's calls. All calls of an engine use the same kernels, so kernels that are slow
/// for few rows are used only by engines whose calls have many.
enum class BatchProfile { kFewRows, kManyRows };

}  // namespace llamaherd::kernels
