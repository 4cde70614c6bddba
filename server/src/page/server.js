// Questions to the server, with the API key where one was given, and its refusals in words.

const KEY = "polylora-api-key";
// What stands before the JSON of an event.
const DATA = "data:";
// Of a reply that is no JSON, which no part of the server sends but a proxy may.
const MOST_QUOTED = 200;

/** Why there is no answer. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether another key may help. */
  get wantsKey() {
    return this.status === 401;
  }
}

/** The key of this tab, or null. */
export function key() {
  return sessionStorage.getItem(KEY);
}

/** Keeps a key for this tab. */
export function keepKey(value) {
  sessionStorage.setItem(KEY, value);
}

/** Forgets the key. */
export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

/** The JSON at `path`; with `body`, what it answers to that. Throws a Refusal. */
export async function ask(path, { body, patience }) {
  let response, text;
  const options = optionsFor(body, AbortSignal.timeout(patience));
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Refusal(late ? `No answer within ${patience / 1000} seconds.` : "The server cannot be reached.", 0);
  }
  return checked(response, text);
}

/**
 * The objects of the events that `path` answers to `body` with, as they come, until the end or until `signal` says so. Throws a
 * Refusal, also for an error in the middle.
 */
export async function* events(path, { body, signal }) {
  try {
    const response = await fetch(path, optionsFor(body, signal));
    if (!response.ok || response.body === null) {
      checked(response, await response.text());
      return;
    }
    for await (const line of lines(response.body)) {
      if (!line.startsWith(DATA)) continue;
      const data = line.slice(DATA.length).trim();
      if (data === "[DONE]") return;
      const json = JSON.parse(data);
      if (json.error !== undefined) throw new Refusal(`${json.error.message}.`, 0);
      yield json;
    }
    throw new Refusal("The answer broke off.", 0);
  } catch (error) {
    if (error instanceof Refusal || signal.aborted) throw error;
    throw new Refusal("The connection to the server was lost.", 0);
  }
}

/** The lines of a stream of bytes. */
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const pieces = (rest + value).split("\n");
      rest = pieces.pop();
      yield* pieces;
    }
    yield rest;
  } finally {
    // Who stops listening lets the server stop as well.
    reader.cancel().catch(() => {});
  }
}

function optionsFor(body, signal) {
  const options = { headers: {}, signal, cache: "no-store", credentials: "omit" };
  const known = key();
  if (known !== null) {
    // A header holds no other characters, so no server can have asked for such a key.
    if (!/^[\x21-\x7e]+$/.test(known)) {
      throw new Refusal("The API key has characters that no key can have.", 401);
    }
    options.headers.authorization = `Bearer ${known}`;
  }
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  return options;
}

/** The JSON of an answer that is no refusal. */
function checked(response, text) {
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Refusal(`The answer (status ${response.status}) is not JSON: ${text.slice(0, MOST_QUOTED)}`, response.status);
  }
  if (!response.ok) {
    throw new Refusal(inWords(response, json), response.status);
  }
  return json;
}

function inWords(response, json) {
  const reason = json?.error?.message ?? `status ${response.status}`;
  const wait = response.headers.get("retry-after");
  return wait === null ? `${reason}.` : `${reason}. Try again in ${wait} s.`;
}
