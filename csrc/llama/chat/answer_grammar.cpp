#include "llama/chat/answer_grammar.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "chat-peg-parser.h"
#include "json-schema-to-grammar.h"
#include "peg-parser.h"

namespace llamaherd {
namespace {

using Id = common_peg_parser_id;

std::string gbnf_of(const common_peg_arena& parser, bool lazy = false) {
  return build_grammar(
      [&](const common_grammar_builder& builder) { parser.build_grammar(builder, lazy); });
}

std::vector<Id> tagged(const common_peg_arena& parser, const std::string& name) {
  std::vector<Id> found;
  for (Id id = 0; id < parser.size(); ++id) {
    const auto* tag = std::get_if<common_peg_tag_parser>(&parser.get(id));
    if (tag != nullptr && tag->tag == name) found.push_back(id);
  }
  return found;
}

std::vector<Id> content_of(const common_peg_arena& parser) {
  return tagged(parser, common_chat_peg_builder::CONTENT);
}

/// The content that directly follows a literal, which announces it.
std::vector<Id> announced_content_of(const common_peg_arena& parser) {
  const std::vector<Id> contents = content_of(parser);
  std::vector<Id> found;
  for (Id id = 0; id < parser.size(); ++id) {
    const auto* sequence = std::get_if<common_peg_sequence_parser>(&parser.get(id));
    for (std::size_t i = 1; sequence != nullptr && i < sequence->children.size(); ++i) {
      const bool is_content = std::ranges::count(contents, sequence->children[i]) > 0;
      const auto& before = parser.get(sequence->children[i - 1]);
      if (is_content && std::holds_alternative<common_peg_literal_parser>(before)) {
        found.push_back(sequence->children[i]);
      }
    }
  }
  return found;
}

/// Adds `id` and what it consists of, including the rules it refers to, to `found`.
void collect(const common_peg_arena& parser, Id id, std::set<Id>& found) {
  if (!found.insert(id).second) return;
  std::visit(
      [&](const auto& node) {
        if constexpr (requires { node.children; }) {
          for (const Id child : node.children) collect(parser, child, found);
        } else if constexpr (requires { node.child; }) {
          collect(parser, node.child, found);
        } else if constexpr (std::is_same_v<std::decay_t<decltype(node)>, common_peg_ref_parser>) {
          collect(parser, parser.get_rule(node.name), found);
        }
      },
      parser.get(id));
}

bool contains(const common_peg_arena& parser, Id id, const std::vector<Id>& wanted) {
  std::set<Id> parts;
  collect(parser, id, parts);
  return std::ranges::any_of(wanted, [&](Id one) { return parts.contains(one); });
}

/// Removes the options of choices that are not to be kept, unless none is.
void prune_choices(common_peg_arena& parser, const std::function<bool(Id)>& keep) {
  for (Id id = 0; id < parser.size(); ++id) {
    auto* choice = std::get_if<common_peg_choice_parser>(&parser.get(id));
    if (choice == nullptr) continue;
    std::vector<Id> kept;
    std::ranges::copy_if(choice->children, std::back_inserter(kept), keep);
    if (!kept.empty()) choice->children = std::move(kept);
  }
}

/// Makes what is optional and contains `content` occur exactly once.
void require(common_peg_arena& parser, Id content) {
  for (Id id = 0; id < parser.size(); ++id) {
    auto* repeated = std::get_if<common_peg_repetition_parser>(&parser.get(id));
    if (repeated == nullptr || repeated->min_count != 0) continue;
    if (contains(parser, id, {content})) repeated->min_count = repeated->max_count = 1;
  }
}

/// Calls are rules with a trigger.
void remove_calls(common_peg_arena& parser) {
  for (Id id = 0; id < parser.size(); ++id) {
    const auto* rule = std::get_if<common_peg_rule_parser>(&parser.get(id));
    if (rule == nullptr || !rule->trigger) continue;
    parser.get(rule->child) = common_peg_literal_parser{""};
  }
}

/// Removes free text other than reasoning.
void remove_text(common_peg_arena& parser) {
  std::set<Id> reasoning;
  for (const Id id : tagged(parser, common_chat_peg_builder::REASONING)) {
    collect(parser, id, reasoning);
  }
  for (Id id = 0; id < parser.size(); ++id) {
    if (reasoning.contains(id)) continue;
    if (std::holds_alternative<common_peg_until_parser>(parser.get(id))) {
      parser.get(id) = common_peg_literal_parser{""};
    }
  }
}

/// The rules of a grammar, by name.
std::map<std::string, std::string> rules_of(const std::string& gbnf) {
  std::map<std::string, std::string> rules;
  std::istringstream lines(gbnf);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t end = line.find(" ::=");
    if (end != std::string::npos) rules[line.substr(0, end)] = line;
  }
  return rules;
}

/// As llama.cpp makes names of rules.
std::string rule_name(const std::string& name) {
  std::string made;
  bool in_invalid = false;
  for (const char c : name) {
    const bool is_valid = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-';
    if (is_valid || !in_invalid) made += is_valid ? c : '-';
    in_invalid = !is_valid;
  }
  return made;
}

bool contains_call(const common_peg_arena& parser, Id id) {
  std::set<Id> parts;
  collect(parser, id, parts);
  return std::ranges::any_of(parts, [&](Id part) {
    const auto* rule = std::get_if<common_peg_rule_parser>(&parser.get(part));
    return rule != nullptr && rule->trigger;
  });
}

/// The grammar of a saved parser that was edited. `whole` has the rules of the calls' arguments.
std::string edited_gbnf(common_peg_arena& edited, const std::string& whole, bool lazy) {
  const std::map<std::string, std::string> known = rules_of(whole);
  // A saved parser has lost the schemas.
  for (Id id = 0; id < edited.size(); ++id) {
    const auto* schema = std::get_if<common_peg_schema_parser>(&edited.get(id));
    if (schema == nullptr) continue;
    const std::string name = rule_name(schema->name);
    if (known.contains(name)) edited.get(id) = common_peg_gbnf_parser{schema->child, name};
  }
  std::string gbnf = gbnf_of(edited, lazy);
  const std::map<std::string, std::string> made = rules_of(gbnf);
  for (const auto& [name, rule] : known) {
    if (!made.contains(name)) gbnf += rule + "\n";
  }
  return gbnf;
}

}  // namespace

