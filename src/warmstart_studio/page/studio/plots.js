// Small plots as SVG.
import { share, span } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The estimate as a dot on a line from 0 to 100, with its interval and the majority class.
export function scale(estimate, majority, scoreWords = "right") {
  const x = (p) => 12 + 576 * Math.min(Math.max(p, 0), 1); // R² may lie below 0
  const description = `${share(estimate.value)} ${scoreWords} (${span(estimate.low, estimate.high)}), on a line from 0 to 100`
    + (majority === null ? "." : `; guessing reaches ${share(majority)}.`);
  const drawing = shape("svg", { viewBox: "0 0 600 74", class: "scale", role: "img", "aria-label": description },
    shape("line", { x1: x(0), x2: x(1), y1: 34, y2: 34, class: "axis" }),
    ...[0, 0.5, 1].map((p) => shape("line", { x1: x(p), x2: x(p), y1: 29, y2: 39, class: "axis" })),
    ...[0, 0.5, 1].map((p) => text(x(p), 60, String(100 * p), p === 0 ? "start" : p === 1 ? "end" : "middle")),
    shape("line", { x1: x(estimate.low), x2: x(estimate.high), y1: 34, y2: 34, class: "interval" }),
    shape("circle", { cx: x(estimate.value), cy: 34, r: 9, class: "dot" }));
  if (majority !== null) {
    drawing.append(shape("line", { x1: x(majority), x2: x(majority), y1: 22, y2: 46, class: "majority" }),
      text(x(majority), 14, "guessing", majority < 0.08 ? "start" : "middle"));
  }
  return drawing;
}

// Predicted against true numbers; `half` is half the width of the 90 % band, or null.
export function scatter(points, half) {
  const all = points.flat(), low = Math.min(...all), high = Math.max(...all), width = high - low || 1;
  const at = (value) => 240 * ((value - low) / width), x = (value) => 50 + at(value), y = (value) => 260 - at(value);
  const corner = (value, by) => `${x(value).toFixed(1)},${Math.min(Math.max(y(value + by), 20), 260).toFixed(1)}`;
  const description = `${points.length} pictures, numbers from ${low.toPrecision(3)} to ${high.toPrecision(3)}: predicted against true.`;
  const drawing = shape("svg", { viewBox: "0 0 320 300", class: "scatter", role: "img", "aria-label": description });
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

// The validation score during fine-tuning: a line for each fold over its epochs, and dashed in its
// colour the score of the linear probe on the same pictures.
export function curves(folds, score) {
  const points = folds.flatMap((one) => one.points), epochs = points.map(([epoch]) => epoch);
  const scores = [...points.map(([, value]) => value), ...folds.map(({ probe }) => probe).filter((one) => one !== null)];
  const last = Math.max(...epochs, 1);
  const low = Math.max(Math.floor(10 * Math.min(...scores) - 0.5) / 10, Math.min(...scores, 0));
  const high = Math.min(Math.ceil(10 * Math.max(...scores) + 0.5) / 10, 1);
  const x = (epoch) => 56 + 528 * (epoch / last), y = (value) => 176 - 150 * ((value - low) / (high - low || 1));
  const description = folds.map(({ fold, points: its, probe }) => `${fold}: ${share(its[0][1])} after epoch ${few(its[0][0])},`
    + ` ${share(its.at(-1)[1])} after epoch ${few(its.at(-1)[0])}${probe === null ? "" : `, linear probe ${share(probe)}`}`).join("; ");
  const drawing = shape("svg", { viewBox: "0 0 600 220", class: "curve", role: "img", "aria-label": `${score}. ${description}.` });
  for (const value of [low, (low + high) / 2, high]) {
    drawing.append(shape("line", { x1: 56, x2: 584, y1: y(value), y2: y(value), class: "axis" }), text(48, y(value) + 5, share(value), "end"));
  }
  const step = Math.ceil(last / 5); // whole epochs only
  for (let epoch = 0; epoch <= last; epoch += step) drawing.append(text(x(epoch), 196, String(epoch), "middle"));
  drawing.append(text(320, 214, "epoch", "middle"), text(56, 12, score, "start"));
  folds.forEach(({ points: its, probe }, n) => {
    const kind = `fold-${n % 3}`;
    if (probe !== null) drawing.append(shape("line", { x1: 56, x2: 584, y1: y(probe), y2: y(probe), class: `probe ${kind}` }));
    const corners = its.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const [end, value] = its.at(-1);
    drawing.append(shape("polyline", { points: corners, class: `line ${kind}` }),
      shape("circle", { cx: x(end), cy: y(value), r: 4, class: `dot ${kind}` }));
  });
  return drawing;
}

const few = (epoch) => String(Number(epoch.toFixed(1)));
