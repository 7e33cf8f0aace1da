"""The demo tokenizer: one token a word, built in code from the language's vocabulary.

Words carry the space before them ("▁capital"), marks do not, so that text reads as English and every
message is spelt and split without loss. The chat template opens with ``<|bos|>``, names the role of each
message, and closes it with ``<|end|>``; it may end with an open ``<|assistant|>``, which is the prompt.
"""

from __future__ import annotations

from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from uncertainty.demo.words import MARKS, SPECIAL_TOKENS, VOCABULARY

SPACE: Final = "▁"
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('the demo model knows the roles user and assistant, not ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|> {{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def token_ids() -> dict[str, int]:
    """Return the tokenizer's vocabulary: token as it writes it -> id, the index in `VOCABULARY`."""
    bare = (*SPECIAL_TOKENS, *MARKS)
    return {token if token in bare else SPACE + token: index for index, token in enumerate(VOCABULARY)}


def word_tokenizer() -> Tokenizer:
    """Build the word-level tokenizer; a word outside the language becomes ``<|unk|>``."""
    tokenizer = Tokenizer(models.WordLevel(token_ids(), unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex("[.,?]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer
