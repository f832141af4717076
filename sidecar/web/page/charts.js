/* The charts. Given: the history of the shown run, thinned by the sidecar with its extremes kept. Hands on: uPlot charts.
   Never: hides a value that was not finite: it is a red line, and "NaN" in the heading while it is the latest. */
import { clean, count, fixed, known, short, spelled, tokens } from "./format.js";
import { $, el, put } from "./dom.js";
import { ask } from "./connection.js";
import { store } from "./store.js";

const REFRESH_MS = 1000, POINTS = 700, SPARSE_MAX = 60;
const AXES = { step: "step", tokens: "tokens", time: "local time" };
const FONT = "11px system-ui, sans-serif";
const CHARTS = {
  loss: { names: ["train/loss", "train/loss_ema", "val/loss"], labels: ["loss", "smoothed", "validation"], colors: ["--raw", "--blue", "--amber"], widths: [1, 2, 2] },
  grad: { names: ["train/grad_norm"], labels: ["norm"], colors: ["--violet"], widths: [1.3] },
  lr: { names: ["train/learning_rate"], labels: ["rate"], colors: ["--teal"], widths: [1.6] },
  speed: { names: ["train/tokens_per_second"], labels: ["tokens/s"], colors: ["--green"], widths: [1.5], short: true },
  step: { names: ["performance/batch_time_ms"], labels: ["ms"], colors: ["--teal"], widths: [1.3] },
  mfu: { names: ["train/mfu_percent", "train/mfu_causal_percent"], labels: ["MFU", "causal"], colors: ["--blue", "--grey"], widths: [1.6, 1.2] },
  any: { names: [], labels: [], colors: ["--blue"], widths: [1.5] },
};
const plots = {};
let drawnAt = 0, drawnOf = 0, drawnRun = null;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axisText = (v) => (Math.abs(v) >= 10000 ? short(v) : String(Number(v.toPrecision(6))));
const faint = (color, share) => `color-mix(in srgb, ${color} ${share * 100}%, transparent)`;

function columnsOf(chart, answer) {  // uPlot's shape: x, then for each name its line, its highest and its lowest.
  const empty = answer.x.map(() => null), found = chart.names.map((name) => answer.series[name]);
  const columns = found.flatMap((one) => (one ? [one.values, one.max, one.min] : [empty, empty, empty]));
  return { data: [answer.x, ...columns], states: found.map((one) => one?.states ?? null) };
}

function options(id, chart, host) {
  const ink = css("--muted"), grid = css("--grid"), time = store.axis === "time";
  const axis = { stroke: ink, font: FONT, grid: { stroke: grid, width: 1 }, ticks: { show: false }, gap: 4 };
  const series = [{}], bands = [];
  chart.names.forEach((_, i) => {
    const at = series.length;
    const tone = css(chart.colors[i]), edge = { spanGaps: true, stroke: i ? "transparent" : faint(tone, 0.24), width: 1, points: { show: false } };
    series.push({ stroke: tone, width: chart.widths[i], spanGaps: true, points: { show: (u) => sparse(u, at), size: 5 } }, edge, { ...edge });
    bands.push({ series: [at + 1, at + 2], fill: i ? "transparent" : faint(tone, 0.14) });
  });
  return {
    width: host.clientWidth, height: host.clientHeight, series, bands, padding: [8, 16, 0, 0],
    cursor: { sync: { key: "sidecar" }, points: { show: (u, i) => (i % 3 === 1 ? el("div") : null), size: 6 }, drag: { x: true, y: false } }, legend: { show: false },
    scales: { x: { time }, y: id === "loss" && store.logLoss ? { distr: 3 } : { range: (_, low, high) => range(low, high) } },
    axes: [{ ...axis, size: 22, space: 70, label: AXES[store.axis], labelFont: FONT, labelSize: 15, labelGap: 0,
      ...(time ? {} : { values: (_, ticks) => ticks.map((v) => (store.axis === "tokens" ? tokens(v) : axisText(v))) }) },
      { ...axis, size: 54, space: 26, values: (_, ticks) => ticks.map((v) => (v === null ? "" : axisText(v))) }],
    hooks: { draw: [drawBroken], setCursor: [(u) => heading(u, id)] },
  };
}
function sparse(u, at) { let n = 0; for (const v of u.data[at]) if (v !== null && ++n > SPARSE_MAX) return false; return n > 0; }
function range(low, high) {  // At least a tenth of the value: noise must not look like news.
  if (low === null || high === null) return [0, 1];
  const pad = Math.max((high - low) * 0.06, (Math.abs(high) * 0.1 - (high - low)) / 2) || 1;
  return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
}

