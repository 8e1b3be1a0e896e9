#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llamaherd {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogLine {
  LogLevel level;
  std::string text;  // without the line break
};

/// Destination of llama.cpp's and ggml's log lines: a bounded buffer of the process, not stderr.
/// Thread-safe.
namespace log_sink {

/// Redirects the log. Idempotent.
void install();

/// Adds a line of llamaherd.
void add(LogLevel level, std::string text);

/// The complete lines since the last call, oldest first. If the buffer overflows, the oldest are
/// dropped.
std::vector<LogLine> drain();

/// Collects the error lines of the calling thread during its lifetime.
class ErrorCapture {
 public:
  ErrorCapture();
  ~ErrorCapture();
  ErrorCapture(const ErrorCapture&) = delete;
  ErrorCapture& operator=(const ErrorCapture&) = delete;

  /// The lines, joined by "; ".
  std::string text() const;
};

/// Drops lines of the calling thread that are not errors during its lifetime.
class ErrorsOnly {
 public:
  ErrorsOnly();
  ~ErrorsOnly();
  ErrorsOnly(const ErrorsOnly&) = delete;
  ErrorsOnly& operator=(const ErrorsOnly&) = delete;
};

}  // namespace log_sink
}  // namespace llamaherd
