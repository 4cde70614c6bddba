// A conversation with the model that generates, under an adapter of choice.

import { events } from "./server.js";

// What has been said, as the server is told it with each question.
let messages = [];
// Ends the reply that is coming.
let stop = null;

/** Shows the conversation where a reply of /api/status tells of a model for it, with its adapters; what was chosen stays chosen. */
export function offerChat({ generation }) {
  const talks = generation !== null && generation.has_chat_template;
  document.getElementById("chat-section").hidden = !talks;
  if (!talks) return;
  const names = [generation.name, ...generation.adapters.listed.map(({ name }) => name)];
  const select = document.getElementById("chat-adapter");
  const known = [...select.options].map((option) => option.value);
  if (known.length === names.length && known.every((value, index) => value === names[index])) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name, index) => new Option(index === 0 ? `${name} (base)` : name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

/** Talks when the form is sent; `onRefusal` is told of what the server refuses. */
export function prepareChat(onRefusal) {
  const form = document.getElementById("chat");
  const field = document.getElementById("chat-text");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (stop !== null) return;
    const text = field.value.trim();
    if (text === "") return;
    field.value = "";
    await say(text, onRefusal);
    field.focus();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  document.getElementById("chat-stop").addEventListener("click", () => stop?.abort());
  document.getElementById("chat-new").addEventListener("click", () => {
    stop?.abort();
    messages = [];
    document.getElementById("talk").replaceChildren();
    problem(null);
  });
}

async function say(text, onRefusal) {
  const asked = { role: "user", content: text };
  const line = add("You", text);
  const model = document.getElementById("chat-adapter").value;
  const reply = add(model, "");
  const mine = new AbortController();
  const talk = messages;
  stop = mine;
  busy(true);
  problem(null);
  let content = "";
  try {
    const body = { model, messages: [...talk, asked], stream: true };
    for await (const { choices } of events("/v1/chat/completions", { body, signal: mine.signal })) {
      content += choices[0]?.delta?.content ?? "";
      show(reply, content);
    }
    talk.push(asked, { role: "assistant", content });
  } catch (error) {
    if (mine.signal.aborted) {
      // What has come so far was said.
      talk.push(asked, { role: "assistant", content });
    } else {
      line.remove();
      reply.remove();
      document.getElementById("chat-text").value = text;
      problem(error.message);
      onRefusal(error);
    }
  } finally {
    stop = null;
    busy(false);
  }
}

/** Adds what somebody says to the page. */
function add(speaker, text) {
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = speaker;
  const words = document.createElement("p");
  item.append(name, words);
  document.getElementById("talk").append(item);
  show(item, text);
  return item;
}

function show(item, text) {
  const talk = document.getElementById("talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
  item.lastElementChild.textContent = text;
  // Who has scrolled back to read is left there.
  if (atEnd) talk.scrollTop = talk.scrollHeight;
}

function busy(isBusy) {
  document.getElementById("chat-button").disabled = isBusy;
  document.getElementById("chat-stop").hidden = !isBusy;
  document.getElementById("talk").setAttribute("aria-busy", String(isBusy));
}

function problem(text) {
  const element = document.getElementById("chat-problem");
  element.textContent = text ?? "";
  element.hidden = text === null;
}
