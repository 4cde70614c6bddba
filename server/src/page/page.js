// The page's life: asks for the status while somebody looks, for a key where one is needed.

import { offerChat, prepareChat } from "./chat.js";
import { offerAdapters, prepareComparison } from "./compare.js";
import { showState, showStatus } from "./live.js";
import { ask, forgetKey, keepKey, key } from "./server.js";

const EVERY = 2_000;
const PATIENCE = 5_000;

let timer = null;
let asking = false;

/** Asks now and then every so often, until nobody looks or a key is missing. */
async function refresh() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let again = true;
  try {
    const status = await ask("/api/status", { patience: PATIENCE });
    showStatus(status);
    offerAdapters(status);
    offerChat(status);
    showKeyForm(false);
  } catch (error) {
    again = !refused(error);
    showState(error.wantsKey ? "locked" : error.message, "bad");
  } finally {
    asking = false;
  }
  if (again) timer = setTimeout(refresh, EVERY);
}

/** Asks for a key when that is what is missing; says whether it is. */
function refused(error) {
  if (error.wantsKey) showKeyForm(true, key() === null ? null : error.message);
  return Boolean(error.wantsKey);
}

function showKeyForm(shown, problem = null) {
  document.getElementById("key-form").hidden = !shown;
  document.getElementById("forget-key").hidden = shown || key() === null;
  const line = document.getElementById("key-problem");
  line.hidden = problem === null;
  line.textContent = problem ?? "";
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("key");
  keepKey(field.value.trim());
  field.value = "";
  refresh();
});

document.getElementById("forget-key").addEventListener("click", () => {
  forgetKey();
  // Also what is on the page came with the key.
  location.reload();
});

document.addEventListener("visibilitychange", refresh);
prepareComparison(refused);
prepareChat(refused);
refresh();
