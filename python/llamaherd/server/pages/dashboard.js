// The dashboard: asks once a second how the server stands, and keeps the history itself.

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
    note: "Of outputs begun in the last minute",
    series: TWO.map(([label, part]) => ({ key: `ttft${part}`, label })),
    format: seconds,
  }),
  new LineChart({
    title: "Time between tokens",
    note: "Of streamed outputs, in the last minute",
    series: TWO.map(([label, part]) => ({ key: `itl${part}`, label })),
    format: seconds,
  }),
  new LineChart({
    title: "Batch utilisation",
    note: "Places used, in steps with next tokens",
    series: [{ key: "utilisation", label: "used" }],
    format: percent,
    top: 1,
  }),
  new LineChart({
    title: "Cache hit rate",
    note: "Prompt tokens not computed, in the last minute",
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

// Asks again and again, until a key is wanted and not given.
async function watch() {
  byId("retry").hidden = true;
  for (;;) {
    try {
      take(await getJson("pages/state"));
      showStatus("live", "live");
    } catch (error) {
      showStatus("failed", error.status ? error.message : "not reachable, trying again");
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
