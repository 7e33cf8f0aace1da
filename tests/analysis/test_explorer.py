"""What stands in the page; how it behaves in a browser is in ``tests/test_explorer_page.py``."""

import re
from pathlib import Path

import numpy as np
import pytest
import toy_run
from explorer_pages import HOSTILE, TEXTS, made_page, made_run

from analysis import explorer
from analysis.colours import contrast
from analysis.explorer import explorer_html, load_page
from uncertainty.errors import InputError
from uncertainty.scores import read_examples


@pytest.fixture(scope="module")
def html():
    return explorer_html(made_page(*made_run(TEXTS)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


def test_the_document_refers_to_nothing_and_holds_no_markup_of_the_data(html):
    assert re.findall(r"""(?:src|href)\s*=|@import|url\(""", html.replace(HOSTILE.replace("<", "\\u003c"), "")) == []
    assert html.count("<script") == html.count("</script>") == 2
    assert "{{data}}" in html  # a token of this text, and still one


def test_its_script_never_reads_text_as_markup():
    folder = Path(explorer.__file__).parent / "explorer_page"
    sources = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(sources) == {"page.html", *explorer.STYLES, *explorer.SCRIPTS}
    for name in explorer.SCRIPTS:
        forbidden = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(|XMLHttp|import\("
        )
        assert re.findall(forbidden, sources[name]) == [], name


def test_text_on_every_colour_can_be_read_and_order_is_by_lightness():
    page_colours = {}
    for theme, table_C3 in explorer._tables().items():
        rules = re.findall(
            rf"\[data-theme={theme}\] \.c(\d+)\{{background-color:#(\w+);color:(#\w+)\}}",
            explorer._palette({theme: explorer._hexadecimal(table_C3)}),
        )
        assert [int(index) for index, _, _ in rules] == list(range(256))
        colours = [tuple(int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)) for _, colour, _ in rules]
        texts = [(0.0,) * 3 if text == "#000" else (1.0,) * 3 for _, _, text in rules]
        assert min(contrast(*pair) for pair in zip(colours, texts, strict=True)) >= 4.5
        page_colours[theme] = np.array([contrast(colour, (1.0, 1.0, 1.0)) for colour in colours])
    assert np.all(np.diff(page_colours["light"]) > -0.02)
    assert np.all(np.diff(page_colours["dark"]) < 0.3)


def test_a_limited_page_shows_the_first_examples_on_the_scales_of_the_whole_run(run):
    whole, part = load_page(run), load_page(run, limit=4)
    assert part["examples"]["id"] == whole["examples"]["id"][:4]
    assert part["about"]["part"] == "4 of the run's 9 examples, the first"
    assert (part["about"]["tokens"], part["about"]["shown"]) == (
        whole["about"]["tokens"],
        part["examples"]["start"][-1],
    )
    for one, other in zip(part["measures"], whole["measures"], strict=True):
        assert all(one[name] == other[name] for name in ("upper", "legend", "counts", "thresholds") if name in one)
    assert whole["about"]["part"] == ""
    assert load_page(run, limit=99) == whole


def test_the_top_examples_are_shown_in_the_order_of_the_run(run):
    means = read_examples(run)[["id", "mean_epistemic"]]
    expected = means.loc[means["mean_epistemic"].nlargest(3).index.sort_values(), "id"].tolist()
    shown = load_page(run, limit=3, top="bald")
    assert shown["examples"]["id"] == expected
    assert shown["about"]["part"] == "3 of the run's 9 examples, those with the highest mean epistemic"


def test_too_large_a_run_is_refused_with_the_limit_that_fits(run, monkeypatch):
    sizes = np.cumsum(read_examples(run)["n_completion_tokens"])
    monkeypatch.setattr(explorer, "MAX_TOKENS", int(sizes[4]))
    with pytest.raises(InputError, match=r"9 examples of .* have \d+ tokens .* at most \d+: give --limit 5, or --top"):
        load_page(run)
    assert len(load_page(run, limit=5)["examples"]["id"]) == 5
    assert 0 < len(load_page(run, top="loss")["examples"]["id"]) < 9
    with pytest.raises(InputError, match=r"give --limit \d or leave --limit out"):
        load_page(run, top="loss", limit=9)
    monkeypatch.setattr(explorer, "MAX_TOKENS", 1)
    with pytest.raises(InputError, match="smaller --max-length"):
        load_page(run)


def test_kept_columns_come_along_as_text(run):
    kept = load_page(run)["examples"]["kept"]
    assert kept["topic"][:3] == ["sums", None, '["a", 1]']
