/* The sections of the page but for the charts. Given: a status object. Hands on: what is shown of it.
   Never: computes a training number; the sidecar did. */
import { DASH, ago, bytes, clean, count, fixed, isNumber, known, lossText, percent, scaled, short, span, spelled, tokens, words } from "./format.js";
import { $, body, cells, el, emptyRow, fact, meter, pill, put, say, show, tile } from "./dom.js";
import { ended, store } from "./store.js";

const TABLE_RANKS_MAX = 16, SLOWEST_SHOWN = 5, HEAT_MAX = 1024, GPUS_MAX = 64, METRICS_MAX = 300, SLOW_RATIO = 1.1, SHARE_MIN = 0.0005;
const TONE = { running: "good", ok: "good", finished: "calm", starting: "calm", waiting: "off", offline: "warn", paused: "warn",
  stalled: "bad", failed: "bad", failing: "bad", lost: "bad", disabled: "off", full: "bad" };
const SEVERITY = { critical: "bad", warning: "warn", info: "calm" };
const PALETTE = { productive: "green", step_productive: "green", init: "grey", redone: "amber", forward: "blue", backward: "violet",
  optimizer: "teal", data_wait: "amber", checkpoint: "violet", evaluation: "teal", sampling: "pink", compile: "grey", startup: "grey",
  initializing: "grey", starting: "grey", stalled: "red", down: "red", other: "grey", unknown: "grey" };
const OTHER_COLORS = ["blue", "violet", "teal", "amber", "pink", "green"];
const order = new Intl.Collator("en", { numeric: true }).compare;  // layer_2 before layer_10.
const gone = (rank) => ["failed", "lost"].includes(rank.state);

function colorOf(name) {
  if (PALETTE[name]) return `var(--${PALETTE[name]})`;
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) >>> 0;
  return `var(--${OTHER_COLORS[sum % OTHER_COLORS.length]})`;
}
function ticking(s, age) { return isNumber(age) ? age + (ended(s) ? 0 : (performance.now() - store.receivedAt) / 1000) : null; }

export function renderTitle() {  // All that is seen of a tab in the background.
  const s = store.status;
  if (!s) return;
  const state = s.state === "running" ? "" : `${s.state} · `, loss = spelled(s.loss_state) || lossText(s.loss, 3);
  document.title = clean(known(s.run_id) ? `${state}${count(s.step)} · loss ${loss} · ${s.name || s.run_id}` : "sidecar: waiting", 120);
}

export function render() {
  const s = store.status;
  if (!s) return;
  const waiting = !known(s.run_id), tone = TONE[s.state] || "off", active = (s.alerts || []).filter((a) => a.active);
  say("verdict", s.verdict || words(s.state));
  say("state", s.state); $("state").className = `pill ${tone}`;
  // A run whose loss is NaN still runs: the frame shows the worst that is known.
  document.querySelector(".hero").className = `hero ${active.some((a) => a.severity === "critical") || s.loss_state ? "bad" : tone}`;
  say("project", s.project || ""); say("name", waiting ? "sidecar" : s.name || s.run_id);
  $("name").title = clean(waiting ? "" : s.name || s.run_id); $("project").title = clean(s.project || "");
  say("stage", s.stage || ""); show("stage", known(s.stage));
  show("waiting", waiting && s.state === "waiting"); show("body", !waiting); show("all-section", !waiting);
  // Read aloud when it changes: no numbers, which change all the time.
  say("news", waiting ? "" : `${words(s.state)}. ${active.map((a) => words(a.name)).join(", ")}`);
  renderRuns(s); renderAlive(s); renderAlerts(s); renderSinks(s); renderSelf(s);
  if (waiting) return;
  for (const part of [renderLearning, renderSpeed, renderTime, renderData, renderRanks, renderHardware, renderAll, renderTexts, renderConfig]) part(s);
}

export function renderRuns(s) {
  const runs = s.runs || [];
  show("runs-label", runs.length > 1 || known(store.run));
  if (document.activeElement === $("runs")) return;  // Its list may be open.
  const options = [el("option", { value: "", text: "the newest run" }), ...runs.map((r) => el("option", {
    value: r.run_id, text: `${r.name || r.run_id}${r.stage ? " · " + r.stage : ""} · ${r.state}${isNumber(r.last_step) ? " · " + count(r.last_step) : ""}` }))];
  if (store.run && !runs.some((r) => r.run_id === store.run)) options.push(el("option", { value: store.run, text: store.run }));
  put("runs", options); $("runs").value = store.run || "";
}

