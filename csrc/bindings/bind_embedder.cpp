#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings/bindings.h"
#include "bindings/py_engine.h"
#include "bindings/released_gil.h"
#include "common/error.h"
#include "llama/backend/embedder.h"

namespace llamaherd {
namespace {

using Array = py::array_t<float, py::array::c_style>;
using Result = py::typing::Tuple<Array, py::typing::List<py::int_>>;

/// One result row per text, and the indices of truncated texts.
template <class Encode>
Result run(Embedder& embedder, std::size_t n, bool truncate, const Encode& encode) {
  std::vector<std::vector<TokenId>> tokens(n);
  std::vector<std::size_t> cut;
  Array out({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(embedder.n_out())});
  const std::span<float> rows(out.mutable_data(), static_cast<std::size_t>(out.size()));
  {
    const ReleasedGil release;
    for (std::size_t i = 0; i < n; ++i) {
      bool was_cut = false;
      tokens[i] = encode(i, &was_cut);
      if (tokens[i].empty()) {
        throw InvalidRequestError("text " + std::to_string(i) + " has no tokens");
      }
      if (was_cut) cut.push_back(i);
    }
    if (!cut.empty() && !truncate) {
      throw InvalidRequestError("a text must have at most " + std::to_string(embedder.max_len()) +
                                " tokens (max_len); text " + std::to_string(cut.front()) +
                                " has more: shorten it, or pass truncate=True");
    }
    embedder.embed(tokens, rows);
  }
  return py::make_tuple(out, cut);
}

}  // namespace

void bind_embedder(py::module_& m) {
  using release_gil = py::call_guard<ReleasedGil>;
  py::class_<Embedder>(m, "Embedder", "The core of llamaherd.Embedder.")
      .def(py::init([](const std::string& path, const EngineConfig& config, LoadProgress& progress,
                       const std::string& pooling) {
             validate(config);
             return std::make_unique<Embedder>(
                 std::make_shared<const LlamaModel>(path, config, progress), config, pooling);
           }),
           py::arg("path"), py::arg("config"), py::arg("progress"), py::arg("pooling"),
           release_gil(),
           "Load a model. pooling: mean, cls, last or rank; '': the model's. Raises "
           "ModelLoadError; InvalidRequestError if the pooling is unknown.")
      .def_static(
          "of_engine",
          [](PyBatchEngine& engine, const EngineConfig& config, const std::string& pooling) {
            const std::shared_ptr<Model> model = engine.model();
            return std::make_unique<Embedder>(
                std::shared_ptr<const LlamaModel>(model, &model->llama), config, pooling);
          },
          py::arg("engine"), py::arg("config"), py::arg("pooling"), release_gil(),
          "Create an embedder that shares an engine's weights; they stay in memory as long as it "
          "exists.")
      .def_property_readonly("pooling", &Embedder::pooling)
      .def_property_readonly("n_out", &Embedder::n_out, "Length of the result per text.")
      .def_property_readonly("max_len", &Embedder::max_len, "Maximum tokens of a text.")
      .def_property_readonly("n_calls", &Embedder::n_calls, "Number of model calls so far.")
      .def(
          "count_tokens",
          [](Embedder& self, const std::string& text) {
            bool was_cut = false;
            return self.encode(text, &was_cut).size();
          },
          py::arg("text"), release_gil(),
          "Number of tokens of a text, at most max_len. Any thread.")
      .def(
          "embed",
          [](Embedder& self, const std::vector<std::string>& texts, bool truncate) {
            return run(self, texts.size(), truncate, [&](std::size_t i, bool* was_cut) {
              return self.encode(texts[i], was_cut);
            });
          },
          py::arg("texts"), py::arg("truncate"),
          "Embed texts: float32 of shape (n_texts, n_out), and the indices of truncated texts. "
          "Raises InvalidRequestError. Any thread; concurrent calls are serialized.")
      .def(
          "rank",
          [](Embedder& self, const std::string& query, const std::vector<std::string>& documents,
             bool truncate) {
            return run(self, documents.size(), truncate, [&](std::size_t i, bool* was_cut) {
              return self.pair(query, documents[i], was_cut);
            });
          },
          py::arg("query"), py::arg("documents"), py::arg("truncate"),
          "As embed(), for a query with each document, with a model of pooling rank.");
}

}  // namespace llamaherd
