"""The embedded default: a generated language with a known conditional distribution, and a model of it.

``facts.py`` is the invented world, ``words.py`` the vocabulary, ``questions.py`` what is asked,
``language.py`` the answers and whole conversations, ``oracle.py`` the truth at every completion token,
``validation.py`` holds a score table against that truth; ``tokenizer.py``, ``train.py`` and ``card.py``
make the model, its tokenizer and its card. Only ``train.py`` imports torch.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def demo_model_path() -> Path:
    """Return the folder of the embedded model and its tokenizer, ready for ``from_pretrained``."""
    return _HERE / "model"


def demo_data_path() -> Path:
    """Return the embedded held-out conversations, a ``.jsonl`` file in the ``messages`` format."""
    return _HERE / "data" / "held_out.jsonl"


def demo_training_path() -> Path:
    """Return the embedded conversations to fine-tune on, a ``.jsonl`` file in the ``messages`` format."""
    return _HERE / "data" / "fine_tune.jsonl"


def demo_new_facts_path() -> Path:
    """Return embedded conversations about the facts that those to fine-tune on tell, none of which they hold."""
    return _HERE / "data" / "fine_tune_held_out.jsonl"