function endOf(s) {
  const started = Date.parse(s.started_at);
  if (!isNumber(started) || !isNumber(s.elapsed_seconds)) return DASH;
  return new Date(started + s.elapsed_seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export function renderAlive(s) {
  const done = s.progress?.step_percent;
  const track = $("progress");
  track.firstElementChild.style.width = `${isNumber(done) ? Math.min(100, done) : 0}%`;
  track.hidden = !isNumber(done);
  if (isNumber(done)) track.setAttribute("aria-valuenow", done.toFixed(1));
  if (!known(s.run_id)) return put("alive", []);
  const age = ticking(s, s.last_step_age_seconds);
  const late = !ended(s) && isNumber(age) && isNumber(s.stall_limit_seconds) && age > s.stall_limit_seconds;
  const sinks = Object.values(s.sinks || {}), well = sinks.filter((k) => k.state === "ok").length;
  const failing = sinks.some((k) => k.state === "failing");
  put("alive", [
    fact("step", known(s.total_steps) ? `${count(s.step)} of ${count(s.total_steps)}` : count(s.step)),
    ended(s) ? fact("ended", endOf(s))  // Its ages stand still: "1 s ago" would be said for ever.
      : fact(s.phase ? `last step (${words(s.phase)} now)` : "last step", ago(age), late ? "bad" : ""),
    fact("elapsed", span(ticking(s, s.elapsed_seconds))),
    fact("ETA", ended(s) ? DASH : isNumber(s.eta?.seconds) ? span(s.eta.seconds) : s.eta?.reason || DASH),
    fact("epoch", isNumber(s.epoch) ? fixed(s.epoch, 3) : DASH),
    fact("restarts", count(s.restarts), s.restarts ? "warn" : ""),
    fact("sinks ok", sinks.length ? `${well} of ${sinks.length}` : "none set", failing ? "bad" : ""),
    fact("events lost", count(s.lost_events), s.lost_events ? "bad" : ""),
  ].filter((f) => f.lastChild.textContent !== DASH || f.firstChild.textContent === "last step"));
}

function renderAlerts(s) {
  const alerts = s.alerts || [];
  const active = alerts.filter((a) => a.active), past = alerts.filter((a) => !a.active).slice(0, active.length ? 2 : 3);
  put("alerts", [...active, ...past].slice(0, 8).map((a) => el("li", { class: a.active ? SEVERITY[a.severity] || "warn" : "past" },
    el("b", { text: a.active ? words(a.name) : `earlier: ${words(a.name)}` }), el("span", { text: a.message + (a.count > 1 ? ` (${count(a.count)} times)` : "") }))));
}

function renderLearning(s) {
  const val = Object.entries(s.val || {}).map(([name, v]) => [name, spelled(s.metrics?.[`val/${name}`]?.state) || fixed(v)]);
  const main = val.find(([name]) => name === "loss") || val[0];
  const bad = Boolean(s.loss_state);
  put("learning-tiles", [
    tile("loss", bad ? spelled(s.loss_state) : lossText(s.loss), bad ? "not a finite number" : "", "", bad ? "bad" : ""),
    tile("loss, smoothed", lossText(s.loss_smoothed), isNumber(s.perplexity) ? `perplexity ${fixed(s.perplexity)}` : ""),
    tile(`validation ${main ? words(main[0]) : "loss"}`, main ? main[1] : DASH, val.filter((v) => v !== main).slice(0, 2).map(([n, text]) => `${words(n)} ${text}`).join(", "), "",
      main && s.metrics?.[`val/${main[0]}`]?.state ? "bad" : ""),
    tile("learning rate", fixed(s.learning_rate, 3)),
    tile("gradient norm", spelled(s.grad_norm_state) || fixed(s.grad_norm, 3), "", "", s.grad_norm_state ? "bad" : ""),
    tile("tokens seen", tokens(s.tokens), known(s.samples) && s.samples ? `${count(s.samples)} samples` : ""),
  ]);
}

function renderSpeed(s) {
  const mfu = s.mfu || {}, d = mfu.denominator || {}, t = s.step_time || {};
  const of = isNumber(d.peak_flops_per_device) ? `of ${d.devices || 1} × ${short(d.peak_flops_per_device, "FLOP/s")}${d.dtype ? " " + d.dtype : ""}${mfu.source ? ", " + mfu.source : ""}` : "";
  const [compute, computeUnit] = scaled(s.flops_per_second, "FLOP/s");
  put("speed-tiles", [
    tile("throughput", short(s.tokens_per_second), isNumber(s.samples_per_second) ? `${fixed(s.samples_per_second, 3)} samples/s` : "", "tokens/s"),
    tile("step time, median", span(t.p50_seconds), isNumber(t.p95_seconds) ? `p95 ${span(t.p95_seconds)}, p99 ${span(t.p99_seconds)}` : ""),
    tile("step rate", fixed(s.steps_per_second, 3), "", "steps/s"),
    tile("MFU", percent(mfu.percent), isNumber(mfu.percent) ? [mfu.convention, of].filter(Boolean).join("; ") : mfu.reason || "not known yet", "", mfu.percent > 100 ? "bad" : ""),
    tile("MFU, causal", percent(mfu.causal_percent), isNumber(mfu.reported_percent) ? `the script says ${percent(mfu.reported_percent)}` : ""),
    tile("compute", compute, isNumber(s.flops) ? `${short(s.flops, "FLOP")} so far` : "", computeUnit),
  ]);
}

function stack(which, seconds, label) {
  const all = Object.entries(seconds).filter(([, v]) => isNumber(v) && v > 0).sort((a, b) => b[1] - a[1]);
  const total = all.reduce((sum, [, v]) => sum + v, 0) || 1, parts = all.filter(([, v]) => v / total >= SHARE_MIN);
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
    el("td", { class: "name", title: name }, el("span", { text: name })), ...cells(meter(d.ratio, percent(isNumber(d.ratio) ? d.ratio * 100 : null), "", d.target_ratio),
      d.tokens ? `${tokens(d.tokens)} tokens` : `${count(d.samples)} samples`,
      isNumber(d.coverage) ? (d.coverage >= 1 ? `${d.coverage.toFixed(2)} epochs` : percent(d.coverage * 100)) : DASH)))
    : [emptyRow(4, "This run does not say what it reads: run.dataset(\"name\", samples=…, tokens=…)")]);
}

