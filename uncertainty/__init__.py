"""Monte Carlo uncertainty for every token of a data set."""
