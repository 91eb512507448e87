"""The studio: a board of labelled pictures, its folder, and the web application around it."""