function renderRanks(s) {
  const ranks = s.ranks || [];
  const times = ranks.map((r) => r.step_seconds).filter(isNumber).sort((a, b) => a - b);
  const median = times.length ? times[times.length >> 1] : null;
  const ill = ranks.filter(gone).length;
  say("ranks-note", ranks.length ? `${ranks.length} of ${s.world_size || ranks.length} reported${ill ? `, ${ill} failed or lost` : ""}${known(median) ? `, median step ${span(median)}` : ""}` : "");
  put("heat", ranks.length > 1 ? ranks.slice(0, HEAT_MAX).map((r) => heatCell(r, median)) : []);
  const rows = ranks.length <= TABLE_RANKS_MAX ? ranks : [...ranks].sort((a, b) =>
    (gone(b) - gone(a)) || (b.step_seconds || 0) - (a.step_seconds || 0)).slice(0, SLOWEST_SHOWN);
  const fastest = Math.max(...ranks.map((r) => r.tokens_per_second || 0), 0), ahead = Math.max(...ranks.map((r) => r.step ?? -1), -1);
  put(body("ranks"), rows.length ? rows.map((r) => rankRow(s, r, median, fastest, ahead)) : [emptyRow(8, "No rank has reported yet.")]);
}
function heatCell(r, median) {
  const over = isNumber(r.step_seconds) && median ? Math.max(0, Math.min(1, (r.step_seconds / median - 1) / 0.25)) : 0;
  const cell = el("span", { text: r.rank, class: gone(r) ? "lost" : "",
    title: `rank ${r.rank}${r.host ? " on " + r.host : ""}: ${r.state}, step ${count(r.step)}, ${span(r.step_seconds)}` });
  cell.style.background = `color-mix(in srgb, var(--amber) ${Math.round(over * 85)}%, color-mix(in srgb, var(--green) 22%, var(--card)))`;
  return cell;
}
function rankRow(s, r, median, fastest, ahead) {
  const behind = isNumber(r.step) && r.step < ahead ? ` (${r.step - ahead})` : "";
  const speed = meter(fastest ? (r.tokens_per_second || 0) / fastest : null, isNumber(r.tokens_per_second) ? short(r.tokens_per_second) : DASH,
    isNumber(r.step_seconds) && median && r.step_seconds > median * SLOW_RATIO ? "warn" : "");
  return el("tr", {}, el("td", { text: r.rank }), el("td", {}, pill(r.state, TONE[r.state] || "off", r.phase ? `${r.state}, ${words(r.phase)}` : r.state, r.reason || "")),
    ...cells(`${count(r.step)}${behind}`, ended(s) ? DASH : ago(r.age_seconds), span(r.step_seconds), speed, count(r.sessions)),
    el("td", { class: "name", text: r.host || DASH, title: r.host || "" }));
}

