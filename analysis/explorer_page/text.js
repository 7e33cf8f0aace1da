// The text of one example: built in chunks when they come near the window, painted when they are seen.

const CHUNK_SEGMENTS = 400; // a chunk ends with the first line that ends after so many
const LONGEST_CHUNK = 3000; // or in the middle of a line

const view = { example: -1, segments: [], spans: [], chunks: [], spansOf: new Map(), paint: 0 };

const nearWindow = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chunk = view.chunks[entry.target.dataset.chunk];
    if (!chunk || chunk.box !== entry.target) continue;
    chunk.isNear = entry.isIntersecting;
    if (chunk.isNear) paintChunk(chunk);
  }
}, { rootMargin: "800px 0px" });

function showExample() {
  if (view.example === state.example) return;
  const text = element("text");
  nearWindow.disconnect();
  Object.assign(view, { example: state.example, segments: [], spans: [], chunks: [], spansOf: new Map() });
  const blocks = page.examples.blocks[state.example];
  const boxes = blocks.flatMap((block) => [...block.before.map(contextBox), ...chunkBoxes(block)]);
  text.replaceChildren(...boxes);
  text.scrollTop = 0;
  element("text").closest("main").scrollTop = 0;
  if (window.matchMedia("(max-width: 56rem)").matches) window.scrollTo(0, 0);
  for (const chunk of view.chunks) nearWindow.observe(chunk.box);
  // What stands at the top is there at once; the rest follows in idle time, so that it can be found and copied too.
  if (view.chunks.length) paintChunk(view.chunks[0]);
  buildInIdleTime(state.example, 1);
  for (const box of text.querySelectorAll(".said")) foldIfLong(box);
}

function contextBox([role, segments]) {
  const box = make("div", "said");
  const body = make("div", "body");
  body.dir = "auto";
  for (const segment of segments) {
    body.append(typeof segment === "string" ? segment : markedSpan(segment[0], segment[1], ""));
  }
  box.append(make("span", "role", role), body);
  return box;
}

/** A long prompt shows its beginning until it is opened. */
function foldIfLong(box) {
  const body = box.querySelector(".body");
  const limit = parseFloat(getComputedStyle(body).fontSize) * 18;
  if (body.scrollHeight <= limit) return;
  box.classList.add("long");
  const button = make("button", "", "Show all");
  button.type = "button";
  button.addEventListener("click", () => { button.textContent = box.classList.toggle("long") ? "Show all" : "Show less"; });
  box.append(button);
}

function chunkBoxes(block) {
  const from = view.segments.length;
  view.segments.push(...readSegments(block));
  const names = new Map(Object.entries(block.names));
  const ends = chunkEnds(from);
  let begin = from;
  return ends.map((end) => {
    const box = make("div", ends.length > 1 ? "completion many" : "completion");
    box.dir = "auto";
    const chunk = { box, from: begin, to: end, names, isBuilt: false, isNear: false, paint: -1 };
    box.dataset.chunk = view.chunks.push(chunk) - 1;
    for (let at = begin; at < end; at++) {
      for (const token of view.segments[at].tokens) {
        if (!view.spansOf.has(token)) view.spansOf.set(token, []);
        view.spansOf.get(token).push(at);
      }
    }
    begin = end;
    return box;
  });
}

function chunkEnds(from) {
  const ends = [];
  let begin = from;
  for (let at = from; at < view.segments.length; at++) {
    const length = at + 1 - begin;
    const endsLine = length >= CHUNK_SEGMENTS && view.segments[at].kind === "n";
    const isTooLong = length >= LONGEST_CHUNK && view.segments[at + 1]?.shown.startsWith(" ");
    if (endsLine || isTooLong) ends.push(begin = at + 1);
  }
  if (begin < view.segments.length || !ends.length) ends.push(view.segments.length);
  return ends;
}

