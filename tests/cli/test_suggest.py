"""The images to label next as text."""

from pathlib import Path

from warmstart.cli.suggest import suggestions_text
from warmstart.records.answer import ExpectedGain, Skipped, Suggestion, Suggestions

NONE = Skipped(present=0, copies=0, unreadable=0)


def one(path, label="shirt", p=0.41, why="unsure: shirt or hat"):
    return Suggestion(path=path, label=label, probability=p, why=why)


def suggestions(*chosen, expected=None, skipped=NONE, candidates=245):
    return Suggestions(
        suggestions=chosen, expected=expected, skipped=skipped, candidates=candidates
    )


def test_images_stand_in_columns_below_the_folder_they_lie_in():
    text = suggestions_text(
        suggestions(
            one("inbox/a.jpg"),
            one("inbox/more/b.jpg", "longsleeve", 0.97, "unlike the training images"),
            expected=ExpectedGain(gain=0.012, low=0.006, high=0.019, n=2),
            skipped=Skipped(present=3, copies=1, unreadable=2),
        ),
        2,
        Path("inbox/next.csv"),
    )
    assert text == (
        "Label these 2 of 245 images in inbox next:\n"
        "\n"
        "  a.jpg       shirt         41 %  unsure: shirt or hat\n"
        "  more/b.jpg  longsleeve    97 %  unlike the training images\n"
        "\n"
        "Expect    about +1.2 points of accuracy (95 % CI +0.6 to +1.9). That is what 2\n"
        "          random examples would add, by the run's learning curve; a choice like\n"
        "          this usually adds a little more.\n"
        "Beware    a run that trains on these underestimates its accuracy, for they are\n"
        "          the hard ones. Evaluate it on a random sample of images: fit --test.\n"
        "Left out  3 in the run's data already, 1 exact copy, 2 that cannot be read\n"
        "Table     inbox/next.csv: fill in its column `label`."
    )


def test_unmeasured_facts_are_not_mentioned_and_too_few_are():
    text = suggestions_text(suggestions(one("a.jpg"), candidates=1), 1, None)
    assert text == (
        "Label this one of 1 image next:\n\n  a.jpg  shirt    41 %  unsure: shirt or hat"
    )
    for names, says in ((("in/a.jpg", "in/b.jpg"), "are 2"), (("in/a.jpg",), "is one")):
        few = suggestions(*map(one, names), candidates=len(names))
        assert suggestions_text(few, 20, None).startswith(f"You wanted 20; there {says} in in:\n")


def test_images_from_everywhere_keep_their_whole_path():
    text = suggestions_text(suggestions(one("/x/a.jpg"), one("b.jpg")), 2, None)
    assert "  /x/a.jpg  shirt" in text
    assert "  b.jpg     shirt" in text


def test_long_names_keep_to_80_columns_are_never_cut_and_do_not_steer_the_terminal():
    why = "unsure: american_wirehair or american_shorthair"
    long = one("in/" + "n" * 36 + ".jpg", "american_wirehair", why=why)
    text = suggestions_text(suggestions(long, one("in/a\x1b[2J.jpg", "c\x07")), 2, None)
    assert max(map(len, text.splitlines())) <= 80
    assert why in text
    assert text.replace("\n", "").isprintable()
