// One chat: its messages, its composer, and the current response.

import { Answer } from "./answer.js";
import { request } from "./api.js";
import { sendOnEnter } from "./composer.js";
import { copyOf, make } from "./dom.js";
import { eventsOf } from "./events.js";
import { Follower } from "./follow.js";

// Browsers open 6 connections to a server for requests with credentials, and 6 for others:
// together enough for all 8 chats, and for the dashboard in another tab.
const MOST_TOGETHER = 4;

export class Conversation {
  // options(): fields of a request other than messages; changed(): called when the state changes.
  constructor(number, options, changed) {
    this.number = number;
    this.options = options;
    this.changed = changed;
    this.messages = [];
    this.answer = null;
    this.abort = null;
    this.element = copyOf("chat-template");
    this.log = this.element.querySelector(".log");
    this.follower = new Follower(this.log);
    this.setUpNames();
    this.setUpControls();
  }

  get running() {
    return this.abort !== null;
  }

  setUpNames() {
    const name = `Chat ${this.number}`;
    this.element.setAttribute("aria-label", name);
    this.element.querySelector("h2").textContent = name;
    this.log.setAttribute("aria-label", `${name}: messages`);
    this.element.querySelector("textarea").setAttribute("aria-label", `Message to ${name} only`);
    for (const button of this.element.querySelectorAll("button")) {
      button.setAttribute("aria-label", `${button.textContent} ${name}`);
    }
  }

  setUpControls() {
    this.stopButton = this.element.querySelector(".stop");
    this.clearButton = this.element.querySelector(".clear");
    this.stopButton.addEventListener("click", () => this.stop());
    this.clearButton.addEventListener("click", () => this.clear());
    const form = this.element.querySelector("form");
    sendOnEnter(form, (text) => this.sendIfIdle(text));
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.running) return;
      event.stopPropagation();
      this.stop();
    });
  }

  sendIfIdle(text) {
    if (this.running) return false;
    void this.send(text);
    return true;
  }

  stop() {
    this.abort?.abort();
  }

  clear() {
    this.stop();
    this.messages = [];
    this.answer = null;
    this.log.replaceChildren(make("p", { className: "empty" }, "No messages yet"));
    this.update();
  }

  // Resolves when the response has ended; an error is shown in its place.
  async send(text) {
    const abort = new AbortController();
    const messages = this.messages;
    const asked = { role: "user", content: text };
    this.abort = abort;
    this.showQuestion(text);
    const answer = new Answer(() => this.follower.keep());
    this.answer = answer;
    this.log.append(answer.element);
    this.follower.toEnd();
    this.update();
    try {
      await this.read([...messages, asked], answer, abort.signal);
      answer.end(null);
    } catch (error) {
      if (abort.signal.aborted) answer.end("stopped");
      else answer.end("failed", error);
    }
    // Without a response the message is not part of the next prompt.
    if (answer.text) messages.push(asked, { role: "assistant", content: answer.text });
    this.abort = null;
    this.update();
  }

  async read(messages, answer, signal) {
    const { system, ...options } = this.options();
    if (system) messages.unshift({ role: "system", content: system });
    const body = { ...options, messages, stream: true, stream_options: { include_usage: true } };
    answer.begin = performance.now();
    const response = await request("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      credentials: this.number > MOST_TOGETHER ? "omit" : "same-origin",
      signal,
    });
    for await (const chunk of eventsOf(response)) {
      answer.take(chunk);
      this.changed();
    }
  }

  showQuestion(text) {
    this.log.querySelector(".empty")?.remove();
    this.log.append(make("article", { className: "message user", "aria-label": "You" }, text));
  }

  update() {
    this.log.setAttribute("aria-busy", String(this.running));
    this.stopButton.disabled = !this.running;
    this.clearButton.disabled = !this.log.querySelector(".message");
    this.element.querySelector(".own-composer button").disabled = this.running;
    this.changed();
  }
}