function renderHardware(s) {
  const gpus = s.gpus || [], host = s.host || {};
  const own = gpus.filter((g) => g.attributed !== false), watts = own.reduce((sum, g) => sum + (g.power_watts || 0), 0);
  const number = own.length < gpus.length ? `this run uses ${own.length} of ${gpus.length} GPUs` : `${gpus.length} GPU${gpus.length > 1 ? "s" : ""}`;
  say("gpu-note", gpus.length ? `${number}${watts ? `, ${short(watts, "W")} together` : ""}` : `no GPU: ${s.gpu?.reason || "no reading yet"}`);
  put("gpus", gpus.slice(0, GPUS_MAX).map(gpuCard));
  put("host-tiles", [
    tile("host CPU", percent(host.cpu_percent, 0), isNumber(host.cpu_count) ? `${count(host.cpu_count)} cores` : ""),
    tile("host memory", bytes(host.memory_used_bytes), isNumber(host.memory_total_bytes) ? `of ${bytes(host.memory_limit_bytes || host.memory_total_bytes)}` : ""),
    tile("trainer CPU", percent(host.trainer_cpu_percent, 0), isNumber(host.trainer_processes) ? `${count(host.trainer_processes)} process${host.trainer_processes === 1 ? "" : "es"}` : ""),
    tile("trainer memory", bytes(host.trainer_memory_bytes)),
    tile("disk free", bytes(host.disk_free_bytes), isNumber(host.disk_percent) ? `${percent(host.disk_percent, 0)} used` : "", "", host.disk_percent > 95 ? "bad" : ""),
    tile("energy", isNumber(s.energy_joules) ? `${fixed(s.energy_joules / 3.6e6, 3)}` : DASH, isNumber(s.energy_joules) && s.tokens ? `${fixed((s.energy_joules / s.tokens) * 1000, 3)} mJ per token` : "", "kWh"),
  ].filter((node) => !node.querySelector(".none")));
}
function gpuCard(g) {
  const slowed = (g.throttle_reasons || []).filter((r) => r !== "gpu_idle" && r !== "applications_clocks_setting");
  const row = (name, share, text, tone) => el("div", { class: "row" }, el("span", { text: name }), meter(share, text, tone));
  const used = g.memory_used_bytes, total = g.memory_total_bytes;
  const foot = [isNumber(g.temperature_celsius) ? `${Math.round(g.temperature_celsius)} °C` : null, isNumber(g.sm_clock_hertz) ? `${(g.sm_clock_hertz / 1e9).toFixed(2)} GHz` : null,
    g.ecc_uncorrected_errors_total ? `${count(g.ecc_uncorrected_errors_total)} ECC errors` : null, g.attributed === false ? "not used by this run" : null];
  return el("div", { class: `card gpu ${g.lost ? "lost" : ""}` },
    el("h3", {}, `GPU ${clean(g.index ?? "?")}`, el("span", { class: "muted", text: g.name || g.uuid || "", title: `${g.name || ""} ${g.uuid || ""}` }),
      g.lost ? pill("gone", "bad") : slowed.length ? pill(words(slowed[0]), "warn", words(slowed[0]), slowed.map(words).join(", ")) : null),
    isNumber(g.utilization_percent) ? row("busy", g.utilization_percent / 100, percent(g.utilization_percent, 0)) : null,
    isNumber(used) ? row("memory", isNumber(total) ? used / total : null, `${isNumber(total) ? bytes(used).replace(" GiB", "") + " of " + bytes(total) : bytes(used)}`, used > 0.97 * total ? "warn" : "") : null,
    isNumber(g.power_watts) ? row("power", isNumber(g.power_limit_watts) ? g.power_watts / g.power_limit_watts : null, `${Math.round(g.power_watts)} W`) : null,
    el("div", { class: "foot" }, ...foot.filter(Boolean).map((text) => el("span", { text }))));
}

