"use strict";
(() => {
const data = JSON.parse(document.getElementById("content").textContent);
const layers = data.layers;
const place = new Map(layers.map((layer, number) => [layer.id, number]));
const sites = [...new Set(layers.map((layer) => layer.site))];
const numbers = [...new Set(layers.map((layer) => layer.layer))].sort((a, b) => a - b);
// A layer that nobody picked for what it shows: the middle one of the first site.
let chosen = layers.filter((layer) => layer.site === sites[0]).length >> 1;
const $ = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Whatever a text says, it is a text: nothing is ever read as markup.
const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
};
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
const decimal = (value) => value == null ? "–" : Math.abs(value) < 0.005 ? "0.00" : value.toFixed(2);
const signed = (value) => (value > 0 ? "+" : "") + decimal(value);
const between = ([value, low, high]) => `${decimal(value)} [${decimal(low)}, ${decimal(high)}]`;
const known = (values) => values.filter((value) => value != null);
const at = (layer) => sites.length > 1 ? `layer ${layer.layer}, ${layer.site}` : `layer ${layer.layer}`;

// Figures -----------------------------------------------------------------------------------------

const ticks = (low, high, most) => {
  const rough = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(+(n * step).toPrecision(12));
  return found;
};
const reach = (values, ...also) => {
  const found = [...known(values), ...also], low = Math.min(...found), high = Math.max(...found);
  const more = (high - low || 1) * 0.05;
  return [low - more, high + more];
};

// An empty plot: scales, a grid, names of the axes.
const frame = (width, height, { x, y, xName, yName, xTicks, yTicks, xText = String, yText = String, left = 48, below = 38 }) => {
  const [top, right] = [10, 12];
  const X = (value) => left + (value - x[0]) / (x[1] - x[0]) * (width - left - right);
  const Y = (value) => height - below - (value - y[0]) / (y[1] - y[0]) * (height - below - top);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const value of yTicks ?? ticks(...y, height / 45)) {
    root.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: Y(value), y2: Y(value) }),
      svg("text", { x: left - 6, y: Y(value) + 4, "text-anchor": "end" }, yText(value)));
  }
  for (const value of xTicks ?? ticks(...x, width / 60)) {
    root.append(svg("text", { x: X(value), y: height - below + 16, "text-anchor": "middle" }, xText(value)));
  }
  root.append(
    svg("line", { class: "axis", x1: left, x2: width - right, y1: height - below, y2: height - below }),
    svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xName));
  if (yName) root.append(svg("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${(height - below) / 2}) rotate(-90)` }, yName));
  return { root, X, Y, left, right: width - right, top, bottom: height - below };
};
const level = (to, value) => to.root.append(svg("line", { class: "at", x1: to.left, x2: to.right, y1: to.Y(value), y2: to.Y(value) }));
const label = (to, value, text) => to.root.append(svg("text", { class: "label", x: to.right, y: to.Y(value) - 4, "text-anchor": "end" }, text));
const keyOf = (names) => html("p", { class: "key" }, ...names.map(([mark, css, name]) =>
  html("span", {}, html("span", { class: css, "aria-hidden": "true" }, mark), ` ${name}`)));
const every = (most) => numbers.filter((_, n) => n % Math.ceil(numbers.length / most) === 0);

// Curves over layers: dots with intervals; a click on a layer chooses it.
const overLayers = (width, height, series, { yName, y, lines = [], band, mark = [] }) => {
  const values = series.flatMap((one) => one.points.flatMap((point) => point.value));
  const range = y ?? reach([...values, ...mark.flatMap((m) => m.value), ...lines.map(([v]) => v), ...(band ?? [])]);
  const x = [numbers[0] - 0.6, numbers.at(-1) + 0.6];
  const to = frame(width, height, { x, y: range, xName: "layer", yName, xTicks: every(width / 26) });
  const here = svg("rect", { class: "here", y: to.top, height: to.bottom - to.top });
  to.root.append(here);
  if (band) to.root.append(svg("rect", { class: "band", x: to.left, width: to.right - to.left, y: to.Y(band[1]), height: to.Y(band[0]) - to.Y(band[1]) }));
  for (const [value] of lines) level(to, value);
  for (const { layer, value } of mark) {
    if (value == null) continue;
    const [cx, cy] = [to.X(layer), to.Y(value)];
    to.root.append(svg("path", { class: "line grey", d: `M${cx - 3} ${cy - 3}l6 6m0-6l-6 6` }));
  }
  series.forEach((one, n) => {
    const aside = series.length > 1 ? (n / (series.length - 1) - 0.5) * 0.36 : 0;
    const points = one.points.filter((point) => point.value[0] != null);
    const px = (point) => to.X(point.layer + aside);
    to.root.append(fill(svg("g", { class: `c${one.colour ?? n % 6}` }), {}, [
      svg("polyline", { class: "line", opacity: 0.45, points: points.map((p) => `${px(p)},${to.Y(p.value[0])}`).join(" ") }),
      ...points.filter((p) => p.value.length > 1 && p.value.every((v) => v != null)).map((p) =>
        svg("line", { class: "line", "stroke-width": 1.6, x1: px(p), x2: px(p), y1: to.Y(p.value.at(-2)), y2: to.Y(p.value.at(-1)) })),
      ...points.map((p) => svg("circle", { class: p.hollow ? "dot hollow" : "dot", r: 3.5, cx: px(p), cy: to.Y(p.value[0]) })),
    ]));
  });
  for (const [value, text] of lines) label(to, value, text);
  const half = numbers.length > 1 ? (to.X(numbers[1]) - to.X(numbers[0])) / (numbers[1] - numbers[0]) / 2 : 20;
  for (const layer of numbers) {
    const said = series.flatMap((one) => one.points.filter((p) => p.layer === layer).map((p) =>
      `${one.name}: ${p.value.length > 2 ? between(p.value) : p.value.map(decimal).join(", at least ")}`));
    to.root.append(svg("rect", { class: "hit", "data-number": layer, x: to.X(layer) - half, width: 2 * half, y: to.top, height: to.bottom - to.top },
      svg("title", {}, `layer ${layer}\n${said.join("\n")}`)));
  }
  const move = () => fill(here, { x: to.X(layers[chosen].layer) - half, width: 2 * half }, []);
  move();
  return { root: to.root, move, key: series.length > 1 || mark.length ? keyOf([
    ...series.map((one, n) => ["●", `c${one.colour ?? n % 6}`, one.name]), ...(mark.length ? [["×", "grey", "in-sample"]] : [])]) : null };
};
const bySite = (value, more = () => ({})) => sites.map((site) => ({
  name: site,
  points: layers.filter((layer) => layer.site === site && value(layer))
    .map((layer) => ({ layer: layer.layer, value: value(layer), ...more(layer) })),
}));

// A map over layers, coloured from the largest negative to the largest positive value, 0 the paper.
const map = (width, rows, value, { tall, name, dot = () => false, sparse }) => {
  const long = Math.max(...rows.map((row) => row.length));
  const left = Math.min(width * 0.3, 24 + long * 6.5), [top, right] = [4, 12];
  const wide = Math.min(64, (width - left - right) / layers.length);
  const bottom = top + rows.length * tall, height = bottom + 34 + (sites.length > 1 ? 16 : 0);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "heat" });
  const bound = Math.max(1, ...rows.flatMap((_, r) => known(layers.map((_, c) => value(r, c))).map(Math.abs)));
  rows.forEach((row, r) => {
    const shown = row.length * 6.5 > left - 12 ? `${row.slice(0, (left - 18) / 6.5)}…` : row;
    if (!sparse || r % 5 === 0) root.append(svg("text", { x: left - 6, y: top + (r + 0.5) * tall + 4, "text-anchor": "end" }, shown, svg("title", {}, row)));
    layers.forEach((layer, c) => {
      const found = value(r, c);
      if (found === undefined) return;
      const [x, y] = [left + c * wide, top + r * tall];
      root.append(svg("rect", { class: found < 0 ? "down" : "up", opacity: found == null ? 0 : Math.min(1, Math.abs(found) / bound) * 0.75, x, y, width: wide + 0.3, height: tall + 0.3 }));
      if (wide > 33 && tall > 14) root.append(svg("text", { x: x + wide / 2, y: y + tall / 2 + 4, "text-anchor": "middle" }, found == null ? "–" : decimal(found)));
      if (dot(r, c)) root.append(svg("circle", { class: "dot", r: Math.min(2, wide / 4), cx: x + wide / 2, cy: y + tall / 2 }));
    });
  });
  const step = Math.ceil(24 / wide);
  layers.forEach((layer, c) => {
    const first = layers.findIndex((other) => other.site === layer.site);
    if ((c - first) % step === 0) root.append(svg("text", { x: left + (c + 0.5) * wide, y: bottom + 14, "text-anchor": "middle" }, layer.layer));
    if (first === c && c > 0) root.append(svg("line", { class: "axis", x1: left + c * wide, x2: left + c * wide, y1: top, y2: bottom }));
    if (first === c && sites.length > 1) root.append(svg("text", { x: left + c * wide + 2, y: bottom + 30 }, layer.site));
    const said = rows.map((row, r) => `${row}: ${decimal(value(r, c))}`).filter((_, r) => value(r, c) != null);
    root.append(svg("rect", { class: "hit", "data-layer": layer.id, x: left + c * wide, width: wide, y: top, height: bottom - top },
      svg("title", {}, `${at(layer)}\n${said.join("\n")}`)));
  });
  const here = svg("rect", { class: "faint", "stroke-width": 2, style: "stroke: var(--ink)", y: top, height: bottom - top, width: wide, "pointer-events": "none" });
  root.append(here);
  const move = () => here.setAttribute("x", left + chosen * wide);
  move();
  return { root, move, key: scale(bound, name) };
};
const tint = (share) => `rgb(var(--tint-${share < 0 ? "natural" : "artifact"}) / ${(Math.min(1, Math.abs(share)) * 0.55).toFixed(3)})`;
const scale = (bound, name) => html("p", { class: "key" }, `−${decimal(bound)} `,
  html("i", { class: "scale" }), ` +${decimal(bound)} ${name}`);

