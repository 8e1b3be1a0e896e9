#include <pybind11/stl.h>

#include "bindings.h"
#include "fault_script.h"
#include "logits_record.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

template <ScriptedFault::Kind kind>
std::int64_t happened(const FaultScript& script) {
  return script.n_happened(kind);
}

}  // namespace

void bind_testing(py::module_& m) {
  py::class_<LogitsRecord, std::shared_ptr<LogitsRecord>>(
      m, "LogitsRecord", "Fingerprints of an engine's logits, to compare runs to the bit.")
      .def(py::init<>())
      .def("rows", &LogitsRecord::rows,
           "Hash of a token prefix -> hashes of the logits rows computed from it.")
      .def("tops", &LogitsRecord::tops,
           "Hash of a token prefix -> (likeliest token, its lead in logits) of these rows.");

  py::class_<FaultScript, std::shared_ptr<FaultScript>>(
      m, "FaultScript", "What goes wrong in an engine's decode calls, counted from 0. Any thread.")
      .def(py::init<>())
      .def(
          "abort",
          [](FaultScript& self, std::int64_t call, std::int64_t after_nodes) {
            self.add(call, {ScriptedFault::Kind::kAbort, after_nodes});
          },
          py::arg("call"), py::arg("after_nodes"),
          "Stop a call when it has computed so many graph nodes, unless it ends before.")
      .def(
          "fail",
          [](FaultScript& self, std::int64_t call, std::int64_t after_rows) {
            self.add(call, {ScriptedFault::Kind::kFail, after_rows});
          },
          py::arg("call"), py::arg("after_rows"),
          "Let a call run out of memory when so many of its rows have been applied.")
      .def(
          "exhaust",
          [](FaultScript& self, std::int64_t call, std::int64_t after_bytes) {
            self.add(call, {ScriptedFault::Kind::kExhaust, after_bytes});
          },
          py::arg("call"), py::arg("after_bytes"),
          "Let llama.cpp's own allocations fail in a call, when the process has grown by so much. "
          "Linux only.")
      .def(
          "spoil",
          [](FaultScript& self, std::int64_t call) {
            self.add(call, {ScriptedFault::Kind::kPoison});
          },
          py::arg("call"), "Turn the K/V data that a call wrote into NaN, once it has succeeded.")
      .def("clear", &FaultScript::clear, "Take back what was said of calls to come.")
      .def("curse", &FaultScript::curse, py::arg("token"),
           "Every call with a row of this token fails.")
      .def("poison", &FaultScript::poison, py::arg("token"),
           "K/V data computed from this token is NaN.")
      .def_property_readonly("n_calls", &FaultScript::n_calls, "Decode calls so far.")
      .def_property_readonly("n_aborted", &happened<ScriptedFault::Kind::kAbort>)
      .def_property_readonly("n_failed", &happened<ScriptedFault::Kind::kFail>)
      .def_property_readonly("n_exhausted", &happened<ScriptedFault::Kind::kExhaust>)
      .def_property_readonly("n_spoiled", &happened<ScriptedFault::Kind::kPoison>);
}

}  // namespace llamaherd
