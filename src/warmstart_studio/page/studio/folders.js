// The class of a file, by its folder.

const HIDDEN = /^(\.|Thumbs\.db$|desktop\.ini$|__MACOSX$)/i; // what systems leave in folders
const byName = new Intl.Collator("en", { numeric: true }).compare; // made once: it is slow to make

// Folders that are splits instead of classes, and their names on the server.
const SPLITS = new Map([
  ["train", "train"], ["training", "train"], ["val", "holdout"], ["valid", "holdout"],
  ["validation", "holdout"], ["dev", "holdout"], ["test", "test"], ["testing", "test"],
]);

// photos/train/cat/1.jpg and photos/test/cat/2.jpg: the classes are one level deeper.
function hasSplits(files) {
  const inside = files.filter(({ path }) => path.length > 2);
  return inside.length > 0 && inside.every(({ path }) => path.length > 3 && SPLITS.has(path[1].toLowerCase()));
}

// The sub-folders of a folder are classes; a folder without any is a class itself.
// `files` are { path: ["photos", "cat", "1.jpg"], file }, all of one folder.
function classesOf(files) {
  const isNested = files.some(({ path }) => path.length > 2), isSplit = hasSplits(files);
  const named = [], notes = [];
  for (const { path, file } of files) {
    // The path in the data set, without the folder that holds the classes.
    const folder = path.slice(isNested ? 1 : 0, -1).join("/");
    if (!isNested) named.push({ file, folder, label: path[0] });
    else if (isSplit && path.length > 3) named.push({ file, folder, label: path[2], split: SPLITS.get(path[1].toLowerCase()) });
    else if (path.length > 2) named.push({ file, folder, label: path[1] });
    else notes.push({ name: file.name, why: "is beside the folders of the classes" });
  }
  return { named, notes };
}

function sorted(files) {
  return files.filter(({ path }) => !path.some((part) => HIDDEN.test(part)))
    .sort((one, other) => byName(one.path.join("/"), other.path.join("/")));
}

// What a file input with webkitdirectory gives.
export function chosenFolder(list) {
  return classesOf(sorted([...list].map((file) => ({ path: file.webkitRelativePath.split("/"), file }))));
}

// What was dropped: folders make classes, files alone are `loose`.
export async function dropped(transfer) {
  // The list is emptied as soon as this function waits, so the entries are taken out first.
  const entries = [...transfer.items].filter(({ kind }) => kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const answer = { named: [], loose: [], notes: [] };
  for (const entry of entries.filter(Boolean).sort((one, other) => byName(one.name, other.name))) {
    if (entry instanceof File) answer.loose.push({ file: entry });
    else if (entry.isFile) await collect(entry, [], answer.loose, answer.notes);
    else {
      const inside = [];
      await walk(entry, [entry.name], inside, answer.notes);
      const { named, notes } = classesOf(sorted(inside));
      answer.named.push(...named);
      answer.notes.push(...notes);
    }
  }
  return answer;
}

async function walk(folder, path, files, notes) {
  for (const entry of await listed(folder)) {
    if (entry.isFile) await collect(entry, path, files, notes);
    else await walk(entry, [...path, entry.name], files, notes);
  }
}

async function collect(entry, path, files, notes) {
  try {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    files.push({ path: [...path, entry.name], file });
  } catch {
    notes.push({ name: entry.name, why: "cannot be read" });
  }
}

// A reader gives at most 100 entries at a time and then none.
async function listed(folder) {
  const reader = folder.createReader(), all = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return all;
    all.push(...some);
  }
}
