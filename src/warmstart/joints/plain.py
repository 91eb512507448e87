"""What can be known of examples without any network: kernels of plain pixels or words."""

from __future__ import annotations

from warmstart.data.glance import plain_features
from warmstart.data.texts import word_counts
from warmstart.joints.scene import Scene
from warmstart.joints.texts import texts_of
from warmstart.records import Preprocessing, WaveInputs
from warmstart.solve.kernels import mixed_kernels
from warmstart.solve.ridge import Array, Rows


def plain_kernels(scene: Scene, rows: Rows) -> list[Array]:
    """Kernels of plain pixels: each kind alone, and all together. Of texts: of plain words.

    Shapes: rows (m,), each kernel (m, m). None of what is neither glanced at nor read.
    """
    examples = scene.examples(rows)
    if scene.collection.record.kind == "text":
        words = word_counts([text for _, text in texts_of(scene.collection, examples)])
        return [*mixed_kernels([("words", words)], {"words": {"words": 1.0}}).values()]
    if not isinstance(scene.prep, (Preprocessing, WaveInputs)):
        return []
    kinds = plain_features(scene.look.glances(examples))
    shapes = {name: {name: 1.0} for name in kinds}
    shapes["all"] = dict.fromkeys(kinds, 1 / len(kinds))
    return [*mixed_kernels(kinds.items(), shapes).values()]