function buildInIdleTime(example, next) {
  if (view.example !== example || next >= view.chunks.length) return;
  const later = window.requestIdleCallback ?? ((work) => setTimeout(() => work({ timeRemaining: () => 8 }), 30));
  later((deadline) => {
    if (view.example !== example) return;
    do buildChunk(view.chunks[next++]); while (next < view.chunks.length && deadline.timeRemaining() > 6);
    buildInIdleTime(example, next);
  });
}

function buildChunk(chunk) {
  if (chunk.isBuilt) return;
  chunk.isBuilt = true;
  const spans = [];
  for (let at = chunk.from; at < chunk.to; at++) {
    const { kind, shown, tokens } = view.segments[at];
    const span = markedSpan(kind, shown, "");
    span.dataset.at = at;
    const following = view.segments[at + 1];
    const endsToken = !following || tokens.join() !== following.tokens.join();
    view.segments[at].look = `k ${kind}${endsToken ? " e" : ""}`;
    spans.push(view.spans[at] = span);
  }
  chunk.box.append(...spans);
}

/** What a segment is in the document: its text as text, and any mark for it as an attribute that the style shows. */
function markedSpan(kind, shown, className) {
  const span = make("span", className || kind);
  if (kind === "t") span.textContent = shown;
  else if (kind === "s") span.append(...[...shown].map((space) => make("i", "", space)));
  else {
    span.dataset.m = shown;
    if (STANDS_FOR[kind]) span.textContent = STANDS_FOR[kind];
  }
  return span;
}

function paintChunk(chunk) {
  buildChunk(chunk);
  if (chunk.paint === view.paint) return;
  chunk.paint = view.paint;
  for (let at = chunk.from; at < chunk.to; at++) paintSpan(at);
}

function paintSpan(at) {
  const { tokens, look } = view.segments[at];
  const first = start[view.example];
  let colour = -1;
  let isSelectedHere = false;
  let isInside = false;
  let isCurrent = false;
  for (const local of tokens) {
    const token = first + local;
    colour = Math.max(colour, colourIndex(state.measure, state.scale, token));
    isSelectedHere ||= isSelected(token);
    isInside ||= isInRange(token);
    isCurrent ||= token === state.token;
  }
  let name = look;
  if (!tokens.length || (state.range && !isInside)) name += " off";
  else name += colour < 0 ? " u" : ` c${colour}`;
  if (isSelectedHere && isInside && state.hasOutlines) name += " sel";
  if (isCurrent) name += " at";
  const span = view.spans[at];
  if (span.className !== name) span.className = name;
}

function repaint() {
  view.paint++;
  for (const chunk of view.chunks) if (chunk.isNear || chunk.isBuilt && view.chunks.length === 1) paintChunk(chunk);
}

/** The spans of a token of the page, built if they are not. */
function spansOfToken(token) {
  const places = view.spansOf.get(token - start[view.example]) ?? [];
  for (const at of places) {
    if (!view.spans[at]) paintChunk(view.chunks.find((chunk) => at >= chunk.from && at < chunk.to));
  }
  return places.map((at) => view.spans[at]);
}

/** The tokens of the page that a span shows; none outside of the scored text. */
function tokensAt(target) {
  const span = target instanceof Element ? target.closest("[data-at]") : null;
  if (!span) return [];
  return view.segments[span.dataset.at].tokens.map((token) => token + start[view.example]);
}

let tokenBefore = -1;

/** Move the ring to the token that is now the current one. */
function showCurrent() {
  const first = start[view.example];
  for (const token of [tokenBefore, state.token]) {
    if (token < first || token >= start[view.example + 1]) continue;
    for (const at of view.spansOf.get(token - first) ?? []) if (view.spans[at]) paintSpan(at);
  }
  tokenBefore = state.token;
}

function tokenName(token) {
  const example = view.example;
  const local = token - start[example];
  for (const block of page.examples.blocks[example]) if (local in block.names) return block.names[local];
  const shown = (view.spansOf.get(local) ?? []).map((at) => view.segments[at]);
  return shown.map((one) => (one.kind === "s" ? "·".repeat(one.shown.length) : one.shown)).join("") || "∅";
}

on("example", showExample);
on("example measure scale range selection outlines", repaint);
on("token", showCurrent);
