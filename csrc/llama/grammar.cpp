#include "grammar.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "error.h"
#include "llama-grammar.h"
#include "log_sink.h"

namespace llamaherd {
namespace {

// Ways of reading the output so far. A grammar that leaves this many open is taken to go on so.
constexpr std::size_t kMostStacks = 20000;
// Of the text behind an error.
constexpr std::size_t kShown = 40;

/// llama.cpp's messages end with the whole rest of the text: here it becomes a place.
std::string with_place(std::string message, const std::string& text) {
  for (std::size_t begin = 0; begin <= text.size(); ++begin) {
    const std::string end = " at " + text.substr(begin);
    if (!message.ends_with(end)) continue;
    message.resize(message.size() - end.size());
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<long>(begin), '\n');
    const std::size_t newline = begin == 0 ? std::string::npos : text.rfind('\n', begin - 1);
    const std::size_t column = begin - (newline == std::string::npos ? 0 : newline + 1) + 1;
    return message + " at line " + std::to_string(line) + ", column " + std::to_string(column) +
           ": '" + text.substr(begin, std::min(kShown, text.find('\n', begin) - begin)) + "'";
  }
  return message;
}

/// For its message alone: llama.cpp prints it where nobody reads it.
void require_grammar(const llama_vocab* vocab, const std::string& text) {
  const auto refuse = [](const std::string& why) {
    throw InvalidRequestError("grammar does not parse: " + why);
  };
  if (text.find('\0') != std::string::npos) refuse("it holds a zero byte");
  llama_grammar_parser parser(vocab);
  // A first rule of ours takes the blank and the comments in front of theirs.
  const std::string with_first = "llamaherd-first ::= \"\"\n" + text;
  try {
    const char* at = with_first.c_str();
    while (*at) at = parser.parse_rule(at);
  } catch (const std::exception& error) {
    refuse(with_place(error.what(), text));
  }
  if (!parser.symbol_ids.contains("root")) refuse("it has no rule named root");
  for (const auto& [name, id] : parser.symbol_ids) {
    if (id >= parser.rules.size() || parser.rules[id].empty()) {
      refuse("rule " + name + " is used but not defined");
    }
  }
}

}  // namespace

void Grammar::Free::operator()(llama_grammar* grammar) const { llama_grammar_free_impl(grammar); }

Grammar::Grammar(const LlamaModel& model, const std::string& text,
                 const GrammarTriggers* triggers) {
  require_grammar(model.vocab(), text);
  const log_sink::ErrorCapture errors;
  static const GrammarTriggers none;
  const GrammarTriggers& t = triggers ? *triggers : none;
  std::vector<const char*> patterns;
  for (const std::string& pattern : t.patterns) patterns.push_back(pattern.c_str());
  grammar_.reset(llama_grammar_init_impl(model.vocab(), text.c_str(), "root", triggers != nullptr,
                                         patterns.data(), patterns.size(), t.tokens.data(),
                                         t.tokens.size()));
  if (!grammar_) throw InvalidRequestError("grammar cannot be used: " + errors.text());
}

Grammar::~Grammar() = default;

std::shared_ptr<Constraint> Grammar::fresh() const {
  return std::shared_ptr<Grammar>(new Grammar(llama_grammar_clone_impl(*grammar_)));
}

bool Grammar::allows(TokenId token) {
  llama_token_data one{token, 0.0f, 0.0f};
  llama_token_data_array array{&one, 1, -1, false};
  llama_grammar_apply_impl(*grammar_, &array);
  return one.logit == 0.0f;
}

void Grammar::restrict(std::span<float> logits) {
  std::vector<llama_token_data> candidates;
  candidates.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != -INFINITY) candidates.push_back({static_cast<TokenId>(i), logits[i], 0.0f});
  }
  llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
  llama_grammar_apply_impl(*grammar_, &array);
  for (const llama_token_data& c : candidates) logits[c.id] = c.logit;
}

void Grammar::accept(TokenId token) noexcept {
  try {
    llama_grammar_accept_impl(*grammar_, token);
    if (llama_grammar_get_stacks(grammar_.get()).size() > kMostStacks) {
      error_ = "the grammar is too ambiguous: more than " + std::to_string(kMostStacks) +
               " ways to read the output are open";
    }
  } catch (const std::exception& error) {
    error_ = std::string("the grammar failed: ") + error.what();
  }
}

}  // namespace llamaherd
