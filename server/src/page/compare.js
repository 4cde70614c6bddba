// Two texts under two adapters: how alike their embeddings are.

import { ask } from "./server.js";

const PATIENCE = 60_000;
// No adapter's name is empty.
const BASE = "";

/** Offers the base model and the adapters of a reply of /api/status, where something makes embeddings; what was chosen stays chosen. */
export function offerAdapters({ model, adapters }) {
  document.getElementById("compare-section").hidden = model === null;
  if (model === null) return;
  const names = [BASE, ...adapters.listed.map(({ name }) => name)];
  for (const [id, first] of [["choice-a", 0], ["choice-b", 1]]) {
    const select = document.getElementById(id);
    const known = [...select.options].map((option) => option.value);
    if (known.length === names.length && known.every((value, index) => value === names[index])) continue;
    const chosen = known.length > 0 ? select.value : (names[first] ?? BASE);
    select.replaceChildren(...names.map((name) => new Option(name === BASE ? `${model.name} (base)` : name, name)));
    select.value = names.includes(chosen) ? chosen : BASE;
  }
}

/** Compares when the form is sent; `onRefusal` is told of what the server refuses. */
export function prepareComparison(onRefusal) {
  const form = document.getElementById("compare");
  const button = document.getElementById("compare-button");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    show("compare-problem", null);
    document.getElementById("compared").hidden = true;
    try {
      showCosines(await compare());
    } catch (error) {
      show("compare-problem", error.message);
      onRefusal(error);
    } finally {
      button.disabled = false;
    }
  });
}

async function compare() {
  const value = (id) => document.getElementById(id).value;
  const texts = [value("text-1"), value("text-2")];
  const [a, b] = await Promise.all([embed(value("choice-a"), texts), embed(value("choice-b"), texts)]);
  return { "cosine-a": cosine(a[0], a[1]), "cosine-b": cosine(b[0], b[1]), "cosine-across": cosine(a[0], b[1]) };
}

/** The embeddings of texts, in their order. */
async function embed(adapter, input) {
  const body = adapter === BASE ? { input } : { model: adapter, input };
  const { data } = await ask("/v1/embeddings", { body, patience: PATIENCE });
  const embeddings = new Array(input.length);
  for (const { index, embedding } of data) embeddings[index] = embedding;
  return embeddings;
}

/** NaN where one of them is all zeros and has no direction. */
function cosine(x, y) {
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    xy += x[i] * y[i];
    xx += x[i] * x[i];
    yy += y[i] * y[i];
  }
  return xy / Math.sqrt(xx * yy);
}

function showCosines(cosines) {
  for (const [id, cosine] of Object.entries(cosines)) {
    show(id, Number.isFinite(cosine) ? cosine.toFixed(4) : "none: an embedding is zero");
  }
  document.getElementById("compared").hidden = false;
}

function show(id, text) {
  const element = document.getElementById(id);
  element.textContent = text ?? "";
  element.hidden = text === null;
}
