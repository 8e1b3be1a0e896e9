#include "llama/common/log_sink.h"

#include <deque>
#include <mutex>

#include "ggml.h"
#include "llama.h"
#include "log.h"

namespace llamaherd::log_sink {
namespace {

constexpr std::size_t kMaxLines = 4096;

std::mutex mutex;
std::deque<LogLine> lines;  // under mutex
LogLine open_line;          // under mutex: text without a line break so far

thread_local std::vector<std::string>* captured = nullptr;
thread_local bool errors_only = false;

LogLevel level_of(ggml_log_level level) {
  switch (level) {
    case GGML_LOG_LEVEL_ERROR:
      return LogLevel::kError;
    case GGML_LOG_LEVEL_WARN:
      return LogLevel::kWarning;
    case GGML_LOG_LEVEL_INFO:
      return LogLevel::kInfo;
    default:
      return LogLevel::kDebug;
  }
}

void push(LogLine line) {  // under mutex
  lines.push_back(std::move(line));
  if (lines.size() > kMaxLines) lines.pop_front();
}

void receive(ggml_log_level level, const char* text, void*) {
  const std::lock_guard lock(mutex);
  if (level != GGML_LOG_LEVEL_CONT) open_line.level = level_of(level);
  open_line.text += text;
  std::size_t end;
  while ((end = open_line.text.find('\n')) != std::string::npos) {
    LogLine line{open_line.level, open_line.text.substr(0, end)};
    open_line.text.erase(0, end + 1);
    if (line.text.empty() || (errors_only && line.level != LogLevel::kError)) continue;
    if (captured && line.level == LogLevel::kError) captured->push_back(line.text);
    push(std::move(line));
  }
}

}  // namespace

void add(LogLevel level, std::string text) {
  const std::lock_guard lock(mutex);
  push({level, std::move(text)});
}

void install() {
  llama_log_set(receive, nullptr);     // also sets ggml's
  common_log_set_verbosity_thold(-1);  // silences the log of the chat templates
}

std::vector<LogLine> drain() {
  const std::lock_guard lock(mutex);
  std::vector<LogLine> result(std::make_move_iterator(lines.begin()),
                              std::make_move_iterator(lines.end()));
  lines.clear();
  return result;
}

ErrorCapture::ErrorCapture() { captured = new std::vector<std::string>; }

ErrorCapture::~ErrorCapture() {
  delete captured;
  captured = nullptr;
}

std::string ErrorCapture::text() const {
  std::string joined;
  for (const std::string& line : *captured) joined += (joined.empty() ? "" : "; ") + line;
  return joined;
}

ErrorsOnly::ErrorsOnly() { errors_only = true; }

ErrorsOnly::~ErrorsOnly() { errors_only = false; }

}  // namespace llamaherd::log_sink
