/* The live page. Given: /status, its event stream and the history of a run. Shows them; never changes anything.
   Every text that came from a run is put into the page with textContent, never as markup. No request leaves this host. */
import { $, say } from "./dom.js";
import { follow, query, useToken } from "./connection.js";
import { recolor, refreshCharts, resize } from "./charts.js";
import { render, renderAlive, renderAll, renderTitle } from "./sections.js";
import { store } from "./store.js";

const TICK_MS = 1000, RESIZED_MS = 120;

function received() {
  renderTitle();
  if (document.hidden) return;  // Rendered when the tab is shown again.
  render();
  refreshCharts();
}

function chooseRun(run) {
  store.run = run || null;
  history.replaceState(null, "", location.pathname + query());
  follow();
}
function chooseMetric(name) {
  if (!store.status) return;
  store.metric = name;
  say("cap-any", name);
  renderAll(store.status);
  refreshCharts(true);
}
function chooseAxis(chosen) {
  store.axis = chosen.dataset.x;
  for (const button of $("axis").children) button.setAttribute("aria-pressed", String(button === chosen));
  refreshCharts(true);
}

$("runs").addEventListener("change", (event) => {
  chooseRun(event.target.value);
  if (!event.target.matches(":focus-visible")) event.target.blur();  // While it has the focus its list is left alone.
});
$("runs").addEventListener("blur", () => store.status && render());
$("filter").addEventListener("input", () => store.status && renderAll(store.status));
$("all").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) chooseMetric(button.dataset.metric);
});
$("axis").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) chooseAxis(button);
});
$("log-scale").addEventListener("click", (event) => {
  store.logLoss = !store.logLoss;
  event.currentTarget.setAttribute("aria-pressed", String(store.logLoss));
  refreshCharts(true);
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("token").value.trim());
  chooseRun(store.run);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
document.addEventListener("visibilitychange", () => { if (!document.hidden) { render(); refreshCharts(true); } });
let resizing = 0;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(resize, RESIZED_MS); });
setInterval(() => { if (store.status && !document.hidden) { renderAlive(store.status); refreshCharts(); } }, TICK_MS);
follow(received);
