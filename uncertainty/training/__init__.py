"""The embedded trainer around its loop (``uncertainty/trainer.py``): one step, one run, its folder and its record."""
