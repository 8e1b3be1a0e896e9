#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings/bindings.h"
#include "bindings/released_gil.h"
#include "bindings/values.h"
#include "llama/chat/chat_template.h"
#include "llama/message/message_parser.h"

namespace py = pybind11;

namespace llamaherd {

void bind_chat(py::module_& m) {
  py::class_<ParsedToolCall>(m, "ParsedToolCall", "A tool call of the model.")
      .def_readonly("id", &ParsedToolCall::id, "Empty if the format has no ids.")
      .def_readonly("name", &ParsedToolCall::name)
      .def_readonly("arguments", &ParsedToolCall::arguments, "JSON.");

  py::class_<ChatMessage>(m, "ChatMessage", "A parsed assistant message.")
      .def_readonly("content", &ChatMessage::content)
      .def_readonly("reasoning", &ChatMessage::reasoning)
      .def_readonly("tool_calls", &ChatMessage::tool_calls);

  py::class_<ToolGrammar>(m, "ToolGrammar", "Constraint of tool calls.")
      .def_readonly("gbnf", &ToolGrammar::gbnf, "Empty: unconstrained.")
      .def_readonly("lazy", &ToolGrammar::lazy,
                    "Whether the grammar applies from a trigger outside reasoning on; else from "
                    "the beginning of generation_prompt on.")
      .def_readonly("words", &ToolGrammar::words, "Literal triggers.")
      .def_readonly(
          "patterns", &ToolGrammar::patterns,
          "Regular expressions as triggers; the grammar applies from the first group on, if any.")
      .def_readonly("thought_begin", &ToolGrammar::thought_begin,
                    "Start of reasoning. Empty: reasoning is not recognized.")
      .def_readonly("thought_ends", &ToolGrammar::thought_ends)
      .def_readonly("generation_prompt", &ToolGrammar::generation_prompt,
                    "Beginning of the assistant message that is part of the prompt.");

  py::class_<ChatFormat, std::shared_ptr<ChatFormat>>(
      m, "ChatFormat", "Parser of a model's output format for one prompt. Thread-safe.")
      .def_property_readonly("grammar", &ChatFormat::grammar, "Constraint of tool calls.")
      .def("content_grammar", &ChatFormat::content_grammar, py::arg("literal"),
           "GBNF of answers without tool calls whose content is a literal. Empty if the format has "
           "no content.")
      .def("parse", &ChatFormat::parse, py::arg("text"), py::call_guard<ReleasedGil>(),
           "Parse a complete or truncated message. Raises LlamaHerdError if it does not follow the "
           "format.");

  py::class_<ToolCallDelta>(m, "ToolCallDelta", "The part of a tool call that a delta adds.")
      .def_readonly("index", &ToolCallDelta::index, "Index of the call in the message, from 0.")
      .def_readonly("id", &ToolCallDelta::id,
                    "Set in the first delta of a call only; empty if the format has no ids.")
      .def_readonly("name", &ToolCallDelta::name, "Set in the first delta of a call only.")
      .def_readonly("arguments", &ToolCallDelta::arguments, "Next part of the JSON.");

  py::class_<MessageDelta>(m, "MessageDelta", "The part of an assistant message that a delta adds.")
      .def_readonly("content", &MessageDelta::content)
      .def_readonly("reasoning", &MessageDelta::reasoning)
      .def_readonly("tool_calls", &MessageDelta::tool_calls);

  py::class_<MessageParser>(m, "MessageParser",
                            "Incremental parser of an assistant message. The work per byte does "
                            "not depend on the length of the message. Not thread-safe.")
      .def(py::init([](std::shared_ptr<ChatFormat> format) {
             return std::make_unique<MessageParser>(std::move(format));
           }),
           py::arg("format"))
      .def("read", &MessageParser::read, py::arg("text"), py::call_guard<ReleasedGil>(),
           "Parse the next piece of text and return what it adds. Text that may be the start of a "
           "marker is held back.")
      .def_property_readonly("text", &MessageParser::text, "Text read so far.")
      .def_property_readonly("unread", &MessageParser::unread,
                             "Text of the message that read() has not returned yet.")
      .def_property_readonly("n_steps", &MessageParser::n_steps,
                             "Work so far: bytes examined plus rules tried.");

  py::class_<ChatPrompt>(m, "ChatPrompt", "A rendered conversation.")
      .def_property_readonly("text", [](const ChatPrompt& self) { return to_text(self.text); })
      .def_property_readonly(
          "stop",
          [](const ChatPrompt& self) {
            py::typing::List<py::str> texts;
            for (const std::string& text : self.stop) texts.append(to_text(text));
            return texts;
          },
          "Strings that end the assistant's turn.")
      .def_readonly("preserved_tokens", &ChatPrompt::preserved_tokens,
                    "Special tokens that the parser needs in the output text.")
      .def_property_readonly(
          "format",
          [](const ChatPrompt& self) { return std::const_pointer_cast<ChatFormat>(self.format); },
          "None: the output text is the content.");
}

}  // namespace llamaherd
