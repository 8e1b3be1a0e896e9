#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>
#include <pybind11/typing.h>

#include <filesystem>
#include <variant>

#include "bindings/bindings.h"
#include "bindings/py_engine.h"
#include "bindings/released_gil.h"
#include "bindings/values.h"
#include "common/error.h"
#include "llama/backend/embedder.h"

namespace llamaherd {
namespace {

using Array = py::array_t<float, py::array::c_style>;
using Result = py::typing::Tuple<Array, py::typing::List<py::int_>>;

using Text = std::variant<std::string, std::vector<TokenId>>;

Text to_text_or_tokens(const py::handle item) {
  if (py::isinstance<py::str>(item)) return item.cast<std::string>();
  return to_tokens(py::reinterpret_borrow<py::object>(item));
}

std::vector<TokenId> encode(const Embedder& embedder, const Text& text, std::size_t* n_whole) {
  return std::visit([&](const auto& value) { return embedder.encode(value, n_whole); }, text);
}

/// One result row per text, and the indices of truncated texts.
template <class Encode>
Result run(Embedder& embedder, std::size_t n, bool truncate, const std::string& pooling,
           const Encode& encode) {
  std::vector<std::vector<TokenId>> tokens(n);
  std::vector<std::size_t> cut;
  Array out({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(embedder.n_out())});
  const std::span<float> rows(out.mutable_data(), static_cast<std::size_t>(out.size()));
  {
    const ReleasedGil release;
    for (std::size_t i = 0; i < n; ++i) {
      std::size_t n_whole = 0;
      tokens[i] = encode(i, &n_whole);
      if (tokens[i].empty()) {
        throw InvalidRequestError("text " + std::to_string(i) + " has no tokens");
      }
      if (n_whole <= tokens[i].size()) continue;
      if (!truncate) {
        throw ContextLengthError(
            embedder.max_len(), "tokens per text (max_len); text " + std::to_string(i) + " has",
            static_cast<std::int64_t>(n_whole), "shorten it, or pass truncate=True");
      }
      cut.push_back(i);
    }
    embedder.embed(tokens, pooling, rows);
  }
  return py::make_tuple(out, cut);
}

}  // namespace

void bind_embedder(py::module_& m) {
  using release_gil = py::call_guard<ReleasedGil>;
  py::class_<Embedder>(m, "Embedder", "The core of llamaherd.Embedder.")
      .def(py::init([](const std::filesystem::path& path, const EngineConfig& config,
                       LoadProgress& progress, const std::string& pooling) {
             validate(config);
             return std::make_unique<Embedder>(
                 std::make_shared<const LlamaModel>(path.string(), config, progress), config,
                 pooling);
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
      .def_property_readonly("pooling", &Embedder::pooling,
                             "mean, cls, last or rank; '': none given, and the model has none.")
      .def_property_readonly("n_out", &Embedder::n_out, "Length of the result per text.")
      .def_property_readonly("max_len", &Embedder::max_len, "Maximum tokens of a text.")
      .def_property_readonly("n_calls", &Embedder::n_calls, "Number of model calls so far.")
      .def(
          "count_tokens",
          [](Embedder& self, const py::object& text) {
            const Text item = to_text_or_tokens(text);
            const ReleasedGil release;
            std::size_t n_whole = 0;
            return encode(self, item, &n_whole).size();
          },
          py::arg("text"),
          "Number of tokens of a text (or of token ids), at most max_len. Any thread.")
      .def(
          "embed",
          [](Embedder& self, const py::typing::List<py::object>& texts, bool truncate,
             const std::string& pooling) {
            std::vector<Text> items;
            for (const py::handle item : texts) items.push_back(to_text_or_tokens(item));
            return run(self, items.size(), truncate, pooling,
                       [&](std::size_t i, std::size_t* n_whole) {
                         return encode(self, items[i], n_whole);
                       });
          },
          py::arg("texts"), py::arg("truncate"), py::arg("pooling") = "",
          "Embed texts, each a str or token ids: float32 of shape (n_texts, n_out), and the "
          "indices of truncated texts. pooling: mean, cls or last; '': the embedder's. Raises "
          "ContextLengthError and InvalidRequestError. Any thread; concurrent calls are "
          "serialized.")
      .def(
          "rank",
          [](Embedder& self, const std::string& query, const std::vector<std::string>& documents,
             bool truncate) {
            return run(self, documents.size(), truncate, "",
                       [&](std::size_t i, std::size_t* n_whole) {
                         return self.pair(query, documents[i], n_whole);
                       });
          },
          py::arg("query"), py::arg("documents"), py::arg("truncate"),
          "As embed(), for a query with each document, with a model of pooling rank.");
}

}  // namespace llamaherd
