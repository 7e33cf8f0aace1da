// The page's data: what stands in the document as JSON, its arrays decoded when they are first asked for.

const page = JSON.parse(document.getElementById("data").textContent);

const ARRAYS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u2: Uint16Array };

/** An array from its text: two letters for the type, then base64 of little-endian bytes. */
function unpack(packed) {
  const bytes = atob(packed.slice(2));
  const buffer = new Uint8Array(bytes.length);
  for (let at = 0; at < bytes.length; at++) buffer[at] = bytes.charCodeAt(at);
  return new ARRAYS[packed.slice(0, 2)](buffer.buffer);
}

/** The same object, its packed arrays decoded one by one, when they are first read. */
function lazy(packed) {
  const made = {};
  for (const [name, given] of Object.entries(packed)) {
    if (typeof given !== "string" || !PACKED.has(name)) made[name] = given;
    else Object.defineProperty(made, name, { configurable: true, get() {
      const array = unpack(given);
      Object.defineProperty(made, name, { value: array });
      return array;
    } });
  }
  return made;
}

const PACKED = new Set([
  "values", "percentiles", "ranks", "counts", "thresholds", "id", "position", "rank", "passes",
  ...Object.keys(page.examples.statistics),
]);
const measures = page.measures.map(lazy);
for (const measure of measures) measure.canSelect = measure.predicted !== undefined;
const tokenFacts = lazy(page.tokens);
const statistics = lazy(page.examples.statistics);

const start = page.examples.start;
const exampleCount = page.examples.id.length;
const tokenCount = start[exampleCount];
const sizeOf = (example) => start[example + 1] - start[example];

/** The colour of a token by a measure, 0 (pale) to 255 (dark); -1 where there is no prediction. */
function colourIndex(measure, scale, token) {
  const value = measure.values[token];
  if (Number.isNaN(value)) return -1;
  if (scale === "percentile") return measure.percentiles[token] >> 8;
  return measure.upper > 0 ? Math.min(Math.floor((value / measure.upper) * 256), 255) : 0;
}

/** The segments of a block as objects; `analysis/explorer_text.py` says how they are written. */
function readSegments(block) {
  let following = block.first;
  return block.segments.map((written) => {
    if (typeof written === "string") return { kind: "t", shown: written, tokens: [following++] };
    const [kind, shown, ...tokens] = written;
    if (tokens.length) following = tokens.at(-1) + 1;
    return { kind, shown, tokens };
  });
}

const STANDS_FOR = { n: "\n", b: "\t" };

/** What is searched in an example: its id, what was said, and what is scored, as one text. */
function searchedText(example) {
  const parts = [page.examples.id[example]];
  for (const block of page.examples.blocks[example]) {
    for (const [, segments] of block.before) parts.push(plainText(segments));
    parts.push(plainText(block.segments));
  }
  return parts.join("\n");
}

function plainText(segments) {
  return segments.map((one) => (typeof one === "string" ? one : STANDS_FOR[one[0]] ?? one[1])).join("");
}
