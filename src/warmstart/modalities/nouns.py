"""The nouns of images, apart from their decoders: sentences need no more."""

from __future__ import annotations

from warmstart.nouns import Nouns

IMAGES = Nouns(
    one="image",
    picture="picture",
    an="an image",
    plain="plain pixels",
    changed="re-encoded, resized, mirrored, cropped or exposed differently",
    typed="photo.jpg",
    quoted='"photo.jpg"',
    new="new.jpg",
    several="new/",
    labelled="more/",
    accept="image/*",
    sized=" at {} px",
)
