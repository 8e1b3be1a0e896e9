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

/// Where llama.cpp's and ggml's log lines go: a bounded buffer of the process, never stderr. All
/// functions may be called from any thread.
namespace log_sink {

/// Routes the lines here. Idempotent.
void install();

/// A line of our own.
void add(LogLevel level, std::string text);

/// The complete lines since the last call, oldest first. When nobody calls, the oldest are lost.
std::vector<LogLine> drain();

/// Collects the error lines of the calling thread while it lives.
class ErrorCapture {
 public:
  ErrorCapture();
  ~ErrorCapture();
  ErrorCapture(const ErrorCapture&) = delete;
  ErrorCapture& operator=(const ErrorCapture&) = delete;

  /// The lines, joined by "; ".
  std::string text() const;
};

}  // namespace log_sink
}  // namespace llamaherd
