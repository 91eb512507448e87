"""Figures of the report as SVG: small pure functions, text in, text out.

Colours are the page's (classes of its style sheet), so that one picture serves light, dark
and paper. Each picture carries its title and a description for readers who do not see it.
"""
