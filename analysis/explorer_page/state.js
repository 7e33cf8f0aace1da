// What the reader has chosen, and who is told of a change.

const element = (id) => document.getElementById(id);

/** An element with a class and a text; a text is never read as markup. */
function make(name, className = "", text = null) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

const state = {
  example: 0,
  token: -1, // of the page; -1: none
  measure: measures[0],
  scale: "value",
  axes: new Map(), // measure name -> "log" or "linear"
  range: null, // [low, high] of the measure, both included
  selectBy: measures.find((measure) => measure.canSelect),
  step: 250, // tenths of a percent
  hasOutlines: true,
  query: "",
  onlyTruncated: false,
  sort: "order",
  isDescending: false,
};

const listeners = new Map();

/** Call `what` after any of these topics has changed; in the order of the calls. */
function on(topics, what) {
  for (const topic of topics.split(" ")) listeners.set(topic, [...(listeners.get(topic) ?? []), what]);
}

/** Change the state and tell whom it concerns, each once, topic by topic: what others build on is named first. */
function change(fields, ...topics) {
  Object.assign(state, fields);
  const called = new Set(topics.flatMap((topic) => listeners.get(topic) ?? []));
  for (const one of called) one();
}

const isInRange = (token) => {
  if (!state.range) return true;
  const value = state.measure.values[token];
  return value >= state.range[0] && value <= state.range[1];
};

/** How many tokens of the run are selected. */
const selectedCount = () => (state.selectBy ? state.selectBy.counts[state.step] : 0);

/** Whether a token is selected: its rank in the whole run is below the count. */
function isSelected(token) {
  if (!state.selectBy) return false;
  const rank = state.selectBy.ranks[token];
  return rank >= 0 && rank < selectedCount();
}

/** For each example, how many of its tokens a test holds for. */
function countByExample(test) {
  const counts = new Int32Array(exampleCount);
  for (let example = 0; example < exampleCount; example++) {
    for (let token = start[example]; token < start[example + 1]; token++) if (test(token)) counts[example]++;
  }
  return counts;
}

let selectedByExample = new Int32Array(exampleCount);
let inRangeByExample = new Int32Array(exampleCount);
on("selection", () => { selectedByExample = countByExample(isSelected); });
on("range measure", () => { inRangeByExample = state.range ? countByExample(isInRange) : new Int32Array(exampleCount); });
