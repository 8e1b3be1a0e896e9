#include "llama/message/tree_mapper.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "llama/chat/nested_stack.h"

namespace llamaherd {
namespace {

using Tags = common_chat_peg_builder;

// An open call is mapped again when it has grown by 1/8.
constexpr std::size_t kGrowth = 8;
// Calls that are nested deeper are only parsed at the end of the answer.
constexpr std::size_t kMaxLevels = std::size_t{1} << 14;

}  // namespace

bool TreeMapper::map(const ParsedSpan& span) {
  if (span.tag == nullptr) return true;
  if (*span.tag == Tags::CONTENT) message_.content += take_piece(span);
  if (*span.tag == Tags::REASONING) message_.reasoning_content += take_piece(span);
  if (*span.tag == Tags::CONTENT || *span.tag == Tags::REASONING) return !span.open;
  if (*span.tag != Tags::TOOL) return true;
  const std::size_t size = text_of(span).size();
  if (span.open && size <= n_taken_ + n_taken_ / kGrowth) return false;
  n_taken_ = size;
  map_call(span);
  if (!span.open) next_ = span.after - 1;
  return !span.open;
}

void TreeMapper::map_call(const ParsedSpan& span) {
  const std::size_t n_spans = (span.open ? n_visible() : span.after) - next_;
  common_chat_msg mapped = mapped_tree(n_spans);
  if (mapped.tool_calls.empty()) return;
  auto& calls = message_.tool_calls;
  common_chat_tool_call& call = mapped.tool_calls.front();
  if (!is_begun_) calls.emplace_back();
  if (call.arguments.starts_with(calls.back().arguments)) calls.back() = std::move(call);
  note_mapped(text_of(span).size(), end_of(span));
  is_begun_ = span.open;
}

common_chat_msg TreeMapper::mapped_tree(std::size_t n_spans) {
  common_peg_ast_arena tree;
  common_peg_parse_result root;
  root.nodes.push_back(build(tree, n_spans));
  common_chat_msg mapped;
  if (n_levels_ > kMaxLevels) return mapped;
  run_nested(n_levels_, [&] {
    if (format_ == COMMON_CHAT_FORMAT_PEG_GEMMA4) {
      common_chat_peg_gemma4_mapper(mapped).from_ast(tree, root);
    } else {
      common_chat_peg_minimax_m3_mapper(mapped).from_ast(tree, root);
    }
  });
  return mapped;
}

// Builds nodes of the spans from next_ on; children come after their parent in spans, before it
// in the arena.
common_peg_ast_id TreeMapper::build(common_peg_ast_arena& tree, std::size_t n_spans) {
  std::vector<common_peg_ast_id> ids(n_spans);
  std::vector<std::size_t> depths(n_spans);
  for (std::size_t i = n_spans; i-- > 0;) {
    const ParsedSpan& span = spans()[next_ + i];
    std::vector<common_peg_ast_id> children;
    for (std::size_t j = i + 1; j < after(i, n_spans); j = after(j, n_spans)) {
      children.push_back(ids[j]);
      depths[i] = std::max(depths[i], depths[j] + 1);
    }
    ids[i] =
        tree.add_node(span.rule != nullptr ? *span.rule : "", span.tag != nullptr ? *span.tag : "",
                      span.begin, end_of(span), text_of(span), std::move(children), span.open);
  }
  n_levels_ = depths.front();
  return ids.front();
}

}  // namespace llamaherd
