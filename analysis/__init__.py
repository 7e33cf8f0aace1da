"""Analysis of score tables; never loads a model, never imports torch."""
