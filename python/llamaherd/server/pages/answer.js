// One streamed response: its text, reasoning and statistics.

import { copyOf, oncePerFrame, setText } from "./dom.js";
import { seconds } from "./format.js";

export class Answer {
  // grown(): called when text was added.
  constructor(grown) {
    this.text = "";
    this.rate = null; // tokens/s, from the second token on
    this.element = copyOf("answer-template");
    this.element.setAttribute("aria-busy", "true");
    this.grown = grown;
    this.begin = performance.now();
    this.first = null;
    this.last = null;
    this.nTokens = 0; // number of deltas, until usage has the number of tokens
    this.reason = null;
    this.textNode = this.nodeIn(".text");
    this.reasoningNode = this.nodeIn(".reasoning-text");
    this.shown = { text: "", reasoning: "" };
    this.draw = oncePerFrame(() => this.drawNow());
  }

  nodeIn(selector) {
    const node = document.createTextNode("");
    this.element.querySelector(selector).append(node);
    return node;
  }

  // Adds a chat.completion.chunk.
  take(chunk) {
    if (chunk.usage) this.nTokens = chunk.usage.completion_tokens;
    for (const choice of chunk.choices) {
      this.reason = choice.finish_reason ?? this.reason;
      const { content, reasoning_content: reasoning } = choice.delta;
      if (content || reasoning) this.add(content ?? "", reasoning ?? "");
    }
    this.draw();
  }

  add(content, reasoning) {
    this.last = performance.now();
    this.first ??= this.last;
    this.nTokens += 1;
    this.text += content;
    this.shown.text += content;
    this.shown.reasoning += reasoning;
  }

  // Ends the response; the error states why it is incomplete.
  end(how, error = null) {
    this.reason = how ?? this.reason;
    if (error) this.showError(error);
    this.element.removeAttribute("aria-busy");
    this.drawNow();
  }

  showError(error) {
    const place = this.element.querySelector(".error");
    place.hidden = false;
    place.textContent = error.message;
  }

  drawNow() {
    this.textNode.appendData(this.shown.text);
    this.reasoningNode.appendData(this.shown.reasoning);
    if (this.shown.reasoning) this.element.querySelector(".reasoning").hidden = false;
    this.shown = { text: "", reasoning: "" };
    setText(this.element.querySelector(".figures"), this.figures());
    this.grown();
  }

  figures() {
    if (this.first === null) return this.reason ?? "waiting";
    const spent = (this.last - this.first) / 1000;
    this.rate = this.nTokens > 1 && spent > 0 ? (this.nTokens - 1) / spent : null;
    const parts = [
      `first token ${seconds((this.first - this.begin) / 1000)}`,
      this.rate === null ? null : `${this.rate.toFixed(1)} tokens/s`,
      `${this.nTokens} tokens`,
      this.reason,
    ];
    const whole = parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0"));
    return whole.join(" · ");
  }
}
