#pragma once

#include <cstddef>

namespace llamaherd::kernels {

/// Requests huge pages for memory that has not been written to. With 4 KiB pages the speed of
/// streaming weights depends on their physical placement. Has no effect if none are available.
void prefer_huge_pages(void* data, std::size_t n_bytes);

}  // namespace llamaherd::kernels
