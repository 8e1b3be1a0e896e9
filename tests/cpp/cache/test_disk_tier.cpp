#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/disk_tier.h"
#include "common/error.h"

namespace llamaherd {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;
using Ids = std::vector<DiskTier::Id>;
using Tokens = std::vector<TokenId>;
using testing::Test;

Bytes payload(std::size_t n, unsigned seed = 1) {
  std::minstd_rand random(seed);
  Bytes bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random() >> 8);
  return bytes;
}

/// A path that no other `first` gives.
Tokens path(TokenId first, int n = 3) {
  Tokens tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first * 1000);
  return tokens;
}

std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const fs::path& file, const std::string& contents) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << contents;
  ASSERT_TRUE(out.flush());
}

/// Writes beyond `n` bytes of a file fail, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t n) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{n, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

class DiskTierTest : public Test {
 protected:
  DiskTierTest() {
    std::string name = (fs::temp_directory_path() / "disk_tier_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    root_ = name;
    folder_ = root_ / "cache";
  }
  ~DiskTierTest() override { fs::remove_all(root_); }

  DiskTier open(std::int64_t max_bytes = 1 << 20, const std::string& fingerprint = "model") {
    return DiskTier(folder_, fingerprint, max_bytes,
                    [this](const std::string& message) { warnings_.push_back(message); });
  }

  /// The one file of a folder in which a DiskTier has just saved `path(1)`, position 1 on.
  fs::path save_one(const Bytes& bytes) {
    Ids evicted;
    EXPECT_TRUE(open().write(7, path(1), 1, bytes, evicted));
    EXPECT_EQ(files().size(), 1u);
    return files().at(0);
  }

  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_)) found.push_back(entry.path());
    return found;
  }

  /// Checks that `contents` are found unusable when they are there at a start, and when they come
  /// after it; with one warning and no file left each time.
  void expect_refused(const fs::path& file, const std::string& good, const std::string& contents) {
    spill(file, contents);
    warnings_.clear();
    DiskTier at_start = open();
    for (const auto& entry : at_start.take_entries()) {
      EXPECT_EQ(entry.tokens, path(1));
      EXPECT_FALSE(at_start.read(entry.id, entry.tokens));
    }
    expect_one_warning(at_start, file);

    spill(file, good);
    warnings_.clear();
    DiskTier live = open();
    const auto entries = live.take_entries();
    ASSERT_EQ(entries.size(), 1u);
    spill(file, contents);
    EXPECT_FALSE(live.read(entries[0].id, path(1)));
    expect_one_warning(live, file);
    EXPECT_FALSE(live.read(entries[0].id, path(1))) << "it should have been forgotten";
  }

  void expect_one_warning(const DiskTier& tier, const fs::path& file) {
    ASSERT_EQ(warnings_.size(), 1u);
    EXPECT_NE(warnings_[0].find(file.string()), std::string::npos) << warnings_[0];
    EXPECT_FALSE(fs::exists(file));
    EXPECT_EQ(tier.counts().n_damaged, 1);
    EXPECT_EQ(tier.n_files(), 0);
    EXPECT_EQ(tier.n_bytes(), 0);
  }

  fs::path root_, folder_;
  std::vector<std::string> warnings_;
  Ids evicted_;
};

TEST_F(DiskTierTest, GivesBackWhatWasSaved) {
  DiskTier tier = open();
  for (std::size_t n : {0, 1, 7, 8, 31, 32, 33, 1000, 100'000}) {
    const Bytes bytes = payload(n);
    const auto id = tier.write(7, path(1), 2, bytes, evicted_);
    ASSERT_TRUE(id);
    EXPECT_EQ(tier.read(*id, path(1)), bytes);
    EXPECT_EQ(tier.n_bytes(), static_cast<std::int64_t>(fs::file_size(files().at(0))));
  }
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DiskTierTest, ARestartFindsEntriesInOrderOfUse) {
  const Bytes first = payload(100, 1), second = payload(200, 2);
  {
    DiskTier tier = open();
    const auto id = tier.write(7, path(1), 0, first, evicted_);
    ASSERT_TRUE(tier.write(8, path(2, 5), 4, second, evicted_));
    ASSERT_TRUE(tier.read(*id, path(1)));
  }
  DiskTier tier = open();
  const auto entries = tier.take_entries();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].space, 8u);
  EXPECT_EQ(entries[0].tokens, path(2, 5));
  EXPECT_EQ(entries[0].begin, 4);
  EXPECT_EQ(entries[0].n_bytes, 200);
  EXPECT_EQ(entries[1].space, 7u);
  EXPECT_EQ(tier.read(entries[0].id, path(2, 5)), second);
  EXPECT_EQ(tier.read(entries[1].id, path(1)), first);
  EXPECT_TRUE(tier.take_entries().empty());
}

