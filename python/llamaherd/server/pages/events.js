// Server-sent events of a fetch() response.

import { ApiError } from "./api.js";

// The events as objects, until "[DONE]". An error event is thrown.
export async function* eventsOf(answer) {
  for await (const line of lines(answer.body)) {
    if (!line.startsWith("data: ")) continue;
    const data = line.slice(6);
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(500, event.error.message);
    yield event;
  }
  throw new ApiError(0, "the connection was lost");
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      yield* parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
