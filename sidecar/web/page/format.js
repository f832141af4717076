/* Numbers and names as people read them. Given: values. Hands on: text. Never: touches the page, or shows unknown as 0. */

export const DASH = "–";
export const known = (v) => v !== null && v !== undefined && v !== "";
export const isNumber = (v) => typeof v === "number" && Number.isFinite(v);

const SI = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const TOKENS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];  // Tokens are spoken of in billions, not giga.
const BINARY = [[2 ** 50, "PiB"], [2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];

export function clean(text, limit = 300) {  // Control and bidirectional characters could make a name look like another.
  const s = String(text).replace(/[\u0000-\u001f\u007f-\u009f]/g, " ").replace(/[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "");
  return s.length > limit ? s.slice(0, limit - 1) + "…" : s;
}
export const words = (name) => clean(name).replaceAll("_", " ");
export const spelled = (state) => ({ nan: "NaN", inf: "+∞", "-inf": "−∞" })[state] || state || "";

const rounded = (v, digits) => String(Number(v.toPrecision(digits)));

export function fixed(v, digits = 4) {
  if (!isNumber(v)) return DASH;
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size < 1e-3 || size >= 1e7) return Number(v.toPrecision(digits)).toExponential().replace("e+", "e");
  if (size >= 1000) return v.toLocaleString("en-US", { maximumFractionDigits: 0 });
  return rounded(v, digits);
}
export function lossText(v, decimals = 4) {  // A fixed number of decimals does not jump about, but a tiny loss is not 0.0000.
  if (!isNumber(v)) return DASH;
  return Math.abs(v) >= 0.01 && Math.abs(v) < 1e5 ? v.toFixed(decimals) : fixed(v);
}
export function count(v) { return isNumber(v) ? v.toLocaleString("en-US", { maximumFractionDigits: 0 }) : DASH; }

export function scaled(v, unit = "", prefixes = SI) {  // [number, prefix and unit]: 1.9e15 FLOP/s is ["1.9", "PFLOP/s"].
  if (!isNumber(v)) return [DASH, ""];
  for (const [size, prefix] of prefixes)
    if (Math.abs(v) >= size * 0.99995) return [rounded(v / size, 4), prefix + unit];  // 999,999 is 1 M, not 1000 k.
  return [rounded(v, 4), unit];
}
export const short = (v, unit = "") => scaled(v, unit).join(unit ? " " : "").trim();  // 412k, but 2.57 kW.
export const tokens = (v) => (isNumber(v) && v < 999.95 ? count(v) : scaled(v, "", TOKENS).join(""));

export function bytes(v) {
  if (!isNumber(v)) return DASH;
  for (const [size, unit] of BINARY)
    if (v >= size) return `${v / size >= 99.95 ? Math.round(v / size) : rounded(v / size, 3)} ${unit}`;
  return `${v} B`;
}
export function percent(v, digits = 1) { return isNumber(v) ? `${v.toFixed(digits)} %` : DASH; }

export const ago = (s) => (!isNumber(s) ? DASH : s < 1 ? "< 1 s ago" : `${span(s)} ago`);  // Not worth a flicker twice a second.
export function span(s) {
  if (!isNumber(s)) return DASH;
  if (s === 0) return "0 s";
  if (s < 0.9995e-3) return `${rounded(s * 1e6, 3)} µs`;
  if (s < 0.9995) return `${rounded(s * 1e3, 3)} ms`;
  if (s < 59.5) return `${s < 9.95 ? s.toFixed(1) : Math.round(s)} s`;
  const whole = Math.round(s), d = Math.floor(whole / 86400), h = Math.floor(whole / 3600) % 24, m = Math.floor(whole / 60) % 60;
  if (d) return `${count(d)} d ${h} h`;
  return h ? `${h} h ${String(m).padStart(2, "0")} min` : `${m} min ${String(whole % 60).padStart(2, "0")} s`;
}