TEST_F(DiskTierTest, EachRangeHasItsFile) {
  DiskTier tier = open();
  const Bytes bytes = payload(10);
  ASSERT_TRUE(tier.write(1, path(1), 0, bytes, evicted_));
  ASSERT_TRUE(tier.write(2, path(1), 0, bytes, evicted_));
  ASSERT_TRUE(tier.write(1, path(1), 1, bytes, evicted_));
  ASSERT_TRUE(tier.write(1, path(1, 4), 0, bytes, evicted_));
  EXPECT_EQ(files().size(), 4u);
  EXPECT_TRUE(evicted_.empty());
}

TEST_F(DiskTierTest, ASecondWriteReplacesTheFirst) {
  DiskTier tier = open();
  const auto old_id = tier.write(1, path(1), 0, payload(10), evicted_);
  const auto id = tier.write(1, path(1), 0, payload(20), evicted_);
  ASSERT_TRUE(id);
  EXPECT_NE(*id, *old_id);
  EXPECT_EQ(evicted_, Ids{*old_id});
  EXPECT_EQ(tier.n_files(), 1);
  EXPECT_FALSE(tier.read(*old_id, path(1)));
  EXPECT_EQ(tier.read(*id, path(1)), payload(20));
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(DiskTierTest, AnotherFingerprintsFilesAreLeftAlone) {
  DiskTier other = open(1 << 20, "other model");
  const auto foreign = other.write(1, path(1), 0, payload(2000), evicted_);
  DiskTier tier = open(1000);
  EXPECT_TRUE(tier.take_entries().empty());
  EXPECT_EQ(tier.counts().n_foreign, 1);
  EXPECT_EQ(tier.n_bytes(), 0);
  ASSERT_TRUE(tier.write(1, path(1), 0, payload(800), evicted_));
  ASSERT_TRUE(tier.write(1, path(2), 0, payload(800), evicted_));
  EXPECT_EQ(evicted_.size(), 1u);
  tier.clear();
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(other.read(*foreign, path(1)), payload(2000));
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DiskTierTest, AFileNamedAsOursWithAnotherFingerprintInsideIsDamaged) {
  const std::string ours = save_one(payload(10)).filename().string();
  open().clear();
  DiskTier other = open(1 << 20, "other model");
  ASSERT_TRUE(other.write(7, path(1), 1, payload(10), evicted_));
  const fs::path theirs = files().at(0);
  const fs::path renamed = folder_ / (ours.substr(0, 16) + theirs.filename().string().substr(16));
  fs::rename(theirs, renamed);
  DiskTier tier = open();
  EXPECT_TRUE(tier.take_entries().empty());
  expect_one_warning(tier, renamed);
}

TEST_F(DiskTierTest, EveryFlippedByteIsFound) {
  const fs::path file = save_one(payload(45));
  const std::string good = slurp(file);
  ASSERT_EQ(good.size(), 56u + 5 + 12 + 45);
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int pattern : {0x01, 0x10, 0x80, 0xFF}) {
      SCOPED_TRACE("byte " + std::to_string(at) + " ^ " + std::to_string(pattern));
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ pattern);
      expect_refused(file, good, bad);
    }
  }
}

TEST_F(DiskTierTest, EveryTruncationIsFound) {
  const fs::path file = save_one(payload(45));
  const std::string good = slurp(file);
  for (std::size_t n = 0; n < good.size(); ++n) {
    SCOPED_TRACE(n);
    expect_refused(file, good, good.substr(0, n));
  }
}

