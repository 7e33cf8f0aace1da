"""The explorer's page in a browser."""

import re
import time

import explorer_pages
import numpy as np
import pytest
import torch
import toy_run
from browser import chromium, open_page
from explorer_pages import ARABIC, ENGLISH, HOSTILE, TEXTS, made_page, made_run, write_page

from analysis.colours import make_scale
from analysis.explorer import load_page
from uncertainty.scores import MEASURE_COLUMNS
from uncertainty.selection import top_fraction

# What the page's spans wear, in the order of the text.
WORN = "() => [...document.querySelectorAll('[data-at]')].map((span) => span.className)"
# Goes through all examples of the list by keyboard, and in each does what stands in the place of WHAT.
THROUGH = """() => {
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const list = document.getElementById("list");
    list.dispatchEvent(new KeyboardEvent("keydown", { key: "Home", bubbles: true }));
    const found = [];
    const count = Number(document.querySelector("#list [role=option]")?.getAttribute("aria-setsize") ?? 0);
    for (let example = 0; example < count; example++) { WHAT; press("j"); }
    return found;
}"""
IDS = THROUGH.replace("WHAT", "found.push(document.getElementById('example-id').textContent)")
OUTLINED = THROUGH.replace(
    "WHAT", "found.push([...document.querySelectorAll('[data-at]')].map((span) => span.matches('.sel')))"
)
COPIED = """(place) => {
    getSelection().selectAllChildren(document.querySelector(place));
    return String(getSelection());
}"""
# Three tokens of one Arabic word: as one text, as the page's spans, and as spans that nothing joins.
WIDTHS = """() => {
    const box = document.querySelector(".completion");
    const width = (nodes) => {
        const probe = document.createElement("div");
        probe.className = "completion";
        probe.style.cssText = "position: absolute; width: max-content";
        probe.append(...nodes);
        box.parentElement.append(probe);
        const found = probe.getBoundingClientRect().width;
        probe.remove();
        return found;
    };
    const spans = [...box.querySelectorAll("[data-at]")].slice(0, 3).map((span) => span.cloneNode(true));
    const apart = spans.map((span) => span.cloneNode(true));
    for (const span of apart) span.style.display = "inline-block";
    const whole = spans.map((span) => span.textContent).join("");
    return { whole: width([whole]), spans: width(spans), apart: width(apart) };
}"""
SAID = THROUGH.replace(
    "WHAT",
    """
    const onward = document.querySelector(".completion:dir(rtl)") ? "ArrowLeft" : "ArrowRight";
    press(onward);  // with a token chosen, Home is a move among tokens
    press("Home");
    const place = () => document.querySelector("#token .place").textContent;
    for (let before = ""; before !== place(); press(onward)) {
        before = place();
        found.push(document.getElementById("token-said").textContent);
    }
    """,
)


@pytest.fixture(scope="module")
def tables():
    return made_run(TEXTS)


@pytest.fixture(scope="module")
def data(tables):
    return made_page(*tables)


@pytest.fixture(scope="module")
def file(data, tmp_path_factory):
    return write_page(data, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, file):
    with open_page(browser, file) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


def examples_shown(page):
    """Ids in the list, top to bottom."""
    return page.evaluate(IDS)


def spans_of(data, example):
    """The tokens of each span of an example, counted over the page, in the order of the text."""
    spans = []
    for block in data["examples"]["blocks"][example]:
        following = block["first"]
        for segment in block["segments"]:
            held = [following] if isinstance(segment, str) else segment[2:]
            following = held[-1] + 1
            spans.append([data["examples"]["start"][example] + token for token in held])
    return spans


def worn_by_token(page, data, example):
    """For each token of an example the classes of its first span."""
    worn = {}
    for tokens, classes in zip(spans_of(data, example), page.evaluate(WORN), strict=True):
        for token in tokens:
            worn.setdefault(token, classes)
    return [classes for _, classes in sorted(worn.items())]


