// A text area that grows with its text; Enter sends it, Shift+Enter starts a new line.

// send(text) returns whether the text was sent (false: it stays in the text area).
export function sendOnEnter(form, send) {
  const area = form.querySelector("textarea");
  const submit = () => {
    const text = area.value.trim();
    if (!text || send(text) === false) return;
    area.value = "";
    grow(area);
  };
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  area.addEventListener("input", () => grow(area));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
}

function grow(area) {
  area.style.height = "auto";
  const frame = area.offsetHeight - area.clientHeight;
  area.style.height = `${Math.min(area.scrollHeight + frame, 160)}px`;
}
