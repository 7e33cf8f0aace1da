// The list of examples: filtered, sorted, and drawn only where it is seen.

const QUICK_TO_SEARCH = 500; // examples; of more, a search waits until the typing pauses
let rowHeight = 68;
let listed = []; // the examples in the list, in its order
const rows = element("rows");
const list = element("list");

const ORDERS = { mean: "Mean", max: "Largest", sum: "Sum" };
const OWN_ORDERS = {
  order: ["order of the run", (example) => example],
  id: ["id", null],
  length: ["number of tokens", sizeOf],
  selected: ["share trained on", (example) => (sizeOf(example) ? selectedByExample[example] / sizeOf(example) : NaN)],
  range: ["tokens in the marked range", (example) => inRangeByExample[example]],
};

function addSorts() {
  const add = (into, value, text) => { const choice = make("option", "", text); choice.value = value; into.append(choice); };
  for (const [name, [text]] of Object.entries(OWN_ORDERS)) add(element("sort"), name, text);
  for (const [how, title] of Object.entries(ORDERS)) {
    const group = make("optgroup");
    group.label = title;
    for (const measure of measures) add(group, `${how}_${measure.name}`, `${title.toLowerCase()} ${measure.inline}`);
    element("sort").append(group);
  }
}

const sortValue = (example) => (OWN_ORDERS[state.sort] ? OWN_ORDERS[state.sort][1](example) : statistics[state.sort][example]);

/** By value; what has none comes last in either direction, and equals stay in the order of the run. */
function compare(one, other) {
  const sign = state.isDescending ? -1 : 1;
  if (state.sort === "id") {
    const [a, b] = [page.examples.id[one], page.examples.id[other]];
    return sign * a.localeCompare(b, "en", { numeric: true }) || one - other;
  }
  const [a, b] = [sortValue(one), sortValue(other)];
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || one - other;
  return sign * (a - b) || one - other;
}

const texts = [];
const textOf = (example) => (texts[example] ??= searchedText(example));

