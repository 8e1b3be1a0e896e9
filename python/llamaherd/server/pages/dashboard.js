// The dashboard: polls the server's state once per second and keeps the history.

import { getJson } from "./api.js";
import { LineChart } from "./charts.js";
import { byId, make, setText } from "./dom.js";
import { count, percent, rate, seconds } from "./format.js";
import { History } from "./history.js";
import { showCells } from "./kv.js";
import { showLegend, showRequests } from "./requests.js";

const INTERVAL_MS = 1000;
const TWO = [["p50", "50"], ["p95", "95"]];
const charts = [
  new LineChart({
    title: "Throughput",
    note: "Tokens per second",
    series: [{ key: "decode", label: "decode" }, { key: "prefill", label: "prefill" }],
    format: rate,
  }),
  new LineChart({
    title: "Queue",
    note: "Requests",
    series: [{ key: "running", label: "running" }, { key: "waiting", label: "waiting" }],
    format: shortCount,
    least: 2,
  }),
  new LineChart({
    title: "Time to first token",
    note: "Of outputs started in the last minute",
    series: TWO.map(([label, part]) => ({ key: `ttft${part}`, label })),
    format: seconds,
  }),
  new LineChart({
    title: "Inter-token latency",
    note: "Of streamed outputs, in the last minute",
    series: TWO.map(([label, part]) => ({ key: `itl${part}`, label })),
    format: seconds,
  }),
  new LineChart({
    title: "Batch utilisation",
    note: "Decode rows per step, as a share of max_seqs",
    series: [{ key: "utilisation", label: "used" }],
    format: percent,
    top: 1,
  }),
  new LineChart({
    title: "Cache hit rate",
    note: "Cached prompt tokens in the last minute",
    series: [{ key: "hitRate", label: "found" }],
    format: percent,
    top: 1,
  }),
];
const histories = new Map();
let state = null;

function shortCount(value) {
  return value !== null && value % 1 ? value.toFixed(1) : count(value);
}

function take(next) {
  state = next;
  for (const [name, model] of Object.entries(state.models)) {
    if (!histories.has(name)) histories.set(name, new History());
    histories.get(name).add(state.time_s, model);
  }
  showModels(Object.keys(state.models));
  show();
}

function showModels(names) {
  const select = byId("model");
  const shown = [...select.options].map((option) => option.value);
  if (shown.join("\n") !== names.join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  byId("model-field").hidden = names.length < 2;
}

function show() {
  const name = byId("model").value;
  const model = state.models[name];
  const history = histories.get(name);
  if (!model) {
    showBanner("No model is loaded; the first request loads one.");
    return;
  }
  showBanner(model.health.ok ? "" : `${name}: ${model.health.reason}`);
  const requests = state.requests.filter((request) => request.model === name);
  for (const chart of charts) chart.show(history.points);
  showNow(history.last);
  showCells(model.metrics, requests);
  showRequests(requests, model.n_other_requests);
}

function showNow(point) {
  setText(byId("now-running"), count(point.running));
  setText(byId("now-waiting"), count(point.waiting));
  setText(byId("now-decode"), rate(point.decode));
  setText(byId("now-prefill"), rate(point.prefill));
  setText(byId("now-ttft"), seconds(point.ttft50));
  setText(byId("now-itl"), seconds(point.itl50));
}

function showBanner(text) {
  byId("banner").hidden = !text;
  setText(byId("banner"), text);
}

function showStatus(status, text) {
  byId("status").dataset.state = status;
  setText(byId("status"), text);
}

// Polls until a key is required and not given.
async function watch() {
  byId("retry").hidden = true;
  for (;;) {
    try {
      take(await getJson("pages/state"));
      showStatus("live", "live");
    } catch (error) {
      showStatus("failed", error.status ? error.message : "not reachable, retrying");
      if (error.status === 401) break;
      if (error.status === undefined) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
  }
  byId("retry").hidden = false;
}

function setUp() {
  byId("charts").append(...charts.map((chart) => chart.element));
  showLegend();
  byId("model").addEventListener("change", show);
  byId("retry").addEventListener("click", () => void watch());
  void watch();
}

setUp();
