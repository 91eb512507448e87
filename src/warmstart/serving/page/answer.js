// Shows an answer: words first, then bars; the heat map over the picture.
const $ = (id) => document.getElementById(id);
const BARS = 5;
let heat = null; // the visible heat map, drawn again when the window changes

export function showAnswer(answer, input, kind) {
  const isText = typeof input === "string";
  $("input-text").hidden = !isText;
  $("clip").hidden = kind !== "audio";
  $("picture").hidden = isText || kind === "audio";
  if (isText) $("input-text").textContent = input;
  else if (kind === "audio") play(input);
  else showPicture(input);
  $("words").textContent = answer.words;
  $("more").textContent = remark(answer);
  $("more").hidden = !$("more").textContent;
  // An object lists names that are numbers first, in their own order: sort by probability.
  const scores = Object.entries(answer.scores).sort(([, one], [, other]) => other - one);
  $("bars").replaceChildren(...scores.slice(0, BARS).map(bar));
}

// The rows of a table, one answer each.
export function showRows(answers) {
  $("picture").hidden = true;
  $("words").textContent = answers.length === 1 ? answers[0].words : `${answers.length} rows`;
  $("more").hidden = true;
  $("bars").replaceChildren();
  const lines = answers.map((one) => {
    const text = one.error || one.words;
    const share = one.probability === null ? "" : percent(one.probability);
    const line = document.createElement("tr");
    line.append(part("th", "name", one.name), part("td", "said", text), part("td", "share", share));
    return line;
  });
  $("rows").replaceChildren(...lines);
  $("rows").hidden = false;
}

function play(file) {
  const clip = $("clip");
  if (clip.src) URL.revokeObjectURL(clip.src);
  clip.src = URL.createObjectURL(file);
}

function showPicture(file) {
  const image = $("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.onload = fit;
  image.onerror = () => ($("picture").hidden = true); // of a kind that browsers cannot show
  image.src = URL.createObjectURL(file);
}

function remark(answer) {
  if (answer.ood) return `Out of distribution: no training example is like this. The closest of its classes is ${answer.label}.`;
  if (answer.confident === null) return "It was trained on too few examples to guarantee an error rate.";
  return "";
}

function bar([label, probability]) {
  const item = document.createElement("li");
  const name = part("span", "name", label);
  const share = part("span", "share", percent(probability));
  const track = part("div", "track", "");
  const fill = part("div", "fill", "");
  fill.style.width = `${100 * probability}%`;
  track.append(fill);
  item.append(name, share, track);
  return item;
}

function part(tag, kind, text) {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

export function percent(p) {
  if (p >= 0.995) return "> 99 %"; // never certain
  if (p < 0.005) return "< 1 %";
  return `${Math.round(100 * p)} %`;
}

// ---- heat ----------------------------------------------------------------------------------

export function showHeat(map) {
  heat = map;
  $("heat-words").textContent = map.words;
  $("heat-words").hidden = false;
  $("heat").hidden = false;
  draw();
}

export function hideHeat() {
  heat = null;
  $("heat").hidden = true;
  $("heat-words").hidden = true;
}

// Darkens what did not matter, and the margin that the network never sees.
function draw() {
  if (!heat) return;
  const image = $("preview"), canvas = $("heat");
  canvas.width = image.clientWidth;
  canvas.height = image.clientHeight;
  const [left, top, right, bottom] = heat.box;
  const x = left * canvas.width, y = top * canvas.height;
  const width = (right - left) * canvas.width, height = (bottom - top) * canvas.height;
  const context = canvas.getContext("2d");
  context.fillStyle = `rgba(${shade(0).slice(0, 3)}, ${shade(0)[3] / 255})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(x, y, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(small(heat.grid), x, y, width, height);
}

function small(grid) {
  const rows = grid.length, columns = grid[0].length;
  const cells = new ImageData(columns, rows);
  grid.flat().forEach((value, n) => cells.data.set(shade(value), 4 * n));
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(cells, 0, 0);
  return canvas;
}

// From dark through clear to a warm glow, which is visible on dark pictures too.
function shade(value) {
  if (value < 0.5) return [8, 10, 14, Math.round(180 * (1 - 2 * value))];
  return [255, 138, 20, Math.round(150 * (2 * value - 1))];
}

// As large as fits, small pictures at most 2.5 times their size.
function fit() {
  const image = $("preview");
  const isWide = window.matchMedia("(min-width: 46rem)").matches;
  const most = [image.closest("figure").parentElement.clientWidth * (isWide ? 0.43 : 1) / image.naturalWidth,
    window.innerHeight * (isWide ? 0.68 : 0.38) / image.naturalHeight, 2.5];
  image.style.width = `${Math.floor(image.naturalWidth * Math.min(...most))}px`;
  draw();
}

window.addEventListener("resize", fit);
