#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings/bindings.h"
#include "bindings/released_gil.h"
#include "bindings/values.h"
#include "llama/chat/chat_template.h"
#include "llama/chat/message_parser.h"

namespace py = pybind11;

namespace llamaherd {

void bind_chat(py::module_& m) {
  py::class_<ParsedToolCall>(m, "ParsedToolCall", "One call of a tool by the model.")
      .def_readonly("id", &ParsedToolCall::id, "Empty in formats that have none.")
      .def_readonly("name", &ParsedToolCall::name)
      .def_readonly("arguments", &ParsedToolCall::arguments, "JSON.");

  py::class_<ChatMessage>(m, "ChatMessage", "An assistant's answer, taken apart.")
      .def_readonly("content", &ChatMessage::content)
      .def_readonly("reasoning", &ChatMessage::reasoning)
      .def_readonly("tool_calls", &ChatMessage::tool_calls);

  py::class_<ToolGrammar>(m, "ToolGrammar", "What calls of tools must obey.")
      .def_readonly("gbnf", &ToolGrammar::gbnf, "Empty: the answer is free.")
      .def_readonly("lazy", &ToolGrammar::lazy,
                    "It is obeyed from a trigger on, outside thoughts; else from the beginning of "
                    "generation_prompt on.")
      .def_readonly("words", &ToolGrammar::words, "Texts that are triggers.")
      .def_readonly("patterns", &ToolGrammar::patterns,
                    "Regular expressions that are triggers, from their first group on if they "
                    "have one.")
      .def_readonly("thought_begin", &ToolGrammar::thought_begin,
                    "Empty: thoughts are not told apart.")
      .def_readonly("thought_ends", &ToolGrammar::thought_ends)
      .def_readonly("generation_prompt", &ToolGrammar::generation_prompt,
                    "What the prompt holds of the answer.");

  py::class_<ChatFormat, std::shared_ptr<ChatFormat>>(
      m, "ChatFormat", "How a model writes its answer to one prompt. Thread-safe.")
      .def_property_readonly("grammar", &ChatFormat::grammar, "What calls of tools must obey.")
      .def("parse", &ChatFormat::parse, py::arg("text"), py::call_guard<ReleasedGil>(),
           "An answer, which may be cut short, taken apart. Raises LlamaHerdError if it is not in "
           "this format.");

  py::class_<ToolCallDelta>(m, "ToolCallDelta", "What was added to one call of a tool.")
      .def_readonly("index", &ToolCallDelta::index, "Of the call in the answer, from 0.")
      .def_readonly("id", &ToolCallDelta::id,
                    "Empty but in the call's first delta, and in formats that have none.")
      .def_readonly("name", &ToolCallDelta::name, "Empty but in the call's first delta.")
      .def_readonly("arguments", &ToolCallDelta::arguments, "The next piece of the JSON.");

  py::class_<MessageDelta>(m, "MessageDelta", "What was added to an assistant's answer.")
      .def_readonly("content", &MessageDelta::content)
      .def_readonly("reasoning", &MessageDelta::reasoning)
      .def_readonly("tool_calls", &MessageDelta::tool_calls);

  py::class_<MessageParser>(m, "MessageParser",
                            "Takes an answer apart as it comes; the work per byte does not depend "
                            "on the answer's length. Used by one thread at a time.")
      .def(py::init([](std::shared_ptr<ChatFormat> format) {
             return std::make_unique<MessageParser>(std::move(format));
           }),
           py::arg("format"))
      .def("read", &MessageParser::read, py::arg("text"), py::call_guard<ReleasedGil>(),
           "The next piece of the answer, and what it adds. Text that may begin a marker is held "
           "back.")
      .def_property_readonly("unread", &MessageParser::unread,
                             "The answer's text behind what read() returned last.")
      .def_property_readonly("n_steps", &MessageParser::n_steps,
                             "Work done so far, in bytes that were looked at and rules that were "
                             "tried.");

  py::class_<ChatPrompt>(m, "ChatPrompt", "A conversation as the model reads it.")
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
                    "Special tokens that the format is read by.")
      .def_property_readonly(
          "format",
          [](const ChatPrompt& self) { return std::const_pointer_cast<ChatFormat>(self.format); },
          "None: the answer's text is its content.");
}

}  // namespace llamaherd