void limit_to_one_call(common_peg_arena& parser) {
  for (Id id = 0; id < parser.size(); ++id) {
    auto* repeated = std::get_if<common_peg_repetition_parser>(&parser.get(id));
    if (repeated == nullptr || !contains_call(parser, repeated->child)) continue;
    if (repeated->max_count < 0 || repeated->max_count > 1) repeated->max_count = 1;
  }
}

std::string triggered_grammar(const common_peg_arena& parser, const std::string& whole) {
  common_peg_arena edited = parser;
  return edited_gbnf(edited, whole, /*lazy=*/true);
}

std::string calls_only_grammar(const common_peg_arena& parser, const std::string& whole) {
  const std::vector<Id> contents = content_of(parser);
  common_peg_arena edited = parser;
  const std::vector<Id> announced = announced_content_of(parser);
  prune_choices(edited, [&](Id id) { return !contains(parser, id, announced); });
  for (const Id id : contents) edited.get(id) = common_peg_literal_parser{""};
  return edited_gbnf(edited, whole, /*lazy=*/false);
}

std::string content_only_grammar(const common_peg_arena& parser, const std::string& literal) {
  const std::vector<Id> contents = content_of(parser);
  const std::string quoted = gbnf_format_literal(literal);
  // The answer's content is the last one that is reachable: others precede calls.
  for (auto content = contents.rbegin(); content != contents.rend(); ++content) {
    common_peg_arena edited = parser;
    prune_choices(edited, [&](Id id) { return contains(parser, id, {*content}); });
    require(edited, *content);
    remove_calls(edited);
    remove_text(edited);
    for (const Id id : contents) {
      edited.get(id) = common_peg_literal_parser{id == *content ? literal : ""};
    }
    std::string gbnf = gbnf_of(edited);
    if (gbnf.find(quoted) != std::string::npos) return gbnf;
  }
  return "";
}

}  // namespace llamaherd
