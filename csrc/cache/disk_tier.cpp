#include "cache/disk_tier.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <new>
#include <stdexcept>
#include <unordered_set>

#include "cache/disk_file.h"
#include "common/checksum.h"
#include "common/error.h"

namespace llamaherd {
namespace {

namespace fs = std::filesystem;
using namespace disk_file;

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kLeftoverAge = 3600 * kSecond;

/// Like the modification times of files; not steady.
std::int64_t wall_clock_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * kSecond + now.tv_nsec;
}

}  // namespace

DiskTier::DiskTier(fs::path folder, std::string fingerprint, std::int64_t max_bytes, Warn warn)
    : folder_(std::move(folder)),
      fingerprint_(std::move(fingerprint)),
      prefix_(checksum(std::as_bytes(std::span(fingerprint_)), kVersion)),
      max_bytes_(max_bytes),
      warn_(std::move(warn)) {
  if (max_bytes < 1) {
    throw InvalidRequestError("the disk cache's size must be >= 1 byte; got " +
                              std::to_string(max_bytes));
  }
  try {
    make_folder();
    remove_leftovers();
    load_entries();
  } catch (const Unusable& problem) {
    throw InvalidRequestError("the disk cache's folder must be readable and writable; got '" +
                              folder_.string() + "': " + problem.what());
  }
}

void DiskTier::make_folder() {
  std::error_code error;
  // A later change of the working directory must not move the cache.
  folder_ = folder_.empty() ? folder_ : fs::absolute(folder_, error);
  if (!folder_.has_filename()) folder_ = folder_.parent_path();
  if (!fs::is_directory(folder_, error)) {
    fs::create_directories(folder_.parent_path(), error);
    if (error) throw_errno("cannot create its parent", error.value());
    if (mkdir(folder_.c_str(), 0700) != 0 && errno != EEXIST) throw_errno("cannot create it");
    if (!fs::is_directory(folder_, error)) throw Unusable("it is not a folder", false);
  }
  const fs::path probe = folder_ / temporary_name(prefix_, 0);
  Fd(probe, O_WRONLY | O_CREAT | O_EXCL, "cannot create a file in it").close();
  unlink_file(probe);
}

/// Removes old temporary files, of any fingerprint: no process is still writing them.
void DiskTier::remove_leftovers() const {
  for (const std::string& name : names_in(folder_)) {
    if (!is_temporary_name(name)) continue;
    const auto status = regular_file(folder_ / name);
    // A file that cannot be removed does no harm.
    if (status && mtime_ns(*status) < wall_clock_ns() - kLeftoverAge) {
      unlink((folder_ / name).c_str());
    }
  }
}

/// All files of this fingerprint, oldest first, those that are not in the index included.
std::vector<DiskTier::ListedFile> DiskTier::list_files() {
  std::vector<ListedFile> files;
  counts_.n_foreign = 0;
  for (const std::string& name : names_in(folder_)) {
    const auto parsed = parse_file_name(name);
    if (!parsed) continue;
    const auto status = regular_file(folder_ / name);
    if (parsed->prefix != prefix_) {
      ++counts_.n_foreign;
    } else if (status) {
      files.push_back({parsed->hash, status->st_size, mtime_ns(*status)});
    }
  }
  std::ranges::sort(files, {},
                    [](const ListedFile& file) { return std::pair(file.mtime_ns, file.hash); });
  return files;
}

void DiskTier::load_entries() {
  for (const ListedFile& listed : list_files()) {
    try {
      OpenFile file(path(listed.hash), listed.hash, fingerprint_);
      const Header& header = file.header;
      const Id id = add_to_index({listed.hash, header.space, header.begin, file.n_bytes});
      found_.push_back({id, header.space, std::move(file.tokens), header.begin,
                        static_cast<std::int64_t>(header.n_payload)});
    } catch (const Unusable& problem) {
      // No warning if another process has removed it meanwhile.
      if (regular_file(path(listed.hash))) {
        reject_file(listed.hash, problem.what(), problem.damaged);
      }
    }
  }
  std::vector<Id> evicted;
  make_room(0, std::nullopt, evicted);
  std::erase_if(found_, [&](const Entry& entry) { return !index_.contains(entry.id); });
}