TEST_F(DiskTierTest, AnythingAppendedIsFound) {
  const fs::path file = save_one(payload(45));
  const std::string good = slurp(file);
  for (std::size_t n : {1, 3, 4, 8, 1000}) expect_refused(file, good, good + std::string(n, '\0'));
  expect_refused(file, good, good + good);
}

TEST_F(DiskTierTest, AnOverlongFileIsNotReadIntoMemory) {
  const fs::path file = save_one(payload(45));
  fs::resize_file(file, std::uintmax_t{1} << 40);  // sparse
  DiskTier tier = open();
  EXPECT_TRUE(tier.take_entries().empty());
  expect_one_warning(tier, file);
}

TEST_F(DiskTierTest, GarbageIsNeverLoaded) {
  const fs::path file = save_one(payload(200));
  const std::string good = slurp(file);
  std::mt19937 random(20240607);
  const auto below = [&random](std::size_t n) { return random() % n; };
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE(round);
    std::string bad = round % 3 == 0 ? std::string(below(400), '\0') : good;
    if (round % 3 == 0) {
      for (char& c : bad) c = static_cast<char>(random());
    } else if (round % 3 == 1) {
      for (std::size_t n = 1 + below(8); n > 0; --n) {
        bad[below(bad.size())] = static_cast<char>(random());
      }
    } else {
      const std::size_t from = below(good.size()), to = below(good.size());
      const std::size_t n = below(good.size() - std::max(from, to) + 1);
      bad.replace(to, n, good, from, n);
      bad.resize(bad.size() - below(2));
    }
    if (bad != good) expect_refused(file, good, bad);
  }
}

TEST_F(DiskTierTest, DamagedFilesDoNotHideGoodOnes) {
  DiskTier writer = open();
  ASSERT_TRUE(writer.write(1, path(1), 0, payload(10), evicted_));
  const fs::path bad = files().at(0);
  ASSERT_TRUE(writer.write(1, path(2), 0, payload(20), evicted_));
  spill(bad, "nonsense");
  DiskTier tier = open();
  const auto entries = tier.take_entries();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(tier.read(entries[0].id, path(2)), payload(20));
  EXPECT_EQ(warnings_.size(), 1u);
}

TEST_F(DiskTierTest, AFileThatIsGoneIsForgotten) {
  DiskTier tier = open();
  const auto id = tier.write(1, path(1), 0, payload(10), evicted_);
  fs::remove(files().at(0));
  EXPECT_FALSE(tier.read(*id, path(1)));
  EXPECT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(tier.counts().n_lost, 1);
  EXPECT_FALSE(tier.read(*id, path(1)));
  EXPECT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(tier.n_bytes(), 0);
  EXPECT_TRUE(tier.write(1, path(1), 0, payload(10), evicted_));
}

TEST_F(DiskTierTest, AnotherRangesFileIsNotTakenForIts) {
  DiskTier tier = open();
  ASSERT_TRUE(tier.write(1, path(1), 0, payload(10), evicted_));
  const fs::path first = files().at(0);
  ASSERT_TRUE(tier.write(1, path(2), 0, payload(10), evicted_));
  const fs::path second = files().at(files().at(0) == first ? 1 : 0);
  fs::copy_file(first, second, fs::copy_options::overwrite_existing);
  DiskTier restarted = open();
  EXPECT_EQ(restarted.take_entries().size(), 1u);
  EXPECT_EQ(restarted.counts().n_damaged, 1);
  EXPECT_FALSE(fs::exists(second));
}

TEST_F(DiskTierTest, TheReadersTokensMustBeTheFiles) {
  DiskTier tier = open();
  const auto id = tier.write(1, path(1), 0, payload(10), evicted_);
  EXPECT_FALSE(tier.read(*id, path(2)));
  EXPECT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_FALSE(tier.read(*id, path(1)));
}