def test_it_opens_with_the_first_example_and_says_where_the_numbers_come_from(page, tables):
    assert page.title() == "made up – token explorer"
    assert page.inner_text("#facts") == explorer_pages.ABOUT["facts"]
    assert page.inner_text("#example-id") == "row-0"
    assert page.inner_text("#count") == "16 examples"
    assert page.inner_text("#example-facts").startswith("1 of 16 · 12 tokens · Loss: mean ")
    assert page.evaluate("document.querySelectorAll('[data-at]').length") >= len(ENGLISH)
    assert page.inner_text(".said .body").startswith("<|user|> Question of row-0?")


@pytest.mark.parametrize("kind", ["value", "percentile"])
def test_every_measure_colours_every_token_as_the_heatmap_does(page, tables, data, kind):
    tokens, _ = tables
    page.keyboard.press("j")
    if kind == "percentile":
        page.keyboard.press("c")
    here = slice(*data["examples"]["start"][1:3])
    for place, name in enumerate(MEASURE_COLUMNS):
        page.keyboard.press(str(place + 1))
        assert page.locator("#measures input:checked").get_attribute("value") == name
        values = tokens[name].to_numpy(dtype=np.float64)
        fixed = 1.0 if name == "label_prob" and kind == "value" else None
        positions = make_scale(kind, values, "the run", fixed_upper=fixed).positions(values[here])
        expected = [None if np.isnan(one) else min(int(one * 256), 255) for one in positions]
        found = [re.search(r"\bc(\d+)", classes) for classes in worn_by_token(page, data, 1)]
        assert [int(one[1]) if one else None for one in found] == expected


def test_tokens_of_one_character_have_the_colour_of_the_highest(page, tables, data):
    tokens, _ = tables
    for _ in range(3):
        page.keyboard.press("j")
    classes = worn_by_token(page, data, 3)[3:7]  # the four bytes of the smile
    assert len(set(classes)) == 1
    values = tokens["loss"].to_numpy(dtype=np.float64)
    first = data["examples"]["start"][3] + 3
    highest = np.nanmax(make_scale("value", values, "the run").positions(values[first : first + 4]))
    assert f"c{min(int(highest * 256), 255)}" in classes[0].split()


def test_the_slider_selects_exactly_the_tokens_of_top_fraction(page, tables, data):
    tokens, _ = tables
    for name, step in (("loss", 250), ("loss", 3), ("epistemic", 617), ("mc_loss", 1000), ("entropy", 0)):
        page.select_option("#select-by", name)
        page.fill("#slider", str(step))
        values = torch.tensor(tokens[name].to_numpy(dtype=np.float32))
        known = ~values.isnan()
        expected = torch.zeros(len(values), dtype=torch.bool)
        expected[known] = top_fraction(values[known], step / 1000)
        assert page.inner_text("#selected").startswith(f"{int(expected.sum())} of {int(known.sum())} tokens in the run")
        if step:
            said = float(re.search(r"≥ ([\d.]+)", page.inner_text("#threshold"))[1])
            assert said == pytest.approx(float(values[expected].min()), abs=5e-4)
        else:
            assert page.inner_text("#threshold") == "no token"
        if step == 617:  # in words too, which tells apart the tokens of one character
            assert ["; trained on" in one for one in page.evaluate(SAID)] == expected.tolist()
        outlined = [[bool(any(expected[held])) for held in spans_of(data, example)] for example in range(len(TEXTS))]
        assert page.evaluate(OUTLINED) == outlined


def test_the_share_can_be_typed_and_the_outlines_hidden(page):
    page.fill("#fraction", "12.3")
    assert page.input_value("#slider") == "123"
    page.locator("#fraction").blur()
    page.keyboard.press("]")
    assert (page.input_value("#slider"), page.input_value("#fraction")) == ("133", "13.3")
    assert page.locator(".sel").count() > 0
    page.keyboard.press("x")
    assert page.locator(".sel").count() == 0
    assert not page.is_checked("#outline")


