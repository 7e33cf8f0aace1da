"""Messages -> token ids and completion mask: the only place where a conversation becomes either.

A prompt is always a token prefix of the whole. With plain templates that holds by construction, since every segment is
tokenised on its own; with chat templates it is checked, turn by turn, and a conversation for which it fails is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uncertainty.data.continuation import contains_special_text, continuation, control_tokens
from uncertainty.data.formats import Message, UnusableRow
from uncertainty.data.templates import Template, choose_template, segments

__all__ = ["Example", "Template", "choose_template", "contains_special_text", "render"]


@dataclass(frozen=True)
class Example:
    """One rendered conversation.

    Attributes:
        id: of its row.
        input_ids: the tokens, at most the ``max_length`` asked for.
        completion: True on tokens that the model is asked to produce, end-of-turn tokens included. A completion token
            at position 0 (text without a BOS) has no prediction.
        turn: index of the message that a completion token belongs to, -1 elsewhere.
        truncated: completion tokens were cut off.
        messages: the whole conversation, as given.
        unknown: number of ``input_ids`` that stand for characters outside the vocabulary.
    """

    id: str
    input_ids: list[int]
    completion: list[bool]
    turn: list[int]
    truncated: bool
    messages: list[Message]
    unknown: int = 0


def render(messages: list[Message], tokenizer: Any, *, id: str, template: Template, max_length: int) -> Example:
    """Turn a conversation into tokens and a completion mask.

    Args:
        messages: of `uncertainty.data.formats.conversation`.
        tokenizer: of transformers.
        id: of the row.
        template: of `choose_template` with the same tokenizer.
        max_length: tokens beyond are cut off on the right, at least 1.

    Raises:
        UnusableRow: no mask can be given ("prompt_not_prefix", "template_refused", ...), or no completion token
            with a prediction is left ("prompt_longer_than_context", "nothing_to_predict").
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}, at least 1 is needed")
    write = _chat if template.kind == "chat" else _plain
    ids, turn = write(messages, tokenizer, template)
    completion = [index >= 0 for index in turn]
    if not any(completion[1:]):
        raise UnusableRow("nothing_to_predict", f"{len(ids)} tokens, none of which is a completion after the first")
    if not any(completion[1:max_length]):
        raise UnusableRow(
            "prompt_longer_than_context",
            f"the first completion token is number {completion.index(True, 1) + 1}, of {max_length} that fit",
        )
    return Example(
        id=id,
        input_ids=ids[:max_length],
        completion=completion[:max_length],
        turn=turn[:max_length],
        truncated=any(completion[max_length:]),
        messages=messages,
        unknown=_count_unknown(ids[:max_length], tokenizer),
    )


def _plain(messages: Sequence[Message], tokenizer: Any, template: Template) -> tuple[list[int], list[int]]:
    """Tokenise segment by segment after BOS."""
    encode = continuation(tokenizer).encode
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    turn = [-1] * len(ids)
    for segment in segments(messages, template):
        added = encode(segment.text) + ([tokenizer.eos_token_id] if segment.ends else [])
        ids += added
        turn += [segment.turn] * len(added)
    return ids, turn


def _chat(messages: Sequence[Message], tokenizer: Any, template: Template) -> tuple[list[int], list[int]]:
    """Tokenise the whole conversation once, and find each assistant turn in it by its prompt and its end."""
    chat = _Chat(tokenizer, template)
    scored = [i for i, message in enumerate(messages) if _is_scored(message)]
    if not scored:
        raise UnusableRow("no_assistant_turn", f"{len(messages)} messages, none of the assistant")
    messages = messages[: scored[-1] + 1]  # what follows the last scored turn predicts nothing
    whole_text = chat.text(messages)
    whole = chat.encode(whole_text)
    turn = [-1] * len(whole)
    for index in scored:
        if index == 0:
            raise UnusableRow("assistant_first", "the conversation begins with an assistant turn: there is no prompt")
        prompt = chat.text(messages[:index], add_generation_prompt=True)
        start = chat.prefix(prompt, whole, f"the prompt of message {index}")
        end = chat.prefix(chat.until_end(messages, index, prompt, whole_text), whole, f"message {index}")
        end = chat.without_trailing_space(whole, start, end)
        if start >= end or any(owner >= 0 for owner in turn[start:end]):
            raise UnusableRow("empty_completion", f"the chat template leaves no token of message {index}")
        turn[start:end] = [index] * (end - start)
    return whole, turn


class _Chat:
    """A tokenizer and a chat template, as the questions that `_chat` asks of them."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self.tokenizer, self.template = tokenizer, template

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Write messages by the template; only role and content reach it."""
        from jinja2 import TemplateError

        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            written: str = self.tokenizer.apply_chat_template(
                plain,
                chat_template=self.template.text,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (TemplateError, TypeError) as error:  # TypeError: an expression of the template on a missing value
            raise UnusableRow("template_refused", f"the chat template says: {error}") from error
        return written

    def encode(self, text: str) -> list[int]:
        """Tokenise written text: the template writes its own BOS, control tokens are control tokens."""
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=False, truncation=False, padding=False, verbose=False
        )["input_ids"]
        return ids

    def prefix(self, text: str, whole: list[int], what: str) -> int:
        """Return how many tokens a text has, which must be the first ones of the whole."""
        part = self.encode(text)
        if whole[: len(part)] != part:
            at = next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), len(whole))
            raise UnusableRow(
                "prompt_not_prefix",
                f"{what} is no token prefix of the conversation: at token {at} it has "
                f"{self._shown(part, at)}, the conversation {self._shown(whole, at)}",
            )
        return len(part)

    def until_end(self, messages: Sequence[Message], index: int, prompt: str, whole: str) -> str:
        """Return the conversation's text up to the end of one assistant turn.

        That is the text of the messages up to it. Some templates write the last turn unlike earlier ones (an empty
        thinking block before it, say): then what closes the turn is taken from there, and the turn is found in the
        whole as prompt, content, closing; a whole that does not read so is refused by the caller.
        """
        alone = self.text(messages[: index + 1])
        if whole.startswith(alone):
            return alone
        for content in dict.fromkeys((messages[index]["content"], messages[index]["content"].strip())):
            # the first place of the content that fits: a later one may lie within what closes the turn
            at = alone.find(content)
            while at >= 0:
                turn = prompt + alone[at:]
                if whole.startswith(turn):
                    return turn
                at = alone.find(content, at + 1)
        return alone

    def without_trailing_space(self, whole: list[int], start: int, end: int) -> int:
        """Leave out the white space that the template writes after the turn's last control token."""
        control = set(control_tokens(self.tokenizer, self.template.text).values())
        last = max((i for i in range(start, end) if whole[i] in control), default=-1)
        if last < 0 or last == end - 1:
            return end
        rest = self.tokenizer.decode(whole[last + 1 : end], clean_up_tokenization_spaces=False)
        return end if rest.strip() else last + 1

    def _shown(self, ids: list[int], at: int) -> str:
        return repr(self.tokenizer.decode(ids[at : at + 6], clean_up_tokenization_spaces=False))


def _is_scored(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("scored") != "no"


def _count_unknown(ids: list[int], tokenizer: Any) -> int:
    unknown = tokenizer.unk_token_id
    return 0 if unknown in (None, tokenizer.bos_token_id, tokenizer.eos_token_id) else ids.count(unknown)