TEST_F(DiskTierTest, WhatIsNotARegularFileIsLeftAlone) {
  const auto link = [](const fs::path& from, const fs::path& to) { fs::create_symlink(to, from); };
  const auto folder = [](const fs::path& at, const fs::path&) { fs::create_directory(at); };
  const auto pipe = [](const fs::path& at, const fs::path&) { mkfifo(at.c_str(), 0600); };
  for (void (*place)(const fs::path&, const fs::path&) : {+link, +folder, +pipe}) {
    warnings_.clear();
    DiskTier tier = open();
    const auto id = tier.write(1, path(1), 0, payload(10), evicted_);
    const fs::path file = files().at(0), elsewhere = root_ / "elsewhere";
    fs::rename(file, elsewhere);
    place(file, elsewhere);
    EXPECT_TRUE(open().take_entries().empty());
    EXPECT_TRUE(warnings_.empty());
    EXPECT_FALSE(tier.read(*id, path(1)));
    EXPECT_EQ(warnings_.size(), 1u);
    EXPECT_TRUE(fs::exists(file));
    EXPECT_TRUE(fs::exists(elsewhere));
    fs::remove(file);
  }
}

TEST_F(DiskTierTest, AFolderThatIsGoneStopsNobody) {
  DiskTier tier = open();
  const auto a = tier.write(1, path(1), 0, payload(10), evicted_);
  const auto b = tier.write(1, path(2), 0, payload(10), evicted_);
  fs::remove_all(folder_);
  EXPECT_FALSE(tier.read(*a, path(1)));
  EXPECT_EQ(warnings_.size(), 1u);
  EXPECT_FALSE(tier.write(1, path(3), 0, payload(10), evicted_));
  EXPECT_FALSE(tier.write(1, path(4), 0, payload(99), evicted_));
  EXPECT_EQ(warnings_.size(), 2u) << "the same failure again should not be told again";
  EXPECT_EQ(tier.counts().n_write_errors, 2);
  tier.remove(*b);
  EXPECT_EQ(tier.n_files(), 0);
  tier.clear();
  fs::create_directory(folder_);
  EXPECT_TRUE(tier.write(1, path(3), 0, payload(10), evicted_));
}

TEST_F(DiskTierTest, AFullDiskLeavesNothingBehind) {
  DiskTier tier = open();
  const auto id = tier.write(1, path(1), 0, payload(10), evicted_);
  {
    const FileSizeLimit limit(1000);
    EXPECT_FALSE(tier.write(1, path(1), 0, payload(5000), evicted_));
    EXPECT_FALSE(tier.write(1, path(2), 0, payload(6000), evicted_));
  }
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("cannot write: File too large"), std::string::npos) << warnings_[0];
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(tier.read(*id, path(1)), payload(10)) << "a failed rewrite should keep the old file";
  EXPECT_TRUE(tier.write(1, path(2), 0, payload(6000), evicted_));
  {
    const FileSizeLimit limit(1000);
    EXPECT_FALSE(tier.write(1, path(3), 0, payload(5000), evicted_));
  }
  EXPECT_EQ(warnings_.size(), 2u) << "a failure after a success is news";
  EXPECT_TRUE(evicted_.empty());
}

TEST_F(DiskTierTest, RefusesAFolderThatCannotBeUsed) {
  spill(root_ / "file", "");
  for (const fs::path& bad : {root_ / "file", root_ / "file" / "cache", fs::path("/proc/cache"),
                              fs::path("/proc"), fs::path()}) {
    try {
      DiskTier(bad, "model", 1000, {});
      ADD_FAILURE() << bad;
    } catch (const InvalidRequestError& error) {
      EXPECT_NE(std::string(error.what()).find("'" + bad.string() + "': "), std::string::npos)
          << error.what();
    }
  }
  EXPECT_THROW(DiskTier(folder_, "model", 0, {}), InvalidRequestError);
}

