// Formatting of numbers.

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.0995) return `${significant(value * 1000)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  return value < 100 ? `${significant(value)} s` : `${Math.round(value)} s`;
}

export function rate(value) {
  return value === null || value === undefined ? "–" : `${significant(value)}/s`;
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`;
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  return Math.round(value).toLocaleString("en");
}

// A tick label, without trailing zeros.
export function short(text) {
  return text.replace(/\.(\d*?)0+(?!\d)/, (_, digits) => (digits ? `.${digits}` : ""));
}

function significant(value) {
  if (value === 0) return "0";
  if (value >= 100) return String(Math.round(value));
  return value.toFixed(value >= 10 ? 1 : 2);
}
