// Client of the server's API, with the API key if required.

import { currentKey, newKey } from "./key.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A response of status 200. Prompts for an API key if the server requires one.
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

// A proxy in front of the server may require its cookies.
function isBarred(answer) {
  return answer.redirected || answer.status === 401 || answer.status === 403;
}

async function errorOf(answer) {
  const body = await answer.json().catch(() => null);
  const message = body?.error?.message ?? answer.statusText;
  return new ApiError(answer.status, message || `status ${answer.status}`);
}
