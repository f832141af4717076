/* What the run film computes before it draws: groups of columns with their extremes, round marks, colours.
   Given: the film's table. Never: touches the page, or averages a bad step away. */
"use strict";
const FilmTable = (() => {
  /* Round marks, at most about so many. */
  function marks(low, high, most, whole) {
    const rough = (high - low) / most, ten = 10 ** Math.floor(Math.log10(rough || 1));
    let stride = [1, 2, 5, 10].map(m => m * ten).find(s => s >= rough) || 1;
    if (whole) stride = Math.max(1, Math.round(stride));
    const out = [];
    for (let v = Math.ceil(low / stride - 1e-9) * stride; v <= high * (1 + 1e-9) && out.length < 40; v += stride) out.push(Number(v.toPrecision(12)));
    return out;
  }

  /* 64 colours along the figure's own scale; the walls are a little darker. */
  function palette(stops, shade) {
    const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
    return Array.from({ length: 64 }, (_, i) => {
      const at = i / 63, k = Math.max(1, stops.findIndex(([stop]) => stop >= at)), [s0, a] = stops[k - 1], [s1, b] = stops[k];
      const share = (at - s0) / (s1 - s0 || 1), x = rgb(a), y = rgb(b);
      return `rgb(${x.map((v, j) => Math.round((v + (y[j] - v) * share) * shade)).join(",")})`;
    });
  }

  /* Columns begin..end in at most ``most`` groups; each keeps its longest and shortest step. */
  function pool(film, begin, end, most) {
    const n = Math.max(1, Math.min(end - begin, most)), out = { n, steps: [], widths: [], rows: [], top: 0, least: Infinity };
    const edge = i => begin + Math.floor(i * (end - begin) / n);
    for (let i = 0; i < n; i++) {
      out.steps.push(film.steps[edge(i)]);
      out.widths.push((edge(i + 1) - edge(i)) * film.width);
    }
    film.high.forEach((high, r) => {
      const low = film.low[r], row = [];
      for (let i = 0; i < n; i++) {
        let at = -1, shortest = Infinity;
        for (let k = edge(i); k < edge(i + 1); k++) {
          if (high[k] === null) continue;
          if (at < 0 || high[k] > high[at]) at = k;
          if (low[k] < shortest) shortest = low[k];
        }
        row.push(at < 0 ? null : { high: high[at], low: shortest, step: film.worst[r][at], rank: film.worst_rank ? film.worst_rank[r][at] : film.ranks[r] });
        if (at >= 0) { out.top = Math.max(out.top, high[at]); out.least = Math.min(out.least, high[at]); }
      }
      out.rows.push(row);
    });
    return out;
  }

  return { marks, palette, pool };
})();
