"""Heads in closed form today; tails and live networks later."""