const jitter = (n) => ((n * 0.6180339887) % 1) - 0.5;
const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];
const SD = "score (standard deviations)";
const figures = {
  effect: (width, height) => overLayers(width, height, bySite((l) => l.d, (l) => ({ hollow: !l.separates })), {
    yName: "d (standard deviations)", lines: [[data.threshold, `threshold ${data.threshold}`], [0, ""]],
    band: data.null == null ? null : [0, data.null], mark: layers.map((l) => ({ layer: l.layer, value: l.in_sample[0] })) }),
  accuracy: (width, height) => overLayers(width, height, bySite((l) => l.accuracy, (l) => ({ hollow: !l.separates })), {
    yName: "share on their side", lines: [[0.5, "chance"]],
    y: [Math.min(0.35, ...known(layers.flatMap((l) => l.accuracy))) - 0.02, 1.02], mark: layers.map((l) => ({ layer: l.layer, value: l.in_sample[1] })) }),
  positions: (width, height) => {
    const same = layers.filter((l) => l.site === layers[chosen].site);
    const said = { generated: "generated: each prompt's own answer", forced: "forced: the natural answer after both prompts", prompt_last: "prompt_last: nothing written yet" };
    const names = [...new Set(same.flatMap((l) => Object.keys(l.companions)))];
    const curves = [[data.positions, (l) => l.d], ...names.map((name) => [name, (l) => l.companions[name]])];
    return overLayers(width, height, curves.map(([name, value]) => ({ name: said[name] ?? name,
      points: same.filter(value).map((l) => ({ layer: l.layer, value: value(l) })) })), { yName: `d, ${layers[chosen].site}`, lines: [[0, ""]] });
  },
  behaviour: (width, height) => overLayers(width, height, bySite((l) => l.follows?.auroc, (l) => ({ hollow: !l.follows.holds })), {
    yName: "AUROC", lines: [[0.5, "chance"]], y: [Math.min(0.4, ...known(layers.flatMap((l) => l.follows?.auroc ?? []))) - 0.03, 1.03] }),
  categories: (width) => {
    const names = [...new Set(layers.flatMap((l) => l.categories.map(([name]) => name)))];
    const of = layers.map((l) => new Map(l.categories.map(([name, d]) => [name, d])));
    return map(width, names, (r, c) => of[c].get(names[r]), { tall: 24, name: "d" });
  },
  steps: (width) => {
    const most = Math.max(...layers.flatMap((l) => l.steps.map(([step]) => step))) + 1;
    const of = layers.map((l) => new Map(l.steps.map((step) => [step[0], step])));
    const rows = Array.from({ length: most }, (_, n) => `token ${n}`);
    return map(width, rows, (r, c) => of[c].get(r)?.[1], { tall: Math.max(4, Math.min(12, 400 / most)), name: "d", sparse: true, dot: (r, c) => of[c].get(r)?.[2] < data.alpha });
  },
  change: (width, height) => overLayers(width, height, bySite((l) => data.comparison.layers[l.id]?.change,
    (l) => ({ hollow: data.comparison.layers[l.id].verdict !== "changed" })), {
    yName: "change of d", lines: [[0, "no change"]], band: [-data.comparison.margin, data.comparison.margin] }),
  "change-categories": (width) => {
    const names = Object.keys(data.comparison.categories);
    return map(width, names, (r, c) => data.comparison.categories[names[r]][layers[c].id], { tall: 24, name: "change of d" });
  },
  distribution: (width, height) => {
    const layer = layers[chosen], arms = [["artifact", layer.artifact, 1], ["natural", layer.natural, 0]];
    const to = frame(width, Math.min(height, 210), { x: reach([...layer.natural, ...layer.artifact], 0), y: [-0.6, 1.6], xName: SD, left: 66,
      yTicks: [0, 1], yText: (n) => ["natural", "artifact"][n] });
    to.root.append(svg("line", { class: "at", x1: to.X(0), x2: to.X(0), y1: to.top, y2: to.bottom }));
    for (const [name, scores, n] of arms) {
      const sorted = [...known(scores)].sort((a, b) => a - b), [low, middle, high] = [0.25, 0.5, 0.75].map((q) => quantile(sorted, q));
      to.root.append(fill(svg("g", { class: `c${n}` }), {}, [
        ...scores.map((score, i) => score == null ? null : svg("circle", { fill: "currentColor", opacity: 0.55, r: 3, cx: to.X(score), cy: to.Y(n + jitter(i) * 0.6) },
          svg("title", {}, `${data.dots[i]}, ${name}: ${decimal(score)}`))),
        svg("line", { class: "line", "stroke-width": 3, x1: to.X(low), x2: to.X(high), y1: to.Y(n - 0.45), y2: to.Y(n - 0.45) }),
        svg("line", { class: "line", "stroke-width": 3, x1: to.X(middle), x2: to.X(middle), y1: to.Y(n - 0.52), y2: to.Y(n - 0.38) })]));
    }
    return { root: to.root, key: layer.natural.length < data.scored ? html("p", { class: "key" }, `${layer.natural.length} of ${data.scored} pairs, evenly spaced`) : null };
  },
  pairs: (width, height) => {
    const layer = layers[chosen];
    const order = layer.natural.map((_, i) => i).sort((a, b) => layer.artifact[a] - layer.natural[a] - layer.artifact[b] + layer.natural[b]);
    const to = frame(width, Math.min(height, 260), { x: [-1, order.length], y: reach([...layer.natural, ...layer.artifact], 0),
      xName: "pair, worst separated first", yName: "score (SD)", xTicks: [], below: 22 });
    level(to, 0);
    order.forEach((i, x) => {
      const [natural, artifact] = [layer.natural[i], layer.artifact[i]], px = to.X(x);
      if (natural == null) return;
      to.root.append(svg("g", {}, svg("line", { class: "grid", "stroke-width": 2, style: "stroke-width: 2", x1: px, x2: px, y1: to.Y(natural), y2: to.Y(artifact) }),
        svg("circle", { class: "c0", fill: "currentColor", r: 3, cx: px, cy: to.Y(natural) }),
        svg("path", { class: "c1", fill: "currentColor", d: `M${px} ${to.Y(artifact) - 4}l4 7h-8z` }),
        svg("title", {}, `${data.dots[i]}: natural ${decimal(natural)}, artifact ${decimal(artifact)}`)));
    });
    label(to, 0, "boundary");
    return { root: to.root, key: keyOf([["●", "c0", "natural"], ["▲", "c1", "artifact"]]) };
  },
  "layer-categories": (width) => {
    const found = layers[chosen].categories;
    if (!found.length) return null;
    const left = Math.min(width * 0.35, 24 + Math.max(...found.map(([name]) => name.length)) * 6.5);
    const to = frame(width, 56 + found.length * 28, { x: reach(found.flatMap((row) => row.slice(1, 4)), 0), y: [found.length - 0.5, -0.5],
      xName: "d (standard deviations)", left, yTicks: found.map((_, n) => n), yText: (n) => {
        const name = found[n][0];
        return name.length * 6.5 > left ? `${name.slice(0, left / 6.5 - 2)}…` : name;
      } });
    to.root.append(svg("line", { class: "at", x1: to.X(0), x2: to.X(0), y1: to.top, y2: to.bottom }));
    found.forEach(([name, d, low, high, n], y) => {
      if (d == null) return;
      to.root.append(svg("g", { class: "c0" }, svg("title", {}, `${name}: d = ${between([d, low, high])}, ${n} pairs`),
        low == null ? null : svg("line", { class: "line", "stroke-width": 2, x1: to.X(low), x2: to.X(high), y1: to.Y(y), y2: to.Y(y) }),
        svg("circle", { class: "dot", r: 4, cx: to.X(d), cy: to.Y(y) })));
    });
    return { root: to.root };
  },
  "layer-steps": (width, height) => {
    const found = layers[chosen].steps;
    if (!found.length) return null;
    const to = frame(width, Math.min(height, 240), { x: [-0.5, found.at(-1)[0] + 0.5], y: reach(found.flatMap(([, d, , null95]) => [d, null95]), 0),
      xName: "generated token", yName: "d", xTicks: ticks(0, found.at(-1)[0], width / 40).filter(Number.isInteger) });
    const line = (n) => found.filter((step) => step[n] != null).map((step) => `${to.X(step[0])},${to.Y(step[n])}`).join(" ");
    to.root.append(svg("line", { class: "axis", x1: to.left, x2: to.right, y1: to.Y(0), y2: to.Y(0) }),
      svg("polyline", { class: "line grey", "stroke-dasharray": "3 3", points: line(3) }),
      svg("g", { class: "c0" }, svg("polyline", { class: "line", points: line(1) }),
        ...found.filter(([, d]) => d != null).map(([step, d, p]) => svg("circle", { class: p < data.alpha ? "dot" : "dot hollow", r: 3.5, cx: to.X(step), cy: to.Y(d) },
          svg("title", {}, `token ${step}: d = ${decimal(d)}, p over the layer's tokens ${p}`)))));
    return { root: to.root, key: keyOf([["●", "c0", `family-wise p < ${data.alpha} over the layer's tokens`], ["┄", "grey", "95% of runs with shuffled labels"]]) };
  },
};
const OF_A_LAYER = ["distribution", "pairs", "layer-categories", "layer-steps"];
const drawn = new Map();

