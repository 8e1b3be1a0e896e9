#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string_view>
#include <vector>

#include "common/types.h"
#include "sampling/token_constraint.h"

namespace llamaherd {

/// A 1-D integer array or a sequence of ints; floats are not token ids.
std::vector<TokenId> to_tokens(const pybind11::object& ids);

/// Replaces invalid UTF-8 by U+FFFD: metadata and output of a model may contain it.
pybind11::str to_text(std::string_view bytes);

/// From a contiguous buffer of 32-bit words.
TokenMask to_mask(const pybind11::buffer& buffer);

}  // namespace llamaherd
