// Requests to the server. Errors have a message for people.

class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "The studio does not answer; start it again.");
  }
  if (response.ok) return response.json();
  if (response.status === 401) throw new RequestError(401, "Open the address that the terminal printed.");
  const problem = await response.json().catch(() => ({}));
  throw new RequestError(response.status, sentence(problem.detail || response.statusText || "Something went wrong"));
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

export function get(path, signal) {
  return call(path, { signal });
}

export function post(path, data = {}) {
  return call(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data),
  });
}

export function upload(path, files) {
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name || "picture.jpg");
  return call(path, { method: "POST", body });
}

export const thumbnail = (id) => `/api/thumbnails/${encodeURIComponent(id)}`;
export const original = (id) => `/api/pictures/${encodeURIComponent(id)}`;
