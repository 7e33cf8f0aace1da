"""A cached reference is the live one bit for bit, survives kills, finds damage, and refuses other data."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import TINY, build

from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import collate, targets
from uncertainty.data.packing import pack
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.lora import LoraSettings, attach_lora
from uncertainty.model import readout
from uncertainty.reference import ModelReference, check_reference, identical_to_student
from uncertainty.reference_cache import HEAD, CachedReference, build_cache, predicted_bytes
from uncertainty.reference_shards import HEADER, is_cache

EXAMPLES = [
    Example(f"row {i}", [(7 * i + 3 * j) % 90 + 4 for j in range(n)], [j > i % 3 for j in range(n)], [], False, [])
    for i, n in enumerate([9, 5, 12, 9, 7, 9, 3, 16])
]
TOKENS = sum(sum(one.completion[1:]) for one in EXAMPLES)
SMALL_SHARDS = 3000  # bytes; a few examples each


def live(name="llama", dtype=torch.float32):
    return ModelReference(TINY[name]().to(dtype), {"name": name})


def make(folder, reference=None, examples=EXAMPLES, **options):
    settings = {"vocabulary_sha256": "v", "shard_bytes": SMALL_SHARDS, "tokens_per_batch": 64} | options
    return build_cache(folder, reference or live(), examples, **settings)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_is_the_live_reference_bit_for_bit_in_its_own_dtype(tmp_path, name, dtype):
    reference = live(name, dtype)
    make(tmp_path / "cache", reference, tokens_per_batch=1)  # each example alone, as it is asked for below
    cache = CachedReference(tmp_path / "cache", examples=EXAMPLES)
    for example in reversed(EXAMPLES):
        ours, own = cache.hidden(collate([example])), reference.hidden(collate([example]))
        assert ours.dtype == dtype
        assert torch.equal(ours, own)
        # the stored head makes the same logits, soft cap and scale included
        assert torch.equal(readout(cache.model, ours), readout(reference.model, own))
    assert check_reference(cache, collate(EXAMPLES)) == 0.0


def test_batches_read_in_any_company_padded_or_packed(tmp_path):
    reference = live()
    make(tmp_path / "cache", reference)
    cache = CachedReference(tmp_path / "cache")
    some = [EXAMPLES[i] for i in (5, 0, 7, 2)]
    padded, packed = cache.hidden(collate(some)), cache.hidden(pack(some, width=20))
    assert torch.equal(padded, packed)
    assert torch.equal(padded, cache.hidden(collate(some, side="left")))
    torch.testing.assert_close(padded, reference.hidden(collate(some)), rtol=1e-4, atol=1e-4)
    assert len(padded) == len(targets(collate(some)).label_N)


def test_the_size_is_known_before(tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(dtype)
        make(folder, live(dtype=dtype))
        written = sum(path.stat().st_size for path in (folder / "shards").glob("*.bin"))
        assert written == predicted_bytes(EXAMPLES, 32, dtype) == TOKENS * 32 * dtype.itemsize


class Killed(BaseException):
    pass


def snapshot(folder):
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def test_a_build_that_is_killed_goes_on_where_it_stopped_and_ends_with_the_same_bytes(tmp_path):
    make(tmp_path / "whole")
    folder = tmp_path / "killed"

    def kill(done, total):
        assert total >= 3
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        make(folder, on_shard=kill)
    (folder / "shards" / "00002.bin").write_bytes(b"half a shard")  # killed between numbers and receipt
    (folder / "tmp" / "00002.bin-left").write_bytes(b"x")
    with pytest.raises(InputError, match=r"00002.json is missing, the cache was not finished; run the build again"):
        CachedReference(folder)
    done = make(folder)
    assert (done.kept, done.mended) == (2, ())
    assert done.written >= 1
    assert snapshot(folder) == snapshot(tmp_path / "whole")
    assert not list((folder / "tmp").iterdir())
    assert make(folder).written == 0


@pytest.mark.parametrize("where", ["flipped", "short", "gone", "receipt", "foreign"])
def test_damage_is_found_named_and_mended_by_building_again(tmp_path, where):
    make(tmp_path / "whole")
    folder = tmp_path / "cache"
    make(folder)
    data, receipt = folder / "shards" / "00001.bin", folder / "shards" / "00001.json"
    content = bytearray(data.read_bytes())
    if where == "flipped":
        content[5] ^= 1
        data.write_bytes(content)
    elif where == "short":
        data.write_bytes(content[:-1])
    elif where == "gone":
        data.unlink()
    elif where == "receipt":
        receipt.write_bytes(receipt.read_bytes()[:-20])
    else:
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"fingerprint": "0"}))
    with pytest.raises(InputError, match=r"00001\.(bin|json) .*; run the build again: only what is damaged") as caught:
        CachedReference(folder).hidden(collate(EXAMPLES))
    assert "\n" not in str(caught.value)
    done = make(folder)
    assert (done.written, done.mended) == (1, ("00001.bin",))
    assert snapshot(folder) == snapshot(tmp_path / "whole")


def test_a_damaged_head_or_header_is_named(tmp_path):
    folder = tmp_path / "cache"
    make(folder)
    content = (folder / HEAD).read_bytes()
    for bad in (content[:-4], content[:-1] + bytes([content[-1] ^ 1])):
        (folder / HEAD).write_bytes(bad)
        with pytest.raises(InputError, match=r"head.safetensors is damaged .*; delete it and run the build again"):
            _ = CachedReference(folder).model
    (folder / HEAD).unlink()
    make(folder)
    assert (folder / HEAD).read_bytes() == content
    header = (folder / HEADER).read_text()
    for bad in (header[:50], header.replace('"hidden_size": 32', '"hidden_size": 16'), "[]"):
        (folder / HEADER).write_text(bad)
        with pytest.raises(InputError, match=r"reference_cache.json is damaged .*; delete the folder"):
            CachedReference(folder)
    (folder / HEADER).write_text(header.replace('"version": 1', '"version": 9'))
    with pytest.raises(InputError, match="is not a reference cache of version 1"):
        CachedReference(folder)


@pytest.mark.parametrize(
    "other",
    [
        replace(EXAMPLES[2], id="another id"),
        replace(EXAMPLES[2], input_ids=[*EXAMPLES[2].input_ids[:-1], 99]),
        replace(EXAMPLES[2], completion=[True] * 12),
    ],
    ids=["id", "tokens", "completion"],
)
def test_other_data_are_refused_at_the_start_and_at_each_batch(tmp_path, other):
    make(tmp_path / "cache")
    words = rf"does not hold example {other.id} with these tokens and this completion"
    with pytest.raises(InputError, match=words + r".* \(1 of 2 examples are missing\)") as caught:
        CachedReference(tmp_path / "cache", examples=[EXAMPLES[0], other])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=words):
        CachedReference(tmp_path / "cache").hidden(collate([EXAMPLES[0], other]))


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "cache"
    make(folder)
    with pytest.raises(InputError, match=r"holds a cache of something else \(reference.name: \"llama\" -> \"gpt2\""):
        make(folder, live("gpt2"))
    with pytest.raises(InputError, match=r"data.examples: 8 -> 7"):
        make(folder, examples=EXAMPLES[1:])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no reference cache"):
        make(tmp_path / "own")
    with pytest.raises(InputError, match=r"holds no reference_cache.json"):
        CachedReference(tmp_path / "own")
    with pytest.raises(InputError, match="no example to cache"):
        make(tmp_path / "none", examples=[])
    assert is_cache(folder)
    assert not is_cache(tmp_path / "own")


def test_a_reference_that_is_not_finite_is_not_cached(tmp_path):
    reference = live()
    reference.model.model.embed_tokens.weight.data[EXAMPLES[2].input_ids[-2]] = float("inf")
    with pytest.raises(InputError, match="not finite for example row"):
        make(tmp_path / "cache", reference)


def test_a_student_with_the_same_frozen_head_lends_it_and_any_other_does_not(tmp_path):
    reference = live()
    make(tmp_path / "cache", reference)
    student = attach_lora(TINY["llama"](), LoraSettings(rank=2))
    cache = CachedReference(tmp_path / "cache", student=student)
    assert cache.model is student
    assert identical_to_student(cache, student, collate(EXAMPLES[:1])) is True
    whole = TINY["llama"]()  # trained whole: its head will move
    assert CachedReference(tmp_path / "cache", student=whole).model is not whole
    other = attach_lora(TINY["llama"](), LoraSettings(rank=2))
    with torch.no_grad():
        other.get_output_embeddings().weight[0, 0] += 1
    cache = CachedReference(tmp_path / "cache", student=other)
    assert cache.model is not other
    hidden_ND = cache.hidden(collate(EXAMPLES))
    assert torch.equal(readout(cache.model, hidden_ND), readout(reference.model, hidden_ND))


def test_equal_examples_are_stored_once_and_one_without_targets_takes_no_room(tmp_path):
    silent = Example("silent", [5, 6], [True, False], [], False, [])
    make(tmp_path / "cache", examples=[EXAMPLES[0], EXAMPLES[0], silent])
    cache = CachedReference(tmp_path / "cache", examples=[EXAMPLES[0], silent])
    assert cache.settings["data"]["examples"] == 2
    alone = cache.hidden(collate([EXAMPLES[0]]))
    assert torch.equal(cache.hidden(collate([silent, EXAMPLES[0]])), alone)
    assert cache.hidden(collate([silent])).shape == (0, 32)


def test_the_record_names_what_was_cached(tmp_path):
    make(tmp_path / "cache")
    record = CachedReference(tmp_path / "cache").record
    assert record["kind"] == "cache"
    assert record["reference"] == {"kind": "model", "name": "llama"}
    assert len(record["data_sha256"]) == 64
    assert record["dtype"] == "float32"


def test_a_bias_of_the_head_is_kept(tmp_path):
    import transformers

    config = TINY["llama"]().config
    model = build(transformers.PhiConfig(**{k: getattr(config, k) for k in ("vocab_size", "hidden_size")},
                  num_hidden_layers=1, num_attention_heads=4, intermediate_size=64))  # fmt: skip
    assert model.get_output_embeddings().bias is not None
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_(generator=torch.Generator().manual_seed(0))
    reference = ModelReference(model, {"name": "phi"})
    make(tmp_path / "cache", reference)
    cache = CachedReference(tmp_path / "cache")
    hidden_ND = predicting_hidden(model, collate(EXAMPLES[:2])).detach()
    assert torch.equal(readout(cache.model, hidden_ND), readout(model, hidden_ND))


def test_an_example_without_targets_has_no_state_and_need_not_be_cached(tmp_path):
    make(tmp_path / "cache")
    cache = CachedReference(tmp_path / "cache")
    stand_in = Example("stand-in", [5, 6], [True, False], [], False, [])
    nothing = cache.hidden(collate([stand_in]))
    assert (nothing.shape, nothing.dtype) == ((0, cache.settings["hidden_size"]), torch.float32)
    both = cache.hidden(collate([stand_in, EXAMPLES[2]]))
    assert torch.equal(both, cache.hidden(collate([EXAMPLES[2]])))
