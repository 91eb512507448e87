"""Nouns of sentences about images, clips, texts, rows or tensors."""

from __future__ import annotations

from dataclasses import dataclass


def count(n: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "image"), count(2500, "image"), count(2, "class")
    ('1 image', '2,500 images', '2 classes')
    """
    plural = noun + "es" if noun.endswith("s") else noun + "s"
    return f"{n:,} {noun if n == 1 else plural}"


def is_are(n: int) -> str:
    """The verb after a count."""
    return "is" if n == 1 else "are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nouns:
    """The words for the examples of one kind, as pieces of sentences.

    >>> NOUNS["audio"].count(2500), NOUNS["audio"].count(1, "test"), NOUNS["image"].an
    ('2,500 clips', '1 test clip', 'an image')
    """

    one: str
    picture: str  # as a thumbnail
    an: str  # with its article
    plain: str  # the input of a control without any network
    changed: str  # how a near-duplicate may differ
    typed: str  # argument of `warmstart predict RUN`
    quoted: str  # the same in Python
    new: str  # a new one, as an argument
    several: str  # new ones, as an argument
    labelled: str  # argument of `warmstart evaluate RUN`
    accept: str = ""  # `accept` of a file chooser in a browser
    sized: str = ""  # their size in a sentence, {} px

    @property
    def many(self) -> str:
        """The plural of `one`."""
        return f"{self.one}s"

    @property
    def pictures(self) -> str:
        """The plural of `picture`."""
        return f"{self.picture}s"

    @property
    def title(self) -> str:
        """`one` at the beginning of a heading."""
        return self.one.capitalize()

    def count(self, n: int, which: str = "") -> str:
        """A number and the noun; `which` stands before it."""
        return f"{n:,} {which}{' ' if which else ''}{self.one if n == 1 else self.many}"


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
NOUNS = {
    "image": IMAGES,
    "audio": Nouns(
        one="clip",
        picture="clip",
        an="a clip",
        plain="the plain spectrogram",
        changed="re-encoded, resampled, cut or of another loudness",
        typed="clip.wav",
        quoted='"clip.wav"',
        new="new.wav",
        several="new/",
        labelled="more/",
        accept="audio/*,.wav,.flac,.ogg,.mp3,.aiff",
    ),
    "text": Nouns(
        one="text",
        picture="text",
        an="a text",
        plain="plain words",
        changed="the same but for case, marks or spaces",
        typed="'a text'",
        quoted='"a text"',
        new="'a new text'",
        several="new.csv",
        labelled="more/",
        accept=".txt,text/plain",
    ),
    "table": Nouns(
        one="row",
        picture="row",
        an="a row",
        plain="plain columns",
        changed="the same but for a value",
        typed="new.csv",
        quoted='"new.csv"',
        new="new.csv",
        several="new.csv",
        labelled="more.csv",
        accept=".csv,.tsv,text/csv",
    ),
    "tensor": Nouns(
        one="tensor",
        picture="tensor",
        an="a tensor",
        plain="plain numbers",
        changed="the same but for a number",
        typed="signal.npy",
        quoted='"signal.npy"',
        new="new.npy",
        several="new.npy",
        labelled="more.npy",
    ),
}


def nouns_of(kind: str | None) -> Nouns:
    """The words for a kind of data; None stands for images, as in records."""
    return NOUNS[kind or "image"]
