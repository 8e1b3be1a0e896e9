// The chat page: 1 to 8 conversations side by side.

import { getJson } from "./api.js";
import { sendOnEnter } from "./composer.js";
import { Conversation } from "./conversation.js";
import { byId, make, oncePerFrame, setText } from "./dom.js";

const conversations = [];
const updateSoon = oncePerFrame(update);

function options() {
  const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  return {
    model: byId("model").value || undefined,
    temperature: number("temperature"),
    max_tokens: number("max-tokens"),
    system: byId("system").value.trim(),
  };
}

function setNumber(n) {
  while (conversations.length > n) {
    const last = conversations.pop();
    last.stop();
    last.element.remove();
  }
  while (conversations.length < n) {
    const conversation = new Conversation(conversations.length + 1, options, updateSoon);
    conversations.push(conversation);
    byId("chats").append(conversation.element);
  }
  byId("chats").dataset.n = n;
  const several = n > 1;
  byId("message").placeholder = several ? `Write to all ${n} chats` : "Write a message";
  byId("message").setAttribute("aria-label", several ? `Message to all ${n} chats` : "Message");
  setText(byId("send-all"), several ? "Send to all" : "Send");
  setText(byId("stop-all"), several ? "Stop all" : "Stop");
  update();
}

function update() {
  const running = conversations.filter((conversation) => conversation.running);
  byId("send-all").disabled = running.length > 0;
  byId("stop-all").disabled = running.length === 0;
  setText(byId("total"), total());
}

// Throughput of all responses together, which shows the effect of batching.
function total() {
  const answers = conversations.map(({ answer }) => answer).filter((answer) => answer?.rate);
  if (conversations.length < 2 || answers.length < 2) return "";
  const first = Math.min(...answers.map((answer) => answer.first));
  const last = Math.max(...answers.map((answer) => answer.last));
  const nTokens = answers.reduce((sum, answer) => sum + answer.nTokens, 0);
  const rate = (nTokens * 1000) / (last - first);
  return `${answers.length} answers together: ${rate.toFixed(1)} tokens/s`;
}

function sendToAll(text) {
  if (conversations.some((conversation) => conversation.running)) return false;
  hideBanner();
  for (const conversation of conversations) void conversation.send(text);
  return true;
}

function stopAll() {
  for (const conversation of conversations) conversation.stop();
}

function showBanner(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = false;
}

function hideBanner() {
  byId("banner").hidden = true;
}

async function listModels() {
  try {
    const { data } = await getJson("v1/models");
    const choices = data.map(({ id }) => make("option", { value: id }, id));
    byId("model").replaceChildren(...choices);
  } catch (error) {
    showBanner(`The models cannot be listed: ${error.message}.`);
  }
}

function toggleSettings() {
  const settings = byId("settings");
  settings.hidden = !settings.hidden;
  byId("toggle-settings").setAttribute("aria-expanded", String(!settings.hidden));
}

function setUp() {
  byId("n-chats").addEventListener("change", (event) => setNumber(Number(event.target.value)));
  byId("toggle-settings").addEventListener("click", toggleSettings);
  byId("stop-all").addEventListener("click", stopAll);
  sendOnEnter(byId("to-all"), sendToAll);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stopAll();
  });
  setNumber(Number(byId("n-chats").value));
  byId("message").focus();
  void listModels();
}

setUp();
