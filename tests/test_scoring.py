"""One run from data to folder: shards, resuming, what is set aside, and the Python road."""

import json

import numpy as np
import pytest
from conftest import TINY

import uncertainty
from uncertainty.errors import InputError
from uncertainty.loading import load_model
from uncertainty.model import adopt_model
from uncertainty.prepare import prepare
from uncertainty.scoring import open_job, run_job, score_dataset
from uncertainty.settings import ScoreSettings


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return tiny_folder("llama", tmp_path / "model")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [
        {"question": f"{i} + {i} = ?", "answer": f"It is {2 * i}, since {i} twice." * (1 + i % 3)} for i in range(7)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(run):
    paths = sorted(p for p in run.rglob("*") if p.suffix in (".parquet", ".jsonl"))
    return {str(p.relative_to(run)): p.read_bytes() for p in paths}


def test_a_data_set_is_scored_in_one_call(folder, data, tmp_path):
    run = score_dataset(folder, data, tmp_path / "run", passes=4, rate=0.2, shard_examples=3)
    scores, examples = run.scores(), run.examples()
    assert len(examples) == 7
    assert scores["example_id"].unique().tolist() == [str(i) for i in range(7)]
    assert len(list((tmp_path / "run" / "tokens").glob("*.parquet"))) == 3
    assert (scores["n_passes"] == 4).all()
    assert (scores["epistemic"] > 0).all()
    assert run.info.settings["family"]["rate"] == 0.2
    assert run.info.record["model"]["files"].keys() >= {"config.json", "model.safetensors"}
    assert run.info.totals["tokens"] == len(scores)


def test_the_public_names_are_those_of_the_package(folder, data, tmp_path):
    run = uncertainty.score_dataset(folder, data, tmp_path / "run", passes=2, limit=2)
    assert len(uncertainty.read_scores(run.path)) == len(run.scores())
    assert uncertainty.read_run(run.path).status == "complete"
    with pytest.raises(AttributeError, match="no attribute 'score'"):
        uncertainty.score  # noqa: B018 - the access is what is tested


def test_own_objects_can_be_scored_and_are_left_as_they_were(folder, data, tmp_path):
    loaded = load_model(folder, device="cpu")
    loaded.model.train()
    before = [module.training for module in loaded.model.modules()]
    mine = adopt_model(loaded.model, loaded.tokenizer)
    run = score_dataset(mine, data, tmp_path / "run", passes=3, limit=3)
    assert [module.training for module in loaded.model.modules()] == before
    again = score_dataset(folder, data, tmp_path / "again", passes=3, limit=3)
    np.testing.assert_array_equal(run.scores()["epistemic"], again.scores()["epistemic"])


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(folder, data, tmp_path):
    def job():
        return open_job(prepare(ScoreSettings(str(folder), str(data), passes=3, shard_examples=2)))

    whole = run_job(job(), tmp_path / "whole")
    stops = []

    def stop(progress):
        stops.append(progress)
        if len(stops) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job(), tmp_path / "cut", on_progress=stop)
    with pytest.raises(InputError, match="unfinished run"):
        uncertainty.read_scores(tmp_path / "cut")
    later = []
    run_job(job(), tmp_path / "cut", on_progress=later.append)
    assert later[-1].resumed_examples > 0
    assert later[-1].examples + later[-1].resumed_examples == 7
    assert contents(tmp_path / "cut") == contents(whole.path)


def test_a_finished_run_is_not_scored_again(folder, data, tmp_path):
    first = score_dataset(folder, data, tmp_path / "run", passes=2)
    before = contents(tmp_path / "run")
    calls = []
    second = score_dataset(folder, data, tmp_path / "run", passes=2, on_progress=calls.append)
    assert calls == []
    assert contents(tmp_path / "run") == before
    assert second.info.totals == first.info.totals


def test_other_settings_on_the_same_folder_are_refused_and_listed(folder, data, tmp_path):
    score_dataset(folder, data, tmp_path / "run", passes=2, limit=2)
    with pytest.raises(InputError, match=r"passes: 2 -> 3.*--overwrite"):
        score_dataset(folder, data, tmp_path / "run", passes=3, limit=2)
    run = score_dataset(folder, data, tmp_path / "run", passes=3, limit=2, overwrite=True)
    assert run.info.settings["passes"] == 3


