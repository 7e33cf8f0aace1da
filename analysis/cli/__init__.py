"""Commands that read score tables."""