function latest(u, i, at) {  // Series i at place ``at`` or the last one before it with a value, finite or not.
  const [values, high, low] = [1, 2, 3].map((k) => u.data[3 * i + k]), states = u.states?.[i];
  for (let k = at; k >= 0; k--) if (values[k] !== null || states?.[k]) return { value: values[k], state: states?.[k], high: high[k], low: low[k] };
  return null;
}
function texts(u, id, at) {  // [label, text, range] of each series that has a value there.
  const chart = CHARTS[id], say = (v) => (chart.short ? short(v) : fixed(v));
  return chart.names.map((_, i) => {
    const found = latest(u, i, at);
    if (!found) return null;
    const spread = found.value !== null && i === 0 && found.high > found.low ? ` ${say(found.low)} to ${say(found.high)}` : "";
    return [chart.labels[i], found.value === null ? spelled(found.state) : say(found.value), spread, found.value === null];
  });
}
function heading(u, id) {  // The values at the cursor, or the latest ones, in the chart's own heading.
  const chart = CHARTS[id], at = u.cursor.idx ?? null, x = u.data[0];
  const where = at === null ? "" : store.axis === "time" ? new Date(x[at] * 1000).toLocaleTimeString() : `${store.axis} ${store.axis === "tokens" ? tokens(x[at]) : count(x[at])}`;
  const shown = texts(u, id, at ?? x.length - 1).map((one, i) => one && el("span", {}, el("i", { color: `var(${chart.colors[i]})` }),
    chart.names.length > 1 ? one[0] + " " : "", el("b", { class: one[3] ? "tone bad" : "", text: one[1] }), at === null ? "" : one[2]));
  put(`key-${id}`, [...(where ? [el("span", { text: where })] : []), ...shown.filter(Boolean)]);
}
function drawBroken(u) {  // Where a value was NaN or infinite: a red band from top to bottom, half way to its neighbours.
  const { ctx, bbox } = u, x = u.data[0], right = bbox.left + bbox.width;
  const broken = x.map((_, i) => (u.states || []).some((states) => states?.[i]));
  const edge = (i, j) => Math.min(right, Math.max(bbox.left, (u.valToPos(x[i], "x", true) + u.valToPos(x[j], "x", true)) / 2));
  ctx.save(); ctx.fillStyle = faint(css("--red"), 0.3);
  for (let i = 0; i < x.length; i++) {
    if (!broken[i]) continue;
    const first = i;
    while (broken[i + 1]) i++;
    const from = edge(first, Math.max(0, first - 1)), to = edge(i, Math.min(x.length - 1, i + 1));
    if (to >= bbox.left && from <= right) ctx.fillRect(from, bbox.top, Math.max(to - from, devicePixelRatio), bbox.height);
  }
  ctx.restore();
}

function draw(id, answer) {
  const host = $(`plot-${id}`), chart = CHARTS[id];
  const { data, states } = columnsOf(chart, answer);
  const any = data.slice(1).some((column) => column.some((v) => v !== null)) || states.some(Boolean);
  const shape = `${store.axis}|${store.logLoss}|${chart.names}`;
  if (plots[id] && (plots[id].shape !== shape || !any)) remove(id);
  if (!any) { $(`key-${id}`).replaceChildren(); return put(host, [el("div", { class: "none", text: id === "any" && !store.metric ? "Choose a metric to see its course." : "nothing to show yet" })]); }
  let plot = plots[id];
  if (!plot) {
    host.replaceChildren();
    plot = plots[id] = new uPlot(options(id, chart, host), data, host);
    plot.shape = shape;
    host.querySelector("canvas").setAttribute("role", "img");
  } else plot.setData(data, !zoomed(plot));
  plot.states = states;
  plot.lastX = answer.x.at(-1);
  heading(plot, id);
  const last = texts(plot, id, answer.x.length - 1).filter(Boolean).map(([label, text]) => `${label} ${text}`).join(", ");
  host.querySelector("canvas").setAttribute("aria-label", `Latest: ${last}. ${answer.x.length} points by ${store.axis}.`);
}
function zoomed(u) { return u.scales.x.min > u.data[0][0] || u.scales.x.max < u.lastX; }
function remove(id) { plots[id]?.destroy(); delete plots[id]; }

export async function refreshCharts(force = false) {
  const s = store.status, now = performance.now();
  if (!s || !known(s.run_id) || document.hidden || (!force && (now - drawnAt < REFRESH_MS || drawnOf === store.receivedAt))) return;
  drawnAt = now; drawnOf = store.receivedAt;
  CHARTS.any.names = store.metric ? [store.metric] : []; CHARTS.any.labels = store.metric ? [clean(store.metric, 60)] : [];
  const names = [...new Set(Object.values(CHARTS).flatMap((chart) => chart.names))];
  const run = s.run_id, axis = store.axis, metric = store.metric, parameters = new URLSearchParams({ points: POINTS, x: axis });
  names.forEach((name) => parameters.append("name", name));
  try {
    const answer = await ask(`api/v1/runs/${encodeURIComponent(run)}/history?${parameters}`);
    if (axis !== store.axis || run !== store.status?.run_id || metric !== store.metric) return;  // Something else was chosen meanwhile.
    if (drawnRun !== run) { Object.keys(plots).forEach(remove); drawnRun = run; }
    for (const id of Object.keys(CHARTS)) draw(id, answer);
  } catch (error) { if (error.status !== 404) console.info("charts:", String(error.message)); }
}
export function recolor() { Object.keys(plots).forEach(remove); refreshCharts(true); }  // Light and dark have colours of their own.
export function resize() {
  for (const [id, plot] of Object.entries(plots)) {
    const { clientWidth: width, clientHeight: height } = $(`plot-${id}`);
    if (width && (plot.width !== width || plot.height !== height)) plot.setSize({ width, height });
  }
}