def test_the_batch_budget_does_not_change_the_scores(folder, data, tmp_path):
    small = score_dataset(folder, data, tmp_path / "small", passes=5, tokens_per_batch=64).scores()
    large = score_dataset(folder, data, tmp_path / "large", passes=5, tokens_per_batch=100_000).scores()
    for name in ("loss", "entropy", "total", "aleatoric", "epistemic", "mc_loss"):
        np.testing.assert_allclose(small[name], large[name], atol=1e-5)


def test_moving_the_model_folder_keeps_the_run(folder, data, tmp_path):
    score_dataset(folder, data, tmp_path / "run", passes=2, limit=2)
    moved = folder.rename(tmp_path / "moved")
    calls = []
    score_dataset(moved, data, tmp_path / "run", passes=2, limit=2, on_progress=calls.append)
    assert calls == []


def test_a_model_that_gives_no_finite_result_stops_the_run(folder, data, tmp_path):
    loaded = load_model(folder, device="cpu")
    loaded.model.lm_head.weight.data.mul_(1e38)  # finite weights, logits that overflow
    with pytest.raises(InputError, match="every example of shard 0 gives results that are not finite in float32"):
        score_dataset(loaded, data, tmp_path / "run", passes=2)


def test_zero_epistemic_uncertainty_everywhere_is_refused(folder, data, tmp_path, monkeypatch):
    from uncertainty import scoring
    from uncertainty.families.dropout import McDropout

    job = open_job(prepare(ScoreSettings(str(folder), str(data), passes=2)))
    monkeypatch.setattr(scoring, "score", lambda *a, **k: _without_epistemic(*a, **k))

    def _without_epistemic(model, batches, family, **options):
        from uncertainty.engine import score

        yield from score(model, batches, McDropout(rate=0.0), **options)

    with pytest.raises(InputError, match="epistemic uncertainty is zero at all"):
        run_job(job, tmp_path / "run")


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("llama",)])
def test_folders_of_every_family_can_be_scored(name, tiny_folder, data, tmp_path):
    run = score_dataset(tiny_folder(name, tmp_path / "model"), data, tmp_path / "run", passes=3, rate=0.3, limit=2)
    scores = run.scores()
    assert (scores["epistemic"] > 0).any()
    assert scores["loss"].notna().all()


def test_the_estimate_names_time_memory_and_disk(folder, data):
    job = open_job(prepare(ScoreSettings(str(folder), str(data), passes=3)))
    expected = job.estimate()
    assert expected["seconds"] > 0
    assert expected["peak_bytes"] == sum(v for k, v in expected.items() if k.startswith("peak_bytes."))
    assert expected["disk_bytes"] > 0


def test_a_target_stops_examples_by_themselves_and_is_a_part_of_the_run(folder, data, tmp_path):
    options = {"passes": 60, "rate": 0.2, "shard_examples": 3, "target_se": "20%"}
    run = score_dataset(folder, data, tmp_path / "run", **options)
    passes = run.scores().groupby("example_id")["n_passes"].unique()
    assert all(len(found) == 1 and found[0] in (20, 30, 50, 60) for found in passes)
    assert (
        run.info.settings["target_se"] | {"value": 0.2, "relative": True, "looks": [20, 30, 50, 60]}
        == (run.info.settings["target_se"])
    )
    alone = score_dataset(folder, data, tmp_path / "alone", **options | {"shard_examples": 1, "limit": 3})
    mine = run.scores().set_index(["example_id", "position"]).loc[["0", "1", "2"]]
    theirs = alone.scores().set_index(["example_id", "position"])
    assert (mine["n_passes"] == theirs["n_passes"]).all()
    np.testing.assert_allclose(mine["epistemic"], theirs["epistemic"], atol=1e-6)
    with pytest.raises(InputError, match=r"target_se\.value: 0\.2 -> 0\.1"):
        score_dataset(folder, data, tmp_path / "run", **options | {"target_se": "10%"})


def test_a_run_without_a_target_has_the_fingerprint_it_always_had(folder, data):
    job = open_job(prepare(ScoreSettings(model=str(folder), dataset=str(data), passes=4)))
    assert "target_se" not in job.info.settings
    assert job.ends == (4,)


def test_a_target_with_balanced_masks_draws_the_smallest_groups(folder, data):
    settings = ScoreSettings(model=str(folder), dataset=str(data), passes=200, masks="balanced", target_se="0.01")
    job = open_job(prepare(settings))
    assert job.family.groups == 20
    assert job.ends == (50, 70, 100, 140, 200)
    assert job.estimate()["peak_bytes.hidden states"] > 0