def test_all_values_of_a_token_are_shown_when_pointed_at_and_when_moved_to(page, tables):
    tokens, _ = tables
    row = tokens.iloc[1]
    page.hover("[data-at='1']")
    pointed_at = page.inner_text("#token")
    page.mouse.move(720, 890)
    assert "Point at a token" in page.inner_text("#token")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#token") == pointed_at
    cells = dict(line.split("\t")[:2] for line in pointed_at.splitlines() if "\t" in line)
    assert cells["Loss"] == f"{row['loss']:.3g} nats" or float(cells["Loss"].split()[0]) == pytest.approx(row["loss"])
    value, error = (float(one) for one in re.fullmatch(r"([\d.]+) ± ([\d.]+) nats", cells["Epistemic"]).groups())
    assert (value, error) == pytest.approx((row["epistemic"], row["epistemic_se"]), abs=0.006)
    assert float(cells["Probability"].removesuffix(" %")) == pytest.approx(100 * row["label_prob"], abs=0.051)
    assert cells["Rank"].startswith(f"{row['label_rank'] + 1} – ")
    assert f"id {row['token_id']} · position {row['position']} · token 2 of 12 · 100 passes" in pointed_at


def test_examples_are_sorted_by_any_measure_of_theirs(page, tables):
    _, examples = tables
    options = page.eval_on_selector_all("#sort option", "all => all.map(one => one.value)")
    assert set(options) >= {f"{how}_{name}" for how in ("mean", "max", "sum") for name in MEASURE_COLUMNS}
    for key in ("mean_label_prob", "max_epistemic"):
        page.select_option("#sort", key)
        falling = examples.sort_values(key, ascending=False, kind="stable")["id"].tolist()
        assert examples_shown(page) == falling
        page.click("#direction")
        assert examples_shown(page) == examples.sort_values(key, kind="stable")["id"].tolist()
    page.select_option("#sort", "length")
    assert (
        examples_shown(page)
        == examples.sort_values("n_completion_tokens", ascending=False, kind="stable")["id"].tolist()
    )
    page.select_option("#sort", "id")
    assert examples_shown(page) == [f"row-{index}" for index in range(len(TEXTS))]


def test_examples_are_found_by_their_text_and_by_being_truncated(page, tables):
    _, examples = tables
    for query, field in (
        ("question OF row-1?", "prompt"),
        ("<B>BOLD", "completion"),
        ("مرحبا بال", "completion"),
        ("row-12", "id"),
    ):
        page.fill("#search", query)
        assert examples_shown(page) == [
            row.id for row in examples.itertuples() if query.lower() in getattr(row, field).lower()
        ]
    page.fill("#search", "nowhere.*")
    assert page.inner_text("#count") == "No example matches."
    page.fill("#search", "")
    page.check("#truncated")
    assert examples_shown(page) == examples.loc[examples["truncated"], "id"].tolist()
    assert page.inner_text("#note") == "The text was cut here, at the maximum length."


def test_what_was_searched_for_is_marked_in_the_text(page):
    page.fill("#search", "Answer Is")
    found = page.evaluate("[...CSS.highlights.get('found')].map(String)")
    assert found == [" answer is".strip()]


def test_a_range_of_values_keeps_its_tokens_and_examples(page, tables, data):
    tokens, examples = tables
    page.fill("#low", "2.5")
    page.fill("#high", "4")
    inside = tokens["loss"].between(2.5, 4)
    assert examples_shown(page) == [name for name in examples["id"] if inside[tokens["example_id"] == name].any()]
    assert (
        page.inner_text("#range-said") == f"{inside.sum()} tokens in {tokens['example_id'][inside].nunique()} examples"
    )
    shown = int(page.inner_text("#example-id").removeprefix("row-"))
    uncoloured = ["off" in classes.split() for classes in page.evaluate(WORN)]
    assert uncoloured == [not inside[held].any() for held in spans_of(data, shown)]
    page.keyboard.press("Escape")  # leaves the field
    page.keyboard.press("Escape")
    assert page.inner_text("#count") == "16 examples"


def test_a_range_can_be_drawn_in_the_histogram(page, tables):
    tokens, _ = tables
    box = page.locator("#histogram").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.47 * box["width"], box["y"] + 50, steps=3)
    page.mouse.up()
    low, high = (float(page.input_value(field)) for field in ("#low", "#high"))
    values = tokens["loss"][tokens["loss"] > 0]
    left, right = np.log10(values.min()), np.log10(values.max())  # the axis, which is logarithmic for nats
    assert [np.log10(low), np.log10(high)] == pytest.approx(
        [left + share * (right - left) for share in (0.47, 0.9)], abs=0.02
    )
    inside = tokens["loss"].between(low, high).sum()
    assert page.inner_text("#range-said").startswith(f"{inside} tokens in ")
    page.click("#clear-range")
    assert page.input_value("#low") == ""


