// The distribution of the measure over the tokens of the page, and the range marked in it.

const BINS = 64;
const WIDTH = 304;
const TOP = 4;
const FLOOR_AT = 84;
const DECADES = 8; // of a logarithmic axis, below the largest value

const SVG = "http://www.w3.org/2000/svg";
const distributions = new Map();

const axisOf = (measure) => state.axes.get(measure.name) ?? (measure.isShare ? "linear" : "log");

/** Bins of a measure on an axis; values below the left end of a logarithmic axis, zeros too, are in its first bin. */
function distribution(measure) {
  const axis = axisOf(measure);
  const key = `${measure.name} ${axis}`;
  if (!distributions.has(key)) {
    let highest = 0;
    let lowest = Infinity;
    for (const value of measure.values) {
      if (value > highest && value < Infinity) highest = value;
      if (value > 0 && value < lowest) lowest = value;
    }
    if (measure.isShare) highest = 1;
    if (!highest) highest = 1;
    const right = axis === "log" ? Math.log10(highest) : highest;
    const left = axis === "log" ? Math.max(Math.log10(Math.min(lowest, highest / 10)), right - DECADES) : 0;
    const counts = new Int32Array(BINS);
    const made = { axis, left, right, counts };
    for (const value of measure.values) {
      if (Number.isNaN(value)) continue;
      counts[Math.min(Math.floor(shareAt(made, value) * BINS), BINS - 1)]++;
    }
    distributions.set(key, made);
  }
  return distributions.get(key);
}

/** Where a value stands on the axis, 0 to 1, and back. */
function shareAt({ axis, left, right }, value) {
  const at = axis === "log" ? (value > 0 ? Math.log10(value) : -Infinity) : value;
  return Math.min(Math.max((at - left) / (right - left), 0), 1);
}
function valueAt({ axis, left, right }, share) {
  const at = left + share * (right - left);
  return axis === "log" ? 10 ** at : at;
}

