"""The rules of a plan, the plan file and the forecast; free of torch."""
