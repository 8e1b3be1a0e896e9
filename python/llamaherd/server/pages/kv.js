// Use of the cells of the KV cache.

import { showBar } from "./charts.js";
import { byId, make } from "./dom.js";
import { count } from "./format.js";

const KINDS = [
  ["own", "running, one request", "prompt tokens that were not cached, and output so far"],
  ["shared", "running, shared", "cached at their start, or shared by several"],
  ["reclaimable", "cached, reclaimable", "left by earlier requests; evicted when needed"],
  ["free", "free", ""],
];

export function showCells(metrics, requests) {
  const needed = metrics.n_cells_used - metrics.cache.n_cells_reclaimable;
  const own = ownCells(requests, needed);
  const sum = own.reduce((all, { value }) => all + value, 0);
  const cells = {
    own: sum,
    shared: needed - sum,
    reclaimable: metrics.cache.n_cells_reclaimable,
    free: metrics.n_cells - metrics.n_cells_used,
  };
  const rest = KINDS.slice(1).map(([name, label]) => {
    return { name, value: cells[name], title: `${label}: ${count(cells[name])} cells` };
  });
  showBar(byId("kv-bar"), [...own, ...rest]);
  showLegend(cells, metrics.n_cells);
}

// Cells of requests. Preempted ones hold no cells: if the sum exceeds the cells in use, all parts
// are scaled down.
function ownCells(requests, needed) {
  const sizes = requests.map((request) => ({
    id: request.id,
    value: request.n_prompt - request.n_cached + request.n_completion,
  }));
  const sum = sizes.reduce((all, { value }) => all + value, 0);
  const scale = sum > needed ? needed / sum : 1;
  return sizes.map(({ id, value }, i) => ({
    name: i % 2 ? "own odd" : "own",
    value: value * scale,
    title: `#${id}: ${count(value * scale)} cells of its own`,
  }));
}

function showLegend(cells, nCells) {
  const entries = KINDS.map(([name, label, title]) => {
    const value = make("span", { className: "value" }, count(cells[name]));
    const mark = make("span", { className: `mark part ${name}` });
    return make("li", { title }, mark, `${label} `, value);
  });
  const all = make("span", { className: "value" }, count(nCells));
  byId("kv-legend").replaceChildren(...entries, make("li", {}, "of ", all));
}
