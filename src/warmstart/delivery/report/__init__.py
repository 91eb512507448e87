"""report.html: what a run found, on one page that needs nothing else; records in, text out."""

from warmstart.delivery.report.facts import Facts, Repeat, Said, Stretch
from warmstart.delivery.report.page import page
from warmstart.delivery.report.pictures import wanted

__all__ = ["Facts", "Repeat", "Said", "Stretch", "page", "wanted"]
