/* Where the page gets its numbers. Given: the sidecar that served it. Hands on: each new status object to ``onStatus``.
   Never: gives up. It follows the event stream, polls where that is refused, and tries again while nothing answers. */
import { $, put, say, show } from "./dom.js";
import { clean } from "./format.js";
import { renderRuns } from "./sections.js";
import { ended, store } from "./store.js";

const RETRY_MS = 500, RETRY_MS_MAX = 2000, SILENCE_MS = 25000;  // The stream says something every 10 s.
let token = takeToken(), stream = null, lastOk = 0, version = null, onStatus = () => {};

export class Refused extends Error { constructor(status, message) { super(message); this.status = status; } }

function takeToken() {  // From the part of the address that is never sent; taken out of it, so that no bookmark keeps it.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) { sessionStorage.setItem("sidecar-token", given); history.replaceState(null, "", location.pathname + location.search); }
  return sessionStorage.getItem("sidecar-token");
}
export function useToken(given) { token = given; sessionStorage.setItem("sidecar-token", token); }

export async function ask(path, more = {}) {  // Raises Refused, or what fetch raises where nothing answers.
  const { raw, ...init } = more;
  const answer = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {}, cache: "no-store", ...init });
  if (answer.status === 401) { show("token-form", true); if (token) say("token-note", "That token was not accepted."); }
  if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).error || `status ${answer.status}`);
  show("token-form", false);
  return raw ? answer : answer.json();
}
export const query = () => (store.run ? `?run=${encodeURIComponent(store.run)}` : "");
function link(kind, text) { $("link").className = `link ${kind}`; say("link-text", text); }

function take(status) {
  const answering = status.sidecar?.version;
  if (version && answering && version !== answering) return location.reload();  // This page belongs to another version.
  version = answering;
  store.status = status; store.receivedAt = performance.now(); lastOk = Date.now();
  onStatus();
}
function merge(target, patch) {  // RFC 7386
  for (const [key, value] of Object.entries(patch)) {
    const inner = value && typeof value === "object" && !Array.isArray(value);
    if (inner) target[key] = merge(target[key] && typeof target[key] === "object" && !Array.isArray(target[key]) ? target[key] : {}, value);
    else if (value === null) delete target[key];
    else target[key] = value;
  }
  return target;
}

export async function follow(listener = onStatus) {  // Server-sent events through fetch, because EventSource cannot carry a token.
  onStatus = listener;
  stream?.abort();
  const mine = (stream = new AbortController());
  let wait = RETRY_MS;
  while (stream === mine) {
    const attempt = new AbortController(), stop = () => attempt.abort();
    let watchdog = 0;
    const patience = () => { clearTimeout(watchdog); watchdog = setTimeout(stop, SILENCE_MS); };
    mine.signal.addEventListener("abort", stop);
    try {
      patience();
      const answer = await ask(`api/v1/stream${query()}`, { signal: attempt.signal, raw: true });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done || stream !== mine) break;
        patience();
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) if (handle(event)) { wait = RETRY_MS; link("live", "live"); }
      }
    } catch (error) { if (stream === mine) await fallback(error); }
    clearTimeout(watchdog); mine.signal.removeEventListener("abort", stop);
    if (stream !== mine) return;
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 1.7, RETRY_MS_MAX);
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
  if (error.status === 404 && store.run) return noSuchRun();
  try { take(await ask(`status${query()}`)); link("poll", "polling"); }
  catch (second) {
    if (second.status === 401) return link("down", "token needed");
    if (second instanceof Refused) return refused(second);
    const since = lastOk ? ` since ${new Date(lastOk).toLocaleTimeString()}` : "";
    link("down", `no answer${since}`);
    if (!lastOk) say("verdict", "The sidecar does not answer. Training is not affected.");
    else if (store.status && ended(store.status)) link("down", "sidecar stopped; last state shown");
  }
}
function refused({ status, message }) {  // It answers, but not what was asked for.
  const busy = status === 503;
  link(busy ? "poll" : "down", busy ? "busy; asking again" : `refused (${status})`);
  if (!store.status || (store.run && store.run !== store.status.run_id)) say("verdict", `The sidecar ${busy ? "is busy" : "refuses"}: ${message}.`);
}
async function noSuchRun() {
  store.status = null;
  link("down", "no such run"); show("body", false); show("all-section", false); show("progress", false); put("alive", []); put("alerts", []);
  say("state", "unknown"); $("state").className = "pill off";
  say("verdict", `There is no run ${clean(store.run, 80)} here. Choose another above.`);
  renderRuns(await ask("status").catch(() => ({})));
}
