"""Prompts and option probabilities in the item browser, in a real browser."""

import dataclasses
from urllib.parse import parse_qs, quote

import pytest
from chromium import BROWSER, DRIVER, driven, go_to, visit
from fake_study import analysed, fake_study, planned, prompts_of, with_choices

from kdstudy.report import document

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver: apt install chromium-driver"
)
FEW = planned(students=("zoo-xs",), seeds=(0,), methods=("sft", "gkd"))
RUN = "zoo-xs/gkd/zoo-l"
HOSTILE = "</script><img src=x onerror=document.title='run'>\u202e & <b>b</b>"
CELLS = (
    "return [...document.querySelectorAll('.options tbody tr')].map((r) => [...r.cells].map(%s))"
)


@pytest.fixture(scope="module")
def study():
    return with_choices(fake_study(n=20, systems=FEW), n=30)


def written(folder, study, prompts):
    table, tests = analysed(study)
    return document.write(
        folder,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
        prompts=prompts,
    ).as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with driven(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    return written(tmp_path_factory.mktemp("report"), study, prompts_of(study))


def one(driver, selector):
    return driver.find_element("css selector", selector)


def read(driver):
    """Return the texts of every prompt that is shown."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.prompt .completion')].map((n) => n.textContent)"
    )


def test_each_bar_is_the_systems_share_and_the_choice_is_marked(study, browser, page):
    visit(browser, page + f"#items?run={quote(RUN)}&benchmark=facts")
    labels = ["zoo-l/teacher", "zoo-xs/sft", RUN]
    scores = {
        label: {r.example_id: r for r in study.scores[label] if r.benchmark == "facts"}
        for label in labels
    }
    for link in browser.find_elements("css selector", "#list a")[:9]:
        browser.execute_script("arguments[0].click()", link)
        name = one(browser, "#item-title").text.removeprefix("facts-").removesuffix("-0")
        rows = browser.execute_script(CELLS % "(c) => [c.className, c.innerText]")
        own = [scores[label][name] for label in labels]
        assert len(rows) == len(own[0].option_logprobs)
        for place, (title, *shares) in enumerate(rows):
            assert ("gold" in title[1]) == (place == own[0].target)
            assert f"option {place} of" in title[1]
            for score, (mark, text) in zip(own, shares, strict=True):
                likely = [2.718281828459045**x for x in score.option_logprobs]
                assert text.startswith(f"{100 * likely[place] / sum(likely):.1f}"[:-1])
                chosen = max(score.option_logprobs) == score.option_logprobs[place]
                assert ("chosen" in mark) == chosen
                assert (f"chosen, {score.outcome}" in text) == chosen
        assert read(browser) == [f"Question: {one(browser, '.question').text}\nAnswer:"]
    widths = browser.execute_script(
        CELLS % "(c) => c.querySelector('.bar span')?.getBoundingClientRect().width /"
        " c.querySelector('.bar')?.getBoundingClientRect().width"
    )
    texts = browser.execute_script(CELLS % "(c) => parseFloat(c.innerText) / 100")
    for wide, said in zip(widths, texts, strict=True):
        assert wide[1:] == pytest.approx(said[1:], abs=0.02)


def test_two_prompts_are_shown_where_student_and_teacher_read_two(browser, page):
    visit(browser, page + f"#items?run={quote(RUN)}&benchmark=one_step")
    question = one(browser, ".question").text
    asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert read(browser) == [
        f"<|im_start|>system\nYou are a teacher.<|im_end|>\n{asked}",
        asked,
    ]
    heads = [n.text for n in browser.find_elements("css selector", ".prompt summary")]
    assert heads == [f"The {who}'s prompt, as the model reads it" for who in ("teacher", "student")]
    one(browser, ".prompt summary").click()
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    browser.execute_script("document.querySelectorAll('#list a')[3].click()")
    assert browser.execute_script("return document.querySelector('.prompt').open"), "as before"


def test_an_items_address_keeps_filter_and_search(browser, page):
    visit(browser, page + f"#items?run={quote(RUN)}&benchmark=one_step&q=shells")
    assert one(browser, "#pick-text").get_attribute("value") == "shells"
    links = browser.find_elements("css selector", "#list a")
    found = [link.get_attribute("href") for link in links]
    assert found and all("shells" in link.text for link in links)
    wanted = {"run": [RUN], "benchmark": ["one_step"], "q": ["shells"]}
    assert all(parse_qs(href.split("?")[-1]) == wanted for href in found)
    title = found[-1].split("item-")[1].split("?")[0]
    visit(browser, page + "#" + found[-1].split("#")[1])
    assert one(browser, "#item-title").text == title
    assert len(browser.find_elements("css selector", "#list a")) == len(found)
    browser.execute_script(
        "const e = document.getElementById('pick-text'); e.value = 'a & b=c';"
        "e.dispatchEvent(new Event('input'))"
    )
    assert parse_qs(browser.current_url.split("?")[-1])["q"] == ["a & b=c"]
    go_to(browser, "#" + found[0].split("#")[1])
    assert one(browser, "#pick-text").get_attribute("value") == "shells"
    go_to(browser, "#item-two_step-two_step-0003-0?benchmark=one_step&q=nothing-has-this")
    assert one(browser, "#item-title").text == "two_step-two_step-0003-0", "though it does not fit"
    assert one(browser, "#pick-text").get_attribute("value") == ""


def test_a_search_finds_the_words_of_options(browser, page):
    visit(browser, page + "#items?benchmark=facts&q=option 1 of 7")
    assert [n.text for n in browser.find_elements("css selector", "#list a span:last-child")] == [
        "Which of 5 is number 7?"
    ]


@pytest.mark.parametrize("width", [420, 1280])
def test_hostile_prompts_and_options_are_text_and_fit(study, browser, tmp_path, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    long = HOSTILE + "y" * 400
    prompts = [
        dataclasses.replace(
            p,
            text=long + p.text,
            labels=tuple(f"{k}{HOSTILE}" for k in p.labels),
            given=tuple(HOSTILE for _ in p.given),
            scored=tuple(long + s for s in p.scored),
        )
        for p in prompts_of(study)
    ]
    visit(browser, written(tmp_path, study, prompts))
    for benchmark in ("facts", "one_step"):
        go_to(browser, f"#items?benchmark={benchmark}")
        browser.execute_script("document.querySelectorAll('.prompt').forEach(n => n.open = true)")
        browser.execute_async_script("setTimeout(arguments[0], 50)")
        assert read(browser)[0].startswith(HOSTILE)
        if benchmark == "facts":
            assert HOSTILE in one(browser, ".options tbody").get_attribute("textContent")
        wide = browser.execute_script(
            "const wide = document.documentElement.clientWidth;"
            "return [...document.querySelectorAll('.item *')]"
            "  .filter((e) => !e.closest('.scroll') && !e.closest('.spoken')"
            "    && e.getBoundingClientRect().right > wide + 1)"
            "  .map((e) => e.tagName + '.' + e.className)"
        )
        assert wide == []
    assert browser.title != "run"
    assert browser.execute_script("return document.querySelectorAll('img, .item b').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_prompts_and_shares_can_be_read_in_light_and_dark(browser, page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    visit(browser, page + "#items?benchmark=facts")
    browser.execute_script("document.querySelector('.prompt').open = true")
    script = (
        "const parts = (c) => c.match(/[\\d.]+/g).map(Number);"
        "const light = (c) => { const [r, g, b] = parts(c).map((v) => { v /= 255;"
        "  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });"
        "  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
        "const node = document.querySelector(arguments[0]); let back = node;"
        "const clear = (n) => (parts(getComputedStyle(n).backgroundColor)[3] ?? 1) === 0;"
        "while (clear(back)) back = back.parentElement;"
        "const pair = [light(getComputedStyle(node).color),"
        "  light(getComputedStyle(back).backgroundColor)];"
        "return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)"
    )
    try:
        for part in (".prompt summary", ".prompt .frame", ".share", ".share.chosen", ".gold"):
            assert browser.execute_script(script, part) >= 4.5, part
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
