#include "cache/disk_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <random>
#include <system_error>
#include <type_traits>
#include <utility>

#include "common/checksum.h"

namespace llamaherd::disk_file {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::byte>;

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::size_t kNameLength = 38;                     // see file_name()
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;  // macOS refuses 2 GiB and more

static_assert(sizeof(Header) == 56 && std::has_unique_object_representations_v<Header>);

Unusable damaged(const std::string& reason) { return {reason, true}; }

std::string hex(std::uint64_t value) {
  std::array<char, 17> text;
  std::snprintf(text.data(), text.size(), "%016" PRIx64, value);
  return text.data();
}

std::int64_t to_ns(const timespec& time) {
  return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec;
}

void read_all(int fd, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::read(fd, bytes.data(), std::min(bytes.size(), kMaxTransfer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot read");
    if (n == 0) throw damaged("it became shorter while it was read");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

Header read_header(int fd, std::uint64_t n_file_bytes) {
  Header header;
  if (n_file_bytes < sizeof(header)) {
    throw damaged("it has " + std::to_string(n_file_bytes) + " bytes, fewer than a header");
  }
  read_all(fd, std::as_writable_bytes(std::span(&header, 1)));
  if (header.magic != Header{}.magic || header.version != kVersion ||
      header.header_checksum != header_checksum(header)) {
    throw damaged("its header fails the check");
  }
  if (header.n_tokens > std::uint32_t{std::numeric_limits<Pos>::max()} || header.begin < 0 ||
      std::uint32_t(header.begin) >= header.n_tokens) {
    throw damaged("its range [" + std::to_string(header.begin) + ", " +
                  std::to_string(header.n_tokens) + ") is invalid");
  }
  const std::uint64_t n_rest = n_file_bytes - sizeof(header);
  const std::uint64_t n_key = header.n_fingerprint + sizeof(TokenId) * header.n_tokens;
  if (n_rest < n_key || n_rest - n_key != header.n_payload) {
    throw damaged("its length of " + std::to_string(n_file_bytes) +
                  " bytes differs from its header's");
  }
  return header;
}

}  // namespace

void throw_errno(const char* what, int error) {
  throw Unusable(std::string(what) + ": " + std::generic_category().message(error), false);
}

void throw_errno(const char* what) { throw_errno(what, errno); }

std::uint64_t header_checksum(const Header& header) {
  return checksum(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, header_checksum)), 0);
}

std::vector<std::byte> make_key(std::string_view fingerprint, std::span<const TokenId> tokens) {
  const Bytes parts[] = {std::as_bytes(std::span(fingerprint)), std::as_bytes(tokens)};
  std::vector<std::byte> key;
  key.reserve(parts[0].size() + parts[1].size());
  for (Bytes part : parts) key.insert(key.end(), part.begin(), part.end());
  return key;
}

std::uint64_t range_hash(CacheNamespace space, Pos begin, Bytes key) {
  return checksum(key, mix_word(space, static_cast<std::uint32_t>(begin)));
}

std::string file_name(std::uint64_t prefix, std::uint64_t hash) {
  return hex(prefix) + "-" + hex(hash) + ".llkv";
}

std::optional<RangeName> parse_file_name(const std::string& name) {
  RangeName parsed{};
  const bool ok =
      name.size() == kNameLength &&
      std::sscanf(name.c_str(), "%16" SCNx64 "-%16" SCNx64, &parsed.prefix, &parsed.hash) == 2 &&
      name == file_name(parsed.prefix, parsed.hash);
  return ok ? std::optional(parsed) : std::nullopt;
}

std::string temporary_name(std::uint64_t prefix, std::uint64_t hash) {
  std::random_device random;
  return file_name(prefix, hash) + "." + hex(std::uint64_t{random()} << 32 | random()) + ".tmp";
}

bool is_temporary_name(const std::string& name) {
  return name.size() == kNameLength + 21 && name[kNameLength] == '.' && name.ends_with(".tmp") &&
         parse_file_name(name.substr(0, kNameLength));
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

std::int64_t mtime_ns(const struct stat& status) {
#ifdef __APPLE__
  return to_ns(status.st_mtimespec);
#else
  return to_ns(status.st_mtim);
#endif
}

std::optional<struct stat> regular_file(const fs::path& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return status;
}

void unlink_file(const fs::path& path) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT) throw_errno("cannot remove a file");
}

Fd::Fd(const fs::path& path, int flags, const char* what)
    : fd_(open(path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC, 0600)) {
  if (fd_ < 0) throw_errno(what);
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

void Fd::close() {
  if (::close(std::exchange(fd_, -1)) != 0) throw_errno("cannot write");
}

void write_all(int fd, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), std::min(bytes.size(), kMaxTransfer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot write");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

OpenFile::OpenFile(const fs::path& path, std::uint64_t hash, std::string_view fingerprint)
    // O_NONBLOCK: if it has been replaced by a pipe, do not wait for its writer.
    : fd(path, O_RDONLY | O_NONBLOCK, "cannot open") {
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) throw_errno("cannot stat");
  if (!S_ISREG(status.st_mode)) throw Unusable("it is not a regular file", false);
  n_bytes = status.st_size;
  header = read_header(fd.get(), static_cast<std::uint64_t>(n_bytes));
  std::vector<std::byte> key(header.n_fingerprint + sizeof(TokenId) * header.n_tokens);
  read_all(fd.get(), key);
  tokens.resize(header.n_tokens);
  std::memcpy(tokens.data(), key.data() + header.n_fingerprint, sizeof(TokenId) * header.n_tokens);
  if (hash != range_hash(header.space, header.begin, key) || key != make_key(fingerprint, tokens)) {
    throw damaged("its name does not match its model and tokens");
  }
}

std::vector<std::byte> OpenFile::read_payload() const {
  std::vector<std::byte> bytes(header.n_payload);
  read_all(fd.get(), bytes);
  if (header.payload_checksum != checksum(bytes, 0)) throw damaged("its data fails the check");
  return bytes;
}

}  // namespace llamaherd::disk_file
