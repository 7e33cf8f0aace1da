"""Stochastic families: one file per way of drawing members."""
