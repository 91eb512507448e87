// Numbers in words.

const grouped = new Intl.NumberFormat("en");

export function number(n) {
  return grouped.format(n);
}

export function count(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

export function percent(p) {
  if (p >= 0.995) return "> 99 %"; // never certain
  if (p < 0.005) return "< 1 %";
  return `${Math.round(100 * p)} %`;
}

// A share of many, which may well be none or all.
export function share(p) {
  return `${Math.round(100 * p)} %`;
}

export function span(low, high) {
  return `${Math.round(100 * low)} to ${Math.round(100 * high)}`;
}

export function left(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 2) return "this step is almost done";
  if (seconds < 90) return `about ${Math.round(seconds)} s left in this step`;
  return `about ${Math.round(seconds / 60)} min left in this step`;
}
