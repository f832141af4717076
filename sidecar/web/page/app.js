/* The live page. Given: /status, its event stream and the history of a run. Shows them; never changes anything.
   Every text that came from a run is put into the page with textContent, never as markup. No request leaves this host. */
"use strict";

const $ = (id) => document.getElementById(id);
const POLL_MS = 2000, CHART_MS = 1000, POINTS = 700, SPARE_RANKS = 16, HEAT_MAX = 1024;
const store = {
  status: null, receivedAt: 0, run: new URLSearchParams(location.search).get("run"), axis: "step", logLoss: false,
  metric: null, token: takeToken(), link: "connecting", lastOk: 0, chartsAt: 0, chartsFor: null, stream: null,
};

/* ---------- words and numbers ---------- */
const DASH = "–";
const known = (v) => v !== null && v !== undefined && v !== "";
const isNumber = (v) => typeof v === "number" && Number.isFinite(v);
function clean(text, limit = 300) {  // Control and bidirectional characters are not for showing.
  const s = String(text).replace(/[\u0000-\u001f\u007f-\u009f]/g, " ").replace(/[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "");
  return s.length > limit ? s.slice(0, limit - 1) + "…" : s;
}
function fixed(v, digits = 4) {
  if (!isNumber(v)) return DASH;
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size < 1e-3 || size >= 1e7) return v.toExponential(2).replace("e+", "e");
  if (size >= 1000) return v.toLocaleString("en-US", { maximumFractionDigits: 0 });
  return String(Number(v.toPrecision(digits)));
}
function count(v) { return isNumber(v) ? v.toLocaleString("en-US", { maximumFractionDigits: 0 }) : DASH; }
function short(v, unit = "") {
  if (!isNumber(v)) return DASH;
  for (const [size, mark] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(v) >= size) return `${Number((v / size).toPrecision(4))} ${mark}${unit}`;
  return `${Number(v.toPrecision(4))} ${unit}`.trim();
}
function tokens(v) {  // Tokens are spoken of in billions, not giga.
  if (!isNumber(v)) return DASH;
  for (const [size, mark] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (v >= size) return `${Number((v / size).toPrecision(4))} ${mark}`;
  return count(v);
}
function bytes(v) {
  if (!isNumber(v)) return DASH;
  for (const [power, mark] of [[40, "TiB"], [30, "GiB"], [20, "MiB"], [10, "KiB"]])
    if (v >= 2 ** power) return `${Number((v / 2 ** power).toPrecision(3))} ${mark}`;
  return `${v} B`;
}
function percent(v, digits = 1) { return isNumber(v) ? `${v.toFixed(digits)} %` : DASH; }
function span(s) {
  if (!isNumber(s)) return DASH;
  if (s < 1) return `${Number((s * 1000).toPrecision(3))} ms`;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  const whole = Math.round(s), d = Math.floor(whole / 86400), h = Math.floor(whole / 3600) % 24, m = Math.floor(whole / 60) % 60;
  if (d) return `${d} d ${h} h`;
  return h ? `${h} h ${String(m).padStart(2, "0")} min` : `${m} min ${String(whole % 60).padStart(2, "0")} s`;
}

/* ---------- building the page ---------- */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = clean(value);
    else if (name === "width") node.style.width = `${Math.max(0, Math.min(100, value))}%`;
    else if (name === "left") node.style.left = `${Math.max(0, Math.min(100, value))}%`;
    else if (name === "flex") node.style.flexGrow = value;
    else if (name === "color") node.style.background = value;
    else if (known(value) || name === "value") node.setAttribute(name, clean(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
function put(id, nodes) {  // Replace only what differs, so that selections, focus and scrolling survive an update.
  const parent = typeof id === "string" ? $(id) : id;
  const old = [...parent.children];
  nodes.forEach((node, i) => {
    if (!old[i]) parent.append(node);
    else if (!old[i].isEqualNode(node)) old[i].replaceWith(node);
  });
  old.slice(nodes.length).forEach((node) => node.remove());
}
function say(id, text) { const node = $(id); const t = clean(text, 600); if (node.textContent !== t) node.textContent = t; }
function show(id, yes) { if ($(id).hidden === yes) $(id).hidden = !yes; }
function tile(title, value, note = "", unit = "", tone = "") {
  const none = value === DASH;
  return el("div", { class: "tile" }, el("div", { class: "t", text: title }),
    el("div", { class: `v ${none ? "none" : ""} ${tone ? "tone " + tone : ""}` }, clean(value), unit && !none ? el("small", { text: unit }) : null),
    known(note) ? el("div", { class: "n", text: note }) : null);
}
function fact(title, value, tone = "") { return el("div", {}, el("dt", { text: title }), el("dd", { class: tone ? "tone " + tone : "", text: value })); }
function meter(share, text, tone = "", target = null) {
  const bar = el("b", {}, el("i", { width: isNumber(share) ? share * 100 : 0 }));
  if (isNumber(target)) bar.append(el("u", { left: target * 100, title: `target ${percent(target * 100)}` }));
  return el("div", { class: `meter ${tone}` }, bar, el("span", { text }));
}
function cells(...values) { return values.map((v) => (v instanceof Node ? el("td", { class: "fill" }, v) : el("td", { text: v }))); }
function emptyRow(columns, text) { return el("tr", { class: "empty" }, el("td", { colspan: columns, text })); }
function body(id) { return $(id).tBodies[0]; }

const TONE = { running: "good", ok: "good", finished: "calm", starting: "calm", waiting: "off", offline: "warn", paused: "warn",
  stalled: "bad", failed: "bad", failing: "bad", lost: "bad", disabled: "off", full: "bad" };
const PALETTE = { productive: "green", step_productive: "green", init: "grey", redone: "amber", forward: "blue", backward: "violet", optimizer: "teal", data_wait: "amber",
  checkpoint: "violet", evaluation: "teal", sampling: "pink", compile: "grey", startup: "grey", initializing: "grey", starting: "grey", stalled: "red",
  down: "red", other: "grey", unknown: "grey" };
const SPARE = ["blue", "violet", "teal", "amber", "pink", "green"];
function colorOf(name) {
  if (PALETTE[name]) return `var(--${PALETTE[name]})`;
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) >>> 0;
  return `var(--${SPARE[sum % SPARE.length]})`;
}
const spelled = (state) => ({ nan: "NaN", inf: "+∞", "-inf": "−∞" })[state] || state || "";
const words = (name) => clean(name).replaceAll("_", " ");

/* ---------- sections ---------- */
const ended = (s) => ["finished", "failed", "lost"].includes(s.state);
function ticking(s, age) { return isNumber(age) ? age + (ended(s) ? 0 : (performance.now() - store.receivedAt) / 1000) : null; }

function render() {
  const s = store.status;
  if (!s) return;
  const waiting = !known(s.run_id), tone = TONE[s.state] || "off";
  document.body.dataset.state = s.state;
  say("verdict", s.verdict || words(s.state));
  say("state", s.state); $("state").className = `pill ${tone}`;
  document.querySelector(".hero").className = `hero ${tone}`;
  say("project", s.project || ""); say("name", waiting ? "sidecar" : s.name || s.run_id);
  say("stage", s.stage || ""); show("stage", known(s.stage));
  show("waiting", waiting && s.state === "waiting"); show("body", !waiting); show("all-section", !waiting);
  const loss = spelled(s.loss_state) || (isNumber(s.loss) ? s.loss.toFixed(3) : "");
  document.title = clean(waiting ? "sidecar: waiting" : `${s.state === "running" ? "" : s.state + " · "}${count(s.step)} · loss ${loss || DASH} · ${s.name || s.run_id}`, 120);
  const news = waiting ? "" : `${s.state}. ${(s.alerts || []).filter((a) => a.active).map((a) => a.message).join(" ")}`;
  say("news", news);
  renderRuns(s); renderAlive(s); renderAlerts(s); renderSinks(s); renderSelf(s);
  if (waiting) return;
  for (const part of [renderLearning, renderSpeed, renderTime, renderData, renderRanks, renderHardware, renderAll, renderTexts, renderConfig]) part(s);
}

function renderRuns(s) {
  const runs = s.runs || [];
  show("runs-label", runs.length > 1);
  const options = [el("option", { value: "", text: "the newest run" }), ...runs.map((r) => el("option", {
    value: r.run_id, text: `${r.name || r.run_id}${r.stage ? " · " + r.stage : ""} · ${r.state}${isNumber(r.last_step) ? " · " + count(r.last_step) : ""}` }))];
  if (store.run && !runs.some((r) => r.run_id === store.run)) options.push(el("option", { value: store.run, text: store.run }));
  if (document.activeElement !== $("runs")) { put("runs", options); $("runs").value = store.run || ""; }
}

function renderAlive(s) {
  const done = s.progress?.step_percent;
  const track = $("progress");
  track.firstElementChild.style.width = `${isNumber(done) ? Math.min(100, done) : 0}%`;
  track.hidden = !isNumber(done);
  if (isNumber(done)) track.setAttribute("aria-valuenow", done.toFixed(1));
  if (!known(s.run_id)) return put("alive", []);
  const age = ticking(s, s.last_step_age_seconds);
  const late = !ended(s) && isNumber(age) && isNumber(s.stall_limit_seconds) && age > s.stall_limit_seconds;
  const sinks = Object.values(s.sinks || {}), well = sinks.filter((k) => k.state === "ok").length;
  const ill = sinks.some((k) => k.state === "failing");
  put("alive", [
    fact("step", known(s.total_steps) ? `${count(s.step)} of ${count(s.total_steps)}` : count(s.step)),
    fact(s.phase ? `last step (${words(s.phase)} now)` : "last step", isNumber(age) ? `${span(Math.max(0, age))} ago` : DASH, late ? "bad" : ""),
    fact("elapsed", span(ticking(s, s.elapsed_seconds))),
    fact("left", ended(s) ? DASH : isNumber(s.eta?.seconds) ? span(s.eta.seconds) : s.eta?.reason || DASH),
    fact("epoch", isNumber(s.epoch) ? fixed(s.epoch, 3) : DASH),
    fact("attempts", isNumber(s.restarts) ? `${s.restarts + 1}` : DASH, s.restarts ? "warn" : ""),
    fact("sinks well", sinks.length ? `${well} of ${sinks.length}` : "none set", ill ? "bad" : ""),
    fact("events lost", count(s.lost_events), s.lost_events ? "bad" : ""),
  ].filter((f) => f.lastChild.textContent !== DASH || f.firstChild.textContent === "last step"));
}

function renderAlerts(s) {
  const alerts = s.alerts || [], tones = { critical: "bad", warning: "warn", info: "calm" };
  const active = alerts.filter((a) => a.active), past = alerts.filter((a) => !a.active).slice(0, active.length ? 2 : 3);
  put("alerts", [...active, ...past].slice(0, 8).map((a) => el("li", { class: a.active ? tones[a.severity] || "warn" : "past" },
    el("b", { text: a.active ? words(a.name) : `earlier: ${words(a.name)}` }), el("span", { text: a.message + (a.count > 1 ? ` (${count(a.count)} times)` : "") }))));
}

function renderLearning(s) {
  const val = Object.entries(s.val || {});
  const main = val.find(([name]) => name === "loss") || val[0];
  const bad = Boolean(s.loss_state);
  put("learning-tiles", [
    tile("loss", bad ? spelled(s.loss_state) : isNumber(s.loss) ? s.loss.toFixed(4) : DASH, bad ? "not a finite number" : "", "", bad ? "bad" : ""),
    tile("smoothed", isNumber(s.loss_smoothed) ? s.loss_smoothed.toFixed(4) : DASH, isNumber(s.perplexity) ? `perplexity ${fixed(s.perplexity)}` : ""),
    tile(`validation ${main ? words(main[0]) : "loss"}`, main ? fixed(main[1]) : DASH, val.filter((v) => v !== main).slice(0, 2).map(([n, v]) => `${words(n)} ${fixed(v)}`).join(", ")),
    tile("learning rate", fixed(s.learning_rate, 3)),
    tile("gradient norm", spelled(s.grad_norm_state) || fixed(s.grad_norm, 3), "", "", s.grad_norm_state ? "bad" : ""),
    tile("tokens seen", tokens(s.tokens), known(s.samples) && s.samples ? `${count(s.samples)} samples` : ""),
  ]);
}

function renderSpeed(s) {
  const mfu = s.mfu || {}, d = mfu.denominator || {}, t = s.step_time || {};
  const of = isNumber(d.peak_flops_per_device) ? `of ${d.devices || 1} × ${short(d.peak_flops_per_device, "FLOP/s")}${d.dtype ? " " + d.dtype : ""}${mfu.source ? ", " + mfu.source : ""}` : "";
  put("speed-tiles", [
    tile("tokens", isNumber(s.tokens_per_second) ? short(s.tokens_per_second) : DASH, isNumber(s.samples_per_second) ? `${fixed(s.samples_per_second, 3)} samples/s` : "", "/s"),
    tile("step time, median", span(t.p50_seconds), isNumber(t.p95_seconds) ? `p95 ${span(t.p95_seconds)}, p99 ${span(t.p99_seconds)}` : ""),
    tile("steps", isNumber(s.steps_per_second) ? fixed(s.steps_per_second, 3) : DASH, "", "/s"),
    tile("MFU", percent(mfu.percent), isNumber(mfu.percent) ? [mfu.convention, of].filter(Boolean).join("; ") : mfu.reason || "not known yet", "", mfu.percent > 100 ? "bad" : ""),
    tile("MFU, causal", percent(mfu.causal_percent), isNumber(mfu.reported_percent) ? `the script says ${percent(mfu.reported_percent)}` : ""),
    tile("compute", isNumber(s.flops_per_second) ? short(s.flops_per_second) : DASH, isNumber(s.flops) ? `${short(s.flops, "FLOP")} so far` : "", "FLOP/s"),
  ]);
  say("cap-mfu", `MFU, percent${isNumber(mfu.percent) && mfu.convention ? " · " + mfu.convention.split(",")[0] : ""}`);
}

function stack(which, seconds, label) {
  const parts = Object.entries(seconds).filter(([, v]) => isNumber(v) && v > 0).sort((a, b) => b[1] - a[1]);
  const total = parts.reduce((sum, [, v]) => sum + v, 0) || 1;
  put(`stack-${which}`, parts.map(([name, v]) => el("i", { flex: v / total, color: colorOf(name), title: `${words(name)}: ${span(v)}` })));
  $(`stack-${which}`).setAttribute("aria-label", `${label}: ${parts.map(([n, v]) => `${words(n)} ${percent((v / total) * 100)}`).join(", ")}`);
  put(`legend-${which}`, parts.slice(0, 12).map(([name, v]) => el("li", {}, el("i", { color: colorOf(name) }), words(name), el("span", { text: ` ${percent((v / total) * 100)} · ${span(v)}` }))));
  return parts.length;
}
function renderTime(s) {
  const g = s.goodput || {};
  say("goodput", isNumber(g.ratio) ? `${percent(g.ratio * 100)} goodput: time in steps that counted` : "");
  stack("states", g.seconds || {}, "Time by state");
  const phases = Object.fromEntries(Object.entries(s.phases || {}).map(([name, p]) => [name, p.seconds_total]));
  const some = stack("phases", phases, "Time by phase");
  for (const id of ["phases-title", "stack-phases", "legend-phases"]) show(id, some > 0);
}

function renderData(s) {
  const mixture = Object.entries(s.dataset?.mixture || {});
  say("data-current", s.dataset?.current ? `now ${s.dataset.current}` : "");
  put(body("mixture"), mixture.length ? mixture.sort((a, b) => (b[1].ratio || 0) - (a[1].ratio || 0)).slice(0, 100).map(([name, d]) => el("tr", {},
    el("td", { text: name }), ...cells(meter(d.ratio, percent(isNumber(d.ratio) ? d.ratio * 100 : null), "", d.target_ratio),
      d.tokens ? `${tokens(d.tokens)} tokens` : `${count(d.samples)} samples`,
      isNumber(d.coverage) ? (d.coverage >= 1 ? `${d.coverage.toFixed(2)} epochs` : percent(d.coverage * 100)) : DASH)))
    : [emptyRow(4, "This run does not say what it reads: run.dataset(\"name\", samples=…, tokens=…)")]);
}

function renderRanks(s) {
  const ranks = s.ranks || [];
  const times = ranks.map((r) => r.step_seconds).filter(isNumber).sort((a, b) => a - b);
  const median = times.length ? times[times.length >> 1] : null;
  const fastest = Math.max(...ranks.map((r) => r.tokens_per_second || 0), 0);
  const ahead = Math.max(...ranks.map((r) => r.step ?? -1), -1);
  const ill = ranks.filter((r) => ["failed", "lost"].includes(r.state)).length;
  say("ranks-note", ranks.length ? `${ranks.length} of ${s.world_size || ranks.length} present${ill ? `, ${ill} gone` : ""}${known(median) ? `, median step ${span(median)}` : ""}` : "");
  put("heat", ranks.length > 1 ? ranks.slice(0, HEAT_MAX).map((r) => {
    const over = isNumber(r.step_seconds) && median ? Math.max(0, Math.min(1, (r.step_seconds / median - 1) / 0.25)) : 0;
    const cell = el("span", { text: r.rank, class: ["failed", "lost"].includes(r.state) ? "lost" : "",
      title: `rank ${r.rank}${r.host ? " on " + r.host : ""}: ${r.state}, step ${count(r.step)}, ${span(r.step_seconds)}` });
    cell.style.background = `color-mix(in srgb, var(--amber) ${Math.round(over * 85)}%, color-mix(in srgb, var(--green) 22%, var(--card)))`;
    return cell;
  }) : []);
  const rows = ranks.length <= SPARE_RANKS ? ranks : [...ranks].sort((a, b) =>
    (["failed", "lost"].includes(b.state) - ["failed", "lost"].includes(a.state)) || (b.step_seconds || 0) - (a.step_seconds || 0)).slice(0, 5);
  put(body("ranks"), rows.length ? rows.map((r) => el("tr", {},
    el("td", { text: r.rank }), el("td", {}, el("span", { class: `pill ${TONE[r.state] || "off"}`, text: r.phase ? `${r.state}, ${words(r.phase)}` : r.state, title: r.reason || "" })),
    ...cells(`${count(r.step)}${isNumber(r.step) && r.step < ahead ? ` (${r.step - ahead})` : ""}`, isNumber(r.age_seconds) ? `${span(r.age_seconds)} ago` : DASH, span(r.step_seconds),
      meter(fastest ? (r.tokens_per_second || 0) / fastest : null, isNumber(r.tokens_per_second) ? short(r.tokens_per_second) : DASH,
        isNumber(r.step_seconds) && median && r.step_seconds > median * 1.1 ? "warn" : ""), count(r.sessions), r.host || DASH)))
    : [emptyRow(8, "No rank has reported yet.")]);
}

function renderHardware(s) {
  const gpus = s.gpus || [], host = s.host || {};
  const watts = gpus.reduce((sum, g) => sum + (g.power_watts || 0), 0);
  say("gpu-note", gpus.length ? `${gpus.length} GPU${gpus.length > 1 ? "s" : ""}${watts ? `, ${short(watts, "W")} together` : ""}` : `no GPU: ${s.gpu?.reason || "no reading yet"}`);
  put("gpus", gpus.slice(0, 64).map((g) => {
    const hot = (g.throttle_reasons || []).filter((r) => r !== "gpu_idle" && r !== "applications_clocks_setting");
    const row = (name, share, text, tone) => el("div", { class: "row" }, el("span", { text: name }), meter(share, text, tone));
    return el("div", { class: `card gpu ${g.lost ? "lost" : ""}` },
      el("h3", {}, `GPU ${clean(g.index ?? "?")}`, el("span", { class: "muted", text: g.name || g.uuid || "", title: g.uuid || "" }),
        g.lost ? el("span", { class: "pill bad", text: "gone" }) : hot.length ? el("span", { class: "pill warn", text: words(hot[0]), title: hot.map(words).join(", ") }) : null),
      isNumber(g.utilization_percent) ? row("busy", g.utilization_percent / 100, percent(g.utilization_percent, 0)) : null,
      isNumber(g.memory_used_bytes) ? row("memory", g.memory_used_bytes / g.memory_total_bytes, `${bytes(g.memory_used_bytes).replace(" GiB", "")} of ${bytes(g.memory_total_bytes)}`, g.memory_used_bytes > 0.97 * g.memory_total_bytes ? "warn" : "") : null,
      isNumber(g.power_watts) ? row("power", g.power_watts / (g.power_limit_watts || g.power_watts), `${Math.round(g.power_watts)} W`) : null,
      el("div", { class: "foot" }, ...[isNumber(g.temperature_celsius) ? `${Math.round(g.temperature_celsius)} °C` : null, isNumber(g.sm_clock_hertz) ? `${(g.sm_clock_hertz / 1e9).toFixed(2)} GHz` : null,
        g.ecc_uncorrected_errors_total ? `${count(g.ecc_uncorrected_errors_total)} ECC errors` : null].filter(Boolean).map((text) => el("span", { text }))));
  }));
  put("host-tiles", [
    tile("host cpu", percent(host.cpu_percent, 0), isNumber(host.cpu_count) ? `${count(host.cpu_count)} cores` : ""),
    tile("host memory", bytes(host.memory_used_bytes), isNumber(host.memory_total_bytes) ? `of ${bytes(host.memory_limit_bytes || host.memory_total_bytes)}` : ""),
    tile("trainer cpu", percent(host.trainer_cpu_percent, 0), isNumber(host.trainer_processes) ? `${count(host.trainer_processes)} process${host.trainer_processes === 1 ? "" : "es"}` : ""),
    tile("trainer memory", bytes(host.trainer_memory_bytes)),
    tile("disk free", bytes(host.disk_free_bytes), isNumber(host.disk_percent) ? `${percent(host.disk_percent, 0)} used` : "", "", host.disk_percent > 95 ? "bad" : ""),
    tile("energy", isNumber(s.energy_joules) ? `${fixed(s.energy_joules / 3.6e6, 3)}` : DASH, isNumber(s.energy_joules) && s.tokens ? `${fixed((s.energy_joules / s.tokens) * 1000, 3)} mJ a token` : "", "kWh"),
  ].filter((node) => !node.querySelector(".none")));
}

function renderSinks(s) {
  const sinks = Object.entries(s.sinks || {});
  put(body("sinks"), sinks.length ? sinks.map(([name, k]) => el("tr", {}, el("td", { text: name }),
    el("td", {}, el("span", { class: `pill ${TONE[k.state] || "off"}`, text: k.state })),
    el("td", { class: "fill muted" }, sinkNote(k)),
    ...cells(k.lag_events ? `${count(k.lag_events)} rows${isNumber(k.lag_seconds) ? ", " + span(k.lag_seconds) : ""}` : "0", count(k.delivered_rows), count(k.failures))))
    : [emptyRow(6, "Nowhere else: add one with --sink wandb,tensorboard. The journal keeps everything meanwhile.")]);
}
function sinkNote(k) {
  const web = /^https?:\/\//.test(k.url || "");
  const link = web ? el("a", { href: k.url, rel: "noreferrer noopener", target: "_blank", text: k.url }) : el("span", { text: k.url || "" });
  return el("span", {}, known(k.reason) ? clean(k.reason) + " " : "", link);
}

function renderSelf(s) {
  const me = s.sidecar || {}, rejected = Object.entries(me.frames_rejected || {}).filter(([, n]) => n), j = me.journal || {};
  say("version", `trainer-sidecar ${me.version || ""}`);
  put("self", [
    fact("events taken in", count(me.events_total)),
    fact("lost", me.events_lost_total ? `${count(me.events_lost_total)} (${Object.entries(me.events_lost).map(([r, n]) => `${words(r)} ${n}`).join(", ")})` : "none", me.events_lost_total ? "bad" : ""),
    fact("refused frames", rejected.length ? rejected.map(([r, n]) => `${words(r)} ${n}`).join(", ") : "none"),
    fact("event to journal, p50 and p99", isNumber(me.intake_latency?.p50_seconds) ? `${span(me.intake_latency.p50_seconds)}, ${span(me.intake_latency.p99_seconds)}` : DASH),
    fact("journal", `${j.state || DASH}${j.reason ? ": " + j.reason : ""}${j.bytes ? ", " + bytes(j.bytes) : ""}`, j.state && j.state !== "ok" ? "bad" : ""),
    ...Object.entries(me.collectors || {}).filter(([, c]) => !c.success).map(([name, c]) => fact(`collector ${name}`, c.reason || "failing")),
    ...(isNumber(s.host?.sidecar_memory_bytes) ? [fact("what it takes", `${percent(s.host.sidecar_cpu_percent)} of a core, ${bytes(s.host.sidecar_memory_bytes)}`)] : []),
    fact("data", me.data_dir || DASH),
    fact("up", `${span(me.uptime_seconds)}, pid ${me.pid || DASH}`),
  ]);
}

function renderAll(s) {
  const filter = $("filter").value.trim().toLowerCase();
  const all = Object.entries(s.metrics || {}).filter(([, m]) => m.state || typeof m.value === "number").sort((a, b) => (a[0] < b[0] ? -1 : 1));
  if (!store.metric && all.length) { store.metric = (["val/", "eval/", "train/perplexity", ""].map((p) => all.find(([name]) => name.startsWith(p))).find(Boolean))[0]; say("cap-any", store.metric); }
  const found = all.filter(([name]) => name.toLowerCase().includes(filter));
  say("all-note", filter ? `${found.length} of ${all.length}` : `${all.length} metrics`);
  put(body("all"), found.length ? found.slice(0, 300).map(([name, m]) => {
    const button = el("button", { type: "button", text: name, "data-metric": name });
    return el("tr", { class: name === store.metric ? "on" : "" }, el("td", { class: "fill" }, button),
      el("td", { text: spelled(m.state) || fixed(m.value), class: m.state ? "tone bad" : "", title: m.unit || "" }), el("td", { text: count(m.step) }));
  }) : [emptyRow(3, filter ? "Nothing fits that filter." : "Nothing logged yet.")]);
}

function renderTexts(s) {
  const texts = Object.entries(s.texts || {});
  show("texts-section", texts.length > 0);
  const nodes = texts.slice(0, 20).flatMap(([name, t]) => {
    const pre = el("pre");  // Line breaks stay; control and bidirectional characters do not.
    pre.textContent = String(t.value ?? "").slice(0, 20000).split("\n").map((line) => clean(line, 5000)).join("\n");
    return [el("h3", { text: `${name}${known(t.step) ? " · step " + count(t.step) : ""}` }), pre];
  });
  put("texts", nodes);
}

function flat(object, prefix = "") {
  return Object.entries(object || {}).flatMap(([key, value]) => (value && typeof value === "object" && !Array.isArray(value)
    ? flat(value, `${prefix}${key}.`) : [[prefix + key, value]]));
}
function renderConfig(s) {
  const rows = [["run id", s.run_id], ["group", s.group], ["tags", (s.tags || []).join(", ")], ["notes", s.notes], ["started", s.started_at],
    ...flat(s.model_facts, "model."), ...flat(s.config)].filter(([, v]) => known(v));
  show("config-section", rows.length > 0);
  put(body("config"), rows.slice(0, 500).map(([name, v]) => el("tr", {}, el("td", { text: name }),
    el("td", { text: typeof v === "string" ? v : typeof v === "number" ? (Number.isInteger(v) ? count(v) : fixed(v)) : JSON.stringify(v) }))));
}

/* ---------- charts ---------- */
const CHARTS = {
  loss: { names: ["train/loss", "train/loss_ema", "val/loss"], labels: ["loss", "smoothed", "validation"], colors: ["--raw", "--blue", "--amber"], widths: [1, 2, 2] },
  grad: { names: ["train/grad_norm"], labels: ["norm"], colors: ["--violet"], widths: [1.3] },
  lr: { names: ["train/learning_rate"], labels: ["rate"], colors: ["--teal"], widths: [1.6] },
  speed: { names: ["train/tokens_per_second"], labels: ["tokens/s"], colors: ["--green"], widths: [1.5], short: true },
  step: { names: ["performance/batch_time_ms"], labels: ["ms"], colors: ["--teal"], widths: [1.3] },
  mfu: { names: ["train/mfu_percent", "train/mfu_causal_percent"], labels: ["full", "causal"], colors: ["--blue", "--grey"], widths: [1.6, 1.2] },
  any: { names: [], labels: [], colors: ["--blue"], widths: [1.5] },
};
const plots = {};
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axisText = (v) => (Math.abs(v) >= 10000 ? short(v).replace(" ", "") : String(Number(v.toPrecision(6))));

function columnsOf(chart, answer) {  // uPlot's shape: x, then for each name its line, its highest and its lowest.
  const empty = answer.x.map(() => null);
  const columns = chart.names.flatMap((name) => {
    const found = answer.series[name];
    return found ? [found.values, found.max, found.min] : [empty, empty, empty];
  });
  const broken = answer.x.filter((_, i) => chart.names.some((name) => answer.series[name]?.states?.[i]));
  return { data: [answer.x, ...columns], broken };
}

function options(id, chart, host) {
  const ink = css("--muted"), grid = css("--grid"), time = store.axis === "time";
  const axis = { stroke: ink, font: "11px system-ui, sans-serif", grid: { stroke: grid, width: 1 }, ticks: { show: false }, gap: 4 };
  const series = [{}];
  const bands = [];
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
    axes: [{ ...axis, size: 26, space: 70, ...(time ? {} : { values: (_, ticks) => ticks.map((v) => (store.axis === "tokens" ? tokens(v) : axisText(v))) }) },
      { ...axis, size: 54, space: 26, values: (_, ticks) => ticks.map((v) => (v === null ? "" : axisText(v))) }],
    hooks: { draw: [(u) => drawBroken(u)], setCursor: [(u) => key(u, id)] },
  };
}
function sparse(u, at) { let n = 0; for (const v of u.data[at]) if (v !== null && ++n > 60) return false; return n > 0; }
function range(low, high) {  // At least a tenth of the value: noise must not look like news.
  if (low === null || high === null) return [0, 1];
  const pad = Math.max((high - low) * 0.06, (Math.abs(high) * 0.1 - (high - low)) / 2) || 1;
  return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
}
function faint(color, share) { return `color-mix(in srgb, ${color} ${share * 100}%, transparent)`; }
function key(u, id) {  // The values at the cursor, or the latest ones, in the chart's own heading.
  const chart = CHARTS[id], at = u.cursor.idx ?? null, x = u.data[0];
  const text = (v) => (chart.short ? short(v) : fixed(v));
  const near = (column) => { for (let i = at ?? column.length - 1; i >= 0; i--) if (column[i] !== null) return column[i]; return null; };
  const where = at === null ? "" : store.axis === "time" ? new Date(x[at] * 1000).toLocaleTimeString() : `${store.axis} ${store.axis === "tokens" ? tokens(x[at]) : count(x[at])}`;
  put(`key-${id}`, [...(where ? [el("span", { text: where })] : []), ...chart.names.flatMap((_, i) => {
    const [v, high, low] = [1, 2, 3].map((k) => near(u.data[3 * i + k]));
    if (v === null) return [];
    return [el("span", {}, el("i", { color: `var(${chart.colors[i]})` }), chart.names.length > 1 ? chart.labels[i] + " " : "", el("b", { text: text(v) }),
      at !== null && i === 0 && high > low ? ` ${text(low)} to ${text(high)}` : "")];
  })]);
}
function drawBroken(u) {  // Where a value was NaN or infinite: a red line from top to bottom.
  const { ctx, bbox } = u;
  ctx.save(); ctx.strokeStyle = css("--red"); ctx.lineWidth = devicePixelRatio;
  for (const x of u.broken || []) { const px = u.valToPos(x, "x", true); ctx.beginPath(); ctx.moveTo(px, bbox.top); ctx.lineTo(px, bbox.top + bbox.height); ctx.stroke(); }
  ctx.restore();
}

function draw(id, answer) {
  const host = $(`plot-${id}`), chart = CHARTS[id];
  const { data, broken } = columnsOf(chart, answer);
  const any = data.slice(1).some((column) => column.some((v) => v !== null));
  const shape = `${store.axis}|${store.logLoss}|${chart.names}|${any}`;
  let plot = plots[id];
  if (plot && plot.shape !== shape) { plot.destroy(); plot = plots[id] = null; }
  if (!any) { $(`key-${id}`).replaceChildren(); put(host, [el("div", { class: "none", text: id === "any" && !store.metric ? "Its course shows here." : "nothing to show yet" })]); return; }
  if (!plot) {
    host.replaceChildren();
    plot = plots[id] = new uPlot(options(id, chart, host), data, host);
    plot.shape = shape;
    host.querySelector("canvas").setAttribute("role", "img");
  } else plot.setData(data, !zoomed(plot));
  plot.broken = broken;
  key(plot, id);
  const last = chart.names.map((_, i) => `${chart.labels[i]} ${fixed(data[1 + 3 * i].findLast((v) => v !== null) ?? null)}`).join(", ");
  host.querySelector("canvas").setAttribute("aria-label", `Latest: ${last}. ${answer.x.length} points by ${store.axis}.`);
}
function zoomed(u) { const x = u.data[0]; return u.scales.x.min > x[0] || u.scales.x.max < u.lastMax; }

async function refreshCharts(force = false) {
  const s = store.status, now = performance.now();
  if (!s || !known(s.run_id) || document.hidden || (!force && (now - store.chartsAt < CHART_MS || store.chartsOf === store.receivedAt))) return;
  store.chartsAt = now; store.chartsOf = store.receivedAt;
  CHARTS.any.names = store.metric ? [store.metric] : []; CHARTS.any.labels = store.metric ? [clean(store.metric, 60)] : [];
  const names = [...new Set(Object.values(CHARTS).flatMap((chart) => chart.names))];
  const run = s.run_id, axis = store.axis, parameters = new URLSearchParams({ points: POINTS, x: axis });
  names.forEach((name) => parameters.append("name", name));
  try {
    const answer = await ask(`api/v1/runs/${encodeURIComponent(run)}/history?${parameters}`);
    if (axis !== store.axis || run !== store.status.run_id) return;
    if (store.chartsFor !== run) { for (const id of Object.keys(plots)) { plots[id]?.destroy(); plots[id] = null; $(`plot-${id}`).replaceChildren(); } store.chartsFor = run; }
    for (const id of Object.keys(CHARTS)) { draw(id, answer); if (plots[id]) plots[id].lastMax = answer.x.at(-1); }
  } catch (error) { if (error.status !== 404) console.info("charts:", String(error.message)); }
}

/* ---------- getting the numbers ---------- */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) { sessionStorage.setItem("sidecar-token", given); history.replaceState(null, "", location.pathname + location.search); }
  return sessionStorage.getItem("sidecar-token");
}
function headers() { return store.token ? { Authorization: `Bearer ${store.token}` } : {}; }
class Refused extends Error { constructor(status, message) { super(message); this.status = status; } }
async function ask(path, more = {}) {
  const answer = await fetch(path, { headers: headers(), cache: "no-store", ...more });
  if (answer.status === 401) { show("token-form", true); if (store.token) say("token-note", "That token was not accepted."); }
  if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).error || `status ${answer.status}`);
  show("token-form", false);
  return more.raw ? answer : answer.json();
}
const query = () => (store.run ? `?run=${encodeURIComponent(store.run)}` : "");