function draw(name, attributes, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function showHistogram() {
  const shown = distribution(state.measure);
  const tallest = Math.sqrt(Math.max(...shown.counts, 1));
  const bars = [];
  for (let bin = 0; bin < BINS; bin++) {
    const height = (Math.sqrt(shown.counts[bin]) / tallest) * (FLOOR_AT - TOP - 10);
    const x = (bin / BINS) * WIDTH;
    const fill = `#${colourAt(valueAt(shown, (bin + 0.5) / BINS))}`;
    if (height) bars.push(draw("rect", { x, y: FLOOR_AT - height, width: WIDTH / BINS - 0.5, height, fill: "var(--bar)" }));
    bars.push(draw("rect", { x, y: FLOOR_AT + 2, width: WIDTH / BINS + 0.3, height: 8, fill }));
  }
  const marks = draw("g", { id: "histogram-marks" });
  const svg = element("histogram");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} 115`);
  svg.replaceChildren(draw("title", {}, "Drag across the bars to mark a range of values."), ...bars, ...ticks(shown), marks);
  showMarks();
}

/** The colour of a value on the scale; on a percentile scale, of the nearest token on the page. */
function colourAt(value) {
  const table = page.colours[document.documentElement.dataset.theme];
  if (state.scale === "value") return table[state.measure.upper > 0 ? Math.min(Math.floor((value / state.measure.upper) * 256), 255) : 0];
  const order = ordered(state.measure);
  if (!order.length) return table[0];
  let low = 0;
  let high = order.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (state.measure.values[order[middle]] < value) low = middle + 1; else high = middle;
  }
  return table[state.measure.percentiles[order[low]] >> 8];
}

const orders = new Map();

/** The page's tokens with a value, lowest first. */
function ordered(measure) {
  if (!orders.has(measure)) {
    const known = Uint32Array.from({ length: tokenCount }, (_, token) => token).filter((token) => !Number.isNaN(measure.values[token]));
    const { values } = measure;
    orders.set(measure, known.sort((one, other) => values[one] - values[other]));
  }
  return orders.get(measure);
}

function ticks(shown) {
  const places = [];
  if (shown.axis === "log") {
    const step = Math.max(1, Math.ceil((shown.right - shown.left) / 4));
    for (let power = Math.floor(shown.right); power >= shown.left; power -= step) places.push([10 ** power, powerOfTen(power)]);
  } else {
    const raw = shown.right / 4;
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * unit).find((one) => one >= raw * 0.999);
    for (let value = 0; value <= shown.right * 1.001; value += step) places.push([value, short(value).replace(/\.?0+$/, "") || "0"]);
  }
  return places.flatMap(([value, text]) => {
    const x = shareAt(shown, value) * WIDTH;
    const anchor = x < 12 ? "start" : x > WIDTH - 12 ? "end" : "middle";
    return [draw("line", { x1: x, x2: x, y1: FLOOR_AT + 10, y2: FLOOR_AT + 14, stroke: "var(--quiet)" }),
      draw("text", { x, y: FLOOR_AT + 26, "text-anchor": anchor }, text)];
  });
}

const powerOfTen = (power) => (power >= -2 && power <= 2 ? String(Number((10 ** power).toFixed(2))) : `10${[...String(power)].map((c) => SUPERSCRIPT[c]).join("")}`);

/** What moves in the histogram: the marked range, the selection's threshold, the inspected token. */
function showMarks() {
  const shown = distribution(state.measure);
  const line = (value, name) => {
    const x = shareAt(shown, value) * WIDTH;
    return draw("line", { class: name, x1: x, x2: x, y1: TOP, y2: FLOOR_AT + 10 });
  };
  const marks = [];
  if (state.range) {
    const [low, high] = state.range.map((value) => shareAt(shown, value) * WIDTH);
    marks.push(draw("rect", { class: "brush", x: low, y: TOP, width: Math.max(high - low, 1), height: FLOOR_AT - TOP + 10 }));
    marks.push(line(state.range[0], "edge"), line(state.range[1], "edge"));
  }
  if (state.selectBy === state.measure && selectedCount()) marks.push(line(state.measure.thresholds[state.step], "threshold"));
  for (const token of inspected()) {
    if (!Number.isNaN(state.measure.values[token])) marks.push(line(state.measure.values[token], "here"));
  }
  element("histogram-marks")?.replaceChildren(...marks);
}

const showHere = showMarks;

function setRange(low, high) {
  const range = low === -Infinity && high === Infinity ? null : [Math.min(low, high), Math.max(low, high)];
  if (String(range) !== String(state.range)) change({ range }, "range");
}

function showRange() {
  const [low, high] = state.range ?? [-Infinity, Infinity];
  const text = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "");
  for (const [id, value] of [["low", low], ["high", high]]) {
    const field = element(id);
    if (document.activeElement !== field) field.value = text(value);
    field.placeholder = id === "low" ? "lowest" : "highest";
  }
  element("range").querySelector(".unit").textContent = state.measure.unit;
  element("clear-range").hidden = !state.range;
  const inside = inRangeByExample.reduce((sum, count) => sum + count, 0);
  const examples = inRangeByExample.reduce((sum, count) => sum + (count > 0), 0);
  element("range-said").textContent = state.range
    ? `${plural(inside, "token")} in ${plural(examples, "example")}`
    : "";
}

function readRange() {
  const [low, high] = [readNumber(element("low").value), readNumber(element("high").value)];
  setRange(low ?? -Infinity, high ?? Infinity);
}

let dragFrom = null;

function dragged(event) {
  const box = element("histogram").getBoundingClientRect();
  return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
}

/** A range by its ends on the axis; an end at the axis's end is open, so that nothing beyond it is lost. */
function rangeOf(from, to) {
  const shown = distribution(state.measure);
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  setRange(low <= 0 ? -Infinity : valueAt(shown, low), high >= 1 ? Infinity : valueAt(shown, high));
}

const histogram = element("histogram");
histogram.addEventListener("pointerdown", (event) => {
  dragFrom = dragged(event);
  histogram.setPointerCapture(event.pointerId);
});
histogram.addEventListener("pointermove", (event) => {
  if (dragFrom !== null && Math.abs(dragged(event) - dragFrom) > 0.005) rangeOf(dragFrom, dragged(event));
});
histogram.addEventListener("pointerup", (event) => {
  if (dragFrom !== null && Math.abs(dragged(event) - dragFrom) <= 0.005) setRange(-Infinity, Infinity);
  dragFrom = null;
});
histogram.addEventListener("pointercancel", () => { dragFrom = null; });
for (const id of ["low", "high"]) {
  element(id).addEventListener("input", readRange);
  element(id).addEventListener("blur", showRange);
}
element("clear-range").addEventListener("click", () => { setRange(-Infinity, Infinity); element("low").focus(); });

on("measure axis scale theme", showHistogram);
on("range selection token example", showMarks);
on("range measure", showRange);
