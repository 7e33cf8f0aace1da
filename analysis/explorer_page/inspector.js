// All values of one token, or of the tokens that spell one character together.

let hovered = [];

function inspected() {
  if (hovered.length) return hovered;
  return state.token >= 0 ? [state.token] : [];
}

function showInspector() {
  const tokens = inspected();
  const box = element("token");
  element("inspector").classList.toggle("held", state.token >= 0);
  box.replaceChildren(...(tokens.length ? tokens.map(tokenSection) : [make("p", "quiet", "Point at a token, or move to one with ← and →.")]));
}

function tokenSection(token) {
  const box = make("section");
  const spelled = make("div", "spelled");
  const colour = colourIndex(state.measure, state.scale, token);
  const swatch = make("span", colour < 0 ? "swatch" : `swatch c${colour}`, tokenName(token).replace(/ /g, "·"));
  swatch.dir = "auto";
  spelled.append(swatch);
  const place = make("p", "place", `id ${tokenFacts.id[token]} · position ${whole(tokenFacts.position[token])} · token ${whole(token - start[state.example] + 1)} of ${whole(sizeOf(state.example))} · ${plural(tokenFacts.passes[token], "pass", "passes")}`);
  const others = piecesWith(token);
  if (others > 1) place.textContent += ` · one of ${others} that spell a character`;
  const table = make("table");
  const head = table.createTHead().insertRow();
  for (const text of ["", "value", "percentile"]) head.append(make("th", "", text));
  const body = table.createTBody();
  for (const measure of measures) if (measure.name !== "epistemic_se" || !hasEpistemic) body.append(valueRow(measure, token));
  body.append(rankRow(token), selectedRow(token));
  box.append(spelled, place, table);
  return box;
}

/** How many tokens spell a character together with this one. */
function piecesWith(token) {
  const shared = (view.spansOf.get(token - start[view.example]) ?? []).map((at) => view.segments[at].tokens.length);
  return Math.max(1, ...shared);
}

const epistemicError = measures.find((measure) => measure.name === "epistemic_se");
const hasEpistemic = measures.some((measure) => measure.name === "epistemic");

function valueText(measure, token) {
  const value = measure.values[token];
  if (Number.isNaN(value)) return "–";
  if (measure.isShare) return percent(value);
  if (measure.name === "epistemic" && epistemicError) return withError(value, epistemicError.values[token]);
  return short(value);
}

function valueRow(measure, token) {
  const row = make("tr", measure === state.measure ? "current" : "");
  const name = make("th", "", measure.short);
  name.scope = "row";
  const isKnown = !Number.isNaN(measure.values[token]);
  row.append(name, make("td", "", valueText(measure, token) + (isKnown && measure.unit ? ` ${measure.unit}` : "")));
  row.append(make("td", "share", isKnown ? ((measure.percentiles[token] / 65536) * 100).toFixed(1) : ""));
  return row;
}

function factRow(title, text) {
  const row = make("tr");
  const name = make("th", "", title);
  name.scope = "row";
  const value = make("td", "", text);
  value.colSpan = 2;
  row.append(name, value);
  return row;
}

function rankText(token) {
  const rank = tokenFacts.rank[token];
  if (rank < 0) return "not predicted";
  return rank === 0 ? "1 – the most probable token" : `${whole(rank + 1)} – ${plural(rank, "token")} more probable`;
}

const rankRow = (token) => factRow("Rank", rankText(token));

function selectedRow(token) {
  return factRow("Trained on", state.selectBy ? (isSelected(token) ? "yes" : "no") : "–");
}

/** The same in words, for the current token: read out when it changes. */
function sayToken() {
  if (state.token < 0) return;
  const values = measures.map((measure) => `${measure.short} ${valueText(measure, state.token)}`);
  element("token-said").textContent =
    `${tokenName(state.token)}: ${values.join(", ")}; rank ${rankText(state.token)}; ${isSelected(state.token) ? "trained on" : "not trained on"}`;
}

element("text").addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  hovered = tokensAt(event.target);
  showInspector();
  showHere();
});
element("text").addEventListener("pointerleave", () => { hovered = []; showInspector(); showHere(); });
element("text").addEventListener("click", (event) => {
  const [token = -1] = tokensAt(event.target);
  if (String(getSelection())) return;
  change({ token }, "token");
  if (token >= 0) spansOfToken(token)[0].scrollIntoView({ block: "nearest" });
});
element("close-token").addEventListener("click", () => change({ token: -1 }, "token"));

on("example", () => { hovered = []; });
on("example token measure scale selection", showInspector);
on("token", sayToken);
