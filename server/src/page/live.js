// What the server does now, in the elements of the page.

const HISTORY = 120;
const WIDTH = 300;
const HEIGHT = 60;

const rates = [];

/** Shows a reply of /api/status. */
export function showStatus(status) {
  const { model, generation, device, requests, throughput, latency } = status;
  // What there is most to say of.
  const lead = model ?? generation;
  showState(status.state, status.state === "ready" ? "good" : "bad");
  write("model", lead === null ? "" : `${lead.name} on ${device.name}`);
  const unit = model === null ? "Texts" : "Inputs";
  write("inputs-name", `${unit} a second`);
  write("waiting-name", `${unit} waiting`);
  write("inputs-per-second", rounded(throughput.inputs_per_second));
  write("tokens-per-second", rounded(throughput.tokens_per_second));
  write("p50", latency === null ? "–" : milliseconds(latency.p50_ms));
  write("p99", latency === null ? "–" : milliseconds(latency.p99_ms));
  write("running", whole(requests.running));
  write("waiting", whole(requests.waiting));
  write("device", device.instances > 1 ? `${device.name}, ${device.instances} instances` : device.name);
  write("mode", device.mode);
  write("dtype", lead?.dtype ?? "–");
  document.getElementById("embedding-fact").hidden = model === null;
  if (model !== null) write("embedding", `${model.dimensions} values, pooled by ${model.pooling.replace("_", " ")}`);
  write("max-tokens-name", model === null ? "Tokens of prompt and reply" : "Tokens an input");
  write("max-tokens", whole(model?.max_tokens ?? generation?.max_model_len ?? 0));
  write("limit", whole(requests.limit));
  write("uptime", duration(status.uptime_seconds));
  write("version", status.version);
  write("digest", lead?.digest ?? "–");
  showDomains(status);
  showHistory(throughput.inputs_per_second, unit);
}

/** Shows whether the figures are those of now; `kind` is good, bad or nothing. */
export function showState(text, kind = "") {
  write("state", text);
  document.getElementById("state").className = `pill ${kind}`;
}

/** The base model, adapters by name, and those that are not told apart, each with its traffic. */
function showDomains(status) {
  const { domains, adapters } = status;
  const lead = status.model ?? status.generation;
  const traffic = new Map();
  let base, others;
  for (const domain of domains) {
    if (domain.kind === "base") base = domain;
    else if (domain.kind === "others") others = domain;
    else traffic.set(domain.adapter, domain);
  }
  const listed = adapters.listed.map(({ name, max_rank }) => ({ name, rank: whole(max_rank), of: traffic.get(name) }));
  const bases = lead === null ? [] : [{ name: lead.name, rank: "base", of: base }];
  const rows = [...bases, ...listed];
  const names = new Set(adapters.listed.map(({ name }) => name));
  for (const [name, of] of traffic) {
    if (!names.has(name)) rows.push({ name, rank: "", of });
  }
  if (others !== undefined) rows.push({ name: "all other adapters", rank: "", of: others });
  const most = Math.max(1, ...domains.map((domain) => domain.waiting_inputs));
  // Rows stay and their cells change: what somebody has selected or reads aloud is not taken away.
  const body = document.getElementById("domains");
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) body.append(domainRow());
  rows.forEach((row, index) => fillRow(body.rows[index], row, most));
  const unlisted = adapters.total - adapters.listed.length;
  const note = document.getElementById("unlisted");
  note.hidden = unlisted === 0;
  note.textContent = `${whole(unlisted)} more adapters are served and not listed here; GET /v1/models has all.`;
}

function domainRow() {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  const waiting = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = "bar";
  waiting.append(document.createElement("span"), bar);
  row.append(head, document.createElement("td"), document.createElement("td"), waiting);
  return row;
}

function fillRow(row, { name, rank, of }, most) {
  const [head, rankCell, requests, waitingCell] = row.cells;
  const [number, bar] = waitingCell.children;
  const waiting = of?.waiting_inputs ?? 0;
  change(head, name);
  change(rankCell, rank);
  change(requests, whole(of?.requests ?? 0));
  change(number, whole(waiting));
  bar.hidden = waiting === 0;
  bar.style.width = `${Math.max(4, (100 * waiting) / most)}%`;
}

function showHistory(rate, unit) {
  rates.push(rate);
  if (rates.length > HISTORY) rates.shift();
  const most = Math.max(1, ...rates);
  const step = WIDTH / (HISTORY - 1);
  const begin = WIDTH - step * (rates.length - 1);
  // Two units stay free, so that the line is whole at both ends.
  const point = (value, index) => `${(begin + index * step).toFixed(1)},${(HEIGHT - 2 - (value / most) * (HEIGHT - 4)).toFixed(1)}`;
  document.querySelector("#history polyline").setAttribute("points", rates.map(point).join(" "));
  write("history-title", `${unit} a second while this page was open: at most ${rounded(Math.max(...rates))}`);
}

function write(id, text) {
  change(document.getElementById(id), text);
}

/** Writes only what is new: screen readers say what changes. */
function change(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function whole(number) {
  return number.toLocaleString("en");
}

function rounded(number) {
  return number.toLocaleString("en", { maximumFractionDigits: number < 10 ? 1 : 0 });
}

function milliseconds(number) {
  return `${number.toLocaleString("en", { maximumSignificantDigits: 3 })} ms`;
}

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${seconds} s`;
}
