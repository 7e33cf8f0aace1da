// Numbers as a reader wants them.

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** Three significant digits; very small and very large numbers with a power of ten. */
function short(value, digits = 3) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 0.001 && size < 1e6) return minus(trimmed(value, digits));
  const [factor, power] = value.toExponential(Math.max(digits - 2, 0)).split("e");
  const raised = [...String(Number(power))].map((character) => SUPERSCRIPT[character]).join("");
  return minus(`${factor} × 10${raised}`);
}

function trimmed(value, digits) {
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(places, 12));
}

const minus = (text) => text.replace("-", "−");

/** A value with its standard error, both to the error's second digit. */
function withError(value, error) {
  if (!(error > 0) || !Number.isFinite(value)) return short(value);
  if (value < 0.001) {
    const power = Math.floor(Math.log10(Math.max(value, error)));
    const raised = [...String(power)].map((character) => SUPERSCRIPT[character]).join("");
    const places = Math.min(Math.max(0, power - Math.floor(Math.log10(error)) + 1), 4);
    const scaled = (number) => (number / 10 ** power).toFixed(places);
    return minus(`(${scaled(value)} ± ${scaled(error)}) × 10${raised}`);
  }
  const places = Math.min(Math.max(0, 1 - Math.floor(Math.log10(error))), 6);
  return minus(`${value.toFixed(places)} ± ${error.toFixed(places)}`);
}

const whole = (number) => number.toLocaleString("en");
const plural = (number, word, many = `${word}s`) => `${whole(number)} ${number === 1 ? word : many}`;

function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return `${short(value, 2)} %`;
  if (value < 100 && value > 99.9) return "> 99.9 %";
  return `${value.toFixed(1)} %`;
}

/** The number that was typed ("1.5", "1e-3"), or null. */
function readNumber(text) {
  const value = Number(text.replace("−", "-"));
  return text.trim() === "" || Number.isNaN(value) ? null : value;
}
