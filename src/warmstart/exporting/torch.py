"""A torch.export program: graph, tensors and metadata for plain torch, nothing pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.exporting.format import AS_TENSOR, ExportFormat

if TYPE_CHECKING:
    from warmstart.exporting.graph import ExportSource


class TorchExport(ExportFormat):
    """model.pt2, which `torch.export.load` reads."""

    name = "torch"
    title = "a torch.export program"
    hint = "torch.export"
    model = "model.pt2"
    libraries = ("torch",)
    hub_library = "pytorch"

    needs = "torch"
    imports = "import torch"
    load = 'model = torch.export.load(HERE / "model.pt2").module()'
    answer = AS_TENSOR + "        return [out.numpy() for out in model(torch.from_numpy({x}))]"
    value = AS_TENSOR + "        return [model(torch.from_numpy({x}))[0].numpy()] * 2"
    how_loaded = 'torch.export.load("model.pt2").module()'

    def write(self, folder: Path, source: ExportSource, title: str) -> None:
        import torch

        from warmstart.exporting.graph import to_program

        # A zip of graph, tensors and metadata; nothing in it is pickled.
        files = {"metadata.json": json.dumps(source.metadata(title))}
        torch.export.save(to_program(source.exported()), folder / self.model, extra_files=files)