def test_markup_in_the_data_stays_text(browser, tmp_path):
    pieces = [HOSTILE, " ok", "<|<img src=y onerror='window.broken = 3'>|>"]
    fields = {"prompt": HOSTILE, "topic": HOSTILE, HOSTILE: "<b>", "truncated": True}
    tables = made_run([(HOSTILE, pieces, fields), (f"{HOSTILE} 2", pieces, fields)])
    data = made_page(*tables)
    data["about"] = {name: HOSTILE if isinstance(value, str) else value for name, value in data["about"].items()}
    with open_page(browser, write_page(data, tmp_path)) as page:
        page.keyboard.press("j")
        page.hover("[data-at='0']")
        assert page.text_content("#token .spelled") == HOSTILE.replace(" ", "·")
        page.keyboard.press("?")
        assert page.title() == f"{HOSTILE} – token explorer"
        assert page.inner_text("#example-id") == f"{HOSTILE} 2"
        assert page.inner_text("[data-at='0']") == HOSTILE
        assert page.text_content(".said .body") == HOSTILE
        assert page.locator("#kept dt").all_inner_texts() == ["topic", HOSTILE]
        assert page.locator("#kept dd").all_inner_texts() == [HOSTILE, "<b>"]
        assert page.text_content(".row .snippet") == f"Question of {HOSTILE}?"
        assert page.evaluate("window.broken") is None
        assert page.evaluate("document.scripts.length") == 2
        assert page.locator("img, b, iframe, a").count() == 0


def test_a_script_that_were_there_all_the_same_would_not_run(browser, file, tmp_path):
    html = file.read_text(encoding="utf-8").replace("</body>", "<script>window.broken = 1</script></body>")
    (tmp_path / "changed.html").write_text(html, encoding="utf-8")
    with pytest.raises(AssertionError, match="Content Security Policy"):
        with open_page(browser, tmp_path / "changed.html") as page:
            assert page.evaluate("window.broken") is None


def test_marks_are_seen_and_not_copied(page):
    copied = page.evaluate(COPIED, ".completion")
    assert copied == "".join(ENGLISH[:-1])
    seen = "all => all.map(one => getComputedStyle(one, '::before').content)"
    marks = page.eval_on_selector_all(".completion [data-m]", seen)
    assert marks == ['"↵"', '"⇥"', '"<|end|>"']
    assert page.locator(".s i").count() == 4


def test_a_long_text_is_copied_whole_across_its_chunks(browser, tmp_path):
    pieces = ["word", " and", "\n", "\n", "  x"] * 500
    with open_page(browser, write_page(made_page(*made_run([("long", pieces, {})])), tmp_path)) as page:
        page.wait_for_selector("[data-at='2999']", state="attached")
        assert page.locator(".completion").count() > 3
        copied = page.evaluate(COPIED, "#text")
        assert copied.partition("<|assistant|>")[2].strip("\n") == "".join(pieces).strip("\n")


def test_arabic_letters_join_across_tokens_and_run_to_the_left(page):
    page.keyboard.press("j")
    widths = page.evaluate(WIDTHS)
    if widths["apart"] == pytest.approx(widths["whole"]):
        pytest.skip("no installed font joins Arabic letters")
    assert widths["spans"] == pytest.approx(widths["whole"], abs=0.1)
    assert page.evaluate("getComputedStyle(document.querySelector('.completion')).direction") == "rtl"


