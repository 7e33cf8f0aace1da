// Everything by keyboard.

/** Go to a token of the current example and bring it into the window. */
function moveTo(token) {
  const [first, end] = [start[state.example], start[state.example + 1]];
  if (end === first) return;
  change({ token: Math.min(Math.max(token, first), end - 1) }, "token");
  spansOfToken(state.token)[0]?.scrollIntoView({ block: "nearest" });
}

/** The next token in the order of the text; "right" goes back where the text runs to the left. */
function moveAcross(by) {
  if (state.token < 0) return moveTo(by > 0 ? start[state.example] : start[state.example + 1] - 1);
  const [span] = spansOfToken(state.token);
  const isLeftward = span && getComputedStyle(span.closest(".completion")).direction === "rtl";
  moveTo(state.token + (isLeftward ? -by : by));
}

/** The token above or below: of the first line in that direction, the one nearest across. */
function moveLine(by) {
  const [here] = spansOfToken(state.token).map((span) => span.getBoundingClientRect());
  if (!here) return;
  const middle = (here.left + here.right) / 2;
  let best = null;
  let line = null;
  for (let token = state.token + by; token >= start[state.example] && token < start[state.example + 1]; token += by) {
    const box = spansOfToken(token)[0]?.getClientRects()[0];
    if (!box || Math.abs(box.top - here.top) < here.height / 2) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > here.height / 2) break;
    const distance = Math.abs((box.left + box.right) / 2 - middle);
    if (!best || distance < best.distance) best = { token, distance };
  }
  if (best) moveTo(best.token);
}

function moveSelected(by) {
  const [first, end] = [start[state.example], start[state.example + 1]];
  let token = state.token < 0 ? (by > 0 ? first : end - 1) : state.token + by;
  while (token >= first && token < end && !isSelected(token)) token += by;
  if (token >= first && token < end) moveTo(token);
}

const setMeasure = (measure) => { if (measure && measure !== state.measure) change({ measure, range: null }, "range", "measure"); };
const stepMeasure = (by) => setMeasure(measures[(measures.indexOf(state.measure) + by + measures.length) % measures.length]);
const toggleScale = () => change({ scale: state.scale === "value" ? "percentile" : "value" }, "scale");

function clearSearch() {
  element("search").value = "";
  search();
}

/** Undo what is nearest: the current token, then the marked range, then the search. */
function clearOne() {
  if (state.token >= 0) change({ token: -1 }, "token");
  else if (state.range) setRange(-Infinity, Infinity);
  else clearSearch();
}

const KEYS = {
  j: () => stepExample(1),
  k: () => stepExample(-1),
  n: () => moveSelected(1),
  p: () => moveSelected(-1),
  m: () => stepMeasure(1),
  M: () => stepMeasure(-1),
  c: toggleScale,
  x: () => change({ hasOutlines: !state.hasOutlines }, "outlines"),
  "[": () => setStep(state.step - 10),
  "]": () => setStep(state.step + 10),
  f: () => element("face").click(),
  t: () => element("theme").click(),
  "?": () => element("help").showModal(),
  "/": () => { showDrawer(true); element("search").focus(); element("search").select(); },
  Escape: clearOne,
};
const TOKEN_KEYS = {
  ArrowRight: () => moveAcross(1),
  ArrowLeft: () => moveAcross(-1),
  ArrowDown: () => moveLine(1),
  ArrowUp: () => moveLine(-1),
  Home: () => moveTo(start[state.example]),
  End: () => moveTo(start[state.example + 1] - 1),
};
const LIST_KEYS = {
  ArrowDown: () => stepExample(1),
  ArrowUp: () => stepExample(-1),
  PageDown: () => stepExample(Math.max(Math.floor(list.clientHeight / rowHeight), 1)),
  PageUp: () => stepExample(-Math.max(Math.floor(list.clientHeight / rowHeight), 1)),
  Home: () => stepExample(-exampleCount),
  End: () => stepExample(exampleCount),
  Enter: () => { showDrawer(false); element("text").focus(); },
};

/** Up, down, Home and End scroll the page as everywhere, until a token is chosen. */
function keysFor(target) {
  if (list.contains(target)) return { ...KEYS, ...LIST_KEYS };
  const moves = state.token >= 0 || target === element("text") ? TOKEN_KEYS : { ArrowRight: TOKEN_KEYS.ArrowRight, ArrowLeft: TOKEN_KEYS.ArrowLeft };
  return { ...KEYS, ...moves };
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || element("help").open) return;
  const { target } = event;
  if (target.matches("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea")) return typed(event);
  const isControl = target.matches("select, input[type=radio], input[type=range]");
  // A control keeps its own keys: arrows, and in a select the letters too.
  if (isControl && (event.key.startsWith("Arrow") || ["Home", "End"].includes(event.key) || target.matches("select"))) return;
  const digit = /^[1-9]$/.test(event.key) ? measures[Number(event.key) - 1] : null;
  const action = digit ? () => setMeasure(digit) : keysFor(target)[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

/** Keys in a field: Enter in the search goes to the list, Escape leaves the field. */
function typed(event) {
  if (event.key === "Escape") {
    if (event.target.id === "search" && event.target.value) clearSearch();
    else event.target.blur();
    event.preventDefault();
  } else if (event.key === "Enter" && event.target.id === "search") {
    search();
    if (!listed.includes(state.example)) stepExample(0);
    list.focus();
    event.preventDefault();
  }
}