const draw = (figure, width = figure.clientWidth) => {
  const name = figure.dataset.figure, caption = figure.querySelector("figcaption");
  width = Math.max(300, Math.round(width || 600));
  const made = figures[name](width, 300);
  figure.hidden = !made;
  if (!made) return;
  made.root.setAttribute("aria-label", caption.textContent.replace(/\s+/g, " ").trim());
  const buttons = html("div", { class: "buttons" }, 
    ...[["enlarge", "Enlarge"], ["save", "Save SVG"]].map(([task, words]) =>
      html("button", { type: "button", "data-do": task, "aria-label": `${words}: ${caption.querySelector("strong").textContent}` }, words)));
  figure.replaceChildren(caption, made.root, ...known([made.key]), buttons);
  drawn.set(name, made);
};
const enlarge = (figure) => {
  const dialog = $("large"), close = html("button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const [width, height] = [innerWidth * 0.9, innerHeight * 0.75];
  const made = figures[figure.dataset.figure](Math.max(600, width), Math.max(300, height));
  dialog.replaceChildren(close, figure.querySelector("figcaption").cloneNode(true), made.root, ...known([made.key]));
  dialog.showModal();
};
const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family"];
const save = (figure) => {
  const shown = figure.querySelector("svg"), copy = shown.cloneNode(true);
  const copies = all("*", copy);
  all("*", shown).forEach((element, n) => {
    const style = getComputedStyle(element);
    copies[n].setAttribute("style", STYLES.map((name) => `${name}: ${style.getPropertyValue(name)}`).join("; "));
  });
  copy.prepend(svg("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor }));
  all(".hit", copy).forEach((element) => element.remove());
  const link = html("a", { download: `${figure.dataset.figure}.svg`, href: URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" })) });
  link.click();
  URL.revokeObjectURL(link.href);
};

// Pairs and their tokens ---------------------------------------------------------------------------

const packed = data.tokens?.scores.map(() => null);
const scoresOf = (number) => {
  if (!data.tokens) return null;
  packed[number] ??= new Int16Array(Uint8Array.from(atob(data.tokens.scores[number][2]), (c) => c.charCodeAt(0)).buffer);
  return packed[number];
};
const pairs = data.pairs.map((pair) => ({ ...pair, start: null, lengths: null, arms: [] }));
let end = 0;
(data.tokens?.lengths ?? []).forEach((lengths, n) => {
  if (!lengths) return;
  Object.assign(pairs[n], { start: end, lengths });
  end += lengths[0] + lengths[1];
});
// So many, worst first, until more are asked for.
const FIRST = 8;
let unfolded = false;
const value = (span) => {
  const [unit] = data.tokens.scores[chosen];
  return scoresOf(chosen)[+span.dataset.n] * unit;
};
const build = (pair, number) => {
  const article = html("article", { class: "pair", "data-pair": number });
  pair.title = html("b");
  pair.readout = html("p", { class: "value", role: "status" });
  article.append(html("h3", {}, `${pair.category} / ${pair.id} `, pair.title));
  ["natural", "artifact"].forEach((condition, arm) => {
    const answer = html("p", { class: "answer" });
    if (pair.lengths) {
      const [length, kept] = [pair.lengths[arm], Math.min(...pair.lengths)];
      const from = pair.start + (arm ? pair.lengths[0] : 0);
      fill(answer, { tabindex: 0, role: "group", "aria-label": `${condition} answer of ${pair.id}, ${length} tokens; arrow keys read their values` }, []);
      for (let n = 0; n < length; n++) {
        const text = data.tokens.vocabulary[data.tokens.texts[from + n]] || `[${n + 1}] `;
        answer.append(html("span", { "data-n": from + n, "data-place": `${n + 1} of ${length}`, class: n < kept ? null : "cut" }, text));
      }
    } else answer.append(pair.texts[arm]);
    pair.arms.push(answer);
    article.append(html("div", {}, html("p", { class: "prompt" }, `${condition}: ${pair.prompts[arm]}`), answer,
      pair.kinds[arm] ? html("span", { class: "kind" }, pair.kinds[arm]) : null));
  });
  article.append(pair.readout);
  return article;
};
const read = (span) => {
  const found = value(span), towards = found < 0 ? "natural" : "artifact";
  const cut = span.className === "cut" ? "; doesn't count, the other answer has ended" : "";
  return `token ${span.dataset.place}, “${span.textContent}”: ${signed(found)} SD, towards ${towards}${cut}`;
};
const colour = () => {
  const [unit, bound] = data.tokens?.scores[chosen] ?? [0, 0], scores = scoresOf(chosen);
  for (const pair of pairs) {
    const gap = pair.gaps?.[chosen];
    pair.title.textContent = gap == null ? "not scored" :
      `${signed(gap)} SD apart in this layer, ${signed(pair.mean)} over all`;
    pair.readout.textContent = "";
    for (const answer of pair.arms) for (const span of answer.children) {
      span.style.backgroundColor = tint(scores[+span.dataset.n] * unit / (bound || 1));
      span.removeAttribute("title");
    }
  }
  if (data.tokens) $("legend").replaceChildren(`natural −${decimal(bound)} SD`, html("i", { class: "scale" }), `+${decimal(bound)} SD artifact`);
};
const list = () => {
  const words = $("search").value.toLowerCase(), category = $("category").value;
  const gap = (pair) => pair.gaps?.[chosen] ?? Infinity;
  const shown = pairs.filter((pair) => (!category || pair.category === category)
    && (!words || [pair.category, pair.id, ...pair.prompts, ...pair.texts].some((text) => text.toLowerCase().includes(words))));
  shown.sort((a, b) => gap(a) - gap(b) || 0);
  const first = words || category || unfolded ? shown : shown.slice(0, FIRST);
  $("pairs").replaceChildren(...first.map((pair) => pair.element));
  $("count").textContent = `${shown.length} of ${pairs.length} pairs`;
  $("more").hidden = first.length === shown.length;
  $("more").textContent = `Show all ${shown.length}`;
};
const unfold = () => {
  unfolded = true;
  list();
};

// One layer at a time ------------------------------------------------------------------------------

const choose = (number, { write = true, redraw = true } = {}) => {
  const before = layers[chosen].site;
  chosen = number;
  const layer = layers[chosen];
  for (const element of all(".chosen")) element.classList.remove("chosen");
  for (const element of all(`[data-layer="${layer.id}"]`)) (element.closest("th") ?? element).classList.add("chosen");
  // On a narrow window a strip is scrolled sideways.
  for (const head of all(".matrix thead .chosen")) {
    const strip = head.closest(".matrix");
    strip.scrollLeft = head.offsetLeft - strip.clientWidth / 2;
  }
  $("choose").value = layer.id;
  $("summary").replaceChildren(html("strong", {}, `Layer ${layer.layer}, ${layer.site}`),
    `: d = ${between(layer.d)}, accuracy ${between(layer.accuracy)}. `,
    layer.claims.map(([claim, words]) => claim ? `${claim}: ${words}` : words.replace("doesn't", "doesn't separate")).join(" · "));
  $("found").querySelector("tbody").replaceChildren(...layer.checks.map(([name, words, explanation]) =>
    html("tr", {}, html("th", { scope: "row" }, name), html("td", { class: "outcome" }, words), html("td", {}, explanation))));
  for (const figure of redraw ? all("figure[data-figure]") : []) {
    const name = figure.dataset.figure;
    if (OF_A_LAYER.includes(name) || (name === "positions" && before !== layer.site)) draw(figure);
    else drawn.get(name)?.move?.();
  }
  colour();
  list();
  if (write) history.replaceState(null, "", `#${layer.id}`);
};
const fromAddress = () => place.get(decodeURIComponent(location.hash.slice(1)));
addEventListener("hashchange", () => {
  const number = fromAddress();
  if (number !== undefined) choose(number, { write: false });
});
const step = (by) => choose((chosen + by + layers.length) % layers.length);
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("choose").addEventListener("change", (event) => choose(place.get(event.target.value)));
document.addEventListener("click", (event) => {
  const target = event.target;
  const task = target.closest("[data-do]")?.dataset.do;
  if (task) return ({ enlarge, save })[task](target.closest("figure"));
  const number = target.closest(".hit")?.dataset.number;
  if (number !== undefined) {
    const site = layers[chosen].site, there = (layer) => String(layer.layer) === number;
    return choose(layers.findIndex((l) => there(l) && l.site === site) >= 0 ? layers.findIndex((l) => there(l) && l.site === site) : layers.findIndex(there));
  }
  const id = target.closest(".hit, td[data-layer]")?.dataset.layer;
  if (id) choose(place.get(id));
});
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const target = event.target;
  if (event.altKey || event.ctrlKey || event.metaKey || !by) return;
  const answer = target.closest?.(".answer");
  if (answer) {
    const spans = [...answer.children], now = spans.findIndex((span) => span.classList.contains("current"));
    const next = spans[now < 0 && by < 0 ? spans.length - 1 : Math.max(0, Math.min(spans.length - 1, now + by))];
    for (const span of all(".current", answer)) span.classList.remove("current");
    pairs[+answer.closest(".pair").dataset.pair].readout.textContent = read(next);
    next.classList.add("current");
    event.preventDefault();
  } else if (!target.closest?.("input, select, textarea, .scroll, dialog")) {
    step(by);
    event.preventDefault();
  }
});

// The table ----------------------------------------------------------------------------------------

const table = $("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const valueOf = (cell) => cell.dataset.value ?? cell.textContent;
heads.forEach((head, column) => {
  const button = html("button", { type: "button" }, head.textContent);
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const key = (row) => valueOf(row.cells[column]).split(" ")[0];
    const compare = (a, b) => {
      const [one, other] = [key(a), key(b)], [x, y] = [parseFloat(one), parseFloat(other)];
      // What isn't there or isn't defined comes last, whichever way.
      if (Number.isNaN(x) || Number.isNaN(y)) {
        const numeric = !Number.isNaN(x) || !Number.isNaN(y);
        return numeric ? Number.isNaN(x) - Number.isNaN(y) : (down ? 1 : -1) * one.localeCompare(other);
      }
      return (down ? 1 : -1) * (x - y);
    };
    body.append(...[...body.rows].sort(compare));
  });
});
$("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(words);
});
const csv = () => {
  const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const titles = heads.flatMap((head) => head.dataset.of ? [`${head.dataset.of} lower`, `${head.dataset.of} upper`] : [head.textContent]);
  const rows = [...body.rows].filter((row) => !row.hidden).map((row) => [...row.cells].flatMap((cell, n) => {
    if (heads[n].dataset.of) return cell.dataset.value ? cell.dataset.value.split(" ") : ["", ""];
    return [n === 0 ? cell.textContent : valueOf(cell)];
  }));
  return [titles, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
};
$("copy").addEventListener("click", async () => {
  const text = csv();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Not every browser lets a file of one's own disk near the clipboard.
    const area = html("textarea", {}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("copied").textContent = `${text.split("\n").length - 2} rows copied`;
});

// To begin with ------------------------------------------------------------------------------------

for (const category of new Set(pairs.map((pair) => pair.category))) $("category").append(html("option", { value: category }, category));
pairs.forEach((pair, number) => { pair.element = build(pair, number); });
$("search").addEventListener("input", list);
$("more").addEventListener("click", unfold);
$("category").addEventListener("change", list);
$("pairs").addEventListener("pointerover", (event) => {
  if (event.target.matches(".answer span")) event.target.title = read(event.target);
});
const drawAll = () => {
  // All widths first: each one that is asked for after a change lays the page out anew.
  const widths = all("figure[data-figure]").map((figure) => [figure, figure.clientWidth]);
  for (const [figure, width] of widths) draw(figure, width);
};
chosen = fromAddress() ?? chosen;
drawAll();
choose(chosen, { write: false, redraw: false });
let width = document.body.clientWidth;
new ResizeObserver(() => {
  if (Math.abs(document.body.clientWidth - width) < 8) return;
  width = document.body.clientWidth;
  drawAll();
}).observe(document.body);
// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of all("details")) details.open = true;
  unfold();
});
})();
