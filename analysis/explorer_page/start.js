// The parts of the page that never change, its theme, its address, and the first drawing.

function addChoices(id, name, choices, chosen, choose) {
  for (const [value, text, title] of choices) {
    const label = make("label");
    const input = make("input");
    Object.assign(input, { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    if (title) label.title = title;
    label.append(input, make("span", "", text));
    element(id).append(label);
  }
}

const choose = (id, value) => { for (const input of element(id).querySelectorAll("input")) input.checked = input.value === value; };

addChoices("measures", "measure", measures.map((measure) => [measure.name, measure.short, measure.meaning]), state.measure.name,
  (name) => setMeasure(measures.find((measure) => measure.name === name)));
addChoices("scale", "scale", [["value", "value"], ["percentile", "percentile"]], state.scale, (scale) => change({ scale }, "scale"));
addChoices("axis", "axis", [["log", "log"], ["linear", "linear"]], "log", (axis) => {
  state.axes.set(state.measure.name, axis);
  change({}, "axis");
});

function showMeasure() {
  const { measure } = state;
  choose("measures", measure.name);
  choose("axis", axisOf(measure));
  element("measure-title").textContent = measure.title;
  element("measure-meaning").textContent = measure.meaning;
}

function showScale() {
  choose("scale", state.scale);
  element("legend").textContent = `0 to ${state.measure.legend[state.scale]}`;
}

function showExampleFacts() {
  const { example, measure } = state;
  element("example-id").textContent = page.examples.id[example];
  const place = listed.indexOf(example);
  const parts = [place < 0 ? "not in the list" : `${whole(place + 1)} of ${whole(listed.length)}`, plural(sizeOf(example), "token")];
  const value = (how) => {
    const number = statistics[`${how}_${measure.name}`][example];
    return measure.isShare ? percent(number) : `${short(number)} ${measure.unit}`.trimEnd();
  };
  if (sizeOf(example)) parts.push(`${measure.short}: mean ${value("mean")}, largest ${value("max")}`);
  element("example-facts").textContent = parts.join(" · ");
  element("note").textContent = page.examples.truncated[example] ? "The text was cut here, at the maximum length." : "";
  const kept = Object.entries(page.examples.kept).filter(([, values]) => values[example] !== null);
  element("kept").replaceChildren(...kept.flatMap(([name, values]) => {
    const given = make("dd", "", values[example]);
    given.dir = "auto";
    return [make("dt", "", name), given];
  }));
}

/** Mark what was searched for in the text, as far as the browser can without touching the document. */
function showFound() {
  if (!globalThis.Highlight) return;
  CSS.highlights.delete("found");
  if (!state.query) return;
  const nodes = [];
  let text = "";
  for (const box of element("text").querySelectorAll(".body, .completion")) {
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) { nodes.push([text.length, walker.currentNode]); text += walker.currentNode.data; }
    text += "\n";
  }
  const placeOf = (offset) => {
    let [low, high] = [0, nodes.length - 1];
    while (low < high) { const middle = (low + high + 1) >> 1; if (nodes[middle][0] <= offset) low = middle; else high = middle - 1; }
    return [nodes[low][1], Math.min(offset - nodes[low][0], nodes[low][1].length)];
  };
  const found = [...text.matchAll(pattern("giu"))].slice(0, 1000).map((match) => {
    const range = document.createRange();
    range.setStart(...placeOf(match.index));
    const [node, offset] = placeOf(match.index + match[0].length - 1);
    range.setEnd(node, Math.min(offset + 1, node.length));
    return range;
  });
  if (found.length) CSS.highlights.set("found", new Highlight(...found));
}

const isDark = () => document.documentElement.dataset.theme === "dark";

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  element("theme").textContent = theme === "dark" ? "Light" : "Dark";
  change({}, "theme");
}

/** What the reader chose before; a page opened from disk may be denied a memory, and does without. */
function remembered(name) {
  try { return localStorage.getItem(`token-explorer ${name}`); } catch { return null; }
}
function remember(name, value) {
  try { localStorage.setItem(`token-explorer ${name}`, value); } catch { /* it holds until the page is closed */ }
}

function showDrawer(isOpen) {
  element("examples").classList.toggle("open", isOpen);
  element("open-list").setAttribute("aria-expanded", isOpen);
  if (isOpen) showRows();
}

function setFace(isMono) {
  element("face").setAttribute("aria-pressed", isMono);
  element("text").classList.toggle("mono", isMono);
}

/** The address names example and measure, so that a reload or a bookmark comes back to them. */
function writeAddress() {
  const address = new URLSearchParams({ example: page.examples.id[state.example], measure: state.measure.name });
  history.replaceState(null, "", `#${address}`);
}
function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  const example = page.examples.id.indexOf(address.get("example"));
  const measure = measures.find((one) => one.name === address.get("measure"));
  return { example: Math.max(example, 0), measure: measure ?? state.measure };
}

function addAbout() {
  const about = page.about;
  element("title").textContent = about.title;
  element("facts").textContent = [about.part, about.facts].filter(Boolean).join(" · ");
  element("facts").title = element("facts").textContent;
  const describe = (id, entries) => element(id).append(...entries.flatMap(([name, text]) => [make("dt", "", name), make("dd", "", text)]));
  describe("glossary", measures.map((measure) => [measure.title, `${measure.meaning}${measure.unit ? ` (${measure.unit})` : ""}`]));
  const facts = [["Run", about.facts], ["Fingerprint", about.fingerprint], ["Command", about.command], ["Shown", about.part || "all examples"], ["Tokens", `${whole(about.shown)} of ${whole(about.tokens)}`]];
  describe("about", facts.filter(([, text]) => text));
  const cut = page.examples.truncated.filter(Boolean).length;
  element("truncated-label").textContent = `only truncated (${whole(cut)})`;
  element("truncated").disabled = cut === 0;
}

element("open-help").addEventListener("click", () => element("help").showModal());
element("help").addEventListener("click", (event) => { if (event.target === element("help")) element("help").close(); });
element("theme").addEventListener("click", () => { setTheme(isDark() ? "light" : "dark"); remember("theme", document.documentElement.dataset.theme); });
element("face").addEventListener("click", () => {
  const isMono = !element("text").classList.contains("mono");
  setFace(isMono);
  remember("face", isMono ? "mono" : "sans");
});
element("open-list").addEventListener("click", () => showDrawer(!element("examples").classList.contains("open")));
element("text").addEventListener("pointerdown", () => showDrawer(false));

const system = window.matchMedia("(prefers-color-scheme: dark)");
system.addEventListener("change", () => { if (!remembered("theme")) setTheme(system.matches ? "dark" : "light"); });

on("measure", showMeasure);
on("measure scale theme", showScale);
on("example measure filter range", showExampleFacts);
on("example filter", showFound);
on("example measure", writeAddress);

document.documentElement.dataset.theme = remembered("theme") ?? (system.matches ? "dark" : "light");
element("theme").textContent = isDark() ? "Light" : "Dark";
setFace(remembered("face") === "mono");
rowHeight = parseFloat(getComputedStyle(document.documentElement).fontSize) * 4.25;
addAbout();
change(readAddress(), "selection", "range", "filter", "measure", "scale", "example", "token");
