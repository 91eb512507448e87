"""Long measurements: each writes bench/results/<name>.json with machine, date and command."""