std::optional<DiskTier::Id> DiskTier::write(CacheNamespace space, std::span<const TokenId> tokens,
                                            Pos begin, std::span<const std::byte> bytes,
                                            std::vector<Id>& evicted) {
  if (begin < 0 || static_cast<std::size_t>(begin) >= tokens.size()) {
    throw std::logic_error("DiskTier::write from position " + std::to_string(begin) + " of " +
                           std::to_string(tokens.size()));
  }
  const std::vector<std::byte> key = make_key(fingerprint_, tokens);
  const std::uint64_t hash = range_hash(space, begin, key);
  const auto n_file_bytes = static_cast<std::int64_t>(sizeof(Header) + key.size() + bytes.size());
  try {
    if (n_file_bytes > max_bytes_) {
      throw Unusable("a file of " + std::to_string(n_file_bytes) + " bytes exceeds the bound of " +
                         std::to_string(max_bytes_),
                     false);
    }
    make_room(n_file_bytes, hash, evicted);
    Header header;
    header.n_fingerprint = static_cast<std::uint32_t>(fingerprint_.size());
    header.n_tokens = static_cast<std::uint32_t>(tokens.size());
    header.begin = begin;
    header.space = space;
    header.n_payload = bytes.size();
    header.payload_checksum = checksum(bytes, 0);
    header.header_checksum = header_checksum(header);
    write_file(hash, std::array{std::as_bytes(std::span(&header, 1)),
                                std::span<const std::byte>(key), bytes});
  } catch (const Unusable& problem) {
    ++counts_.n_write_errors;
    if (last_write_problem_ != problem.what()) {
      warn("not saved in the disk cache '" + folder_.string() + "': " + problem.what());
    }
    last_write_problem_ = problem.what();
    return std::nullopt;
  }
  last_write_problem_.clear();
  remove_hash_from_index(hash, evicted);
  return add_to_index({hash, space, begin, n_file_bytes});
}

