"""Settings refuse what cannot be right before anything is read."""

import pytest

from uncertainty.errors import InputError
from uncertainty.settings import ScoreSettings, check_settings


def test_no_model_and_no_data_set_is_the_demo():
    settings = ScoreSettings()
    assert settings.is_demo
    assert settings.model_source.endswith("model")
    assert settings.dataset_source.endswith("held_out.jsonl")
    check_settings(settings)


def test_the_defaults_are_the_papers_setting():
    settings = ScoreSettings()
    assert (settings.passes, settings.rate, settings.sites) == (100, 0.1, "native")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "m"}, "--model is given without --dataset"),
        ({"dataset": "d"}, "--dataset is given without --model"),
        ({"passes": 0}, "--passes 0 is too small; give at least 1"),
        ({"limit": 0}, "--limit 0 is too small"),
        ({"max_length": 1}, "--max-length 1 is too small; give at least 2"),
        ({"tokens_per_batch": 0}, "--tokens-per-batch 0 is too small"),
        ({"shard_examples": 0}, "--shard-examples 0 is too small"),
        ({"keep_columns": "level"}, "keep_columns is the text 'level'; give a tuple"),
        ({"family": "swag"}, "--family swag is not known; choose one of dropout, adapter-ensemble"),
        ({"family": "adapter-ensemble"}, "--family adapter-ensemble needs at least 2 --members, .* and has 0"),
        ({"family": "checkpoint-ensemble", "members": ("a",)}, "needs at least 2 --members, .* and has 1"),
        ({"family": "adapter-ensemble", "members": ("a", "b"), "passes": 5}, "--passes 5, but 2 --members are given"),
        ({"members": "a,b"}, "members is the text 'a,b'; give a tuple of folders"),
        ({"vocabulary": "all"}, "--vocabulary all is not known; choose model or tokenizer"),
    ],
)
def test_settings_that_cannot_be_right_are_named(given, words):
    with pytest.raises(InputError, match=words):
        check_settings(ScoreSettings(**given))


def test_an_ensemble_has_a_pass_for_each_member():
    assert ScoreSettings(family="adapter-ensemble", members=("a", "b", "c")).passes == 3
    assert ScoreSettings(family="weight-noise").passes == 100
