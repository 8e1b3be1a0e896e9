#pragma once

#include <cstddef>

namespace llamaherd::kernels {

/// Asks for huge pages under memory that nobody has written to yet: a product that streams weights
/// from pages of 4 KiB is slower or not by where these happen to lie. Only a wish: where there are
/// none to be had, nothing changes.
void prefer_huge_pages(void* data, std::size_t n_bytes);

}  // namespace llamaherd::kernels
