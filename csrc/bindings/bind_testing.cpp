#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>

#include "backend/fault_script.h"
#include "backend/recording_backend.h"
#include "bindings/bindings.h"
#include "bindings/released_gil.h"
#include "common/error.h"
#include "llama/backend/llama_backend.h"
#include "llama/model/llama_model.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

template <ScriptedFault::Kind kind>
std::int64_t happened(const FaultScript& script) {
  return script.n_happened(kind);
}

/// A model without engine, scheduler or cache.
class BareModel {
 public:
  BareModel(const std::string& path, const EngineConfig& config) {
    validate(config);
    LoadProgress progress;
    model_ = std::make_shared<LlamaModel>(path, config, progress);
    backend_ = std::make_unique<LlamaBackend>(model_, config);
  }

  std::vector<TokenId> tokenize(const std::string& text, bool add_special,
                                bool parse_special) const {
    return model_->tokenize(text, add_special, parse_special);
  }

  std::vector<TokenId> tokenize_by_llama(const std::string& text, bool add_special,
                                         bool parse_special) const {
    std::vector<TokenId> tokens(text.size() * 3 + 16);
    const std::int32_t n = llama_tokenize(
        model_->vocab(), text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
        static_cast<std::int32_t>(tokens.size()), add_special, parse_special);
    if (n < 0) throw LlamaHerdError("the text has too many tokens");
    tokens.resize(static_cast<std::size_t>(n));
    return tokens;
  }

  std::int64_t least_tokens(const std::string& text) const {
    return model_->tokenizer().least_tokens(text);
  }

  py::array_t<float> logits(const std::vector<TokenId>& tokens, Pos n_rows) {
    const BackendInfo& info = backend_->info();
    const auto n = static_cast<Pos>(tokens.size());
    if (n_rows < 1 || n_rows > info.n_seqs || n > info.n_ctx) {
      throw InvalidRequestError("n_rows must be in [1, max_seqs] and tokens at most n_ctx");
    }
    py::array_t<float> result(
        {static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(info.n_vocab)});
    float* to = result.mutable_data();
    const ReleasedGil release;
    backend_->clear();
    for (Pos begin = 0; begin < n; begin += n_rows) {
      const Pos end = std::min(begin + n_rows, n);
      const std::vector<TokenId> call(tokens.begin() + begin, tokens.begin() + end);
      std::vector<Pos> positions;
      for (Pos pos = begin; pos < end; ++pos) positions.push_back(pos);
      const std::vector<SeqId> seqs(call.size(), 0);
      const std::vector<std::uint8_t> wants(call.size(), 1);
      if (backend_->decode({call, positions, seqs, wants}) != DecodeStatus::kOk) {
        throw LlamaHerdError("decode failed");
      }
      for (Pos i = 0; i < end - begin; ++i) to = std::ranges::copy(backend_->logits(i), to).out;
    }
    return result;
  }

 private:
  std::shared_ptr<const LlamaModel> model_;
  std::unique_ptr<LlamaBackend> backend_;
};

}  // namespace

void bind_testing(py::module_& m) {
  m.def(
      "fail_assertion", [] { GGML_ABORT("for a test"); },
      "Abort the process like a failed assertion of llama.cpp. For tests.");
  py::class_<BareModel>(m, "BareModel",
                        "A model without engine, scheduler or cache. Not thread-safe.")
      .def(py::init<const std::string&, const EngineConfig&>(), py::arg("path"), py::arg("config"),
           py::call_guard<ReleasedGil>(), "Raises ModelLoadError, InvalidRequestError.")
      .def("tokenize", &BareModel::tokenize, py::arg("text"), py::arg("add_special") = true,
           py::arg("parse_special") = false)
      .def("tokenize_by_llama", &BareModel::tokenize_by_llama, py::arg("text"),
           py::arg("add_special") = true, py::arg("parse_special") = false,
           "Tokenize the whole text with llama.cpp.")
      .def("least_tokens", &BareModel::least_tokens, py::arg("text"),
           "Lower bound of the number of tokens.")
      .def("logits", &BareModel::logits, py::arg("tokens"), py::arg("n_rows"),
           "Logits, float32 of shape (len(tokens), n_vocab), computed with an empty cache in calls "
           "of n_rows rows, in [1, max_seqs].");

  py::class_<LogitsRecord, std::shared_ptr<LogitsRecord>>(
      m, "LogitsRecord", "Hashes of an engine's logits, for bitwise comparison of runs.")
      .def(py::init<>())
      .def("rows", &LogitsRecord::rows,
           "Hash of a token prefix -> hashes of the logits rows computed from it.")
      .def("tops", &LogitsRecord::tops,
           "Hash of a token prefix -> (most likely token, its margin over the second in logits) of "
           "these rows.");

  py::class_<FaultScript, std::shared_ptr<FaultScript>>(
      m, "FaultScript",
      "Scripted faults in an engine's decode calls, which count from 0. Any thread.")
      .def(py::init<>())
      .def(
          "abort",
          [](FaultScript& self, std::int64_t call, std::int64_t after_nodes) {
            self.add(call, {ScriptedFault::Kind::kAbort, after_nodes});
          },
          py::arg("call"), py::arg("after_nodes"),
          "Abort a call after this number of graph nodes, unless it ends before.")
      .def(
          "fail",
          [](FaultScript& self, std::int64_t call, std::int64_t after_rows) {
            self.add(call, {ScriptedFault::Kind::kFail, after_rows});
          },
          py::arg("call"), py::arg("after_rows"),
          "Fail a call as out of memory after this number of its rows has been applied.")
      .def(
          "exhaust",
          [](FaultScript& self, std::int64_t call, std::int64_t after_bytes) {
            self.add(call, {ScriptedFault::Kind::kExhaust, after_bytes});
          },
          py::arg("call"), py::arg("after_bytes"),
          "Fail llama.cpp's allocations in a call after the process has grown by this number of "
          "bytes. Linux only.")
      .def(
          "spoil",
          [](FaultScript& self, std::int64_t call) {
            self.add(call, {ScriptedFault::Kind::kPoison});
          },
          py::arg("call"), "Overwrite the K/V data that a successful call wrote with NaN.")
      .def("clear", &FaultScript::clear, "Remove the faults of future calls.")
      .def("curse", &FaultScript::curse, py::arg("token"),
           "Fail every call with a row of this token.")
      .def("poison", &FaultScript::poison, py::arg("token"),
           "Set the K/V data computed from this token to NaN.")
      .def_property_readonly("n_calls", &FaultScript::n_calls, "Decode calls so far.")
      .def_property_readonly("n_aborted", &happened<ScriptedFault::Kind::kAbort>)
      .def_property_readonly("n_failed", &happened<ScriptedFault::Kind::kFail>)
      .def_property_readonly("n_exhausted", &happened<ScriptedFault::Kind::kExhaust>)
      .def_property_readonly("n_spoiled", &happened<ScriptedFault::Kind::kPoison>);
}

}  // namespace llamaherd
