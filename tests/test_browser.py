"""The report in a real browser: it renders, filters, keeps quiet, and runs no text as code."""

import dataclasses
from urllib.parse import quote

import pytest
from chromium import BROWSER, DRIVER, driven, go_to, requests, visit
from fake_study import analysed, fake_study
from hostile_report import HOSTILE

from kdstudy.report import document

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver: apt install chromium-driver"
)
WIDTHS = {"phone": 390, "desktop": 1280}


NAMED = "<img src=x onerror=document.title='run'>"
RUN = "zoo-s/gkd/zoo-l-sft"


def renamed(frame):
    """Return the rows with one run under a hostile name."""
    return frame.replace({c: {RUN: NAMED} for c in ("system", "reference") if c in frame})


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with driven(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    study = fake_study(n=30)
    table, tests = analysed(study)
    items = renamed(study.items)
    texts = [text for name, text in HOSTILE.items() if name != "surrogate"]  # never UTF-8
    hostile = [*texts, "<img src=x onerror=document.title='run'>", "y" * 1_000_000]
    for column in ("completion", "question", "gold", "extracted"):
        items[column] = [hostile[i % len(hostile)] for i in range(len(items))]
    items["overlap"] = hostile[1]
    path = document.write(
        tmp_path_factory.mktemp("report"),
        table=renamed(table).assign(signature="<script>document.title='run'</script>"),
        items=items,
        pairs=renamed(study.pair_items),
        systems=[
            dataclasses.replace(s, label=NAMED) if s.label == RUN else s for s in study.systems
        ],
        tests=tests,
        provenance=study.provenance,
        title="</title><script>document.title='run'</script>",
        max_items=12,
    )
    return path.as_uri()


@pytest.fixture(params=WIDTHS)
def opened(request, browser, page):
    size = {"width": WIDTHS[request.param], "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser"), browser.get_log("performance")
    visit(browser, page)
    return browser


def test_it_renders_without_errors_requests_or_sideways_scrolling(opened, page):
    assert [e for e in opened.get_log("browser") if e["level"] == "SEVERE"] == []
    asked = {url.split("#")[0] for url in requests(opened)} - {page, "about:blank"}
    assert [url for url in asked if not url.startswith("data:")] == []
    wide = opened.execute_script(
        "const wide = document.documentElement.clientWidth;"
        "return [...document.querySelectorAll('body, body > *, section, section > *, .item *')]"
        "  .filter((e) => !e.closest('.scroll') && e.getBoundingClientRect().right > wide + 1)"
        "  .map((e) => e.tagName + '.' + e.className)"
    )
    assert wide == []
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('figure svg')].map("
        "  (svg) => svg.getBoundingClientRect().width)"
    )
    assert len(drawn) > 5
    # A figure in a closed <details> has no size yet.
    assert sum(width > 100 for width in drawn) > 5


def test_no_text_of_a_model_is_run(opened):
    assert opened.title != "run"
    assert opened.execute_script("return document.querySelectorAll('img').length") == 0
    assert opened.execute_script("return document.querySelectorAll('main script').length") == 0
    for row in opened.find_elements("css selector", "#list a"):
        opened.execute_script("arguments[0].click()", row)
    go_to(opened, "#rows?system=" + quote(NAMED))
    lines = opened.find_elements("css selector", "#rows-body tr")
    assert lines and all(NAMED in line.text and "<script>" in line.text for line in lines)
    assert opened.title != "run"
    with pytest.raises(Exception, match="no such alert"):
        opened.switch_to.alert.accept()
    shown = opened.execute_script("return document.getElementById('item').textContent")
    assert any(text[:5] in shown for text in (*HOSTILE.values(), "<img src", "yyyyyyyy"))


def test_the_filters_filter(opened):
    def count():
        return len(opened.find_elements("css selector", "#list a"))

    def choose(field, value):
        opened.execute_script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}))",
            field,
            value,
        )

    everything = count()
    assert everything == 36
    choose("pick-benchmark", "choice")
    assert count() == 12
    choose("pick-text", "no text has these words")
    assert count() == 0
    choose("pick-text", "")
    kinds = opened.execute_script(
        "return [...document.getElementById('pick-kind').options].map(o => o.value)"
    )
    counts = {}
    for kind in kinds:
        choose("pick-kind", kind)
        counts[kind] = count()
    assert counts["all"] == 12
    assert 0 < counts["gained"] + counts["lost"] < 12