TEST_F(DiskTierTest, TheLeastRecentlyUsedMakeRoom) {
  const std::int64_t n_file = 56 + 5 + 12 + 1000;
  DiskTier tier = open(3 * n_file);
  const auto a = tier.write(1, path(1), 0, payload(1000), evicted_);
  const auto b = tier.write(1, path(2), 0, payload(1000), evicted_);
  const auto c = tier.write(1, path(3), 0, payload(1000), evicted_);
  EXPECT_EQ(tier.n_bytes(), 3 * n_file);
  EXPECT_TRUE(evicted_.empty());
  EXPECT_TRUE(tier.read(*a, path(1)));
  ASSERT_TRUE(tier.write(1, path(4), 0, payload(1000), evicted_));
  EXPECT_EQ(evicted_, Ids{*b});
  ASSERT_TRUE(tier.write(1, path(5), 0, payload(1001), evicted_));
  EXPECT_EQ(evicted_, (Ids{*b, *c, *a}));
  EXPECT_EQ(tier.n_bytes(), 2 * n_file + 1);
  EXPECT_EQ(tier.counts().n_evicted, 3);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DiskTierTest, RewritingNeedsRoomForOneOnly) {
  const std::int64_t n_file = 56 + 5 + 12 + 1000;
  DiskTier tier = open(2 * n_file);
  const auto a = tier.write(1, path(1), 0, payload(1000), evicted_);
  const auto b = tier.write(1, path(2), 0, payload(1000), evicted_);
  ASSERT_TRUE(tier.write(1, path(1), 0, payload(1000), evicted_));
  EXPECT_EQ(evicted_, Ids{*a});
  EXPECT_TRUE(tier.read(*b, path(2)));
  ASSERT_TRUE(tier.write(1, path(1), 0, payload(1001), evicted_));
  EXPECT_EQ(evicted_.size(), 3u);
  EXPECT_EQ(evicted_[1], *b) << "two no longer fit";
  EXPECT_EQ(tier.n_bytes(), n_file + 1);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(DiskTierTest, ALoweredBoundHoldsFromTheStart) {
  {
    DiskTier tier = open();
    for (int i = 1; i <= 5; ++i) ASSERT_TRUE(tier.write(1, path(i), 0, payload(1000), evicted_));
  }
  DiskTier tier = open(2500);
  const auto entries = tier.take_entries();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].tokens, path(4));
  EXPECT_EQ(entries[1].tokens, path(5));
  EXPECT_EQ(files().size(), 2u);
  EXPECT_LE(tier.n_bytes(), 2500);
}

TEST_F(DiskTierTest, ARangeBeyondTheBoundEvictsNothing) {
  DiskTier tier = open(1000);
  ASSERT_TRUE(tier.write(1, path(1), 0, payload(500), evicted_));
  EXPECT_FALSE(tier.write(1, path(2), 0, payload(928), evicted_));
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("1001 bytes exceeds the bound of 1000"), std::string::npos);
  EXPECT_TRUE(evicted_.empty());
  EXPECT_TRUE(tier.write(1, path(2), 0, payload(927), evicted_));
}

TEST_F(DiskTierTest, RefusesARangeThatIsNone) {
  DiskTier tier = open();
  EXPECT_THROW(tier.write(1, path(1), 3, payload(1), evicted_), std::logic_error);
  EXPECT_THROW(tier.write(1, path(1), -1, payload(1), evicted_), std::logic_error);
  EXPECT_THROW(tier.write(1, {}, 0, payload(1), evicted_), std::logic_error);
}

TEST_F(DiskTierTest, TwoObjectsShareAFolderAndItsBound) {
  const std::int64_t n_file = 56 + 5 + 12 + 1000;
  DiskTier a = open(2 * n_file), b = open(2 * n_file);
  const auto in_a = a.write(1, path(1), 0, payload(1000), evicted_);
  const auto in_b = b.write(1, path(2), 0, payload(1000), evicted_);
  EXPECT_TRUE(evicted_.empty());
  ASSERT_TRUE(b.write(1, path(3), 0, payload(1000), evicted_));
  EXPECT_TRUE(evicted_.empty()) << "it was a's file, which b does not know";
  EXPECT_EQ(files().size(), 2u);
  ASSERT_TRUE(a.write(1, path(4), 0, payload(1000), evicted_));
  EXPECT_EQ(evicted_, Ids{*in_a}) << "b removed it";
  EXPECT_EQ(files().size(), 2u);
  EXPECT_FALSE(b.read(*in_b, path(2)));
}

TEST_F(DiskTierTest, TheSameRangeFromTwoObjectsIsOneFile) {
  DiskTier a = open(), b = open();
  const auto in_a = a.write(1, path(1), 0, payload(10), evicted_);
  const auto in_b = b.write(1, path(1), 0, payload(10), evicted_);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(a.read(*in_a, path(1)), payload(10));
  b.remove(*in_b);
  EXPECT_FALSE(a.read(*in_a, path(1)));
}

