// The tokens that would be trained on: the top share of the run by a measure, outlined in the text.

function showSelection() {
  const { selectBy, step } = state;
  if (!selectBy) return;
  const count = selectedCount();
  element("slider").value = step;
  if (document.activeElement !== element("fraction")) element("fraction").value = (step / 10).toFixed(1);
  element("slider").setAttribute("aria-valuetext", `${(step / 10).toFixed(1)} percent, ${plural(count, "token")}`);
  element("select-by").value = selectBy.name;
  element("threshold").textContent = count
    ? `${selectBy.short} ≥ ${short(selectBy.thresholds[step], 4)}${selectBy.unit ? ` ${selectBy.unit}` : ""}`
    : "no token";
  const parts = [`${whole(count)} of ${plural(selectBy.predicted, "token")} in the run`];
  if (page.about.part) parts.push(`${whole(selectedByExample.reduce((sum, one) => sum + one, 0))} of ${whole(tokenCount)} on this page`);
  parts.push(`${whole(selectedByExample[state.example])} of ${whole(sizeOf(state.example))} in this example`);
  element("selected").textContent = parts.join(" · ");
}

const setStep = (step) => change({ step: Math.min(Math.max(Math.round(step), 0), 1000) }, "selection");

for (const measure of measures.filter((one) => one.canSelect)) {
  const choice = make("option", "", measure.short.toLowerCase().replace("mc", "MC"));
  choice.value = measure.name;
  element("select-by").append(choice);
}
element("slider").addEventListener("input", (event) => setStep(Number(event.target.value)));
element("fraction").addEventListener("input", (event) => {
  const share = readNumber(event.target.value);
  if (share !== null) setStep(share * 10);
});
element("fraction").addEventListener("blur", showSelection);
element("select-by").addEventListener("change", (event) => {
  change({ selectBy: measures.find((measure) => measure.name === event.target.value) }, "selection");
});
element("outline").addEventListener("change", (event) => change({ hasOutlines: event.target.checked }, "outlines"));
on("outlines", () => { element("outline").checked = state.hasOutlines; });
on("selection example", showSelection);
