"""A model of texts in a few lines of torch and transformers, for its card."""

from __future__ import annotations

import json
from string import Template

from warmstart.records import ModelRecord

PREFIX = "text:"
_SNIPPET = Template("""\
import json, re, torch, unicodedata
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

config = json.load(open("model/config.json"))
tensors = load_file("model/model.safetensors")
design = json.loads('$design')
pooling = design.pop("pooling")
encoder = AutoModel.from_config(AutoConfig.for_model("$kind", **design)$options).eval()
front = "trunk.encoder."
encoder.load_state_dict({k[len(front):]: v for k, v in tensors.items() if k.startswith(front)})
tokenizer = Tokenizer.from_file("model/tokenizer.json")
tokenizer.no_padding()
inputs = config["preprocessing"]
tokenizer.enable_truncation(min(inputs["length"], inputs["most"]))

text = re.sub(r"\\s+", " ", unicodedata.normalize("NFC", "a text")).strip()
found = tokenizer.encode(text)
windows = [found, *found.overflowing][:max(inputs["length"] // inputs["most"], 1)]
with torch.no_grad():  # each window passes by itself
    seen = [
        encoder(input_ids=torch.tensor([window.ids]), output_hidden_states=True).hidden_states
        for window in windows
    ]

def take(part, pool):
    rows = [hidden[part - 1][0] for hidden in seen]  # (tokens, channels): what `part` gives
    if pool == "first":
        return rows[0][0]
    if pool == "neck" and pooling == "first":
        return torch.stack([row[0] for row in rows]).mean(0)
    return torch.cat(rows).mean(0)

features = torch.cat([take(tap["part"], tap["pool"]) for tap in config["taps"]])
scores = tensors["head.weight"] @ features + tensors["head.bias"]
logits = tensors["head.temperature"] * scores + tensors["head.class_bias"]
print(dict(zip(config["classes"], logits.softmax(0).tolist())))
""")


def plain_text(model: ModelRecord) -> str:
    """A script that answers for one text without warmstart, run inside the run folder."""
    kind, brace, rest = model.arch.removeprefix(PREFIX).partition("{")
    design = json.dumps(json.loads(brace + rest or "{}"), sort_keys=True)
    options = "" if kind == "distilbert" else ", add_pooling_layer=False"
    return _SNIPPET.substitute(design=design, kind=kind, options=options)


def can_be_plain(model: ModelRecord) -> bool:
    """Whether those lines are all: no added blocks, no second set of layers, one label a text."""
    is_own = model.arch.startswith(PREFIX) and model.beside is None
    return is_own and not model.added and model.task == "classify"