def test_everything_can_be_done_by_keyboard(page):
    shown = lambda: page.inner_text("#example-id")  # noqa: E731
    current = lambda: page.evaluate("[...document.querySelectorAll('.at')].map((span) => span.textContent).join('')")  # noqa: E731
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert shown() == "row-1"
    assert page.locator(".row[aria-selected=true]").inner_text().startswith("row-1")
    page.keyboard.press("ArrowRight")
    assert current() == ARABIC[0]
    page.keyboard.press("ArrowLeft")  # the text runs to the left, and so does the next token
    assert current() == ARABIC[1]
    page.keyboard.press("Home")
    assert current() == ARABIC[0]
    page.keyboard.press("Escape")
    assert current() == ""
    page.keyboard.press("m")
    assert page.inner_text("#measure-title") == "Entropy"
    page.keyboard.press("/")
    page.keyboard.type("row-12?")
    page.keyboard.press("Enter")
    assert shown() == "row-12"
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert current() in ENGLISH[6:]  # after the line's end
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("j")
    assert shown() == "row-12"
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    page.keyboard.press("n")
    assert "sel" in page.locator(".at").first.get_attribute("class").split()


def test_the_focus_can_be_seen_wherever_it_goes(page):
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        name, style, width = page.evaluate("""() => { const here = document.activeElement;
            const shown = getComputedStyle(here.matches("input[type=radio]") ? here.nextElementSibling : here);
            return [here.id || here.name || here.tagName, shown.outlineStyle, parseFloat(shown.outlineWidth)]; }""")
        if name == "BODY":
            break
        assert style != "none", name
        assert width >= 1, name
        seen.add(name)
    assert seen >= {"search", "sort", "list", "measure", "text", "low", "slider", "fraction", "theme"}


def test_every_control_has_a_name(page):
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, [tabindex]")].filter((one) =>
        !(one.ariaLabel || one.textContent.trim() || [...(one.labels ?? [])].some((label) => label.textContent.trim())))
        .map((one) => one.outerHTML)""")
    assert unnamed == []


def test_light_and_dark_follow_the_system_until_one_is_chosen(browser, file):
    with open_page(browser, file, color_scheme="dark") as page:
        page.wait_for_selector("[data-theme=dark]")
        page.emulate_media(color_scheme="light")
        page.wait_for_selector("[data-theme=light]")
        page.click("#theme")
        page.wait_for_selector("[data-theme=dark]")
        page.reload()
        page.wait_for_selector("[data-theme=dark]")


def test_a_reload_comes_back_to_the_example_and_the_measure(page):
    page.keyboard.press("j")
    page.keyboard.press("5")
    page.reload()
    assert (page.inner_text("#example-id"), page.inner_text("#measure-title")) == (
        "row-1",
        "Epistemic uncertainty (BALD)",
    )


def test_on_a_narrow_window_nothing_is_cut_off_and_the_list_opens(browser, file):
    with open_page(browser, file, size=(400, 800)) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert not page.is_visible("#list")
        page.click("#open-list")
        page.click(".row >> nth=2")
        assert page.inner_text("#example-id") == "row-2"
        assert not page.is_visible("#list")
        page.click("[data-at='5']")  # its values come up from below, and do not cover it
        token, sheet = (page.locator(place).bounding_box() for place in ("[data-at='5']", "#inspector"))
        assert token["y"] + token["height"] <= sheet["y"] < 800
        page.click("#close-token")
        assert page.locator(".at").count() == 0


def test_a_run_that_was_scored_opens(browser, run, tmp_path):
    with open_page(browser, write_page(load_page(run), tmp_path)) as page:
        assert page.inner_text("#count") == "9 examples"
        assert page.locator("#measures input").count() == len(MEASURE_COLUMNS)


@pytest.mark.slow
def test_fifty_thousand_tokens_load_and_switch_quickly(browser, tmp_path):
    words = [" the", " garden", " answer", "ing", ",", "\n", " 12", "."]
    random = np.random.default_rng(0)
    sizes = [20_000, *([100] * 300)]
    texts = [(f"row-{index}", random.choice(words, size).tolist(), {}) for index, size in enumerate(sizes)]
    file = write_page(made_page(*made_run(texts)), tmp_path)
    begin = time.perf_counter()
    with open_page(browser, file) as page:
        page.wait_for_selector("[data-at]")
        assert time.perf_counter() - begin < 5
        seconds = page.evaluate("""async () => {
            const worst = [];
            for (const key of ["m", "m", "c", "]", "m", "j", "k", "End"]) {
                const begin = performance.now();
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                worst.push((performance.now() - begin) / 1000);
            }
            return worst;
        }""")
        assert max(seconds) < 1
