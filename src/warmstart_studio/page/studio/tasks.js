// The labels of each task: their columns, their words, and what a key does.

const NONE = "no label"; // the column of pictures without any of several labels
const BINS = 5; // columns of numbers, about as many pictures each
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });

const names = (label) => (label === "" ? [] : label.split("|"));

const classes = {
  one: "class", many: "classes", isNamed: true, leaves: true,
  assign: "Move to", keyHint: "Keys 1 to 9 give another label, Enter opens it large. ",
  startHint: "Put pictures of two or more classes on the board, then press Train. The first result takes seconds.",
  format: (label) => label,
  isFixed: () => false,
  columns(board, passes) {
    const columns = new Map(board.classes.map((name) => [name, []]));
    for (const [id, label] of board.labels) if (label !== null && passes(id)) columns.get(label)?.push(id);
    return columns;
  },
  isOpen: (wrong, label) => wrong.label !== label,
  predictedAs: (wrong) => `predicted as ${wrong.label}`,
};

const sets = {
  one: "label", many: "labels", isNamed: true, leaves: false,
  assign: "Label", keyHint: "Keys 1 to 9 add or remove a label, Enter opens it large. ",
  startHint: "Two labels with two pictures each are needed. Then press Train; the first result takes seconds.",
  format: (label) => names(label).join(", ") || NONE,
  isFixed: (name) => name === NONE,
  columns(board, passes) {
    const columns = new Map(board.classes.map((name) => [name, []])), bare = [];
    for (const [id, label] of board.labels) {
      if (label === null || !passes(id)) continue;
      for (const name of names(label)) columns.get(name)?.push(id);
      if (label === "") bare.push(id);
    }
    if (bare.length) columns.set(NONE, bare);
    return columns;
  },
  isOpen: (wrong, label) => wrong.target === label,
  predictedAs: (wrong) => wrong.words,
};

const numbers = {
  one: "number", many: "numbers", isNamed: false, leaves: false,
  assign: "", keyHint: "Key n sets the number, Enter opens it large. ",
  startHint: "Press Train; the first result takes seconds.",
  format: (label) => few.format(Number(label)),
  isFixed: () => true,
  columns(board, passes) {
    const numbered = [...board.labels].filter(([, label]) => label !== null)
      .sort(([, one], [, other]) => Number(one) - Number(other));
    const columns = new Map();
    const n = Math.min(BINS, numbered.length);
    for (let bin = 0; bin < n; bin += 1) {
      const some = numbered.slice(Math.round((bin * numbered.length) / n), Math.round(((bin + 1) * numbered.length) / n));
      const name = `${few.format(Number(some[0][1]))} to ${few.format(Number(some.at(-1)[1]))}`;
      const ids = some.map(([id]) => id).filter(passes);
      columns.set(name, [...(columns.get(name) ?? []), ...ids]);
    }
    return columns;
  },
  isOpen: (wrong, label) => wrong.target === label,
  predictedAs: (wrong) => wrong.words,
};

const TASKS = { classify: classes, multilabel: sets, regress: numbers };

export const taskOf = ({ board }) => TASKS[board?.task ?? "classify"];

// Whether a picture has one of several labels.
export const has = (label, name) => names(label ?? "").includes(name);
