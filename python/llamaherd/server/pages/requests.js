// The running requests: tokens and time breakdown of each.

import { showBar } from "./charts.js";
import { byId, copyOf, make, setText } from "./dom.js";
import { count, seconds } from "./format.js";

const PARTS = [
  ["queued", "queued", "waits in the queue"],
  ["following", "following", "waits for a prefix computed by another request"],
  ["preempted", "preempted", "preempted for more urgent requests"],
  ["prefill", "prefill", "its own prompt"],
  ["prefill_shared", "restored", "prompt restored from host memory or disk"],
  ["prefill_again", "prefill again", "computed before and evicted"],
  ["decode", "decode", "its decode rows"],
  ["others_prefill", "others' prefill", "others' part of its steps"],
  ["others_decode", "others' decode", "others' part of its steps"],
  ["sampling", "sampling", "sampling of its tokens"],
  ["engine", "engine", "other engine time"],
];
const items = new Map();

export function showLegend() {
  const entries = PARTS.map(([name, label, title]) =>
    make("li", { title }, make("span", { className: `mark part ${name}` }), label),
  );
  byId("parts-legend").replaceChildren(...entries);
}

export function showRequests(requests, nOthers) {
  const longest = Math.max(0.001, ...requests.map(total));
  const shown = new Set(requests.map(({ id }) => id));
  for (const [id, item] of items) {
    if (!shown.has(id)) {
      item.remove();
      items.delete(id);
    }
  }
  for (const request of requests) showRequest(request, longest);
  const others = nOthers ? ` + ${nOthers} of other keys` : "";
  setText(byId("n-requests"), `${requests.length}${others}`);
  byId("no-requests").hidden = requests.length > 0;
}

function showRequest(request, longest) {
  const item = items.get(request.id) ?? copyOf("request-template");
  if (!items.has(request.id)) byId("requests").append(item);
  items.set(request.id, item);
  setText(item.querySelector(".request-head"), headOf(request));
  showBar(item.querySelector(".bar"), partsOf(request), Math.max(0.02, total(request) / longest));
}

function total({ spent_s: spent, age_s: age }) {
  return spent ? Object.values(spent).reduce((sum, part) => sum + part, 0) : age;
}

function headOf(request) {
  const { id, priority, tenant, n_prompt: prompt, n_cached: cached } = request;
  const texts = [`#${id}`, `class ${priority}`];
  if (tenant) texts.push(tenant);
  if (request.spent_s) {
    texts.push(`prompt ${count(prompt)}, ${count(cached)} cached`);
    texts.push(`${count(request.n_completion)} generated`);
  } else {
    texts.push("no token yet");
  }
  return [...texts, seconds(request.age_s)].join(" · ");
}

function partsOf({ spent_s: spent, age_s: age }) {
  if (!spent) return [{ name: "unknown", value: 1, title: `no token yet, ${seconds(age)}` }];
  return PARTS.map(([name, label]) => {
    const value = spent[name];
    return { name, value, title: `${label} ${seconds(value)}` };
  });
}