function take(status) { store.status = status; store.receivedAt = performance.now(); store.lastOk = Date.now(); render(); refreshCharts(); }
function merge(target, patch) {  // RFC 7386
  for (const [key, value] of Object.entries(patch)) {
    const inner = value && typeof value === "object" && !Array.isArray(value);
    if (inner) target[key] = merge(target[key] && typeof target[key] === "object" && !Array.isArray(target[key]) ? target[key] : {}, value);
    else target[key] = value;
  }
  return target;
}
function link(kind, text) { store.link = kind; $("link").className = `link ${kind}`; say("link-text", text); }

async function follow() {  // Server-sent events through fetch, because EventSource cannot carry a token.
  const mine = (store.stream = new AbortController());
  let wait = 500;
  while (store.stream === mine) {
    let watchdog = 0;
    const patience = () => { clearTimeout(watchdog); watchdog = setTimeout(() => attempt.abort(), 25000); };
    const attempt = new AbortController(), stop = () => attempt.abort();
    mine.signal.addEventListener("abort", stop);
    try {
      patience();
      const answer = await ask(`api/v1/stream${query()}`, { signal: attempt.signal, raw: true });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        patience();
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) if (handle(event)) { wait = 500; link("live", "live"); }
      }
    } catch (error) { if (store.stream === mine) await fallback(error); }
    clearTimeout(watchdog); mine.signal.removeEventListener("abort", stop);
    if (store.stream !== mine) return;
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 1.7, POLL_MS);
  }
}
function handle(event) {
  const fields = Object.fromEntries(event.split("\n").filter((line) => line && !line.startsWith(":")).map((line) => { const at = line.indexOf(":"); return [line.slice(0, at), line.slice(at + 1).trim()]; }));
  if (!fields.data) return event.startsWith(":");
  const data = JSON.parse(fields.data);
  if (fields.event === "delta" && store.status) take(merge(store.status, data));
  else if (fields.event === "snapshot") take(data);
  return true;
}
async function fallback(error) {
  if (error.status === 404 && store.run) { link("down", "no such run"); return say("verdict", `There is no run ${store.run} here. Choose another above.`); }
  try { take(await ask(`status${query()}`)); link("poll", "polling"); }
  catch (second) {
    if (second.status === 401) return link("down", "token needed");
    const since = store.lastOk ? ` since ${new Date(store.lastOk).toLocaleTimeString()}` : "";
    link("down", `no answer${since}`);
    if (!store.lastOk) say("verdict", "The sidecar does not answer. Training is not affected.");
    else if (store.status && ended(store.status)) link("down", "sidecar stopped; last state shown");
  }
}
/* ---------- what a reader can do ---------- */
function choose(run) {
  store.run = run || null;
  history.replaceState(null, "", location.pathname + query());
  store.stream?.abort();
  follow();
}
function start() {
  $("runs").addEventListener("change", (e) => { choose(e.target.value); e.target.blur(); });
  $("filter").addEventListener("input", () => store.status && renderAll(store.status));
  $("all").addEventListener("click", (e) => {
    const name = e.target.closest("button")?.dataset.metric;
    if (!name) return;
    store.metric = name; say("cap-any", name); renderAll(store.status); refreshCharts(true);
  });
  $("axis").addEventListener("click", (e) => {
    const chosen = e.target.closest("button");
    if (!chosen) return;
    store.axis = chosen.dataset.x;
    for (const button of $("axis").children) button.setAttribute("aria-pressed", String(button === chosen));
    refreshCharts(true);
  });
  $("log-scale").addEventListener("click", () => { store.logLoss = !store.logLoss; $("log-scale").setAttribute("aria-pressed", String(store.logLoss)); refreshCharts(true); });
  $("token-form").addEventListener("submit", (e) => { e.preventDefault(); store.token = $("token").value.trim(); sessionStorage.setItem("sidecar-token", store.token); choose(store.run); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { render(); refreshCharts(true); } });
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(redraw, 120); });
  setInterval(() => { if (store.status && !document.hidden) { renderAlive(store.status); refreshCharts(); } }, 1000);
  follow();
}
function redraw() { for (const id of Object.keys(plots)) { plots[id]?.destroy(); plots[id] = null; } refreshCharts(true); }
start();
