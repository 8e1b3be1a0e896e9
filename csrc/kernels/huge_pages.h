#pragma once

#include <cstddef>

namespace llamaherd::kernels {

/// Asks for huge pages under memory that nobody has written to yet. Only a wish: where there are
/// none to be had, nothing changes.
void prefer_huge_pages(void* data, std::size_t n_bytes);

}  // namespace llamaherd::kernels
