/* The run film: rank x step x step time as a landscape on a plain canvas. Given: the table in the figure's JSON.
   Needs no WebGL and not the library of the other charts, so that it is there at once. Never: averages a bad step away. */
"use strict";
(() => {
  const root = document.documentElement, single = root.classList.contains("single");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const LONG = 1, HIGH = 0.42, HOME = { turn: -0.38, tilt: 0.62, zoom: 1 }, CELLS = 26000, CELLS_MOVING = 9000;
  const LOOKS = { "slow step": ["#d7263d", "diamond"], alert: ["#b5179e", "cross"], restart: ["#e85d04", "square"], rework: ["#9d4edd", "square"],
    lost: ["#6c757d", "cross"], checkpoint: ["#2b6cb0", "dot"], evaluation: ["#5a9e3a", "ring"] };
  const OF_RANK = new Set(["slow step", "restart"]);
  const css = name => getComputedStyle(root).getPropertyValue(name).trim();
  const { marks, palette, pool } = FilmTable;
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const number = v => v.toLocaleString("en");
  const seconds = v => v >= 100 ? v.toFixed(0) + " s" : v >= 1 ? v.toPrecision(3) + " s" : (v * 1000).toPrecision(3) + " ms";
  function decoded(text) { const area = document.createElement("textarea"); area.innerHTML = text; return area.value; }  // Names come escaped.

  class Film {
    constructor(div) {
      this.div = div;
      const figure = JSON.parse(document.getElementById(div.dataset.figure).textContent), surface = figure.data[0];
      this.meta = figure.layout.meta;
      this.titles = ["xaxis", "yaxis", "zaxis"].map(name => figure.layout.scene[name].title.text);
      this.tops = palette(surface.colorscale, 1);
      this.walls = palette(surface.colorscale, 0.78);
      this.films = this.meta.films;
      this.hidden = new Set();
      this.eye = { ...HOME };
      this.canvas = document.createElement("canvas");
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", "Drag or use the arrow keys to rotate, + and - to zoom");
      this.tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
      this.legend = Object.assign(document.createElement("div"), { className: "film-legend" });
      div.append(this.legend, this.canvas, this.tip);
      this.choose(this.meta.shown);
      this.listen();
      this.controls();
      this.draw();
      div.film = this;
      div.dataset.ready = "yes";
    }

    choose(index) {
      this.film = this.films[index];
      this.begin = 0;
      this.end = this.film.steps.length;
      this.cmin = this.film.median_seconds * 0.6;
      this.cmax = this.film.median_seconds * 2.2;
      this.legends();
    }

    colour(list, v) { return list[clamp(Math.round(63 * (v - this.cmin) / (this.cmax - this.cmin || 1)), 0, 63)]; }

    /* Seconds to height. From nought where steps differ by more than twice; logarithmic where one dwarfs all others. */
    height(v) { const s = this.scale; return HIGH * (s.log ? Math.log(Math.max(v, s.low) / s.low) / Math.log(s.high / s.low) : (v - s.low) / (s.high - s.low)); }

    rescale() {
      const { top, least } = this.view, log = top > 25 * this.film.median_seconds;
      this.scale = { log, low: log ? least * 0.7 : top > 2 * least ? 0 : Math.max(0, least - 1.2 * Math.max(top - least, 0.04 * top)), high: top * 1.02 };
    }

    draw(moving) {
      const { canvas, div, film } = this, ratio = this.sharper || Math.min(2, window.devicePixelRatio || 1);
      const width = div.clientWidth, height = Math.max(200, div.clientHeight - this.legend.offsetHeight);
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
        canvas.style.width = width + "px"; canvas.style.height = height + "px";
      }
      this.view = pool(film, this.begin, this.end, Math.max(24, Math.floor(Math.min(width, (moving ? CELLS_MOVING : CELLS) / film.ranks.length))));
      this.rescale();
      const c = this.context = canvas.getContext("2d", { willReadFrequently: true });  // Drawn by the processor: quick where WebGL is emulated, too.
      c.setTransform(ratio, 0, 0, ratio, 0, 0);
      c.clearRect(0, 0, width, height);
      if (single) { c.fillStyle = "#ffffff"; c.fillRect(0, 0, width, height); }
      this.ratio = ratio;
      this.place(width, height);
      this.frame();
      this.landscape();
      this.pins();
      div.dataset.peak = String(this.view.top);
      div.dataset.from = String(film.steps[this.begin]);
      if (this.map) this.overview();
    }

    /* The projection: turned about the vertical, tilted, parallel; scaled so that the whole box fits. */
    place(width, height) {
      const rows = this.film.ranks.length, { turn, tilt, zoom } = this.eye;
      this.deep = clamp(0.05 + 0.045 * rows, 0.1, 0.5);
      const [ca, sa, ce, se] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
      const wide = LONG * Math.abs(ca) + this.deep * Math.abs(sa), flat = (LONG * Math.abs(sa) + this.deep * Math.abs(ca)) * se;
      const size = zoom * Math.min((width - (width < 600 ? 80 : 150)) / (2 * wide), (height - 110) / (2 * flat + HIGH * 1.15 * ce));
      const cx = width / 2 + 14, cy = height / 2 - 10 + size * HIGH * 1.15 * ce / 2;
      Object.assign(this, { ca, sa, ce, se, size, cx, cy, nearY: ca > 0 ? -this.deep : this.deep, nearX: sa > 0 ? -LONG : LONG });
      const view = this.view, first = view.steps[0], last = view.steps[view.n - 1] + view.widths[view.n - 1];
      this.first = first; this.last = last;
      this.xs = view.n === 1 ? [0] : view.steps.map((s, i) => this.x(s + view.widths[i] / 2));
    }
    x(step) { return LONG * (2 * (step - this.first) / (this.last - this.first || 1) - 1); }
    y(row) { return this.deep * (2 * (row + 0.5) / this.film.ranks.length - 1); }
    at(x, y, z) { return [this.cx + this.size * (x * this.ca - y * this.sa), this.cy - this.size * ((x * this.sa + y * this.ca) * this.se + z * this.ce)]; }
    path(points) { const c = this.context; c.beginPath(); points.forEach(([x, y], i) => i ? c.lineTo(x, y) : c.moveTo(x, y)); }

    frame() {
      const c = this.context, ink = single ? "#171b21" : css("--ink"), muted = single ? "#5d6776" : css("--muted");
      const { nearX, nearY, deep } = this, top = HIGH * 1.08, view = this.view;
      const wall = single ? "#f7f8fa" : css("--wall"), grid = single ? "#dfe3e8" : css("--grid");
      c.lineWidth = 1; c.strokeStyle = grid; c.fillStyle = wall; c.font = "11px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";
      const sides = [[[-LONG, -deep, 0], [LONG, -deep, 0], [LONG, deep, 0], [-LONG, deep, 0]],
        [[-LONG, -nearY, 0], [LONG, -nearY, 0], [LONG, -nearY, top], [-LONG, -nearY, top]],
        [[-nearX, -deep, 0], [-nearX, deep, 0], [-nearX, deep, top], [-nearX, -deep, top]]];
      for (const side of sides) { this.path(side.map(p => this.at(...p))); c.closePath(); c.fill(); c.stroke(); }
      const line = (...points) => { this.path(points.map(p => this.at(...p))); c.stroke(); };
      const away = (a, b) => { const dx = b[0] - a[0], dy = b[1] - a[1], n = Math.hypot(dx, dy) || 1; return [dx / n, dy / n]; };
      const says = (text, [x, y], [dx, dy], gap, colour) => {
        c.fillStyle = colour; c.textAlign = dx > 0.45 ? "left" : dx < -0.45 ? "right" : "center"; c.textBaseline = "middle";
        c.fillText(text, x + dx * gap, y + dy * gap);
      };
      const down = away(this.at(0, 0, 0), this.at(0, nearY, 0)), aside = away(this.at(0, 0, 0), this.at(nearX, 0, 0));
      for (const step of marks(this.first, this.last, 8, true)) {
        const x = this.x(step);
        if (x > LONG) continue;
        line([x, nearY, 0], [x, -nearY, 0], [x, -nearY, top]);
        says(number(step), this.at(x, nearY, 0), down, 24, muted);
      }
      const ranks = this.film.ranks, stride = Math.ceil(ranks.length / 10);
      for (let r = 0; r < ranks.length; r += stride) says(String(ranks[r]), this.at(nearX, this.y(r), 0), aside, 12, muted);
      const edge = [this.at(nearX, -nearY, 0), this.at(-nearX, nearY, 0)][0][0] < this.cx ? [nearX, -nearY] : [-nearX, nearY];
      const s = this.scale;
      const heights = s.log ? marks(Math.ceil(Math.log10(s.low)), Math.floor(Math.log10(s.high)), 5, true).map(p => 10 ** p) : marks(s.low, s.high, 5);
      for (const v of heights) {
        const z = this.height(v);
        line([nearX, -nearY, z], [-nearX, -nearY, z], [-nearX, nearY, z]);
        says(s.log ? String(v) : String(Number(v.toPrecision(6))), this.at(...edge, z), [-1, 0], 8, muted);
      }
      c.font = "12.5px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";
      says(this.titles[0], this.at(0, nearY, 0), down, 46, ink);
      says(ranks.length > 1 ? this.titles[1] : "", this.at(nearX, 0, 0), aside, 46, ink);
      const [tx, ty] = this.at(...edge, top);
      c.fillStyle = ink; c.textAlign = "center"; c.fillText(this.titles[2] + (s.log ? ", logarithmic" : ""), clamp(tx, 60, this.cx * 2 - 60), ty - 14);
    }

    landscape() {
      const { view, film, xs } = this, rows = film.ranks.length, half = this.deep / rows * (rows > 40 ? 1 : 0.8);
      const far = this.ca > 0 ? -1 : 1;  // From the far rank to the near one, and so along the steps.
      this.points = [];
      for (let k = 0; k < rows; k++) {
        const r = far < 0 ? rows - 1 - k : k, y = this.y(r), cells = view.rows[r];
        const near = y + half * Math.sign(this.nearY), back = y - half * Math.sign(this.nearY);
        for (const [a, b] of this.stretches(cells)) this.ribbon(cells, a, b, near, back);
        for (let i = 0; i < view.n; i++) if (cells[i]) { const z = this.height(cells[i].high); this.points.push([...this.at(xs[i], near, z), cells[i]]); }
      }
    }

    /* Columns in a row with nothing missing between them. */
    stretches(cells) {
      const view = this.view, out = [];
      let start = -1;
      for (let i = 0; i <= view.n; i++) {
        const gap = i > 0 && i < view.n && view.steps[i] - view.steps[i - 1] > 4 * view.widths[i - 1];
        if (start >= 0 && (i === view.n || !cells[i] || gap)) { out.push([start, i - 1]); start = -1; }
        if (start < 0 && i < view.n && cells[i]) start = i;
      }
      return out;
    }

    ribbon(cells, a, b, near, back) {
      const c = this.context, z = i => this.height(cells[i].high);
      const xs = a === b ? [this.xs[a] - 0.004, this.xs[a] + 0.004] : this.xs.slice(a, b + 1), zs = a === b ? [z(a), z(a)] : xs.map((_, i) => z(a + i));
      const value = i => cells[a === b ? a : a + i].high, last = xs.length - 1;
      c.lineWidth = 0.7;
      for (let k = 0; k < last; k++) {
        const i = this.sa > 0 ? last - 1 - k : k;
        c.fillStyle = c.strokeStyle = this.colour(this.tops, Math.max(value(i), value(i + 1)));
        this.path([this.at(xs[i], back, zs[i]), this.at(xs[i + 1], back, zs[i + 1]), this.at(xs[i + 1], near, zs[i + 1]), this.at(xs[i], near, zs[i])]);
        c.fill(); c.stroke();
      }
      const end = this.sa > 0 ? 0 : last;  // The cap at the near end.
      c.fillStyle = this.colour(this.walls, value(end));
      this.path([this.at(xs[end], back, 0), this.at(xs[end], back, zs[end]), this.at(xs[end], near, zs[end]), this.at(xs[end], near, 0)]);
      c.fill();
      // The near wall: its plane is mapped onto the screen, so that one gradient along the height colours all of it.
      const ratio = this.ratio, size = this.size * ratio;
      c.save();
      c.setTransform(size * this.ca, -size * this.sa * this.se, 0, -size * this.ce, this.cx * ratio - size * near * this.sa, this.cy * ratio - size * near * this.ca * this.se);
      c.beginPath(); c.moveTo(xs[0], 0);
      xs.forEach((x, i) => c.lineTo(x, zs[i]));
      c.lineTo(xs[last], 0); c.closePath();
      c.fillStyle = this.gradient(c);
      c.fill();
      c.restore();
    }

    gradient(c) {
      const out = c.createLinearGradient(0, 0, 0, HIGH), s = this.scale;
      for (let i = 0; i <= 24; i++) {
        const v = s.log ? s.low * (s.high / s.low) ** (i / 24) : s.low + (s.high - s.low) * i / 24;
        out.addColorStop(i / 24, this.colour(this.walls, v));
      }
      return out;
    }

    /* What a rank did stands on that rank; what happened to all lies on the front edge. */
    pins() {
      const c = this.context, { film, nearY } = this;
      this.heads = [];
      for (const kind of Object.keys(LOOKS).reverse()) {
        if (this.hidden.has(kind)) continue;
        const [colour, shape] = LOOKS[kind];
        c.strokeStyle = c.fillStyle = colour;
        for (const pin of film.pins) {
          if (pin.kind !== kind || pin.step < this.first || pin.step >= this.last) continue;
          const row = film.ranks.findIndex((rank, i) => pin.rank >= rank && (i + 1 === film.ranks.length || pin.rank < film.ranks[i + 1]));
          const x = this.x(pin.step), standing = OF_RANK.has(kind) && row >= 0;
          const spot = standing ? this.at(x, this.y(row), HIGH * 1.1) : this.at(x, nearY, 0);
          if (standing) {
            c.globalAlpha = 0.55; c.lineWidth = 1.2; this.path([this.at(x, this.y(row), 0), spot]); c.stroke(); c.globalAlpha = 1;
          } else spot[1] += kind === "evaluation" ? 13 : 6;
          this.head(shape, spot);
          this.heads.push([...spot, pin]);
        }
      }
    }

    head(shape, [x, y]) {
      const c = this.context, r = 4;
      c.lineWidth = 1.5; c.beginPath();
      if (shape === "diamond") { c.moveTo(x, y - r - 1); c.lineTo(x + r + 1, y); c.lineTo(x, y + r + 1); c.lineTo(x - r - 1, y); c.closePath(); c.fill(); }
      else if (shape === "square") { c.rect(x - r + 0.5, y - r + 0.5, 2 * r - 1, 2 * r - 1); c.fill(); }
      else if (shape === "cross") { c.moveTo(x - r, y - r); c.lineTo(x + r, y + r); c.moveTo(x - r, y + r); c.lineTo(x + r, y - r); c.stroke(); }
      else { c.arc(x, y, shape === "ring" ? 2.6 : 3, 0, 7); if (shape === "ring") c.stroke(); else c.fill(); }
    }

    legends() {
      this.legend.textContent = "";
      const bar = Object.assign(document.createElement("span"), { className: "film-bar" });
      bar.append(seconds(this.cmin), Object.assign(document.createElement("i"), { style: `background:linear-gradient(90deg,${this.tops.filter((_, i) => i % 9 === 0).join(",")})` }), seconds(this.cmax));
      bar.title = "colour: the time a step took";
      this.legend.append(bar);
      for (const [kind, [colour]] of Object.entries(LOOKS)) {
        const count = this.film.pins.filter(pin => pin.kind === kind).length;
        if (!count) continue;
        const chip = Object.assign(document.createElement("button"), { type: "button", className: "chip" });
        chip.append(Object.assign(document.createElement("i"), { style: `background:${colour}` }), `${kind} ${count}`);
        chip.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
        chip.addEventListener("click", () => {
          if (!this.hidden.delete(kind)) this.hidden.add(kind);
          chip.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
          this.draw();
        });
        this.legend.append(chip);
      }
    }

    listen() {
      const { canvas, eye } = this;
      let grip = null, settle = 0;
      this.soon = moving => {
        if (!this.queued) { this.queued = true; requestAnimationFrame(() => { this.queued = false; this.draw(moving); }); }
        clearTimeout(settle);
        if (moving) settle = setTimeout(() => this.draw(), 160);
      };
      const turn = (dx, dy) => { eye.turn += dx; eye.tilt = clamp(eye.tilt + dy, 0.08, 1.5); this.soon(true); };
      const zoom = by => { eye.zoom = clamp(eye.zoom * by, 0.4, 8); this.soon(true); };
      canvas.addEventListener("pointerdown", event => { grip = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); canvas.focus({ preventScroll: true }); });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { grip = null; });  // A vertical swipe scrolls the page.
      canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
      canvas.addEventListener("pointermove", event => {
        if (!grip) { this.hover(event.offsetX, event.offsetY); return; }
        this.tip.hidden = true;
        turn((grip[0] - event.clientX) * -0.006, (event.clientY - grip[1]) * 0.006);
        grip = [event.clientX, event.clientY];
      });
      canvas.addEventListener("wheel", event => {  // The wheel scrolls the page until the film is clicked.
        if (document.activeElement === canvas) { event.preventDefault(); zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1); }
      }, { passive: false });
      canvas.addEventListener("keydown", event => {
        const move = { ArrowLeft: [-0.08, 0], ArrowRight: [0.08, 0], ArrowUp: [0, -0.06], ArrowDown: [0, 0.06] }[event.key];
        if (move) { event.preventDefault(); turn(...move); }
        else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.15 : 1 / 1.15);
      });
      dark.addEventListener("change", () => this.draw());
      new ResizeObserver(() => this.soon(false)).observe(this.div);
      const section = this.div.closest("section");
      if (section) section.addEventListener("click", event => {
        const button = event.target.closest("button[data-do]");
        if (!button) return;
        if (button.dataset.do === "png") this.save();
        else { Object.assign(eye, HOME); this.draw(); }
      });
    }

    save() {
      this.sharper = 2;
      this.draw();
      const out = document.createElement("canvas"), c = out.getContext("2d");
      out.width = this.canvas.width; out.height = this.canvas.height;
      c.fillStyle = css("--card"); c.fillRect(0, 0, out.width, out.height); c.drawImage(this.canvas, 0, 0);
      Object.assign(document.createElement("a"), { download: "film.png", href: out.toDataURL("image/png") }).click();
      this.sharper = 0;
      this.draw();
    }

    hover(x, y) {
      const near = (points, most) => points.reduce((best, p) => { const d = Math.hypot(p[0] - x, (p[1] - y) / 4); return d <= best[0] ? [d, p] : best; }, [most, null])[1];
      const pin = near(this.heads, 9), point = pin ? null : near(this.points, 24);
      this.tip.hidden = !pin && !point;
      if (this.tip.hidden) return;
      const lines = pin ? [pin[2].kind, `step ${number(pin[2].step)}`, decoded(pin[2].text)]
        : [`rank ${point[2].rank}`, `step ${number(point[2].step)}: ${seconds(point[2].high)}`, `shortest nearby ${seconds(point[2].low)}`];
      this.tip.replaceChildren(...[decoded(`${this.film.run} · ${this.film.stage}`), ...lines].map((text, i) => Object.assign(document.createElement(i ? "div" : "b"), { textContent: text })));
      this.tip.style.left = clamp(x + 14, 0, this.div.clientWidth - this.tip.offsetWidth - 6) + "px";
      this.tip.style.top = clamp(y + this.legend.offsetHeight + 12, 0, this.div.clientHeight - this.tip.offsetHeight) + "px";
    }

    /* The scrubber: a window of columns that goes through the run. */
    controls() {
      const box = single ? null : this.div.parentElement.querySelector(".film-controls");
      if (!box) return;
      const get = name => box.querySelector(`[data-film="${name}"]`);
      const position = get("position"), size = get("window"), which = get("run"), play = get("play"), where = get("where");
      this.map = get("map");
      this.films.forEach((film, i) => which.add(new Option(decoded(`${film.run} · ${film.stage}`), String(i))));
      which.selectedIndex = this.meta.shown;
      box.querySelector("[data-film-runs]").hidden = this.films.length < 2;
      box.hidden = false;
      const show = moving => {
        const film = this.film, all = film.steps.length;
        const span = Math.max(Math.min(all, 6), Math.round(all / Number(size.value)));
        this.begin = Math.round((all - span) * position.value / 1000);
        this.end = this.begin + span;
        const last = this.end < all ? film.steps[this.end] - 1 : film.steps[all - 1] + film.width - 1;
        where.textContent = `steps ${number(film.steps[this.begin])} – ${number(last)}`;
        this.soon(moving);
      };
      position.addEventListener("input", () => { if (size.value === "1") size.value = "8"; show(true); });
      size.addEventListener("input", () => show(false));
      which.addEventListener("input", () => { this.choose(Number(which.value)); show(false); });
      let timer = 0;
      const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
      play.addEventListener("click", () => {
        if (timer) { stop(); return; }
        if (size.value === "1") size.value = "8";
        if (Number(position.value) >= 1000) position.value = "0";
        play.textContent = "Pause"; play.setAttribute("aria-pressed", "true");
        timer = setInterval(() => { position.value = String(Math.min(1000, Number(position.value) + 4)); show(true); if (position.value === "1000") stop(); }, 100);
      });
      this.map.addEventListener("pointerdown", event => {
        const share = event.offsetX / this.map.clientWidth, half = 0.5 / Number(size.value === "1" ? 8 : size.value);
        position.value = String(Math.round(1000 * clamp((share - half) / (1 - 2 * half || 1), 0, 1)));
        position.dispatchEvent(new Event("input", { bubbles: true }));
      });
      show(false);
    }

    /* The whole run in one line, slowest rank of each stretch, with the window on it. */
    overview() {
      const c = this.map.getContext("2d"), width = this.map.width = this.map.clientWidth, height = this.map.height = 34, film = this.film;
      if (film.strip === undefined) film.strip = pool(film, 0, film.steps.length, 480);
      const strip = film.strip, all = film.steps.length, log = strip.top > 25 * film.median_seconds;
      for (let i = 0; i < strip.n; i++) {
        const top = strip.rows.reduce((most, row) => row[i] && row[i].high > most ? row[i].high : most, 0);
        const h = log ? Math.log1p(top / film.median_seconds) / Math.log1p(strip.top / film.median_seconds) : top / strip.top;
        c.fillStyle = this.colour(this.tops, top);
        c.fillRect(i / strip.n * width, height - h * (height - 3), Math.max(1, width / strip.n), height);
      }
      if (this.end - this.begin < all) {
        c.globalAlpha = 0.72; c.fillStyle = css("--faint");
        c.fillRect(0, 0, this.begin / all * width, height); c.fillRect(this.end / all * width, 0, width, height);
        c.globalAlpha = 1; c.strokeStyle = css("--ink"); c.strokeRect(this.begin / all * width + 0.5, 0.5, Math.max(3, (this.end - this.begin) / all * width - 1), height - 1);
      }
    }
  }

  for (const div of document.querySelectorAll(".plot[data-film]")) new Film(div);
})();