/// Writes, reads and removes at random; returns whether every payload read was the one saved.
bool hammer(DiskTier tier, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<std::pair<DiskTier::Id, int>> saved;
  for (int i = 0; i < 400; ++i) {
    const int n = static_cast<int>(random() % 12);
    Ids evicted;
    const auto bytes = payload(500 + 100 * static_cast<std::size_t>(n), static_cast<unsigned>(n));
    if (const auto id = tier.write(1, path(n), 0, bytes, evicted)) saved.emplace_back(*id, n);
    if (saved.empty()) continue;
    const auto [id, of] = saved[random() % saved.size()];
    const auto read = tier.read(id, path(of));
    const auto expected =
        payload(500 + 100 * static_cast<std::size_t>(of), static_cast<unsigned>(of));
    if (read && *read != expected) return false;
    if (random() % 8 == 0) tier.remove(id);
  }
  return tier.counts().n_damaged == 0 && tier.counts().n_write_errors == 0;
}

TEST_F(DiskTierTest, ProcessesAtTheSameTimeNeverReadWrongData) {
  std::vector<pid_t> children;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(hammer(open(8000), seed) ? 0 : 1);
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  for (const fs::path& file : files()) EXPECT_EQ(file.extension(), ".llkv");
}

TEST_F(DiskTierTest, OnlyTheUserCanReadTheFiles) {
  const mode_t before = umask(0);
  const fs::path file = save_one(payload(10));
  umask(before);
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(DiskTierTest, RemovesOldLeftoversAndNothingElse) {
  const std::string name = save_one(payload(10)).filename().string();
  const std::string other(name.size() - 5, '0');
  const std::string suffix = ".0123456789abcdef.tmp";
  const std::vector<std::string> kept = {
      name,         "notes.txt",          "notes.llkv",           "notes.llkv" + suffix,
      name + ".gz", "x" + name.substr(1), name + suffix + ".txt", name + ".tmp"};
  const std::vector<std::string> leftovers = {name + suffix, "0" + name.substr(1) + suffix};
  for (const std::string& n : kept) {
    if (n != name) spill(folder_ / n, "x");
  }
  for (const std::string& n : leftovers) spill(folder_ / n, "x");
  for (const fs::path& file : files()) {
    fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::minutes(61));
  }
  const std::string fresh = name + ".fedcba9876543210.tmp";
  spill(folder_ / fresh, "x");
  fs::last_write_time(folder_ / fresh, fs::file_time_type::clock::now() - std::chrono::minutes(59));
  DiskTier tier = open();
  EXPECT_EQ(tier.n_files(), 1);
  for (const std::string& n : leftovers) EXPECT_FALSE(fs::exists(folder_ / n)) << n;
  for (const std::string& n : kept) EXPECT_TRUE(fs::exists(folder_ / n)) << n;
  EXPECT_TRUE(fs::exists(folder_ / fresh));
  tier.clear();
  EXPECT_FALSE(fs::exists(folder_ / name));
  EXPECT_TRUE(fs::exists(folder_ / "notes.llkv"));
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DiskTierTest, RemoveAndClearTakeTheFiles) {
  DiskTier tier = open();
  const auto a = tier.write(1, path(1), 0, payload(10), evicted_);
  ASSERT_TRUE(tier.write(1, path(2), 0, payload(10), evicted_));
  tier.remove(*a);
  tier.remove(*a);
  EXPECT_EQ(tier.n_files(), 1);
  EXPECT_EQ(files().size(), 1u);
  DiskTier other = open();
  ASSERT_TRUE(other.write(1, path(3), 0, payload(10), evicted_));
  tier.clear();
  EXPECT_EQ(tier.n_files(), 0);
  EXPECT_EQ(tier.n_bytes(), 0);
  EXPECT_TRUE(files().empty());
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DiskTierTest, ARelativeFolderStaysWhereItWas) {
  const fs::path before = fs::current_path();
  fs::current_path(root_);
  DiskTier tier("new/cache/", "model", 1000, {});
  fs::current_path(before);
  const auto id = tier.write(1, path(1), 0, payload(10), evicted_);
  ASSERT_TRUE(id);
  EXPECT_TRUE(tier.read(*id, path(1)));
  EXPECT_FALSE(fs::is_empty(root_ / "new" / "cache"));
}

}  // namespace
}  // namespace llamaherd
