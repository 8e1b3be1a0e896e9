#pragma once

#include <pybind11/pybind11.h>

namespace llamaherd {

void bind_errors(pybind11::module_& m);
void bind_params(pybind11::module_& m);
void bind_results(pybind11::module_& m);
void bind_llama(pybind11::module_& m);
void bind_testing(pybind11::module_& m);
void bind_chat(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_embedder(pybind11::module_& m);
void bind_process(pybind11::module_& m);

}  // namespace llamaherd
