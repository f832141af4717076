/* Draws the figures of this page when they come into view. Given: JSON scripts. Never: fetches anything. */
"use strict";
(() => {
  const root = document.documentElement;
  const single = root.classList.contains("single");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const css = name => getComputedStyle(root).getPropertyValue(name).trim();

  function webgl() {
    if (new URLSearchParams(location.search).has("flat") || location.hash === "#flat") return false;
    try {
      const canvas = document.createElement("canvas");
      const gl = canvas.getContext("webgl2") || canvas.getContext("webgl");
      const lose = gl && gl.getExtension("WEBGL_lose_context");
      if (lose) lose.loseContext();
      return Boolean(gl);
    } catch { return false; }
  }
  const solid = webgl();
  if (!solid) { const note = document.getElementById("flat-note"); if (note) note.hidden = false; }

  function themed(layout) {
    const ink = single ? "#171b21" : css("--ink"), grid = single ? "#dfe3e8" : css("--grid");
    const wall = single ? "#f7f8fa" : css("--wall"), muted = single ? "#5d6776" : css("--muted");
    const out = structuredClone(layout);
    const axis = a => Object.assign({}, a, { gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickfont: { color: muted, size: 11 },
      title: Object.assign({}, a && a.title, { font: { color: ink, size: 13 } }) });
    out.font = { color: ink, family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif", size: 12.5 };
    out.paper_bgcolor = single ? "#ffffff" : "rgba(0,0,0,0)";
    out.plot_bgcolor = "rgba(0,0,0,0)";
    out.hoverlabel = { align: "left", bgcolor: single ? "#ffffff" : css("--card"), bordercolor: grid, font: { color: ink } };
    if (out.scene) {
      for (const name of ["xaxis", "yaxis", "zaxis"]) {
        out.scene[name] = Object.assign(axis(out.scene[name]), { showbackground: true, backgroundcolor: wall });
      }
      out.scene.bgcolor = "rgba(0,0,0,0)";
    } else {
      out.xaxis = axis(out.xaxis); out.yaxis = axis(out.yaxis);
    }
    return out;
  }

  /* Without WebGL: x and y stay, z becomes colour; a landscape becomes one line per rank. */
  function flat(figure) {
    const data = [];
    let cmin = Infinity, cmax = -Infinity;  // One scale for all series.
    for (const t of figure.data) {
      if (t.type !== "scatter3d" || (t.meta && t.meta.role)) continue;
      for (const v of t.z) if (v !== null) { cmin = Math.min(cmin, v); cmax = Math.max(cmax, v); }
    }
    for (const t of figure.data) {
      if (t.type === "surface") {
        const seen = new Set();
        t.y.forEach((y, i) => {
          const rank = Math.round(y);
          if (seen.has(rank) || !t.z[i].some(v => v !== null)) return;
          seen.add(rank);
          data.push({ type: "scatter", mode: "lines", name: "rank " + rank, x: t.x, y: t.z[i], text: t.text[i],
            hovertemplate: "%{text}<extra></extra>", line: { width: 1.4 } });
        });
      } else if (t.type === "scatter3d") {
        if (t.meta && t.meta.role === "pins") continue;
        const marker = Object.assign({}, t.marker);
        if (typeof marker.color === "string" && t.mode.includes("markers")) {
          Object.assign(marker, { color: t.z, cmin, cmax, colorscale: "Viridis", line: { color: marker.color, width: 2 } });
          if (!data.some(d => d.marker && d.marker.showscale)) {
            marker.showscale = true;
            marker.colorbar = { title: { text: figure.layout.scene.zaxis.title.text }, thickness: 12, outlinewidth: 0 };
          }
        }
        if (Array.isArray(marker.size)) marker.size = marker.size.map(s => Math.max(s, 4));
        const line = Object.assign({}, t.line); if (Array.isArray(line.color)) delete line.color; delete line.coloraxis;
        data.push({ type: "scatter", mode: t.mode, name: t.name, x: t.x, y: t.y, text: t.text, hovertemplate: t.hovertemplate,
          hoverinfo: t.hoverinfo, opacity: t.opacity, marker, line: Object.assign(line, { width: 1.5 }) });
      } else data.push(t);
    }
    const scene = figure.layout.scene, layout = structuredClone(figure.layout);
    delete layout.scene;
    const surface = figure.data.some(t => t.type === "surface");
    layout.xaxis = { title: scene.xaxis.title };
    layout.yaxis = surface ? { title: scene.zaxis.title, type: scene.zaxis.type } : { title: scene.yaxis.title };
    layout.margin = { l: 70, r: 16, t: 8, b: 52 };
    return { data, layout };
  }

  const figures = new Map();
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: true };
  const read = id => JSON.parse(document.getElementById(id).textContent);

  async function draw(div) {
    if (figures.has(div)) return;
    let figure = read(div.dataset.figure);
    const film = figure.layout.meta && figure.layout.meta.films ? figure.layout.meta : null;
    const surface = figure.data.find(trace => trace.type === "surface");
    if (figure.layout.scene && !solid) figure = flat(figure);
    figures.set(div, figure);
    const options = Object.assign({}, config, figure.layout.scene ? {} : { scrollZoom: false });
    await Plotly.newPlot(div, figure.data, themed(figure.layout), options);
    const inner = div._fullLayout.scene && div._fullLayout.scene._scene;
    if (inner && inner.camera) {  // The wheel scrolls the page until a chart is clicked.
      const wheel = on => { inner.camera.enableWheel = on; };
      wheel(single);
      div.addEventListener("pointerdown", () => wheel(true));
      div.addEventListener("pointerleave", () => wheel(false));
    }
    div.dataset.ready = "yes";
    if (film && !single) films(div, film, surface);
  }

  /* Names are escaped for plotly; an option's text needs them as they are. */
  function decoded(text) { const area = document.createElement("textarea"); area.innerHTML = text; return area.value; }

  /* The film: choose a run and a window of columns; of each stretch the extremes stay. */
  function films(div, meta, surface) {
    const box = div.parentElement.querySelector(".film-controls");
    if (!box) return;
    const at = name => box.querySelector(`[data-film="${name}"]`);
    const position = at("position"), size = at("window"), which = at("run"), play = at("play"), where = at("where");
    meta.films.forEach((film, i) => which.add(new Option(decoded(film.run + " · " + film.stage), String(i), false, i === meta.shown)));
    which.selectedIndex = meta.shown;
    box.querySelector("[data-film-runs]").hidden = meta.films.length < 2;
    box.hidden = false;
    let queued = false;
    function show(first) {
      queued = false;
      const film = meta.films[Number(which.value)], all = film.steps.length;
      const span = Math.max(Math.min(all, 4), Math.round(all / Number(size.value)));
      const begin = Math.round((all - span) * position.value / 1000), end = begin + span;
      position.disabled = span >= all;
      const last = end < all ? film.steps[end] - 1 : film.steps[all - 1] + film.width - 1;
      where.textContent = `steps ${film.steps[begin].toLocaleString("en")} – ${last.toLocaleString("en")}`;
      if (first === true) return;  // It is drawn already.
      const next = view(film, meta, surface, begin, end), figure = figures.get(div);
      const kept = div._fullLayout.scene && div._fullLayout.scene._scene ? div._fullLayout.scene._scene.getCamera() : null;
      let shown = { data: next, layout: structuredClone(figure.layout) };
      if (shown.layout.scene) {
        if (kept) shown.layout.scene.camera = kept;
        const ranks = film.ranks, stride = Math.ceil(ranks.length / 12);
        shown.layout.scene.yaxis.tickvals = ranks.filter((_, i) => i % stride === 0);
        shown.layout.scene.yaxis.ticktext = shown.layout.scene.yaxis.tickvals.map(String);
      } else {
        shown = { data: flat({ data: next, layout: { scene: { zaxis: { title: {} }, xaxis: {}, yaxis: {} } } }).data, layout: figure.layout };
      }
      Plotly.react(div, shown.data, themed(shown.layout), config);
    }
    const soon = () => { if (!queued) { queued = true; requestAnimationFrame(show); } };
    for (const input of [position, size, which]) input.addEventListener("input", soon);
    let timer = 0;
    play.addEventListener("click", () => {
      if (timer) { clearInterval(timer); timer = 0; }
      else {
        if (size.value === "1") size.value = "8";
        if (Number(position.value) >= 1000) position.value = "0";
        timer = setInterval(() => {
          position.value = String(Math.min(1000, Number(position.value) + 4));
          if (Number(position.value) >= 1000) { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); }
          soon();
        }, 120);
      }
      play.textContent = timer ? "Pause" : "Play";
      play.setAttribute("aria-pressed", String(Boolean(timer)));
    });
    show(true);
  }

  function view(film, meta, surface, begin, end) {
    const groups = [], n = Math.min(end - begin, meta.overview);
    for (let i = 0; i < n; i++) groups.push([begin + Math.floor(i * (end - begin) / n), begin + Math.floor((i + 1) * (end - begin) / n)]);
    const x = groups.map(([a, b], i) => i === 0 ? film.steps[a] : film.steps[b - 1]);
    const ribbons = film.ranks.length <= meta.ribbons_max, y = [], z = [], text = [];
    let top = 0;
    film.ranks.forEach((rank, r) => {
      const heights = [], words = [];
      for (const [a, b] of groups) {
        let high = null, low = Infinity, step = null;
        for (let i = a; i < b; i++) {
          const v = film.high[r][i];
          if (v === null) continue;
          if (high === null || v > high) { high = v; step = film.worst[r][i]; }
          low = Math.min(low, film.low[r][i]);
        }
        heights.push(high);
        if (high !== null) top = Math.max(top, high);
        words.push(high === null ? "" : `rank ${rank}, slowest: step ${step}<br>${high.toPrecision(4)} s, shortest nearby ${low.toPrecision(4)} s`);
      }
      for (const place of ribbons ? [rank - 0.38, rank + 0.38] : [rank]) { y.push(place); z.push(heights); text.push(words); }
      if (ribbons) { y.push(rank + 0.5); z.push(heights.map(() => null)); text.push(heights.map(() => "")); }
    });
    const middle = film.median_seconds;
    const data = [Object.assign({}, surface, { x, y, z, text, cmin: middle * 0.6, cmax: middle * 2.2 })];
    const from = film.steps[begin], to = end < film.steps.length ? film.steps[end] : Infinity;
    const looks = pinLooks;
    for (const kind of Object.keys(looks)) {
      const mine = film.pins.filter(p => p.kind === kind && p.step >= from && p.step < to);
      if (!mine.length) continue;
      const px = [], py = [], pz = [], words = [];
      for (const p of mine) {
        const place = (kind === "slow step" || kind === "restart") && film.ranks.includes(p.rank) ? p.rank : film.ranks[0] - 0.9;
        px.push(p.step, p.step, null); py.push(place, place, null); pz.push(middle * 0.6, top * 1.06, null);
        for (let i = 0; i < 3; i++) words.push(`<b>${kind}</b><br>step ${p.step}<br>${p.text}`);
      }
      data.push({ type: "scatter3d", mode: "lines+markers", name: kind, x: px, y: py, z: pz, text: words, hovertemplate: "%{text}<extra></extra>",
        line: { color: looks[kind][0], width: 2 }, marker: { color: looks[kind][0], symbol: looks[kind][1], size: mine.flatMap(() => [0, 5, 0]), line: { width: 0 } },
        meta: { role: "pins", kind } });
    }
    return data;
  }
  const pinLooks = { "slow step": ["#d7263d", "diamond"], alert: ["#b5179e", "x"], restart: ["#e85d04", "square"], rework: ["#9d4edd", "square-open"],
    lost: ["#6c757d", "x"], checkpoint: ["#2b6cb0", "circle"], evaluation: ["#5a9e3a", "circle-open"] };

  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-do]");
    const div = button && button.closest("section").querySelector(".plot");
    if (!div || !figures.has(div)) return;
    const layout = figures.get(div).layout;
    if (button.dataset.do === "png") Plotly.downloadImage(div, { format: "png", scale: 2, filename: div.id.replace("plot-", "") });
    else if (layout.scene) Plotly.relayout(div, { "scene.camera": layout.scene.camera });
    else Plotly.relayout(div, { "xaxis.autorange": true, "yaxis.autorange": true });
  });
  dark.addEventListener("change", () => {
    for (const [div, figure] of figures) Plotly.relayout(div, themed(figure.layout));
  });

  const plots = [...document.querySelectorAll(".plot")];
  if (single || !("IntersectionObserver" in window)) plots.forEach(draw);
  else {
    const asked = document.getElementById(location.hash.slice(1));  // Whoever follows a link to a chart waits for that one.
    const first = asked && asked.querySelector(".plot");
    if (first) draw(first);
    const seen = new IntersectionObserver(entries => {
      for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "200px" });
    plots.forEach(div => seen.observe(div));
  }
})();
