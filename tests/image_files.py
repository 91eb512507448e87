"""Small images on disk, and what reading them gives or says."""

import io

import pyarrow as pa
import pytest
from PIL import Image

from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

# Six images in two classes, each of its own grey.
GREYS = {f"{label}/{i}.png": 40 * i + 10 * k for k, label in enumerate("ab") for i in range(3)}


def paint(root, greys=GREYS):
    """Write one image of 2 x 2 px for each name, in its grey."""
    for name, grey in greys.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), grey).save(root / name)
    return root


def rows(source, **options):
    """(id, label, split) of every example."""
    examples = drain(read(source, **options)).record.examples
    return [(e.id, e.label, e.split) for e in examples]


def fails(source, *parts, **options):
    """Reading is refused in one line that holds every part."""
    with pytest.raises(DataError) as caught:
        drain(read(source, **options))
    message = str(caught.value)
    assert "\n" not in message
    for block in parts:
        assert block in message, message


def embedded(greys=GREYS, name="{}"):
    """The images as `datasets` stores them: structs of the PNG's bytes and a path, or None."""
    cells = []
    for path, grey in greys.items():
        buffer = io.BytesIO()
        Image.new("L", (2, 2), grey).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": name and name.format(path)})
    return pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def features(**names):
    """The features of a data set with an image column and ClassLabel columns."""
    return {"image": {"_type": "Image"}} | {
        column: {"names": list(classes), "_type": "ClassLabel"} for column, classes in names.items()
    }
