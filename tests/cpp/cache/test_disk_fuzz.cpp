#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/disk_file.h"
#include "cache/disk_tier.h"
#include "common/checksum.h"

namespace llamaherd {
namespace {

namespace fs = std::filesystem;
using disk_file::Header;

constexpr char kModel[] = "model";
constexpr std::size_t kPayload = 200;
const std::vector<TokenId> kTokens = {3, 1, 4, 1, 5};

std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const fs::path& file, const std::string& contents) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << contents;
}

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "disk_fuzz_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::uint64_t hostile_number(std::mt19937& rng) {
  static const std::uint64_t numbers[] = {
      0,        1,           2,          0x7F,         0xFF,       0xFFFF,    0x7FFFFFFF,
      1u << 31, 0xFFFFFFFFu, 1ull << 32, (1ull << 62), ~0ull >> 1, ~0ull - 7, ~0ull};
  return rng() % 3 ? numbers[rng() % std::size(numbers)] : rng();
}

void damage_bytes(std::string& contents, std::mt19937& rng) {
  for (auto n = 1 + rng() % 6; n > 0 && !contents.empty(); --n) {
    const std::size_t at = rng() % contents.size();
    switch (rng() % 5) {
      case 0:
        contents[at] = static_cast<char>(rng());
        break;
      case 1:
        contents.resize(at);
        break;
      case 2:
        contents.insert(at, rng() % 100, static_cast<char>(rng()));
        break;
      case 3:
        contents += contents.substr(at);
        break;
      default:
        contents.erase(at, 1 + rng() % 20);
    }
  }
}

/// A header of numbers that are none, with checksums that are right: what a check of the checksums
/// alone would let through.
void forge_header(std::string& contents, std::mt19937& rng) {
  Header header;
  std::memcpy(&header, contents.data(), sizeof(header));
  for (auto n = 1 + rng() % 3; n > 0; --n) {
    const std::uint64_t value = hostile_number(rng);
    switch (rng() % 5) {
      case 0:
        header.n_fingerprint = static_cast<std::uint32_t>(value);
        break;
      case 1:
        header.n_tokens = static_cast<std::uint32_t>(value);
        break;
      case 2:
        header.begin = static_cast<Pos>(value);
        break;
      case 3:
        header.n_payload = value;
        break;
      default:
        header.space = value;
    }
  }
  header.header_checksum = disk_file::header_checksum(header);
  std::memcpy(contents.data(), &header, sizeof(header));
}

/// What is in a file that was written by a tier is given back, or the file is refused.
void read_all(DiskTier& tier, const std::string& good, bool forged) {
  for (const DiskTier::Entry& entry : tier.take_entries()) {
    ASSERT_LT(entry.begin, static_cast<Pos>(entry.tokens.size()));
    ASSERT_GE(entry.begin, 0);
    const auto payload = tier.read(entry.id, entry.tokens);
    if (!payload || forged) continue;
    ASSERT_EQ(payload->size(), kPayload);
    EXPECT_EQ(std::memcmp(payload->data(), good.data() + good.size() - kPayload, kPayload), 0);
    EXPECT_EQ(entry.tokens, kTokens);
  }
}

void run_round(std::uint32_t seed) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 rng(seed);
  const Folder folder;
  const auto open = [&] { return DiskTier(folder.path(), kModel, 1 << 20, [](const auto&) {}); };
  std::vector<std::byte> payload(kPayload);
  for (std::byte& b : payload) b = static_cast<std::byte>(rng());
  std::vector<DiskTier::Id> evicted;
  DiskTier live = open();
  const auto id = live.write(rng() % 3, kTokens, 1, payload, evicted);
  ASSERT_TRUE(id);
  const fs::path file = fs::directory_iterator(folder.path())->path();
  const std::string good = slurp(file);
  std::string bad = good;
  const bool forged = rng() % 2;
  if (forged) forge_header(bad, rng);
  if (!forged || rng() % 4 == 0) damage_bytes(bad, rng);
  if (rng() % 8 == 0) fs::create_directory(folder.path() / (file.filename().string() + ".tmp"));
  if (rng() % 8 == 0) spill(folder.path() / std::string(1 + rng() % 80, 'f'), bad);
  spill(file, bad);
  if (rng() % 2) {
    const auto found = live.read(*id, kTokens);
    if (!forged) EXPECT_TRUE(!found || *found == payload);
  }
  DiskTier later = open();
  read_all(later, good, forged);
  EXPECT_TRUE(later.write(9, kTokens, 0, payload, evicted));
}

/// So many seconds, as tools/fuzz says; otherwise a number of rounds.
TEST(DiskFuzz, FilesOfAnyContentAreReadOrRefused) {
  const char* seconds = std::getenv("LLAMAHERD_FUZZ_SECONDS");
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::seconds(seconds ? std::atoi(seconds) : 0);
  const std::uint32_t first = seconds ? std::random_device()() : 0;
  for (std::uint32_t i = 0; i < 500 || std::chrono::steady_clock::now() < until; ++i) {
    run_round(first + i);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace llamaherd
