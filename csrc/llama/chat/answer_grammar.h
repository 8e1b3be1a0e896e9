#pragma once

#include <string>

class common_peg_arena;

namespace llamaherd {

// GBNF grammars of parts of a model's answer format. llama.cpp's own grammars allow any content
// before and beside tool calls.

/// Edits a format so that an answer has one call at most. llama.cpp does so for some formats only.
void limit_to_one_call(common_peg_arena& parser);

/// What follows a trigger of calls, as llama.cpp makes it. `whole` is llama.cpp's grammar of the
/// same format, which has the rules of the calls' arguments.
std::string triggered_grammar(const common_peg_arena& parser, const std::string& whole);

/// Answers that are tool calls, after optional reasoning. `whole` is llama.cpp's grammar of the
/// same format, which has the rules of the calls' arguments.
std::string calls_only_grammar(const common_peg_arena& parser, const std::string& whole);

/// Answers without tool calls whose content is `literal`, after optional reasoning. Empty if the
/// format has no content.
std::string content_only_grammar(const common_peg_arena& parser, const std::string& literal);

}  // namespace llamaherd
