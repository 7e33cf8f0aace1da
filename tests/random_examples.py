"""Random examples for a model's vocabulary, shared by the tests that need no text."""

import torch

from uncertainty.data.render import Example
from uncertainty.model import vocabulary_size


def examples(model, count=7, seed=0, text=False):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        length = int(torch.randint(6, 30, (1,), generator=generator))
        ids = torch.randint(3, vocabulary_size(model), (length,), generator=generator).tolist()
        first = 0 if text else int(torch.randint(1, length - 1, (1,), generator=generator))
        made.append(Example(f"example-{i}", ids, [j >= first for j in range(length)], [0] * length, False, []))
    return made
