#include "disk_tier.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cinttypes>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "checksum.h"
#include "error.h"

namespace llamaherd {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::byte>;

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kLeftoverAge = 3600 * kSecond;
constexpr std::array<char, 8> kMagic = {'h', 'e', 'r', 'd', '.', 'k', 'v', '\n'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kRangeNameLength = 38;  // see file_name()

/// A file is this, the fingerprint, the tokens and the payload, with nothing between or after. The
/// checksum of fingerprint and tokens is in its name, see range_hash().
/// Little-endian, because so is every machine we run on; another one's files fail their checks.
struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t n_fingerprint = 0;
  std::uint32_t n_tokens = 0;
  Pos begin = 0;
  std::uint64_t space = 0;
  std::uint64_t n_payload = 0;
  std::uint64_t payload_checksum = 0;
  std::uint64_t header_checksum = 0;  // of all above, so that the lengths can be trusted
};
static_assert(sizeof(Header) == 56 && std::has_unique_object_representations_v<Header>);

/// Why a file cannot be used. Damaged ones are removed; others are left as they are.
struct Unusable : std::runtime_error {
  Unusable(const std::string& reason, bool is_damaged)
      : std::runtime_error(reason), damaged(is_damaged) {}
  bool damaged;
};

Unusable damaged(const std::string& reason) { return {reason, true}; }

[[noreturn]] void throw_errno(const char* what, int error = errno) {
  throw Unusable(std::string(what) + ": " + std::generic_category().message(error), false);
}

std::uint64_t header_checksum(const Header& header) {
  return checksum(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, header_checksum)), 0);
}

/// What follows the header and precedes the payload.
std::vector<std::byte> make_key(std::string_view fingerprint, std::span<const TokenId> tokens) {
  const Bytes parts[] = {std::as_bytes(std::span(fingerprint)), std::as_bytes(tokens)};
  std::vector<std::byte> key;
  key.reserve(parts[0].size() + parts[1].size());
  for (Bytes part : parts) key.insert(key.end(), part.begin(), part.end());
  return key;
}

std::uint64_t range_hash(std::uint64_t space, Pos begin, Bytes key) {
  return checksum(key, mix_word(space, static_cast<std::uint32_t>(begin)));
}

std::string hex(std::uint64_t value) {
  std::array<char, 17> text;
  std::snprintf(text.data(), text.size(), "%016" PRIx64, value);
  return text.data();
}

std::string file_name(std::uint64_t prefix, std::uint64_t hash) {
  return hex(prefix) + "-" + hex(hash) + ".llkv";
}

struct RangeName {
  std::uint64_t prefix;
  std::uint64_t hash;
};

std::optional<RangeName> parse_file_name(const std::string& name) {
  RangeName parsed{};
  const bool ok =
      name.size() == kRangeNameLength &&
      std::sscanf(name.c_str(), "%16" SCNx64 "-%16" SCNx64, &parsed.prefix, &parsed.hash) == 2 &&
      name == file_name(parsed.prefix, parsed.hash);
  return ok ? std::optional(parsed) : std::nullopt;
}

std::string temporary_name(std::uint64_t prefix, std::uint64_t hash) {
  std::random_device random;
  return file_name(prefix, hash) + "." + hex(std::uint64_t{random()} << 32 | random()) + ".tmp";
}

bool is_temporary_name(const std::string& name) {
  return name.size() == kRangeNameLength + 21 && name[kRangeNameLength] == '.' &&
         name.ends_with(".tmp") && parse_file_name(name.substr(0, kRangeNameLength));
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) throw_errno("cannot list the folder", error.value());
  return names;
}

std::int64_t to_ns(const timespec& time) {
  return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec;
}

std::int64_t mtime_ns(const struct stat& status) {
#ifdef __APPLE__
  return to_ns(status.st_mtimespec);
#else
  return to_ns(status.st_mtim);
#endif
}

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return to_ns(now);
}

