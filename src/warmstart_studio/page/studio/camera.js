// Pictures from the camera, one after another, into the class that is named.
import { add, takePhotographs } from "./uploads.js";
import { askName, dialog } from "./dialogs.js";
import { isTyping, make, announce, write } from "./dom.js";
import { dispatch, getState } from "./store.js";
import { count } from "./format.js";

// The camera of the device; null where there is none or it may not be used.
export async function startCamera() {
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch {
    return null;
  }
}

export function stopCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

// What the video shows at this moment, as a JPEG file.
export async function still(video) {
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  const when = new Date().toISOString().replace(/[-:]/g, "").replace("T", "-").replace(/\D*Z$/, "").replace(".", "-");
  return new File([blob], `camera-${when}.jpg`, { type: "image/jpeg" });
}

export function live(stream) {
  const video = make("video", { autoplay: true, playsinline: true, muted: true, "aria-label": "What the camera sees" });
  video.muted = true;
  video.srcObject = stream;
  return video;
}

export async function openCamera() {
  const stream = await startCamera();
  if (!stream) {
    const title = "What will the photographs show?";
    const label = await askName({ title, button: "Take photographs", others: getState().board.classes });
    if (label) takePhotographs(label);
    return;
  }
  await dialog("Camera", (close, box) => build(stream, close, box), { class: "camera" });
  stopCamera(stream);
}

function build(stream, close, box) {
  const video = live(stream);
  const classes = getState().board.classes;
  const list = make("datalist", { id: "names" }, ...classes.map((value) => make("option", { value })));
  const name = make("input", {
    type: "text", required: true, maxlength: 100, list: "names", autocomplete: "off", value: getState().shownClass ?? "",
  });
  const words = make("p", { class: "quiet" }, "Space takes a picture.");
  let taken = 0;
  const take = async () => {
    const label = name.value.trim();
    if (!label || !video.videoWidth) {
      name.reportValidity();
      return;
    }
    add([{ file: await still(video), label }]);
    taken += 1;
    if (getState().board.classes.includes(label)) dispatch("shownClassChanged", { name: label });
    write(words, `${count(taken, "picture")} taken.`);
    announce(words.textContent);
  };
  box.addEventListener("keydown", (event) => {
    if (event.key !== " " || isTyping(event.target) || event.target.matches("button")) return;
    event.preventDefault();
    if (!event.repeat) take();
  });
  window.addEventListener("hashchange", () => close(), { once: true });
  const shutter = make("button", { type: "button", autofocus: true, click: take }, "Take a picture");
  return [video, make("label", {}, "Name of the class", name), list, words,
    make("div", { class: "row" }, shutter, make("button", { class: "second", click: () => close() }, "Done"))];
}
