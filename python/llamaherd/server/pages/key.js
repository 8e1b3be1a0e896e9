// The API key: entered in a dialog, kept until the tab is closed.

import { make } from "./dom.js";

const KEY = "llamaherd-key";
let asking = null;

export function currentKey() {
  return sessionStorage.getItem(KEY);
}

// Whether another key than the rejected one is available; concurrent callers share a dialog.
export async function newKey(refused) {
  if (currentKey() !== refused) return true;
  asking ??= ask(refused !== null).finally(() => {
    asking = null;
  });
  return asking;
}

async function ask(wasRefused) {
  const before = document.activeElement;
  const input = make("input", { id: "key", type: "password", autocomplete: "off" });
  const dialog = dialogWith(input, wasRefused);
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  before?.focus();
  const key = input.value.trim();
  if (dialog.returnValue !== "use" || !key) return false;
  sessionStorage.setItem(KEY, key);
  return true;
}

function dialogWith(input, wasRefused) {
  const buttons = make(
    "div",
    { className: "buttons" },
    make("button", { value: "use", className: "primary" }, "Use key"),
    make("button", { value: "cancel" }, "Cancel"),
  );
  const form = make(
    "form",
    { method: "dialog", autocomplete: "off" },
    make("h2", { id: "key-title" }, "This server requires an API key"),
    make("p", { className: "error", hidden: !wasRefused }, "The key was rejected."),
    make("label", { className: "field" }, "API key ", input),
    make("p", { className: "hint" }, "It is kept until this tab is closed."),
    buttons,
  );
  return make("dialog", { id: "key-dialog", "aria-labelledby": "key-title" }, form);
}
