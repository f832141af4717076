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
  let known = null;  // Asking costs a context: not before the first chart that wants one.
  function solid() {
    if (known === null) {
      known = webgl();
      const note = document.getElementById("flat-note");
      if (!known && note) note.hidden = false;
    }
    return known;
  }

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

  /* Without WebGL: x and y stay, z becomes colour. The film needs none: film.js. */
  function flat(figure) {
    const data = [];
    let cmin = Infinity, cmax = -Infinity;  // One scale for all series.
    for (const t of figure.data) {
      if (t.type !== "scatter3d" || (t.meta && t.meta.role)) continue;
      for (const v of t.z) if (v !== null) { cmin = Math.min(cmin, v); cmax = Math.max(cmax, v); }
    }
    for (const t of figure.data) {
      if (t.type === "scatter3d") {
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
    layout.xaxis = { title: scene.xaxis.title };
    layout.yaxis = { title: scene.yaxis.title };
    layout.margin = { l: 70, r: 16, t: 8, b: 52 };
    return { data, layout };
  }

  const figures = new Map();
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: true,
    plotGlPixelRatio: Math.min(2, window.devicePixelRatio || 1) };  // plotly's own default draws four pixels for one.
  const read = id => JSON.parse(document.getElementById(id).textContent);

  /* The library is in the page as text: it is run when the first chart needs it, so that the film is there at once. */
  function library() {
    if (window.Plotly) return;
    const run = document.createElement("script");
    run.textContent = document.getElementById("library").textContent;
    document.head.append(run);
  }

  async function draw(div) {
    if (figures.has(div)) return;
    library();
    let figure = read(div.dataset.figure);
    if (figure.layout.scene && !solid()) figure = flat(figure);
    const eye = figure.layout.scene && div.clientWidth < 600 && figure.layout.scene.camera.eye;
    if (eye) for (const axis of "xyz") eye[axis] *= 1.6;  // A phone is higher than wide: from further away all of it fits.
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
  }

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

  const plots = [...document.querySelectorAll(".plot:not([data-film])")];
  if (single || !("IntersectionObserver" in window)) plots.forEach(draw);
  else {
    /* What is in view, one after another, and only while nothing else is asked of the page. */
    const waiting = new Set();
    let busy = false;
    const idle = window.requestIdleCallback || (work => setTimeout(work, 50));
    const next = () => {
      const [div] = waiting;
      if (busy || !div) return;
      busy = true;
      waiting.delete(div);
      idle(() => draw(div).finally(() => { busy = false; next(); }), { timeout: 1000 });
    };
    const seen = new IntersectionObserver(entries => {
      for (const { target, isIntersecting } of entries) { if (isIntersecting && !figures.has(target)) waiting.add(target); else waiting.delete(target); }
      next();
    });
    // After the first picture of the page, when a link's place has been scrolled to.
    const begin = () => requestAnimationFrame(() => setTimeout(() => plots.forEach(div => seen.observe(div)), 0));
    if (document.readyState === "complete") begin(); else addEventListener("load", begin);
  }
})();
