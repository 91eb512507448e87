// How an answer looks: words first, bars second; the heat map over the picture.
const $ = (id) => document.getElementById(id);
const BARS = 5;
let laid = null; // the heat map that is shown, to be laid anew when the window changes

export function showAnswer(answer, file) {
  const image = $("shown");
  if (image.src) URL.revokeObjectURL(image.src);
  $("picture").hidden = false;
  image.onerror = () => ($("picture").hidden = true); // of a kind that browsers cannot show
  image.src = URL.createObjectURL(file);
  $("words").textContent = answer.words;
  $("more").textContent = remark(answer);
  $("more").hidden = !$("more").textContent;
  $("bars").replaceChildren(...Object.entries(answer.scores).slice(0, BARS).map(bar));
}

function remark(answer) {
  if (answer.unknown) return `Nothing it learnt from is like this. If it must be one of its classes, ${answer.label} comes closest.`;
  if (answer.sure === null) return "It learnt from too few images to promise when it is right.";
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
  if (p >= 0.995) return "> 99 %"; // no single answer is certain
  if (p < 0.005) return "< 1 %";
  return `${Math.round(100 * p)} %`;
}

// ---- heat ----------------------------------------------------------------------------------

export function showHeat(found) {
  laid = found;
  $("mattered").textContent = found.words;
  $("mattered").hidden = false;
  $("heat").hidden = false;
  lay();
}

export function hideHeat() {
  laid = null;
  $("heat").hidden = true;
  $("mattered").hidden = true;
}

function lay() {
  if (!laid) return;
  const image = $("shown"), canvas = $("heat");
  const { width, height } = image.getBoundingClientRect();
  const [left, top, right, bottom] = laid.box;
  Object.assign(canvas.style, {
    left: `${left * width}px`, top: `${top * height}px`,
    width: `${(right - left) * width}px`, height: `${(bottom - top) * height}px`,
  });
  paint(canvas, laid.grid);
}

// What did not matter is dimmed, so that what did stands out in its own colours.
function paint(canvas, grid) {
  const rows = grid.length, columns = grid[0].length;
  const small = new OffscreenCanvas(columns, rows);
  const cells = new ImageData(columns, rows);
  grid.flat().forEach((value, n) => cells.data.set([10, 12, 16, Math.round(200 * (1 - value))], 4 * n));
  small.getContext("2d").putImageData(cells, 0, 0);
  canvas.width = 32 * columns;
  canvas.height = 32 * rows;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

window.addEventListener("resize", lay);