/** A pattern that finds the query itself, in capitals or not. */
const pattern = (flags) => new RegExp(state.query.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"), flags);

function filterList() {
  const finds = state.query ? pattern("iu") : null;
  listed = [];
  for (let example = 0; example < exampleCount; example++) {
    if (state.onlyTruncated && !page.examples.truncated[example]) continue;
    if (state.range && !inRangeByExample[example]) continue;
    if (finds && !finds.test(textOf(example))) continue;
    listed.push(example);
  }
  listed.sort(compare);
  const all = listed.length === exampleCount;
  element("count").textContent = all ? plural(exampleCount, "example") : listed.length ? `${whole(listed.length)} of ${plural(exampleCount, "example")}` : "No example matches.";
  element("direction").textContent = state.isDescending ? "↓" : "↑";
  element("direction").title = state.isDescending ? "highest first" : "lowest first";
  element("direction").setAttribute("aria-label", `Order: ${element("direction").title}`);
  showRows();
}

function showRows() {
  rows.style.height = `${listed.length * rowHeight}px`;
  const from = Math.max(Math.floor(list.scrollTop / rowHeight) - 4, 0);
  const to = Math.min(Math.ceil((list.scrollTop + list.clientHeight) / rowHeight) + 4, listed.length);
  rows.replaceChildren(...listed.slice(from, to).map((example, at) => rowOf(example, from + at)));
  const current = document.getElementById(`row-${state.example}`);
  if (current) list.setAttribute("aria-activedescendant", current.id);
  else list.removeAttribute("aria-activedescendant");
  for (const canvas of rows.querySelectorAll("canvas")) drawStrip(canvas);
}

function rowOf(example, place) {
  const row = make("div", "row");
  row.id = `row-${example}`;
  row.dataset.example = example;
  row.style.top = `${place * rowHeight}px`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", example === state.example);
  row.setAttribute("aria-posinset", place + 1);
  row.setAttribute("aria-setsize", listed.length);
  const top = make("div", "top");
  top.append(make("span", "id", page.examples.id[example]), make("span", "value", rowValue(example)));
  const snippet = make("div", "snippet", page.examples.snippet[example]);
  snippet.dir = "auto";
  const canvas = make("canvas");
  canvas.setAttribute("aria-hidden", "true");
  row.append(top, snippet, canvas);
  return row;
}

function rowValue(example) {
  if (state.sort === "length") return plural(sizeOf(example), "token");
  if (state.sort === "selected") return percent(sortValue(example));
  if (state.sort === "range" || state.range) return `${whole(inRangeByExample[example])} in range`;
  const key = OWN_ORDERS[state.sort] ? `mean_${state.measure.name}` : state.sort;
  const value = statistics[key][example];
  const [, how, name] = key.match(/^([a-z]+)_(.*)$/);
  return how !== "sum" && measures.find((measure) => measure.name === name).isShare ? percent(value) : short(value);
}

/** The example's tokens as a strip in their colours, left to right; where they crowd, the highest. */
function drawStrip(canvas) {
  const example = Number(canvas.parentElement.dataset.example);
  const width = canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = 1;
  const size = sizeOf(example);
  const table = page.colours[document.documentElement.dataset.theme];
  const pen = canvas.getContext("2d");
  const pixels = Math.min(size, width);
  for (let at = 0; at < pixels; at++) {
    let colour = -1;
    for (let token = Math.floor((at * size) / pixels); token < Math.floor(((at + 1) * size) / pixels); token++) {
      if (isInRange(start[example] + token)) colour = Math.max(colour, colourIndex(state.measure, state.scale, start[example] + token));
    }
    if (colour < 0) continue;
    pen.fillStyle = `#${table[colour]}`;
    pen.fillRect(Math.round((at * width) / pixels), 0, Math.ceil(width / pixels), 1);
  }
}

/** Bring the current example into the list's window. */
function revealRow() {
  const place = listed.indexOf(state.example);
  if (place < 0) return;
  const top = place * rowHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + rowHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + rowHeight - list.clientHeight;
}

const goTo = (example) => { if (example !== state.example) change({ example, token: -1 }, "example", "token"); };

/** Go some places on in the list; from an example that is not in it, to its first. */
function stepExample(by) {
  const place = listed.indexOf(state.example);
  const next = place < 0 ? 0 : Math.min(Math.max(place + by, 0), listed.length - 1);
  if (listed.length) goTo(listed[next]);
}

rows.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  goTo(Number(row.dataset.example));
  showDrawer(false);
});
list.addEventListener("scroll", showRows, { passive: true });
new ResizeObserver(showRows).observe(list);

let typing = 0;

/** Filter by what stands in the field now. */
function search() {
  clearTimeout(typing);
  const query = element("search").value;
  if (query !== state.query) change({ query }, "filter");
}

element("search").addEventListener("input", () => {
  clearTimeout(typing);
  if (exampleCount <= QUICK_TO_SEARCH) search();
  else typing = setTimeout(search, 150);
});
element("sort").addEventListener("change", (event) => {
  // What one looks for by a value is its highest; by order or id, the first.
  change({ sort: event.target.value, isDescending: !["order", "id"].includes(event.target.value) }, "filter");
  list.scrollTop = 0;
});
element("direction").addEventListener("click", () => change({ isDescending: !state.isDescending }, "filter"));
element("truncated").addEventListener("change", (event) => change({ onlyTruncated: event.target.checked }, "filter"));
element("previous").addEventListener("click", () => stepExample(-1));
element("next").addEventListener("click", () => stepExample(1));

addSorts();
on("filter range", filterList);
on("selection", () => { if (state.sort === "selected") filterList(); });
on("measure scale theme", showRows);
on("example", () => { revealRow(); showRows(); });