function renderSinks(s) {
  const sinks = Object.entries(s.sinks || {});
  put(body("sinks"), sinks.length ? sinks.map(([name, k]) => el("tr", {}, el("td", { class: "name", text: name, title: name }),
    el("td", {}, pill(k.state, TONE[k.state] || "off")), el("td", { class: "fill muted" }, sinkNote(k)),
    ...cells(k.lag_events ? `${count(k.lag_events)} rows${isNumber(k.lag_seconds) ? ", " + span(k.lag_seconds) : ""}` : count(k.lag_events), count(k.delivered_rows), count(k.failures))))
    : [emptyRow(6, "None: add one with --sink wandb,tensorboard. The journal keeps everything meanwhile.")]);
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
    fact("events received", count(me.events_total)),
    fact("events lost", me.events_lost_total ? `${count(me.events_lost_total)} (${Object.entries(me.events_lost).map(([r, n]) => `${words(r)} ${n}`).join(", ")})` : "none", me.events_lost_total ? "bad" : ""),
    fact("frames rejected", rejected.length ? rejected.map(([r, n]) => `${words(r)} ${n}`).join(", ") : "none"),
    fact("event to journal, p50 / p99", isNumber(me.intake_latency?.p50_seconds) ? `${span(me.intake_latency.p50_seconds)} / ${span(me.intake_latency.p99_seconds)}` : DASH),
    fact("journal", `${j.state || DASH}${j.reason ? ": " + j.reason : ""}${j.bytes ? ", " + bytes(j.bytes) : ""}`, j.state && j.state !== "ok" ? "bad" : ""),
    ...Object.entries(me.collectors || {}).filter(([, c]) => !c.success).map(([name, c]) => fact(`collector ${name}`, c.reason || "failing")),
    ...(isNumber(s.host?.sidecar_memory_bytes) ? [fact("own footprint", `${percent(s.host.sidecar_cpu_percent)} of a core, ${bytes(s.host.sidecar_memory_bytes)}`)] : []),
    fact("data directory", me.data_dir || DASH),
    fact("uptime", `${span(me.uptime_seconds)}, pid ${me.pid || DASH}`),
  ]);
}

export function renderAll(s) {
  const filter = $("filter").value.trim().toLowerCase();
  const all = Object.entries(s.metrics || {}).filter(([, m]) => m.state || typeof m.value === "number").sort((a, b) => order(a[0], b[0]));
  if (!all.some(([name]) => name === store.metric)) {
    store.metric = ["val/", "eval/", "train/perplexity", ""].map((p) => all.find(([name]) => name.startsWith(p))?.[0]).find(Boolean) ?? null;
    say("cap-any", store.metric || "Choose a metric");
  }
  const found = all.filter(([name]) => name.toLowerCase().includes(filter));
  const cut = found.length > METRICS_MAX ? `, the first ${METRICS_MAX} shown` : "";
  say("all-note", (filter ? `${found.length} of ${all.length}` : `${all.length} metrics`) + cut);
  put(body("all"), found.length ? found.slice(0, METRICS_MAX).map(([name, m]) => {
    const button = el("button", { type: "button", text: name, "data-metric": name, "aria-pressed": String(name === store.metric) });
    return el("tr", { class: name === store.metric ? "on" : "" }, el("td", { class: "fill" }, button),
      el("td", { text: spelled(m.state) || fixed(m.value), class: m.state ? "tone bad" : "", title: m.unit || "" }), el("td", { text: count(m.step) }));
  }) : [emptyRow(3, filter ? "No metric's name contains that." : "Nothing logged yet.")]);
}

function renderTexts(s) {
  const texts = Object.entries(s.texts || {});
  show("texts-section", texts.length > 0);
  put("texts", texts.slice(0, 20).flatMap(([name, t]) => {
    const pre = el("pre");  // Line breaks stay; control and bidirectional characters do not.
    pre.textContent = String(t.value ?? "").slice(0, 20000).split("\n").map((line) => clean(line, 5000)).join("\n");
    return [el("h3", { text: `${name}${known(t.step) ? " · step " + count(t.step) : ""}` }), pre];
  }));
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