/// No fsync: a file that a crash truncates fails its check, and a lost one costs only time.
void DiskTier::write_file(std::uint64_t hash, std::span<const std::span<const std::byte>> parts) {
  const fs::path temporary = folder_ / temporary_name(prefix_, hash);
  Fd fd(temporary, O_WRONLY | O_CREAT | O_EXCL, "cannot create a file");
  try {
    for (const auto part : parts) write_all(fd.get(), part);
    touch(fd.get());
    fd.close();
    if (rename(temporary.c_str(), path(hash).c_str()) != 0) throw_errno("cannot rename a file");
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
}

std::optional<std::vector<std::byte>> DiskTier::read(Id id, std::span<const TokenId> beginning) {
  const auto it = index_.find(id);
  if (it == index_.end()) return std::nullopt;
  const IndexedFile indexed = it->second;
  try {
    const OpenFile file(path(indexed.hash), indexed.hash, fingerprint_);
    if (file.header.space != indexed.space || file.header.begin != indexed.begin ||
        file.tokens.size() < beginning.size() ||
        !std::ranges::equal(std::span(file.tokens).first(beginning.size()), beginning)) {
      throw Unusable("it holds another range", false);
    }
    auto bytes = file.read_payload();
    touch(file.fd.get());
    return bytes;
  } catch (const Unusable& problem) {
    reject_file(indexed.hash, problem.what(), problem.damaged);
  } catch (const std::bad_alloc&) {
    reject_file(indexed.hash, "not enough memory", false);
  }
  remove_from_index(id);
  return std::nullopt;
}

void DiskTier::remove(Id id) {
  const auto it = index_.find(id);
  if (it == index_.end()) return;
  const fs::path file = path(it->second.hash);
  remove_from_index(id);
  try {
    unlink_file(file);
  } catch (const Unusable& problem) {
    warn("disk cache file '" + file.string() + "': " + problem.what());
  }
}

void DiskTier::clear() {
  std::vector<Id> cleared;
  try {
    for (const ListedFile& file : list_files()) {
      unlink_file(path(file.hash));
      remove_hash_from_index(file.hash, cleared);
    }
  } catch (const Unusable& problem) {
    warn("disk cache '" + folder_.string() + "' is not cleared: " + problem.what());
  }
  id_by_hash_.clear();
  index_.clear();
  n_bytes_ = 0;
}

void DiskTier::make_room(std::int64_t n_bytes, std::optional<std::uint64_t> replaced,
                         std::vector<Id>& evicted) {
  const std::vector<ListedFile> files = list_files();
  remove_missing_from_index(files, evicted);
  std::int64_t n_total = n_bytes;
  for (const ListedFile& file : files) n_total += file.hash == replaced ? 0 : file.n_bytes;
  for (const ListedFile& file : files) {
    if (n_total <= max_bytes_) break;
    if (file.hash == replaced) continue;
    unlink_file(path(file.hash));
    remove_hash_from_index(file.hash, evicted);
    n_total -= file.n_bytes;
    ++counts_.n_evicted;
  }
}

void DiskTier::remove_missing_from_index(const std::vector<ListedFile>& files,
                                         std::vector<Id>& evicted) {
  std::unordered_set<std::uint64_t> present;
  for (const ListedFile& file : files) present.insert(file.hash);
  std::vector<std::uint64_t> missing;
  for (const auto& [hash, id] : id_by_hash_) {
    if (!present.contains(hash)) missing.push_back(hash);
  }
  for (std::uint64_t hash : missing) remove_hash_from_index(hash, evicted);
  counts_.n_lost += static_cast<std::int64_t>(missing.size());
}

/// Sets the time of last use: later than all before, even if the clock was set back.
void DiskTier::touch(int fd) {
  last_touch_ns_ = std::max(wall_clock_ns(), last_touch_ns_ + 1);
  timespec time{};
  time.tv_sec = static_cast<decltype(time.tv_sec)>(last_touch_ns_ / kSecond);
  time.tv_nsec = static_cast<decltype(time.tv_nsec)>(last_touch_ns_ % kSecond);
  const std::array times = {time, time};
  // This fails for another user's file, which is then removed earlier than it should be.
  static_cast<void>(futimens(fd, times.data()));
}

DiskTier::Id DiskTier::add_to_index(const IndexedFile& file) {
  const Id id = ++last_id_;
  index_.emplace(id, file);
  id_by_hash_.emplace(file.hash, id);
  n_bytes_ += file.n_file_bytes;
  return id;
}

void DiskTier::remove_from_index(Id id) {
  const auto it = index_.find(id);
  n_bytes_ -= it->second.n_file_bytes;
  id_by_hash_.erase(it->second.hash);
  index_.erase(it);
}

void DiskTier::remove_hash_from_index(std::uint64_t hash, std::vector<Id>& evicted) {
  const auto it = id_by_hash_.find(hash);
  if (it == id_by_hash_.end()) return;
  evicted.push_back(it->second);
  remove_from_index(it->second);
}

void DiskTier::reject_file(std::uint64_t hash, std::string_view reason, bool is_damaged) {
  const fs::path file = path(hash);
  ++(is_damaged ? counts_.n_damaged : counts_.n_lost);
  // If it cannot be removed, the next start warns again.
  if (is_damaged) unlink(file.c_str());
  warn("disk cache file '" + file.string() + "' is not used: " + std::string(reason));
}

fs::path DiskTier::path(std::uint64_t hash) const { return folder_ / file_name(prefix_, hash); }

void DiskTier::warn(const std::string& message) const {
  if (warn_) warn_(message);
}

}  // namespace llamaherd
