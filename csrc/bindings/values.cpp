#include "bindings/values.h"

#include <cstring>
#include <limits>
#include <string>

#include "common/error.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

/// Converts a Python int of any size.
TokenId to_token(const py::handle item) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < std::numeric_limits<TokenId>::min() ||
      value > std::numeric_limits<TokenId>::max()) {
    throw InvalidRequestError("token ids must fit 32 bits; got " + std::string(py::str(index)));
  }
  return static_cast<TokenId>(value);
}

}  // namespace

std::vector<TokenId> to_tokens(const py::object& ids) {
  std::vector<TokenId> tokens;
  if (py::isinstance<py::array>(ids)) {
    const auto array = py::reinterpret_borrow<py::array>(ids);
    const char kind = array.dtype().kind();
    if (array.ndim() != 1 || (kind != 'i' && kind != 'u')) {
      throw py::type_error("token ids must be a 1-D array of integers");
    }
    for (const py::handle item : array.attr("tolist")()) tokens.push_back(to_token(item));
    return tokens;
  }
  if (py::isinstance<py::str>(ids) || py::isinstance<py::bytes>(ids) ||
      !py::isinstance<py::sequence>(ids)) {
    throw py::type_error("token ids must be a sequence of int or a 1-D integer array");
  }
  const auto sequence = py::reinterpret_borrow<py::sequence>(ids);
  tokens.reserve(sequence.size());
  for (const py::handle item : sequence) {
    if (!PyIndex_Check(item.ptr()) || PyBool_Check(item.ptr())) {
      throw py::type_error("token ids must be int; got " +
                           std::string(py::str(py::type::handle_of(item).attr("__name__"))));
    }
    tokens.push_back(to_token(item));
  }
  return tokens;
}

py::str to_text(std::string_view bytes) {
  PyObject* text =
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "replace");
  if (!text) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

TokenMask to_mask(const py::buffer& buffer) {
  const py::buffer_info info = buffer.request();
  const auto n_bytes = static_cast<std::size_t>(info.size * info.itemsize);
  if (n_bytes % sizeof(std::uint32_t) != 0 || !PyBuffer_IsContiguous(info.view(), 'C')) {
    throw py::type_error("a mask must be contiguous 32-bit words");
  }
  TokenMask mask(n_bytes / sizeof(std::uint32_t));
  std::memcpy(mask.data(), info.ptr, n_bytes);
  return mask;
}

}  // namespace llamaherd
