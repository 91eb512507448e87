// Downloads: the model, its report, the labels, and the command to repeat the run.
import { post } from "./api.js";
import { make, announce, write } from "./dom.js";
import { showError } from "./messages.js";

export function downloads(result) {
  return make("section", { class: "downloads" },
    make("h2", {}, "Download"),
    make("div", { class: "row" },
      result.ships && link("Model", "/api/downloads/model.zip"),
      result.ships && onnx(),
      link("Report", "/api/downloads/report.html"),
      link("Labels", "/api/downloads/labels.csv")),
    make("p", { class: "quiet" }, "The same in a terminal:"),
    command(result.command));
}

function link(words, href) {
  return make("a", { class: "button second", href, download: "" }, words);
}

// It is written on request, which takes some seconds.
function onnx() {
  const button = make("button", {
    class: "second", click: async () => {
      button.disabled = true;
      write(button, "Writing ONNX …");
      try {
        const { path } = await post("/api/downloads/onnx");
        const download = make("a", { href: path, download: "" });
        document.body.append(download);
        download.click();
        download.remove();
      } catch (error) {
        showError(error);
      }
      button.disabled = false;
      write(button, "ONNX");
    },
  }, "ONNX");
  return button;
}

function command(text) {
  const line = make("code", { tabindex: "0", role: "textbox", "aria-readonly": "true", "aria-label": "Command" }, text);
  const button = make("button", {
    class: "plain", click: async () => {
      try {
        await navigator.clipboard.writeText(text);
        write(button, "Copied");
        announce("Copied.");
        setTimeout(() => write(button, "Copy"), 2000);
      } catch {
        getSelection().selectAllChildren(line); // no permission: select it for the person
      }
    },
  }, "Copy");
  return make("div", { class: "command" }, line, button);
}
