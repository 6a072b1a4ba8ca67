"""The report's browsers in use, in a real browser: keys, links, filters, print, dark, no script."""

import pandas as pd
import pytest
from chromium import BROWSER, DRIVER, driven, go_to, requests, visit
from fake_study import analysed, fake_study, planned, with_texts

from kdstudy.answers.steps import similarity, steps
from kdstudy.report import document

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver: apt install chromium-driver"
)
RUN = "zoo-s/gkd/zoo-l-sft"
KEYS = {"down": "\ue015", "up": "\ue013", "enter": "\ue007", "escape": "\ue00c"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with driven(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report whose list of items is longer than what is drawn at once."""
    study = with_texts(fake_study(n=30), n=20)
    table, tests = analysed(study)
    items, pairs = (
        pd.concat([f.assign(example_id=f.example_id + f"-{c}") for c in range(4)])
        for f in (study.items, study.pair_items)
    )
    path = document.write(
        tmp_path_factory.mktemp("report"),
        table=table,
        items=items,
        pairs=pairs,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
    )
    return path, table


@pytest.fixture
def opened(browser, made):
    def go(address=""):
        visit(browser, made[0].as_uri() + address)
        return browser

    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser"), browser.get_log("performance")
    yield go
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    asked = {url.split("#")[0] for url in requests(browser)} - {made[0].as_uri(), "about:blank"}
    assert [url for url in asked if not url.startswith("data:")] == []


def one(driver, selector):
    return driver.find_element("css selector", selector)


def press(driver, key):
    driver.switch_to.active_element.send_keys(KEYS.get(key, key))


def focused(driver):
    return driver.execute_script("return document.activeElement.id || document.activeElement.href")


def test_a_filter_acts_at_once(opened):
    """Within the event, so that nobody sees a list that the filter above it does not describe."""
    driver = opened()
    before, after = driver.execute_script(
        "const kind = document.getElementById('pick-kind');"
        "const shown = () => document.querySelectorAll('#list a').length;"
        "const before = shown();"
        "kind.value = 'lost'; kind.dispatchEvent(new Event('input'));"
        "return [before, shown()]"
    )
    assert 0 < after < before


def test_a_long_list_is_drawn_in_parts(opened):
    driver = opened("#items?run=" + RUN)
    assert len(driver.find_elements("css selector", "#list a")) == 200
    one(driver, "#more").click()
    assert len(driver.find_elements("css selector", "#list a")) == 400
    assert focused(driver).endswith(
        driver.find_elements("css selector", "#list a")[200].get_attribute("href").split("#")[1]
    )
    one(driver, "#more").click()
    assert len(driver.find_elements("css selector", "#list a")) == 440
    assert not one(driver, "#more").is_displayed()


def test_keys_lead_from_the_search_to_the_list_to_the_texts(opened):
    driver = opened()
    one(driver, "body").send_keys("/")
    assert focused(driver) == "pick-text"
    press(driver, "Ada")
    assert one(driver, "#pick-text").get_attribute("value") == "Ada"
    first = one(driver, "#list a[aria-current]")
    assert first.get_attribute("tabindex") == "0"
    driver.execute_script("arguments[0].focus()", first)
    title = one(driver, "#item-title").text
    press(driver, "down")
    assert one(driver, "#item-title").text != title
    assert one(driver, "#list a[aria-current]").get_attribute("href") == focused(driver)
    assert driver.current_url == focused(driver)
    press(driver, "up")
    assert one(driver, "#item-title").text == title
    press(driver, "enter")
    driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert focused(driver) == "item"


def test_an_address_presets_the_filters_and_says_what_is_unknown(opened):
    driver = opened(f"#items?run={RUN}&benchmark=choice&kind=same-low")
    chosen = [one(driver, f"#pick-{n} option:checked").text for n in ("run", "benchmark")]
    assert chosen == [RUN, "choice"]
    assert one(driver, "#pick-kind").get_attribute("value") == "same-low"
    said = one(driver, "#count").text
    shown = len(driver.find_elements("css selector", "#list a"))
    assert f"of 120 items: same answer, low fidelity (BLEU < 30). {shown} of them" in said
    go_to(driver, "#items?run=nobody&kind=odd")
    assert "Not here: run nobody, kind odd." in one(driver, "#count").text
    assert one(driver, "#pick-kind").get_attribute("value") == "all"


def test_an_items_address_opens_it_for_the_same_run_again(opened):
    driver = opened(f"#items?run={RUN}&kind=lost")
    link = driver.find_elements("css selector", "#list a")[1]
    href, title = link.get_attribute("href"), link.get_attribute("href").split("item-")[1]
    again = opened("#" + href.split("#")[1])
    assert one(again, "#item-title").text == title.split("?")[0]
    assert one(again, "#pick-run option:checked").text == RUN
    bare = opened("#" + href.split("#")[1].split("?")[0])
    assert one(bare, "#item-title").text == title.split("?")[0]
    opened("#item-nowhere-0")
    assert "does not hold item-nowhere-0" in one(driver, "#count").text


def test_marked_steps_are_those_that_the_measure_counts(opened):
    driver = opened(f"#items?run={RUN}&benchmark=two_step")
    seen = set()
    for link in driver.find_elements("css selector", "#list a")[:30]:
        driver.execute_script("arguments[0].click()", link)
        teacher, _, student = (
            column.get_attribute("textContent")
            for column in driver.find_elements("css selector", ".texts .completion")
        )
        shared, own = (
            len(driver.find_elements("css selector", f".texts > div:last-child .steps code{c}"))
            for c in (".shared", ":not(.missing)")
        )
        a, b = steps(student), steps(teacher)
        assert own == len(a)
        assert 2 * shared / (len(a) + len(b)) == pytest.approx(similarity(a, b))
        seen.add(shared)
        line = driver.find_elements("css selector", ".alike tbody tr")[0].text
        assert line.endswith(f"{similarity(a, b):.2f}")
    assert len(seen) > 1


def test_free_texts_show_their_rouge(opened):
    driver = opened(f"#items?run={RUN}&benchmark=follow")
    assert "ROUGE-L" in one(driver, ".texts").text and "correct" not in one(driver, ".texts").text
    assert one(driver, "#list .tag").get_attribute("aria-label").startswith("ROUGE-L ")


def test_a_number_leads_to_its_rows_and_on_to_its_items(opened, made):
    driver = opened()
    before = driver.execute_script("return scrollY")
    link = one(driver, "#table-systems tbody a[href*='metric=accuracy']")
    wanted = dict(part.split("=") for part in link.get_attribute("href").split("?")[1].split("&"))
    driver.execute_script("arguments[0].click()", link)
    assert one(driver, "#rows").is_displayed()
    table = made[1]
    rows = table[(table.metric == "accuracy") & (table.benchmark == wanted["benchmark"])]
    value = rows[rows.system == wanted["system"].replace("%2F", "/")].value.item()
    lines = driver.find_elements("css selector", "#rows-body tr")
    assert len(lines) == 1 and f"{value:.6g}" in lines[0].text
    assert f"1 of {len(table):,} rows of results.csv." in one(driver, "#rows-count").text
    for name in ("system", "benchmark", "metric", "reference"):
        driver.execute_script(
            "const e = document.getElementById(arguments[0]); e.value = '';"
            "e.dispatchEvent(new Event('input'))",
            f"rows-{name}",
        )
    assert len(driver.find_elements("css selector", "#rows-body tr")) == 200
    press(driver, "escape")
    assert not one(driver, "#rows").is_displayed() and "#rows" not in driver.current_url
    assert driver.execute_script("return scrollY") == before
    go_to(driver, f"#rows?system={RUN}&benchmark=choice&metric=newly_wrong")
    one(driver, "#rows-body a").click()
    assert not one(driver, "#rows").is_displayed()
    assert one(driver, "#pick-run option:checked").text == RUN
    assert one(driver, "#pick-kind").get_attribute("value") == "lost"


def contrast(driver, selector):
    """WCAG 2 contrast of an element's text with the nearest opaque background."""
    return driver.execute_script(
        "const parts = (c) => c.match(/[\\d.]+/g).map(Number);"
        "const light = (c) => { const [r, g, b] = parts(c).map((v) => { v /= 255;"
        "  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });"
        "  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
        "const node = document.querySelector(arguments[0]); let back = node;"
        "const clear = (n) => (parts(getComputedStyle(n).backgroundColor)[3] ?? 1) === 0;"
        "while (clear(back)) back = back.parentElement;"
        "const pair = [light(getComputedStyle(node).color),"
        "  light(getComputedStyle(back).backgroundColor)].sort();"
        "return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_browsers_can_be_read_in_light_and_dark(opened, browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver = opened(f"#items?run={RUN}&benchmark=two_step")
    parts = ("#count", ".completion", ".texts p", ".steps code", ".steps li", "mark.shared")
    for part in parts:
        assert contrast(driver, part) >= 4.5, part
    driver = opened("#rows?metric=accuracy")
    back = driver.execute_script(
        "return ['#rows', 'body'].map((s) =>"
        "  getComputedStyle(document.querySelector(s)).backgroundColor)"
    )
    assert back[0] == back[1]
    for part in ("#rows-count", "#rows-body td", "#rows-body .signature", "#rows-close"):
        assert contrast(driver, part) >= 4.5, part


def test_print_has_neither_browser(opened):
    driver = opened("#rows?metric=accuracy")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for part in ("#rows", "#browser"):
        assert not one(driver, part).is_displayed()
    assert one(driver, "#text .finding").is_displayed()


def test_without_script_the_page_says_where_the_rows_are(opened, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened("#text")
        assert "items.parquet and results.csv" in one(browser, "#text noscript").text
        assert not one(browser, "#browser").is_displayed()
        assert not one(browser, "#rows").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    study = fake_study(n=8, systems=planned(methods=("sft", "gkd")))
    table, tests = analysed(study)
    path = document.write(
        tmp_path_factory.mktemp("seeds"),
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
    )
    return path, table


def test_a_tables_head_sorts_it_and_runs_stay_with_their_system(browser, seeded):
    visit(browser, seeded[0].as_uri())
    read = (
        "return [...document.querySelectorAll('#table-systems tbody')].map((body) => ["
        "  body.rows[0].cells[0].textContent, body.rows.length,"
        "  ...[...body.rows[0].cells].map("
        "    (cell) => (cell.querySelector('a') ?? cell).firstChild?.textContent)])"
    )
    before = browser.execute_script(read)
    heads = browser.find_elements("css selector", "#table-systems thead th")
    names = [head.get_attribute("textContent") for head in heads]

    def sorted_by(place):
        browser.execute_script("arguments[0].querySelector('button').click()", heads[place])
        return browser.execute_script(read), heads[place].get_attribute("aria-sort")

    def numbers(rows, place):
        size = {"k": 1e3, "M": 1e6}
        texts = [row[2 + place].strip().rstrip("%") for row in rows]
        given = [t for t in texts if t != "–"]
        assert texts == given + ["–"] * (len(texts) - len(given)), "what has no value comes last"
        return [float(t.rstrip("kM").replace(",", "")) * size.get(t[-1], 1) for t in given]

    for name in ("Accuracy", "Agrees", "Parameters"):
        place = names.index(name)
        fell, how = sorted_by(place)
        assert how == "descending" and len(numbers(fell, place)) > 1
        assert numbers(fell, place) == sorted(numbers(fell, place), reverse=True)
        rose, how = sorted_by(place)
        assert how == "ascending" and numbers(rose, place) == sorted(numbers(rose, place))
        assert sorted(map(str, rose)) == sorted(map(str, before)), "rows are whole"
        assert sorted_by(place) == (before, None)
    assert max(row[1] for row in before) == 4, "runs are in their system's part"
    fell, _ = sorted_by(0)
    assert [row[0] for row in fell] == sorted((row[0] for row in before), reverse=True)


@pytest.mark.parametrize("width", [1280, 420])
def test_the_number_of_seeds_opens_the_runs_and_a_mean_all_their_rows(browser, seeded, width):
    path, table = seeded
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    visit(browser, path.as_uri())
    rows = browser.find_elements("css selector", "#table-systems tr.run")
    assert not any(row.is_displayed() for row in rows)
    button = one(browser, "#table-systems td.seeds button")
    browser.execute_script("arguments[0].click()", button)
    shown = [row for row in rows if row.is_displayed()]
    assert [row.text.split("\n")[0][:6] for row in shown] == ["seed 0", "seed 1", "seed 2"]
    assert button.get_attribute("aria-expanded") == "true"
    value = one(browser, "#table-systems a[href*='metric=accuracy'] .sd")
    # Mean and standard deviation stand on one line.
    box = "const r = document.createRange(); r.selectNodeContents(arguments[0].parentNode);"
    tops = browser.execute_script(
        box + "r.setEndAfter(arguments[0]); return [...r.getClientRects()].map(x => x.top)", value
    )
    assert max(tops) - min(tops) < 4
    browser.execute_script("arguments[0].parentNode.click()", value)
    lines = browser.find_elements("css selector", "#rows-body tr")
    own = table[(table.metric == "accuracy") & (table.benchmark == "average")]
    own = own[own.system.str.startswith("zoo-s/gkd/zoo-l/seed=")]
    assert len(lines) == len(own) == 3
    for line, value in zip(lines, own.value, strict=True):
        assert f"{value:.6g}" in line.text
    assert one(browser, "#rows-system option:checked").text == "zoo-s/gkd/zoo-l (3 seeds)"
    go_to(browser, "")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
