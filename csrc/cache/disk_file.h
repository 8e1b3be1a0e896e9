#pragma once

#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "common/types.h"

/// Format, name and reading of one file of the disk tier.
namespace llamaherd::disk_file {

inline constexpr std::uint32_t kVersion = 1;

/// A file is this, the fingerprint, the tokens and the payload, with nothing between or after. The
/// checksum of fingerprint and tokens is in its name, see range_hash(). Little-endian as all
/// supported machines; files of a big-endian one fail their checks.
struct Header {
  std::array<char, 8> magic = {'h', 'e', 'r', 'd', '.', 'k', 'v', '\n'};
  std::uint32_t version = kVersion;
  std::uint32_t n_fingerprint = 0;
  std::uint32_t n_tokens = 0;
  Pos begin = 0;
  CacheNamespace space = 0;
  std::uint64_t n_payload = 0;
  std::uint64_t payload_checksum = 0;
  std::uint64_t header_checksum = 0;  // of the fields above: the lengths are valid
};

std::uint64_t header_checksum(const Header& header);

/// Why a file cannot be used. Damaged ones are removed; others are left as they are.
struct Unusable : std::runtime_error {
  Unusable(const std::string& reason, bool is_damaged)
      : std::runtime_error(reason), damaged(is_damaged) {}
  bool damaged;
};

[[noreturn]] void throw_errno(const char* what, int error);
[[noreturn]] void throw_errno(const char* what);

/// The bytes between header and payload.
std::vector<std::byte> make_key(std::string_view fingerprint, std::span<const TokenId> tokens);

std::uint64_t range_hash(CacheNamespace space, Pos begin, std::span<const std::byte> key);

/// `prefix` stands for the fingerprint, `hash` is the range_hash().
std::string file_name(std::uint64_t prefix, std::uint64_t hash);
struct RangeName {
  std::uint64_t prefix;
  std::uint64_t hash;
};
std::optional<RangeName> parse_file_name(const std::string& name);

/// A random name for a file that is being written.
std::string temporary_name(std::uint64_t prefix, std::uint64_t hash);
bool is_temporary_name(const std::string& name);

std::vector<std::string> names_in(const std::filesystem::path& folder);

/// The status of a regular file; nullopt for anything else or if there is none.
std::optional<struct stat> regular_file(const std::filesystem::path& path);
std::int64_t mtime_ns(const struct stat& status);

void unlink_file(const std::filesystem::path& path);

class Fd {
 public:
  Fd(const std::filesystem::path& path, int flags, const char* what);
  ~Fd();
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  int get() const { return fd_; }
  /// Throws if the file system reports a failed write, some do so only here.
  void close();

 private:
  int fd_;
};

void write_all(int fd, std::span<const std::byte> bytes);

/// A file whose header and key were read and are valid.
struct OpenFile {
  OpenFile(const std::filesystem::path& path, std::uint64_t hash, std::string_view fingerprint);

  std::vector<std::byte> read_payload() const;

  Fd fd;
  std::int64_t n_bytes = 0;
  Header header;
  std::vector<TokenId> tokens;
};

}  // namespace llamaherd::disk_file
