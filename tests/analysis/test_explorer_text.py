from analysis.explorer_text import PROMPT_CHARACTERS, completion_blocks, context_segments, snippet
from analysis.token_text import Token


def cut(*pieces):
    """Tokens that spell their pieces one after the other; those in angle brackets with a bar are special."""
    tokens, end = [], 0
    for piece in pieces:
        tokens.append(Token(piece, end, end + len(piece), piece.startswith("<|")))
        end += len(piece)
    return "".join(pieces), tokens


def blocks(*pieces, turns=None, messages=(), prompt=""):
    completion, tokens = cut(*pieces)
    return completion_blocks(prompt, completion, tokens, turns or [1] * len(tokens), list(messages))


def test_a_plain_text_is_one_string_a_token():
    (block,) = blocks("The", " answer", " is")
    assert block == {"first": 0, "segments": ["The", " answer", " is"], "names": {}, "before": []}


def test_what_is_invisible_has_a_kind_of_its_own():
    (block,) = blocks("a", "\n", "  b", "\t", "\x00", "<|end|>")
    assert block["segments"] == [
        "a",
        ["n", "↵", 1],
        ["s", "  ", 2],
        ["t", "b", 2],
        ["b", "⇥", 3],
        ["m", "‹U+0000›", 4],
        ["x", "<|end|>", 5],
    ]


def test_each_line_end_has_its_mark():
    (block,) = blocks("a", "\n\n", "\r\n")
    assert block["segments"][1:] == [["n", "↵", 1], ["n", "↵", 1], ["n", "‹U+000D+000A› ↵", 2]]


def test_tokens_of_one_character_share_a_segment_and_keep_their_names():
    tokens = [Token("a", 0, 1, False), *(Token(f"<0x{byte}>", 1, 2, False) for byte in ("E2", "82", "AC"))]
    (block,) = completion_blocks("", "a€", tokens, [1] * 4, [])
    assert block["segments"] == ["a", ["t", "€", 1, 2, 3]]
    assert block["names"] == {"1": "<0xE2>", "2": "<0x82>", "3": "<0xAC>"}


def test_what_was_said_between_two_scored_turns_stands_between_them():
    messages = [
        {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "a"), ("user", "So?\n"))
    ]
    first, second = blocks("a", "b", "c", turns=[1, 3, 3], messages=messages, prompt="<|user|> Hi")
    assert first["before"] == [["prompt", ["<|user|> Hi"]]]
    assert (second["before"], second["first"]) == ([["user", ["So?", ["n", "↵"]]]], 1)
    assert (first["segments"], second["segments"]) == (["a"], ["b", "c"])


def test_an_example_without_tokens_is_one_empty_block():
    assert blocks(prompt="p") == [{"first": 0, "segments": [], "names": {}, "before": [["prompt", ["p"]]]}]


def test_a_prompt_keeps_its_blanks_and_its_overrides_are_named():
    assert context_segments("a  b\u202ec") == ["a  b", ["m", "‹U+202E›"], "c"]


def test_a_very_long_prompt_loses_its_middle_and_says_so():
    text = "".join(one if isinstance(one, str) else one[1] for one in context_segments("x" * 50_000))
    assert "30,000 characters left out" in text
    assert len(text) < PROMPT_CHARACTERS + 100


def test_an_example_is_recognised_by_what_was_said_last_before_it():
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " How\nmany\u202e? "}]
    assert snippet("prompt", "completion", messages, 2) == "How many ?"
    assert snippet("prompt", "completion", [{"role": "text", "content": "completion"}], 0) == "completion"
    assert snippet("prompt", "x" * 500, [], 0) == "x" * 159 + "…"
