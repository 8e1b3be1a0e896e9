#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Ranges of KV data in files of one folder that outlive the process. One thread per object;
/// several processes may share a folder, so files may be removed or replaced at any moment. Files
/// are checked against damage, not against attack: only the engine's user may write the folder.
class DiskTier {
 public:
  /// Id of a file within this object. Never reused; 0: none.
  using Id = std::uint64_t;
  using Warn = std::function<void(const std::string&)>;

  /// KV data of positions [begin, tokens.size()) of the path `tokens` in the namespace `space`.
  struct Entry {
    Id id = 0;
    CacheNamespace space = 0;
    std::vector<TokenId> tokens;
    Pos begin = 0;
    std::int64_t n_bytes = 0;  // of the payload
  };

  struct Counts {
    std::int64_t n_foreign = 0;  // of other fingerprints or formats, when last listed
    std::int64_t n_damaged = 0;  // found damaged and removed
    std::int64_t n_lost = 0;     // removed or replaced by other processes, or unreadable
    std::int64_t n_evicted = 0;  // removed to keep the bound
    std::int64_t n_write_errors = 0;
  };

  /// `fingerprint` identifies the meaning of the payloads' bytes; files of other fingerprints are
  /// neither read, counted in `max_bytes` nor removed. Creates the folder (mode 0700) if it is
  /// missing, reads the keys of its files, but no payloads, and removes the oldest beyond
  /// `max_bytes`. Throws InvalidRequestError if the folder cannot be created, listed or written.
  DiskTier(std::filesystem::path folder, std::string fingerprint, std::int64_t max_bytes,
           Warn warn);

  /// The entries of the files found at construction, least recently used first. A second call
  /// returns none: the token paths are not kept. Files that other processes write later are found
  /// by the next object.
  std::vector<Entry> take_entries() { return std::exchange(found_, {}); }

  /// Saves `bytes`, after removing the least recently used files as far as `max_bytes` requires.
  /// Appends to `evicted` the ids of files that no longer exist, even if nothing could be written:
  /// removed here, found removed by another process, or replaced because the same range was written
  /// again (under a new id). Returns nullopt if it cannot be written or is larger than `max_bytes`;
  /// repeated failures for the same reason warn once. Throws std::logic_error unless begin is in
  /// [0, tokens.size()).
  std::optional<Id> write(CacheNamespace space, std::span<const TokenId> tokens, Pos begin,
                          std::span<const std::byte> bytes, std::vector<Id>& evicted);

  /// The payload, which becomes the most recently used. `beginning` is the part of the entry's path
  /// for which the caller uses the data. It is compared, as file names are hashes. If nullopt is
  /// returned, the id is invalid from now on; a warning with the cause is logged, unless the id was
  /// invalid before; a damaged file is removed.
  std::optional<std::vector<std::byte>> read(Id id, std::span<const TokenId> beginning);

  void remove(Id id);

  /// Removes every file of this fingerprint, those of other processes included.
  void clear();

  /// Of the files with an id. `max_bytes` also bounds those that other processes wrote since.
  std::int64_t n_bytes() const { return n_bytes_; }
  std::int64_t n_files() const { return static_cast<std::int64_t>(index_.size()); }
  std::int64_t max_bytes() const { return max_bytes_; }
  const Counts& counts() const { return counts_; }

 private:
  struct IndexedFile {
    std::uint64_t hash;  // in its name
    CacheNamespace space;
    Pos begin;
    std::int64_t n_file_bytes;
  };
  struct ListedFile {
    std::uint64_t hash;
    std::int64_t n_bytes;
    std::int64_t mtime_ns;
  };

  std::filesystem::path path(std::uint64_t hash) const;
  void make_folder();
  void remove_leftovers() const;
  std::vector<ListedFile> list_files();
  void load_entries();
  void make_room(std::int64_t n_bytes, std::optional<std::uint64_t> replaced,
                 std::vector<Id>& evicted);
  void write_file(std::uint64_t hash, std::span<const std::span<const std::byte>> parts);
  void touch(int fd);
  Id add_to_index(const IndexedFile& file);
  void remove_from_index(Id id);
  void remove_hash_from_index(std::uint64_t hash, std::vector<Id>& evicted);
  void remove_missing_from_index(const std::vector<ListedFile>& files, std::vector<Id>& evicted);
  void reject_file(std::uint64_t hash, std::string_view reason, bool is_damaged);
  void warn(const std::string& message) const;

  std::filesystem::path folder_;
  std::string fingerprint_;
  std::uint64_t prefix_;  // of the names of the files of this fingerprint and format
  std::int64_t max_bytes_;
  Warn warn_;
  std::vector<Entry> found_;
  std::unordered_map<Id, IndexedFile> index_;
  std::unordered_map<std::uint64_t, Id> id_by_hash_;
  Id last_id_ = 0;
  std::int64_t n_bytes_ = 0;
  std::int64_t last_touch_ns_ = 0;
  std::string last_write_problem_;
  Counts counts_;
};

}  // namespace llamaherd
