"""Sure against right: a dot for each bin, larger where more images stand behind it."""

import xml.etree.ElementTree as ET

from warmstart.records.comparison import ConfidenceBin
from warmstart.reporting.figures import diagram


def test_dots_lie_where_their_bins_do():
    bins = [
        ConfidenceBin(confidence=0.5, accuracy=0.25, low=0.1, high=0.4, n=10),
        ConfidenceBin(confidence=1.0, accuracy=1.0, low=0.8, high=1.0, n=40),
    ]
    root = ET.fromstring(diagram(bins, name="n", title="t", about="a"))
    first, second = [e.attrib for e in root.iter("circle")]
    assert float(first["cx"]) < float(second["cx"])
    assert float(first["cy"]) > float(second["cy"])
    assert float(first["r"]) < float(second["r"])


def test_no_bin_is_an_empty_frame():
    assert not [*ET.fromstring(diagram([], name="n", title="t", about="a")).iter("circle")]
