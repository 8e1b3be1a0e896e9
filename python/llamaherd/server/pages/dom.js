// DOM helpers; strings are inserted as text only.

export function byId(id) {
  return document.getElementById(id);
}

// An element of a tag, with properties and children; strings become text, never HTML.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A copy of the first element of a template.
export function copyOf(templateId) {
  return byId(templateId).content.firstElementChild.cloneNode(true);
}

// Sets a text only if it changed, to preserve selections and live regions.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// At most one call per displayed frame.
export function oncePerFrame(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}
