// Small pictures of numbers, drawn as SVG.
import { share, span } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, given, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The estimate as a dot on a line from 0 to 100, with its interval and what guessing would reach.
export function scale(estimate, guess, right = "right") {
  const x = (p) => 12 + 576 * Math.min(Math.max(p, 0), 1); // R² may lie below 0
  const said = `${share(estimate.value)} ${right} (${span(estimate.low, estimate.high)}), on a line from 0 to 100`
    + (guess === null ? "." : `; guessing reaches ${share(guess)}.`);
  const drawing = shape("svg", { viewBox: "0 0 600 74", class: "scale", role: "img", "aria-label": said },
    shape("line", { x1: x(0), x2: x(1), y1: 34, y2: 34, class: "axis" }),
    ...[0, 0.5, 1].map((p) => shape("line", { x1: x(p), x2: x(p), y1: 29, y2: 39, class: "axis" })),
    ...[0, 0.5, 1].map((p) => text(x(p), 60, String(100 * p), p === 0 ? "start" : p === 1 ? "end" : "middle")),
    shape("line", { x1: x(estimate.low), x2: x(estimate.high), y1: 34, y2: 34, class: "interval" }),
    shape("circle", { cx: x(estimate.value), cy: 34, r: 9, class: "dot" }));
  if (guess !== null) {
    drawing.append(shape("line", { x1: x(guess), x2: x(guess), y1: 22, y2: 46, class: "guess" }),
      text(x(guess), 14, "guessing", guess < 0.08 ? "start" : "middle"));
  }
  return drawing;
}

// What was said against what is true; `half` is that of the band of 9 of 10, or null.
export function scatter(points, half) {
  const all = points.flat(), low = Math.min(...all), high = Math.max(...all), width = high - low || 1;
  const at = (value) => 240 * ((value - low) / width), x = (value) => 50 + at(value), y = (value) => 260 - at(value);
  const corner = (value, by) => `${x(value).toFixed(1)},${Math.min(Math.max(y(value + by), 20), 260).toFixed(1)}`;
  const said = `${points.length} pictures, numbers from ${low.toPrecision(3)} to ${high.toPrecision(3)}: said against true.`;
  const drawing = shape("svg", { viewBox: "0 0 320 300", class: "scatter", role: "img", "aria-label": said });
  if (half !== null) {
    const edges = [[low, half], [high, half], [high, -half], [low, -half]];
    drawing.append(shape("polygon", { points: edges.map(([value, by]) => corner(value, by)).join(" "), class: "band" }));
  }
  drawing.append(shape("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "axis" }),
    ...points.map(([one, other]) => shape("circle", { cx: x(one), cy: y(other), r: 3, class: "dot" })),
    text(50, 278, low.toPrecision(3), "middle"), text(290, 278, high.toPrecision(3), "middle"),
    text(170, 296, "true", "middle"), text(44, 262, low.toPrecision(3), "end"), text(44, 26, high.toPrecision(3), "end"));
  return drawing;
}

function text(x, y, words, anchor) {
  return shape("text", { x, y, "text-anchor": anchor }, words);
}

// How many are right on pictures it has not seen, while layers are tuned.
export function curve(points, right = "Right") {
  const first = points[0], last = points[points.length - 1];
  const width = Math.max(last[0] - first[0], 1);
  const values = points.map(([, value]) => value);
  const low = Math.min(...values), high = Math.max(...values, low + 0.05);
  const x = (step) => 44 + 540 * ((step - first[0]) / width), y = (value) => 112 - 96 * ((value - low) / (high - low));
  const said = `${right} on pictures that it has not seen: from ${share(values[0])} to ${share(last[1])}.`;
  const corners = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return shape("svg", { viewBox: "0 0 600 130", class: "curve", role: "img", "aria-label": said },
    ...[low, high].map((value) => shape("line", { x1: 44, x2: 584, y1: y(value), y2: y(value), class: "axis" })),
    ...[low, high].map((value) => text(36, y(value) + 5, share(value), "end")),
    shape("polyline", { points: corners, class: "line" }),
    shape("circle", { cx: x(last[0]), cy: y(last[1]), r: 5, class: "dot" }));
}
