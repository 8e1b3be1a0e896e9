// A text area that grows with its text; Enter sends it, Shift+Enter begins a new line.

// send(text) says whether the text was taken (false: it was not, and stays).
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
