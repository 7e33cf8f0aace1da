"""Analysis of score tables; never loads a model, never imports torch.

In a notebook: ``from analysis.notebook import heatmap``, then ``heatmap(scores, example)`` displays itself.
"""
