#include "llama/common/error_sentence.h"

#include <algorithm>
#include <string_view>

#include "llama/common/log_sink.h"

namespace llamaherd {
namespace {

constexpr std::size_t kMaxLogged = 4096, kMaxShown = 300;  // bytes
constexpr std::string_view kCause = "\nError: ";           // after an excerpt of the source
constexpr std::string_view kRaised = "Jinja Exception: ";
constexpr std::string_view kQuote = "; tools = ";

}  // namespace

std::string error_sentence(const std::string& error) {
  log_sink::add(LogLevel::kDebug, error.substr(0, kMaxLogged));
  const std::size_t cause = error.rfind(kCause);
  std::string text = cause == std::string::npos ? error : error.substr(cause + kCause.size());
  if (text.starts_with(kRaised)) text.erase(0, kRaised.size());
  text.erase(std::min(text.size(), text.find(kQuote)));
  const std::size_t begin = std::min(text.size(), text.find_first_not_of("\n "));
  text = text.substr(begin, text.find('\n', begin) - begin);
  return text.size() <= kMaxShown ? text : text.substr(0, kMaxShown) + "...";
}

}  // namespace llamaherd