/// The status of a regular file; nullopt for anything else, and for one that has gone.
std::optional<struct stat> regular_file(const fs::path& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return status;
}

void unlink_file(const fs::path& path) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT) throw_errno("cannot remove a file");
}

class Fd {
 public:
  Fd(const fs::path& path, int flags, const char* what)
      : fd_(open(path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC, 0600)) {
    if (fd_ < 0) throw_errno(what);
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  int get() const { return fd_; }
  /// Some file systems report a failed write only here.
  void close() {
    if (::close(std::exchange(fd_, -1)) != 0) throw_errno("cannot write");
  }

 private:
  int fd_;
};

constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;  // macOS refuses 2 GiB and more

void read_all(int fd, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::read(fd, bytes.data(), std::min(bytes.size(), kMaxTransfer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot read");
    if (n == 0) throw damaged("it became shorter while it was read");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void write_all(int fd, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), std::min(bytes.size(), kMaxTransfer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot write");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

Header read_header(int fd, std::uint64_t n_file_bytes) {
  Header header;
  if (n_file_bytes < sizeof(header)) {
    throw damaged("it has " + std::to_string(n_file_bytes) + " bytes, fewer than a header");
  }
  read_all(fd, std::as_writable_bytes(std::span(&header, 1)));
  if (header.magic != kMagic || header.version != kVersion ||
      header.header_checksum != header_checksum(header)) {
    throw damaged("its header fails the check");
  }
  if (header.n_tokens > std::uint32_t{std::numeric_limits<Pos>::max()} || header.begin < 0 ||
      std::uint32_t(header.begin) >= header.n_tokens) {
    throw damaged("its range [" + std::to_string(header.begin) + ", " +
                  std::to_string(header.n_tokens) + ") is none");
  }
  const std::uint64_t n_rest = n_file_bytes - sizeof(header);
  const std::uint64_t n_key = header.n_fingerprint + sizeof(TokenId) * header.n_tokens;
  if (n_rest < n_key || n_rest - n_key != header.n_payload) {
    throw damaged("its length of " + std::to_string(n_file_bytes) + " bytes is not its header's");
  }
  return header;
}

/// A file opened at its payload.
struct OpenFile {
  OpenFile(const fs::path& path, std::uint64_t hash, std::string_view fingerprint)
      // O_NONBLOCK: should it be a pipe by now, do not wait for its writer.
      : fd(path, O_RDONLY | O_NONBLOCK, "cannot open") {
    struct stat status {};
    if (fstat(fd.get(), &status) != 0) throw_errno("cannot stat");
    if (!S_ISREG(status.st_mode)) throw Unusable("it is not a regular file", false);
    n_bytes = status.st_size;
    header = read_header(fd.get(), static_cast<std::uint64_t>(n_bytes));
    std::vector<std::byte> key(header.n_fingerprint + sizeof(TokenId) * header.n_tokens);
    read_all(fd.get(), key);
    tokens.resize(header.n_tokens);
    std::memcpy(tokens.data(), key.data() + header.n_fingerprint,
                sizeof(TokenId) * header.n_tokens);
    if (hash != range_hash(header.space, header.begin, key) ||
        key != make_key(fingerprint, tokens)) {
      throw damaged("its name is not that of its model and tokens");
    }
  }

  std::vector<std::byte> read_payload() const {
    std::vector<std::byte> bytes(header.n_payload);
    read_all(fd.get(), bytes);
    if (header.payload_checksum != checksum(bytes, 0)) throw damaged("its data fails the check");
    return bytes;
  }

  Fd fd;
  std::int64_t n_bytes = 0;
  Header header;
  std::vector<TokenId> tokens;
};

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
    throw InvalidRequestError(
        "the disk cache's folder must be one that can be listed and written; got '" +
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
    if (error) throw_errno("cannot make its parent", error.value());
    if (mkdir(folder_.c_str(), 0700) != 0 && errno != EEXIST) throw_errno("cannot make it");
    if (!fs::is_directory(folder_, error)) throw Unusable("it is no folder", false);
  }
  const fs::path probe = folder_ / temporary_name(prefix_, 0);
  Fd(probe, O_WRONLY | O_CREAT | O_EXCL, "cannot make a file in it").close();
  unlink_file(probe);
}

/// Whichever model they were for: no file of that age is still being written.
void DiskTier::remove_leftovers() const {
  for (const std::string& name : names_in(folder_)) {
    if (!is_temporary_name(name)) continue;
    const auto status = regular_file(folder_ / name);
    // What cannot be removed is in nobody's way.
    if (status && mtime_ns(*status) < now_ns() - kLeftoverAge) unlink((folder_ / name).c_str());
  }
}

/// All of this fingerprint, also what this object does not know, oldest first.
std::vector<DiskTier::File> DiskTier::list_files() {
  std::vector<File> files;
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
                    [](const File& file) { return std::pair(file.mtime_ns, file.hash); });
  return files;
}

void DiskTier::load_entries() {
  for (const File& listed : list_files()) {
    try {
      OpenFile file(path(listed.hash), listed.hash, fingerprint_);
      const Header& header = file.header;
      const Id id = know({listed.hash, header.space, header.begin, file.n_bytes});
      found_.push_back({id, header.space, std::move(file.tokens), header.begin,
                        static_cast<std::int64_t>(header.n_payload)});
    } catch (const Unusable& problem) {
      // One that another process removed meanwhile is not worth a word.
      if (regular_file(path(listed.hash))) discard(listed.hash, problem.what(), problem.damaged);
    }
  }
  std::vector<Id> evicted;
  make_room(0, std::nullopt, evicted);
  std::erase_if(found_, [&](const Entry& entry) { return !known_.contains(entry.id); });
}

std::optional<DiskTier::Id> DiskTier::write(std::uint64_t space, std::span<const TokenId> tokens,
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
    write_file(hash, std::array{std::as_bytes(std::span(&header, 1)), Bytes(key), bytes});
  } catch (const Unusable& problem) {
    ++counts_.n_write_errors;
    if (last_write_problem_ != problem.what()) {
      warn("not saved in the disk cache '" + folder_.string() + "': " + problem.what());
    }
    last_write_problem_ = problem.what();
    return std::nullopt;
  }
  last_write_problem_.clear();
  forget_file(hash, evicted);
  return know({hash, space, begin, n_file_bytes});
}

/// No fsync: a file that a crash tears fails its check, and a lost one costs only time.
void DiskTier::write_file(std::uint64_t hash, std::span<const Bytes> parts) {
  const fs::path temporary = folder_ / temporary_name(prefix_, hash);
  Fd fd(temporary, O_WRONLY | O_CREAT | O_EXCL, "cannot make a file");
  try {
    for (Bytes part : parts) write_all(fd.get(), part);
    touch(fd.get());
    fd.close();
    if (rename(temporary.c_str(), path(hash).c_str()) != 0) throw_errno("cannot rename a file");
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
}

std::optional<std::vector<std::byte>> DiskTier::read(Id id, std::span<const TokenId> beginning) {
  const auto it = known_.find(id);
  if (it == known_.end()) return std::nullopt;
  const Known known = it->second;
  try {
    const OpenFile file(path(known.hash), known.hash, fingerprint_);
    if (file.header.space != known.space || file.header.begin != known.begin ||
        file.tokens.size() < beginning.size() ||
        !std::ranges::equal(std::span(file.tokens).first(beginning.size()), beginning)) {
      throw Unusable("it holds another range", false);
    }
    auto bytes = file.read_payload();
    touch(file.fd.get());
    return bytes;
  } catch (const Unusable& problem) {
    discard(known.hash, problem.what(), problem.damaged);
  } catch (const std::bad_alloc&) {
    discard(known.hash, "there is no memory for it", false);
  }
  forget(id);
  return std::nullopt;
}

void DiskTier::remove(Id id) {
  const auto it = known_.find(id);
  if (it == known_.end()) return;
  const fs::path file = path(it->second.hash);
  forget(id);
  try {
    unlink_file(file);
  } catch (const Unusable& problem) {
    warn("disk cache file '" + file.string() + "': " + problem.what());
  }
}

void DiskTier::clear() {
  std::vector<Id> cleared;
  try {
    for (const File& file : list_files()) {
      unlink_file(path(file.hash));
      forget_file(file.hash, cleared);
    }
  } catch (const Unusable& problem) {
    warn("disk cache '" + folder_.string() + "' is not cleared: " + problem.what());
  }
  ids_.clear();
  known_.clear();
  n_bytes_ = 0;
}

void DiskTier::make_room(std::int64_t n_bytes, std::optional<std::uint64_t> replaced,
                         std::vector<Id>& evicted) {
  const std::vector<File> files = list_files();
  forget_missing(files, evicted);
  std::int64_t n_total = n_bytes;
  for (const File& file : files) n_total += file.hash == replaced ? 0 : file.n_bytes;
  for (const File& file : files) {
    if (n_total <= max_bytes_) break;
    if (file.hash == replaced) continue;
    unlink_file(path(file.hash));
    forget_file(file.hash, evicted);
    n_total -= file.n_bytes;
    ++counts_.n_evicted;
  }
}

void DiskTier::forget_missing(const std::vector<File>& files, std::vector<Id>& evicted) {
  std::unordered_set<std::uint64_t> present;
  for (const File& file : files) present.insert(file.hash);
  std::vector<std::uint64_t> missing;
  for (const auto& [hash, id] : ids_) {
    if (!present.contains(hash)) missing.push_back(hash);
  }
  for (std::uint64_t hash : missing) forget_file(hash, evicted);
  counts_.n_lost += static_cast<std::int64_t>(missing.size());
}

/// Sets the time of last use: later than all before, even if the clock was set back.
void DiskTier::touch(int fd) {
  last_touch_ns_ = std::max(now_ns(), last_touch_ns_ + 1);
  timespec time{};
  time.tv_sec = static_cast<decltype(time.tv_sec)>(last_touch_ns_ / kSecond);
  time.tv_nsec = static_cast<decltype(time.tv_nsec)>(last_touch_ns_ % kSecond);
  const std::array times = {time, time};
  // Another user's file cannot be touched; it is then removed earlier than it should be.
  static_cast<void>(futimens(fd, times.data()));
}

DiskTier::Id DiskTier::know(const Known& file) {
  const Id id = ++last_id_;
  known_.emplace(id, file);
  ids_.emplace(file.hash, id);
  n_bytes_ += file.n_file_bytes;
  return id;
}

void DiskTier::forget(Id id) {
  const auto it = known_.find(id);
  n_bytes_ -= it->second.n_file_bytes;
  ids_.erase(it->second.hash);
  known_.erase(it);
}

void DiskTier::forget_file(std::uint64_t hash, std::vector<Id>& evicted) {
  const auto it = ids_.find(hash);
  if (it == ids_.end()) return;
  evicted.push_back(it->second);
  forget(it->second);
}

void DiskTier::discard(std::uint64_t hash, std::string_view reason, bool is_damaged) {
  const fs::path file = path(hash);
  ++(is_damaged ? counts_.n_damaged : counts_.n_lost);
  // If it cannot be removed, the next start says so again.
  if (is_damaged) unlink(file.c_str());
  warn("disk cache file '" + file.string() + "' is not used: " + std::string(reason));
}

fs::path DiskTier::path(std::uint64_t hash) const { return folder_ / file_name(prefix_, hash); }

void DiskTier::warn(const std::string& message) const {
  if (warn_) warn_(message);
}

}  // namespace llamaherd
