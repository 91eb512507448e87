"""Pictures side by side."""

import numpy as np
from PIL import Image

from warmstart.run.reopened import GAP, TILE, TITLE, grid


def tile(colour, size=(32, 32)):
    return Image.new("RGB", size, colour)


def test_every_tile_has_its_place():
    colours = [(9 * i, 0, 0) for i in range(10)]
    picture = grid([[tile(colour)] for colour in colours], [str(i) for i in range(10)])
    for number, colour in enumerate(colours):
        x = GAP + number % 8 * (TILE + GAP) + TILE // 2
        y = GAP + number // 8 * (TITLE + TILE + GAP) + TITLE + TILE // 2
        assert picture.getpixel((x, y)) == colour


def test_tiles_of_a_cell_stand_together():
    picture = grid([[tile("red"), tile("lime")], [tile("blue")]], ["a", "b"])
    middles = [GAP + place * (TILE + GAP) + TILE // 2 for place in range(4)]
    seen = [picture.getpixel((x, TITLE + TILE // 2)) for x in middles]
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_a_tile_keeps_its_shape():
    picture = np.asarray(grid([[tile("red", (64, 16))]], ["a"]))
    red = (picture == (255, 0, 0)).all(axis=2)
    assert red.any(axis=0).sum() == TILE
    assert red.any(axis=1).sum() == TILE // 4


def test_a_long_title_stays_over_its_tile():
    picture = np.asarray(grid([[tile("red")], [tile("red")]], ["W" * 200, ""]))
    inked = (picture.max(axis=2) < 128).any(axis=0)
    assert inked.any()
    assert not inked[GAP + TILE :].any()


def test_titles_in_any_script_are_drawn():
    assert grid([[tile("red")]], ["犬 🐕 \x1b"]).size == grid([[tile("red")]], [""]).size
