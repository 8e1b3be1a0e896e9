// Time series of a model over the last minutes, from the server's counters.

const KEPT_S = 180;
const MINUTE_S = 60;
const HITS = ["running", "finished", "in_flight", "ram", "disk"];

export class History {
  constructor() {
    this.points = [];
  }

  get last() {
    return this.points.at(-1);
  }

  // Adds a model's part of the server's state.
  add(time, { metrics, recent }) {
    const before = this.last;
    if (before && metrics.n_steps < before.counters.steps) this.points = []; // reloaded
    const counters = countersOf(metrics);
    const figures = rates(counters, this.last, time);
    const minute = this.points.find((point) => point.time > time - MINUTE_S);
    this.points.push({
      time,
      counters,
      ...figures,
      hitRate: minute ? part(counters, minute.counters, "hits", "lookedUp") : null,
      running: metrics.n_running,
      waiting: metrics.n_waiting,
      ttft50: recent.ttft.p50,
      ttft95: recent.ttft.p95,
      itl50: recent.itl.p50,
      itl95: recent.itl.p95,
    });
    this.points = this.points.filter((point) => point.time > time - KEPT_S);
  }
}

function countersOf(metrics) {
  return {
    steps: metrics.n_steps,
    decode: metrics.n_output_tokens,
    prefill: metrics.n_prefill_rows,
    rows: metrics.n_decode_rows,
    places: metrics.n_decode_steps * metrics.n_seqs,
    hits: HITS.reduce((sum, from) => sum + metrics.cache[`n_from_${from}`], 0),
    lookedUp: metrics.cache.n_looked_up,
  };
}

function rates(counters, before, time) {
  if (!before || time <= before.time) return { decode: null, prefill: null, utilisation: null };
  const spent = time - before.time;
  return {
    decode: (counters.decode - before.counters.decode) / spent,
    prefill: (counters.prefill - before.counters.prefill) / spent,
    utilisation: part(counters, before.counters, "rows", "places"),
  };
}

// Increase of one counter divided by that of another; null if that did not increase.
function part(now, before, of, whole) {
  const grown = now[whole] - before[whole];
  return grown > 0 ? (now[of] - before[of]) / grown : null;
}
