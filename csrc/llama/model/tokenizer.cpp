#include "llama/model/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "common/error.h"
#include "llama/common/abort_guard.h"
#include "llama/common/deep_stack.h"
#include "llama/common/log_sink.h"

namespace llamaherd {
namespace {

// std::regex, which pre-splits texts, uses about 350 bytes of stack per character of a word.
constexpr std::size_t kStackPerByte = 1024;
constexpr std::size_t kBytesOnAnyStack = 1024;
constexpr std::size_t kBaseStack = std::size_t{1} << 20;
constexpr std::size_t kMostStack = std::size_t{2} << 30;  // address space, used on demand
// Longer runs of blanks or digits are rejected where they take quadratic time.
constexpr std::size_t kLongestSlowRun = 512;
// Token ids of shorter texts between special tokens are memoized.
constexpr std::size_t kRemembered = 64;
// llama.cpp compiles its pre-tokenizer expressions again for each text, which takes up to some
// milliseconds.
constexpr std::size_t kMostTexts = std::size_t{1} << 14;

/// Bytes of the leading blank character; 0: the text does not begin with one.
std::size_t blank_length(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return std::isspace(first) ? 1 : 0;
  if (first != 0xc2 && (first < 0xe1 || first > 0xe3)) return 0;
  static constexpr std::string_view kOthers[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001",
                                                 "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
                                                 "\u2007", "\u2008", "\u2009", "\u200a", "\u2028",
                                                 "\u2029", "\u202f", "\u205f", "\u3000"};
  for (const std::string_view blank : kOthers) {
    if (text.starts_with(blank)) return blank.size();
  }
  return 0;
}

std::size_t digit_length(std::string_view text) {
  return std::isdigit(static_cast<unsigned char>(text[0])) ? 1 : 0;
}

/// Characters in the longest run of those for which `length_of` returns a length.
std::size_t longest_run(std::string_view text, std::size_t (*length_of)(std::string_view)) {
  std::size_t longest = 0, run = 0;
  while (!text.empty()) {
    const std::size_t n = length_of(text);
    run = n > 0 ? run + 1 : 0;
    longest = std::max(longest, run);
    text.remove_prefix(std::max<std::size_t>(n, 1));
  }
  return longest;
}

/// Bytes of the longest run of blanks, or of other characters.
std::size_t longest_word(std::string_view text) {
  std::size_t longest = 0, run = 0;
  bool blank = false;
  while (!text.empty()) {
    const std::size_t n = blank_length(text);
    if (blank != (n > 0)) run = 0;
    blank = n > 0;
    const std::size_t n_bytes = std::max<std::size_t>(n, 1);
    longest = std::max(longest, run += n_bytes);
    text.remove_prefix(n_bytes);
  }
  return longest;
}

}  // namespace

Tokenizer::Tokenizer(const llama_vocab* vocab, const std::string& model, const std::string& pre)
    : vocab_(vocab), special_(vocab) {
  const enum llama_vocab_type type = llama_vocab_type(vocab);
  const bool bpe = type == LLAMA_VOCAB_TYPE_BPE;
  recurses_ = bpe;
  spans_words_ = pre == "exaone-moe";
  if (bpe && (pre == "deepseek-llm" || pre == "superbpe")) slow_ = pre;
  // Other types drop or merge characters: one token may represent any number of them.
  if (type == LLAMA_VOCAB_TYPE_SPM || type == LLAMA_VOCAB_TYPE_RWKV) kept_.fill(true);
  const bool may_drop = bpe && model != "whitespace" && model != "hybriddna";
  std::array<char, 8> byte{};
  for (TokenId token = 0; token < llama_vocab_n_tokens(vocab); ++token) {
    longest_ = std::max(longest_, static_cast<std::int64_t>(
                                      std::string_view(llama_vocab_get_text(vocab, token)).size()));
    if (!may_drop || llama_vocab_is_control(vocab, token)) continue;
    // Bytes without a token of their own may be dropped.
    const std::int32_t n = llama_token_to_piece(vocab, token, byte.data(),
                                                static_cast<std::int32_t>(byte.size()), 0, false);
    if (n == 1) kept_[static_cast<unsigned char>(byte[0])] = true;
  }
  for (int c = 0; c < 256 && special_.strip(); ++c) {
    if (std::isspace(c)) kept_[c] = false;
  }
  find_ends();
}

void Tokenizer::find_ends() {
  const auto add = [](std::vector<TokenId>& ends, TokenId token, const char* name) {
    if (token == LLAMA_TOKEN_NULL) {
      throw ModelLoadError(std::string("the model's tokenizer adds the ") + name +
                           " token but does not define it");
    }
    ends.push_back(token);
  };
  switch (llama_vocab_type(vocab_)) {
    case LLAMA_VOCAB_TYPE_WPM:
      add(before_, llama_vocab_bos(vocab_), "begin");
      add(behind_, llama_vocab_sep(vocab_), "separator");
      return;
    case LLAMA_VOCAB_TYPE_SPM:
    case LLAMA_VOCAB_TYPE_BPE:
    case LLAMA_VOCAB_TYPE_UGM:
      if (llama_vocab_get_add_bos(vocab_)) add(before_, llama_vocab_bos(vocab_), "begin");
      if (llama_vocab_get_add_eos(vocab_)) add(behind_, llama_vocab_eos(vocab_), "end");
      return;
    default:
      return;
  }
}

std::int64_t Tokenizer::least_tokens(const std::string& text) const {
  std::int64_t n = 0;
  for (const char c : text) n += kept_[static_cast<unsigned char>(c)];
  return (n + longest_ - 1) / longest_;
}

std::vector<TokenId> Tokenizer::encode(const std::string& text, bool add_special,
                                       bool parse_special) const {
  std::vector<TokenId> out;
  if (add_special) out = before_;
  std::unordered_map<std::string_view, std::pair<std::size_t, std::size_t>> known;
  std::size_t n_texts = 0;
  for (const TextPart& part : special_.split(text, parse_special)) {
    if (part.token >= 0) {
      out.push_back(part.token);
      continue;
    }
    const std::string_view piece(text.data() + part.begin, part.end - part.begin);
    const auto at = piece.size() <= kRemembered ? known.find(piece) : known.end();
    if (at != known.end()) {
      const auto [begin, n] = at->second;
      for (std::size_t i = 0; i < n; ++i) out.push_back(TokenId{out[begin + i]});
      continue;
    }
    if (++n_texts > kMostTexts) {
      throw InvalidRequestError("a text may have at most " + std::to_string(kMostTexts) +
                                " different texts between special tokens");
    }
    const std::size_t begin = out.size();
    append_deep(std::string(piece), out);
    if (piece.size() <= kRemembered) known[piece] = {begin, out.size() - begin};
  }
  if (add_special) {
    if (out.size() > 1 && !before_.empty() && out[1] == before_[0]) {
      log_sink::add(LogLevel::kWarning,
                    "a text begins with the model's begin token, which the tokenizer adds again");
    }
    out.insert(out.end(), behind_.begin(), behind_.end());
  }
  return out;
}

void Tokenizer::append_deep(const std::string& text, std::vector<TokenId>& out) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max() / 8) {
    throw InvalidRequestError("a text may have at most 2^28 bytes; got " +
                              std::to_string(text.size()));
  }
  if (!slow_.empty()) {
    const std::size_t n = longest_run(text, slow_ == "superbpe" ? &digit_length : &blank_length);
    if (n > kLongestSlowRun) {
      throw InvalidRequestError("this model's tokenizer (" + slow_ + ") takes at most " +
                                std::to_string(kLongestSlowRun) +
                                " blanks or digits in a row; got " + std::to_string(n));
    }
  }
  if (!recurses_ || text.size() <= kBytesOnAnyStack) return append(text, out);
  // std::regex matches at most a word and adjacent blanks at once.
  const std::size_t n_deep = spans_words_ ? text.size() : 2 * longest_word(text);
  if (n_deep <= kBytesOnAnyStack) return append(text, out);
  const std::size_t n_stack = kBaseStack + n_deep * kStackPerByte;
  if (n_stack > kMostStack) {
    throw InvalidRequestError(
        spans_words_ ? "a text may have at most " + std::to_string(kMostStack / kStackPerByte) +
                           " bytes between special tokens; got " + std::to_string(text.size())
                     : "a word, or blanks in a row, may have at most " +
                           std::to_string(kMostStack / kStackPerByte / 2) + " bytes; got " +
                           std::to_string(n_deep / 2));
  }
  run_on_stack(n_stack, [&] { append(text, out); });
}

void Tokenizer::append(const std::string& text, std::vector<TokenId>& out) const {
  const std::size_t n_before = out.size();
  out.resize(n_before + text.size() + 16);
  const auto run = [&] {
    const AbortGuard guard;
    try {
      return llama_tokenize(vocab_, text.data(), static_cast<std::int32_t>(text.size()),
                            out.data() + n_before, static_cast<std::int32_t>(out.size() - n_before),
                            false, false);
    } catch (const std::exception& error) {
      throw InvalidRequestError(std::string("the model's tokenizer cannot process the text: ") +
                                error.what());
    }
  };
  std::int32_t n = run();
  if (n < 0) {
    out.resize(n_before + static_cast<std::size_t>(-n));
    n = run();
  }
  out.resize(n_before + static_cast<std::size_t>(n));
}

}  // namespace llamaherd
