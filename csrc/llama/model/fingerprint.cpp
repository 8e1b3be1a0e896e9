#include "llama/model/fingerprint.h"

#include <array>
#include <cstdio>
#include <fstream>
#include <span>
#include <vector>

#include "common/checksum.h"
#include "common/error.h"

namespace llamaherd {
namespace {

/// The parts of a split model, or the file itself.
std::vector<std::string> files_of(const LlamaModel& model, const std::string& path) {
  std::array<char, 16> count{};
  llama_model_meta_val_str(model.get(), "split.count", count.data(), count.size());
  const int n_files = std::atoi(count.data());
  std::array<char, 4096> name{};
  if (n_files < 2 || llama_split_prefix(name.data(), name.size(), path.c_str(), 0, n_files) == 0) {
    return {path};
  }
  const std::string prefix = name.data();
  std::vector<std::string> files;
  for (int i = 0; i < n_files; ++i) {
    llama_split_path(name.data(), name.size(), prefix.c_str(), i, n_files);
    files.emplace_back(name.data());
  }
  return files;
}

std::uint64_t hash_file(const std::string& path, std::uint64_t seed) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ModelLoadError("cannot read " + path);
  std::vector<char> piece(std::size_t{4} << 20);
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())), file.gcount() > 0) {
    const auto n = static_cast<std::size_t>(file.gcount());
    seed = checksum(std::as_bytes(std::span(piece).first(n)), seed);
  }
  return seed;
}

}  // namespace

std::string kv_fingerprint(const LlamaModel& model, const std::string& path,
                           const EngineConfig& config, const std::string& llama_commit) {
  std::uint64_t hash = 0;
  for (const std::string& file : files_of(model, path)) hash = hash_file(file, hash);
  std::array<char, 17> hex{};
  std::snprintf(hex.data(), hex.size(), "%016llx", static_cast<unsigned long long>(hash));
  return std::string("model ") + hex.data() + ", llama.cpp " + llama_commit + ", kv " +
         config.kv_type + (config.deterministic ? ", deterministic" : "");
}

}  // namespace llamaherd
