#include "llama/model/tokenizer_check.h"

#include <array>
#include <cmath>
#include <string_view>
#include <unordered_set>

#include "llama.h"
#include "llama/model/load_rule.h"

namespace llamaherd {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kTypes = "tokenizer.ggml.token_type";

constexpr std::size_t kMaxTokens = 1 << 22;
// llama.cpp recurses once per byte of a token when it builds its tries.
constexpr std::size_t kMaxTokenBytes = 4096;

/// An array of a file. Throws ModelLoadError if the key is not an array of this type.
class Array {
 public:
  Array(const GgufFile& file, const char* key, gguf_type type)
      : gguf_(file.get()), index_(file.find(key)) {
    if (index_ < 0) return;
    require_rule(gguf_get_kv_type(gguf_, index_) == GGUF_TYPE_ARRAY &&
                     gguf_get_arr_type(gguf_, index_) == type,
                 std::string(key) + " must be an array of " + gguf_type_name(type));
    size_ = gguf_get_arr_n(gguf_, index_);
  }

  bool exists() const { return index_ >= 0; }
  std::size_t size() const { return size_; }
  std::string_view text(std::size_t i) const { return gguf_get_arr_str(gguf_, index_, i); }

  template <typename T>
  T number(std::size_t i) const {
    return static_cast<const T*>(gguf_get_arr_data(gguf_, index_))[i];
  }

 private:
  const gguf_context* gguf_;
  std::int64_t index_;
  std::size_t size_ = 0;
};

/// The text of a token; for an empty one that of llama.cpp.
std::string text_of(const Array& tokens, std::size_t i) {
  const std::string_view text = tokens.text(i);
  return text.empty() ? "[EMPTY_" + std::to_string(i) + "]" : std::string(text);
}

void check_tokens(const Array& tokens) {
  require_rule(tokens.size() >= 1 && tokens.size() <= kMaxTokens,
               std::string(kTokens) + " must hold 1 to 2^22 tokens; it holds " +
                   std::to_string(tokens.size()));
  std::unordered_set<std::string> known;
  known.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string text = text_of(tokens, i);
    require_rule(text.size() <= kMaxTokenBytes, "token " + std::to_string(i) +
                                                    " must have at most 4096 bytes; it has " +
                                                    std::to_string(text.size()));
    const auto [at, is_new] = known.insert(std::move(text));
    require_rule(is_new,
                 "token " + std::to_string(i) + " duplicates another token: " + in_quotes(*at));
  }
}

void check_scores(const GgufFile& file, std::size_t n_tokens) {
  const std::int64_t i = file.find(kScores);
  if (i < 0 || gguf_get_kv_type(file.get(), i) != GGUF_TYPE_ARRAY) return;  // llama.cpp rejects it
  if (gguf_get_arr_type(file.get(), i) != GGUF_TYPE_FLOAT32) return;
  const Array scores(file, kScores, GGUF_TYPE_FLOAT32);
  require_rule(scores.size() >= n_tokens,
               std::string(kScores) + " must have a value for each of the " +
                   std::to_string(n_tokens) + " tokens; it has " + std::to_string(scores.size()));
  for (std::size_t t = 0; t < n_tokens; ++t) {
    require_rule(!std::isnan(scores.number<float>(t)),
                 "the score of token " + std::to_string(t) + " is not a number");
  }
}

bool is_byte_text(std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdefABCDEF";
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
         hex.find(text[3]) != std::string_view::npos && hex.find(text[4]) != std::string_view::npos;
}

void check_types(const Array& types, const Array& tokens, const std::string& model) {
  if (!types.exists()) return;
  require_rule(types.size() >= tokens.size(),
               std::string(kTypes) + " must have a value for each of the " +
                   std::to_string(tokens.size()) + " tokens; it has " +
                   std::to_string(types.size()));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (types.number<std::int32_t>(i) != LLAMA_TOKEN_TYPE_BYTE) continue;
    require_rule(model != "bert",
                 "a tokenizer of type bert must have no tokens of type byte; token " +
                     std::to_string(i) + " is one");
    require_rule(is_byte_text(tokens.text(i)),
                 "token " + std::to_string(i) +
                     " is of type byte and must be written <0xHH>; it is " +
                     in_quotes(tokens.text(i)));
  }
}

/// llama.cpp extends the longest token at the start of a text; without one it does not advance.
void check_rwkv(const Array& tokens) {
  std::array<bool, 256> begins{}, is_token{};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string text = text_of(tokens, i);
    // \xHH, \t, \n, \r or an escaped literal character
    std::size_t length = 1;
    unsigned char first = static_cast<unsigned char>(text[0]);
    if (first == '\\' && text.size() > 1) {
      length = 2;
      const char escape = text[1];
      first = static_cast<unsigned char>(escape);
      if (escape == 't') first = '\t';
      if (escape == 'n') first = '\n';
      if (escape == 'r') first = '\r';
      if (escape == 'x' && text.size() >= 4) {
        length = 4;
        const auto digit = [](char c) { return c >= 'a' ? c - 'a' + 10 : c - '0'; };
        first = static_cast<unsigned char>((digit(text[2]) << 4) + digit(text[3]));
      }
    }
    begins[first] = true;
    if (text.size() == length) is_token[first] = true;
  }
  for (int byte = 0; byte < 256; ++byte) {
    require_rule(!begins[byte] || is_token[byte],
                 "a tokenizer of type rwkv must have a one-byte token for each first byte of a "
                 "token; byte " +
                     std::to_string(byte) + " has none");
  }
}

}  // namespace

void check_tokenizer(const GgufFile& file) {
  const std::optional<std::string> model = file.text("tokenizer.ggml.model");
  require_rule(model.has_value(), "tokenizer.ggml.model is missing or not a string");
  require_rule(*model != "no_vocab" && *model != "none", "the file has no vocabulary");
  const Array tokens(file, kTokens, GGUF_TYPE_STRING);
  check_tokens(tokens);
  check_scores(file, tokens.size());
  check_types(Array(file, kTypes, GGUF_TYPE_INT32), tokens, *model);
  if (*model == "rwkv") check_rwkv(tokens);
}

}  // namespace llamaherd
