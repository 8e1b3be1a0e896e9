// The server's API, and the key that it may ask for.

import { currentKey, newKey } from "./key.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// An answer of status 200. Asks for a key if the server wants one.
export async function request(path, options = {}) {
  for (;;) {
    const key = currentKey();
    const answer = await send(path, options, key);
    if (answer.ok) return answer;
    const error = await errorOf(answer);
    if (error.status !== 401 || !(await newKey(key))) throw error;
  }
}

export async function getJson(path) {
  return (await request(path)).json();
}

async function send(path, options, key) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  try {
    const answer = await fetch(path, { ...options, headers });
    if (options.credentials !== "omit" || !isBarred(answer)) return answer;
    return await fetch(path, { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server cannot be reached");
  }
}

// A proxy before the server may want its cookies.
function isBarred(answer) {
  return answer.redirected || answer.status === 401 || answer.status === 403;
}

async function errorOf(answer) {
  const body = await answer.json().catch(() => null);
  const message = body?.error?.message ?? answer.statusText;
  return new ApiError(answer.status, message || `status ${answer.status}`);
}
