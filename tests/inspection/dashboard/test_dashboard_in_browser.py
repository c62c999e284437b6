"""The dashboard in a real browser: it works, it asks for nothing, and texts cannot act in it."""

import copy
import json
import re
import shutil
import time

import numpy as np
import pytest
from scipy.sparse import csr_array

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import FeatureCodes, FeatureDashboard
from skdict.inspection.dashboard._schema import EncodedFeatures, encoded

pytest.importorskip("jinja2")
webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER),
        reason="no Chromium and ChromeDriver (Debian: apt install chromium chromium-driver)",
    ),
]

ATTACK = "</script><img src=x onerror=\"window.attacked = 'yes'\">"
CONTROL, SHIFT = "\ue009", "\ue008"
TAB, ENTER, ESCAPE, LEFT, RIGHT = "\ue004", "\ue007", "\ue00c", "\ue012", "\ue014"
WORDS = [" def", " return", ATTACK, "\n    ", "<b>bold</b>", " x", "{{ 7 * 7 }}", " ü", "&lt;"]
LABEL = "<i onmouseover=attacked=1>keyword</i>"


@pytest.fixture(scope="module")
def dashboard():
    """Features of planted words, with what a language model would add put in by hand."""
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(len(WORDS), 16))
    kind = rng.integers(len(WORDS), size=1500)
    X = planted[kind] * rng.uniform(0.5, 2, size=(1500, 1)) + 0.05 * rng.normal(size=(1500, 16))
    dictionary = SparseAutoencoderDictionary(
        300, max_iter=8, batch_size=64, alpha=0.3, random_state=0
    ).fit(X)
    tokens = {
        "document": np.arange(1500) // 100,
        "token": np.array([WORDS[k] for k in kind], dtype=object),
    }
    table = {
        "feature": [3, 5],
        "explanation": [LABEL, "the tokens 'five'"],
        "detection_chance": [0.5, 0.5],
        "detection": [0.75, 0.875],
        "detection_shuffled": [0.5, 0.25],
        "detection_neuron": [0.625, 0.5],
    }
    return FeatureDashboard.from_activations(
        dictionary,
        X,
        tokens,
        title="Features & <b>more</b>",
        names=table,
        provenance={"loss recovered": 0.5, "<i>odd</i>": ATTACK},
        steering={5: {0: "a <b>text</b>", 8.0: ["one", "two"]}},
    )


@pytest.fixture(scope="module")
def page(dashboard, tmp_path_factory):
    # texts are shown where there is a model; here they are put in by hand
    many = {"features": [[*range(20)], [19]], "codes": [[20.0 - j for j in range(20)], [2.0]]}
    maxima = {str(j): 20.0 for j in range(20)}
    dashboard.content["texts"] = [
        {
            "tokens": [ATTACK, " x", "\n"],
            "features": [[3, 5], [], [5]],
            "codes": [[1.5, 0.5], [], [2.0]],
            "maxima": {"3": 2.0, "5": 2.0},
        },
        {"tokens": [" many", " one"], "maxima": maxima, **many},
    ]
    return dashboard.to_html(tmp_path_factory.mktemp("dashboard") / "page.html").as_uri()


ODD = {
    "": "∅",
    "\x00": "␀",
    "\x1b[": "␛[",
    "\x7f": "␡",
    "\x85": "⟨U+0085⟩",
    "\xa0x": "⍽x",
    "a\u200bb": "a⟨U+200B⟩b",
    "\u202eright": "⟨U+202E⟩right",
    "\u2066\u2028\u2029\u2060\ufeff": "⟨U+2066⟩⟨U+2028⟩⟨U+2029⟩⟨U+2060⟩⟨U+FEFF⟩",
    "\r\n\t": "␍⏎⇥",
    " self": " self",
    "שלום": "שלום",
    "עולם": "עולם",
    "é😀 ü": "é😀 ü",
    "x" * 400: "x" * 400,
}


@pytest.fixture(scope="module")
def odd(dashboard, tmp_path_factory):
    """A page of two features with odd tokens, many texts, effects and logits."""
    words, n = list(ODD), len(ODD)
    tokens = {"document": np.zeros(n + 40, int), "token": np.array([*words, *["x"] * 40], object)}
    codes = np.zeros((n + 40, 66))
    codes[:n, 64], codes[n + 30, 65] = np.linspace(1, 0.5, n), 1
    collected = FeatureCodes.from_matrix(codes, tokens=tokens)
    content = FeatureDashboard.from_codes(
        collected, [64, 65], names={64: ("odd\u202e ones", 0.5)}, n_top=1
    ).content
    feature, plain = content["features"]
    content["index"] |= {"words": [words, ["plain"]], "effect": [0.5, None]}
    feature["examples"]["top"] = [3, 5]
    feature["effects"] = {"mean": 0.5, "at_top": [0.5, -0.5]}
    feature["examples"]["near_misses"] = {"rows": [n + 20, n + 35], "values": [0.25, 0.125]}
    feature["logits"] = {
        "raised": {"tokens": words[-5:], "weights": [1.0] * 5},
        "lowered": {"tokens": words[-5:], "weights": [-1.0] * 5},
        "histogram": {"low": -1, "high": 1, "counts": [1, 2, 3]},
    }
    content["near_by"] = "pre_activations"
    content["features"] = EncodedFeatures([encoded(feature), encoded(plain)])
    text = {
        "tokens": [*words, "\n\t", "end"],
        "features": [[64]] * n + [[], [64]],
        "codes": [[1.0]] * n + [[], [0.5]],
        "maxima": {"64": 1.0},
    }
    content["texts"] = [text] * 60
    path = tmp_path_factory.mktemp("dashboard") / "odd.html"
    return FeatureDashboard(content).to_html(path).as_uri()


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver, page):
    """The page, newly opened; afterwards, that it was silent and alone."""
    yield from opened(driver, page)


@pytest.fixture
def odd_browser(driver, odd):
    """The same of the page with odd tokens."""
    yield from opened(driver, odd)


def opened(driver, page):
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(page)
    yield driver
    assert driver.execute_script("return window.attacked") is None
    assert not driver.find_elements("css selector", "img, b, i")
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requested = {
        event["params"]["request"]["url"].split("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert requested == {page}


def contents(browser, selector):
    """What nodes contain, all at once: a question for each of thousands takes long."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)",
        selector,
    )


def texts(browser, selector):
    """What is to be read of nodes."""
    return [node.text for node in browser.find_elements("css selector", selector)]


def settle(browser):
    """Let the page draw what a key, a click or an address asked for."""
    browser.execute_async_script(
        """const done = arguments[0];
        const busy = () => typeof pending !== "undefined" && pending;
        const wait = () => (busy() ? setTimeout(wait, 10) : done());
        requestAnimationFrame(() => setTimeout(wait, 10));"""
    )


def one(browser, selector):
    settle(browser)
    return browser.find_element("css selector", selector)


def listed(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows tr')].map((row) => +row.dataset.feature)"
    )


def strength(browser, token):
    """How strongly a token is shaded, between 0 and 1."""
    script = "return getComputedStyle(arguments[0]).getPropertyValue('--a')"
    return float(browser.execute_script(script, token))


def open_at(browser, fragment):
    browser.execute_script("location.hash = arguments[0]", fragment)
    settle(browser)


def press(browser, *keys):
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def focused(browser):
    settle(browser)
    return browser.switch_to.active_element


def widths(browser):
    """Width of what is on the page, and of the window."""
    root = "document.documentElement"
    return browser.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")


def panel(dashboard, j):
    return dashboard.content["features"][j]


def densest(dashboard):
    return int(np.argmax(dashboard.density_))


def test_list(browser, dashboard):
    assert browser.title == "Features & <b>more</b>"
    assert one(browser, "h1").text == "Features & <b>more</b>"
    order = np.argsort(dashboard.content["index"]["rank"]).tolist()
    assert listed(browser) == order[:100]
    one(browser, "#more").click()
    one(browser, "#more").click()
    assert listed(browser) == order
    assert not one(browser, "#more").is_displayed()
    assert one(browser, "#count").text == "300 of 300 features"
    assert (
        "neither dense (active on more than 5 % of the tokens)" in one(browser, "#index-view").text
    )


def test_overview(browser, dashboard):
    """Where the numbers come from, the densities, which filter, L0, and the map, which opens."""
    found = one(browser, ".provenance").text
    for part in ("L0", "15 texts, 1,500 tokens", "loss recovered\n0.5", "<i>odd</i>", ATTACK):
        assert part in found
    names = [svg.accessible_name for svg in browser.find_elements("css selector", ".overview svg")]
    assert names[0].startswith("Histogram of the densities") and "active features" in names[1]
    areas = browser.find_elements("css selector", ".overview svg:first-of-type .area")
    counts = dashboard.content["dictionary"]["densities"]["counts"]
    k = int(np.argmax(counts))
    areas[k].click()
    n = int(one(browser, "#count").text.split()[0])
    assert counts[k] - 2 <= n <= counts[k] + 2  # the field's three digits round the edges
    one(browser, "#reset").click()
    assert one(browser, "#count").text.startswith("300 of 300")
    canvas = one(browser, "#map")
    index = dashboard.content["dictionary"]["map"]
    k = int(np.argmax(index["x"]))
    script = "return [arguments[0].clientWidth, arguments[0].clientHeight]"
    width, height = browser.execute_script(script, canvas)
    low, high = min(index["y"]), max(index["y"])
    y = 4 + (1 - (index["y"][k] - low) / (high - low)) * (height - 8)
    chain = webdriver.ActionChains(browser)
    chain.move_to_element_with_offset(canvas, width / 2 - 4, y - height / 2).perform()
    assert one(browser, "#tooltip").text.startswith(f"feature {index['id'][k]}")
    webdriver.ActionChains(browser).click().perform()
    assert one(browser, "#feature-view h2").text.startswith(f"Feature {index['id'][k]}")


@pytest.mark.parametrize("key", ["id", "density", "maximum"])
def test_sort(browser, dashboard, key):
    head = f"#columns th[data-column='{key}']"
    values = dashboard.content["index"][key]
    assert one(browser, f"{head} .arrow").text == "↕"
    one(browser, f"{head} button").click()
    found = [values[j] for j in listed(browser)]
    assert found == sorted(values, reverse=key != "id")[:100]
    state = one(browser, head).get_attribute("aria-sort")
    assert state == ("ascending" if key == "id" else "descending")
    one(browser, f"{head} button").click()
    found = [values[j] for j in listed(browser)]
    assert found == sorted(values, reverse=key == "id")[:100]
    assert one(browser, "select[aria-label='Order']").get_attribute("value") == key


def test_unlabelled_features_come_last(browser):
    button = one(browser, "#columns th[data-column='label'] button")
    for expected in ([3, 5], [5, 3]):  # "<i..." before "the tokens"
        button.click()
        assert listed(browser)[:2] == expected


def test_search(browser, dashboard):
    search = one(browser, "#search")
    for sought, expected in [
        ("FIVE", {5}),
        ("17", {17}),
        ("return", {j for j in range(300) if " return" in dashboard.content["index"]["words"][j]}),
        ("no such thing", set()),
    ]:
        search.clear()
        search.send_keys(sought)
        assert set(listed(browser)) == expected
    assert one(browser, "#count").text.startswith("0 of 300")


def test_search_in_contexts(browser, dashboard):
    tokens = dashboard.content["tokens"]["chunks"][0]
    j = densest(dashboard)
    row = panel(dashboard, j)["examples"]["top"][0]
    around = [tokens["names"][k] for k in tokens["ids"][row : row + 3]]
    sought = "".join(around).replace("\n", " ").strip()
    if "\n" in "".join(around).strip():
        sought = around[0].strip()
    search = one(browser, "#search")
    search.send_keys(sought)
    before = set(listed(browser))
    one(browser, "#contexts").click()
    WebDriverWait(browser, 10).until(lambda _: len(listed(browser)) > 0)
    found = set(listed(browser))
    assert before <= found and j in found


def test_filters(browser, dashboard):
    index = dashboard.content["index"]
    one(browser, "#alive").click()
    n_active = int((dashboard.density_ > 0).sum())
    assert one(browser, "#count").text.startswith(f"{n_active} of 300")
    one(browser, "#low").send_keys("1")
    one(browser, "#high").send_keys("2.5")
    expected = [j for j in range(300) if 0.01 <= index["density"][j] <= 0.025]
    assert one(browser, "#count").text.startswith(f"{len(expected)} of 300")
    one(browser, "#reset").click()
    one(browser, "#named").click()
    assert set(listed(browser)) == {3, 5}
    one(browser, "#least-score").send_keys("0.8")
    assert listed(browser) == [5]
    one(browser, "#reset").click()
    assert len(listed(browser)) == 100


def test_deep_link(driver, page, browser):
    driver.get("about:blank")
    driver.get(page + "#feature-5")
    assert one(driver, "h2").text == "Feature 5: the tokens 'five'"
    assert not one(driver, "#index-view").is_displayed()
    driver.get("about:blank")
    driver.get(page + "#feature-12345")
    assert "Feature 12345 is not on this page" in one(driver, "#feature-view").text


def test_a_feature(browser, dashboard):
    j = densest(dashboard)
    open_at(browser, f"feature-{j}")
    found = one(browser, "#feature-view").text
    for heading in ("Activity", "Activations", "Nearest features", "Neurons", "enc·dec cosine"):
        assert heading in found
    for heading in ("Most active", "At random", "Near misses", "by direction", "by activity"):
        assert heading in found
    assert f"{100 * dashboard.density_[j]:.3g} %" in found and " % of the active tokens" in found
    charts = browser.find_elements("css selector", "#feature-view .cards svg")
    names = [chart.accessible_name for chart in charts]
    assert len(set(names)) == 3 and names[1].startswith("Histogram of activations, from 0 to ")
    assert "helped" not in found  # there are no effects without a model
    links = texts(browser, "#feature-view .near a:not(.versus)")
    near = panel(dashboard, j)["neighbours"].values()
    assert sorted(map(int, links)) == sorted(k for each in near for k in each["features"])
    open_at(browser, "feature-5")
    assert one(browser, ".scores").text.startswith("detection\n0.875")
    assert "chance 0.5 · shuffled 0.25 · neuron 0.5" in one(browser, ".scores").text
    assert len(browser.find_elements("css selector", ".scores circle")) == 3
    assert "a <b>text</b>" in one(browser, "#feature-view").text
    assert len(browser.find_elements("css selector", ".steered p")) == 3


def test_hover(browser, dashboard):
    j = densest(dashboard)
    open_at(browser, f"feature-{j}")
    expected = panel(dashboard, j)
    token = one(browser, ".example .token.centre")
    examples = expected["examples"]
    rows = np.cumsum(examples["active"]["rows"]).tolist()
    value = examples["active"]["values"][rows.index(examples["top"][0])]
    assert strength(browser, token) == pytest.approx(value / expected["statistics"]["maximum"])
    tooltip = one(browser, "#tooltip")
    assert not tooltip.is_displayed()
    webdriver.ActionChains(browser).move_to_element(token).perform()
    assert tooltip.is_displayed()
    mark = (
        "return getComputedStyle(document.querySelectorAll('#feature-view .mark')[1]).visibility"
    )
    assert browser.execute_script(mark) == "visible"
    lines = tooltip.get_attribute("textContent").split("\n")
    assert lines[1] == f"activation {float(f'{value:.3g}'):g}"
    assert lines[2] == f"document {examples['top'][0] // 100}, row {examples['top'][0]}"
    webdriver.ActionChains(browser).move_to_element(one(browser, "h1")).perform()
    assert not tooltip.is_displayed()
    assert browser.execute_script(mark) == "hidden"


def test_whole_context(browser, dashboard):
    j = densest(dashboard)
    open_at(browser, f"feature-{j}")
    row = panel(dashboard, j)["examples"]["top"][0]
    line = one(browser, ".example")
    assert len(line.find_elements("css selector", ".token")) == min(25, row % 100) + 1 + min(
        25, 99 - row % 100
    )
    button = line.find_element("css selector", ".more")
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    tokens = browser.find_elements("css selector", ".context .token")
    assert len(tokens) == 100
    assert "centre" in tokens[row % 100].get_attribute("class")
    assert f"document {row // 100}" in one(browser, ".context").text
    line.click()
    assert not browser.find_elements("css selector", ".context")
    line.find_element("css selector", ".token.centre").send_keys(ENTER)
    assert browser.find_elements("css selector", ".context")


def test_compare(browser, dashboard):
    open_at(browser, "feature-5")
    field = one(browser, ".against input")
    field.send_keys("3", ENTER)
    settle(browser)
    assert browser.execute_script("return location.hash") == "#compare-5-3"
    assert one(browser, "#compare-view h2").text == "Features 5 and 3"
    sides = texts(browser, ".side .name")
    assert sides[0].startswith("Feature 5") and sides[1] == f"Feature 3 {LABEL}"
    assert "cosine of atoms" in one(browser, "#compare-view").text
    j = densest(dashboard)
    near = panel(dashboard, j)["neighbours"]["cosine"]
    open_at(browser, f"compare-{j}-{near['features'][0]}")
    assert f"cosine of atoms\n{near['values'][0]:.3g}" in one(browser, "#compare-view").text
    assert browser.find_elements("css selector", ".side .example")
    open_at(browser, "compare-5-999")
    assert "Feature 999 is not on this page" in one(browser, "#compare-view").text


def test_random(browser, dashboard):
    one(browser, "#low").send_keys("5")
    dense = {j for j in range(300) if dashboard.content["index"]["density"][j] >= 0.05}
    one(browser, "#random").click()
    settle(browser)
    found = int(browser.execute_script("return location.hash").removeprefix("#feature-"))
    assert found in dense
    press(browser, "r")
    settle(browser)
    after = int(browser.execute_script("return location.hash").removeprefix("#feature-"))
    assert after in dense and after != found


def test_texts_are_inert_everywhere(browser, dashboard):
    words = dashboard.content["index"]["words"]
    attacked = [j for j in range(300) if ATTACK in words[j] and dashboard.density_[j]]
    open_at(browser, f"feature-{attacked[0]}")
    shown = contents(browser, ".example .token")
    assert ATTACK in shown and "<b>bold</b>" in shown and "{{ 7 * 7 }}" in shown
    assert "&lt;" in shown and "⏎    " in shown
    place = contents(browser, ".token.centre").index(ATTACK)
    token = browser.find_elements("css selector", ".token.centre")[place]
    webdriver.ActionChains(browser).move_to_element(token).perform()
    assert ATTACK in one(browser, "#tooltip").text
    open_at(browser, "feature-3")
    assert LABEL in one(browser, "h2").text
    open_at(browser, "index")
    assert LABEL in contents(browser, "#rows .label")


def test_keys(browser):
    first, second = listed(browser)[:2]
    for key, expected in [("j", first), ("j", second), ("k", first)]:
        press(browser, key)
        settle(browser)
        assert one(browser, "h2").text.startswith(f"Feature {expected}")
    press(browser, "/")
    search = one(browser, "#search")
    assert focused(browser) == search
    search.send_keys("five", ENTER)
    settle(browser)
    assert one(browser, "#feature-view h2").text.startswith("Feature 5")
    press(browser, ESCAPE)
    assert one(browser, "#index-view").is_displayed()


def test_dark_and_light(browser):
    body, button = one(browser, "body"), one(browser, "#theme")
    before = body.value_of_css_property("background-color")
    button.click()
    after = body.value_of_css_property("background-color")
    assert after != before
    browser.refresh()  # it is remembered
    body, button = one(browser, "body"), one(browser, "#theme")
    assert body.value_of_css_property("background-color") == after
    assert button.accessible_name == "Dark or light"
    button.click()
    assert body.value_of_css_property("background-color") == before
    browser.execute_script("localStorage.clear()")


def test_shown_text(browser):
    link = one(browser, "#text-links a")
    assert link.text == ATTACK[:47] + "…" or link.text == ATTACK
    link.click()
    settle(browser)
    tokens = browser.find_elements("css selector", ".prose .token")
    assert [token.get_attribute("textContent") for token in tokens] == [ATTACK, " x", "\n"]
    # by the feature that is closest to its own maximum
    assert [strength(browser, token) for token in (tokens[0], tokens[2])] == [0.75, 1]
    assert "on" not in tokens[1].get_attribute("class").split()
    tokens[0].click()
    rows = texts(browser, ".aside tbody tr")
    assert rows[0].startswith("3 " + LABEL) and rows[1].startswith("5 the tokens")
    browser.find_elements("css selector", ".aside tbody button")[1].click()  # shade by feature 5
    assert "shaded by feature 5" in one(browser, "#text-view .legend").text
    assert [strength(browser, token) for token in (tokens[0], tokens[2])] == [0.25, 1]
    one(browser, ".legend button").click()  # by all again
    assert strength(browser, tokens[0]) == 0.75
    one(browser, ".aside a").click()
    assert one(browser, "#feature-view h2").text.startswith("Feature 3")


def test_tokens_with_many_features(browser):
    """Twelve are listed; shading knows them all."""
    open_at(browser, "text-1")
    tokens = browser.find_elements("css selector", ".prose .token")
    tokens[0].click()
    assert len(texts(browser, ".aside tbody tr")) == 12
    assert one(browser, ".aside .hint").text == "and 8 weaker ones"
    tokens[1].click()
    browser.find_element("css selector", ".aside tbody button").click()  # shade by feature 19
    assert [strength(browser, token) for token in tokens] == [0.5, 1]


def test_text_by_keyboard(browser):
    open_at(browser, "text-0")
    tooltip, tokens = one(browser, "#tooltip"), browser.find_elements("css selector", ".token")
    tokens = browser.find_elements("css selector", "#text-view .prose .token")
    press(browser, TAB)  # from the heading
    assert focused(browser) == tokens[0] and tokens[0].aria_role == "button"
    assert tooltip.is_displayed() and ATTACK in tooltip.text
    assert tokens[0].get_attribute("aria-describedby") == "tooltip"
    for key, k in [(RIGHT, 1), (RIGHT, 2), (RIGHT, 2), (LEFT, 1)]:
        press(browser, key)
        assert focused(browser) == tokens[k]
    assert "no feature is active" in tooltip.text
    press(browser, LEFT, ENTER)
    assert one(browser, ".aside h3").text.startswith("Token 0")
    press(browser, RIGHT, RIGHT, " ")
    assert one(browser, ".aside h3").text == "Token 2: “⏎”"
    press(browser, ESCAPE)  # first the tooltip
    assert not tooltip.is_displayed() and one(browser, "#text-view").is_displayed()
    press(browser, ESCAPE)
    assert one(browser, "#index-view").is_displayed()


def test_examples_by_keyboard(browser, dashboard):
    open_at(browser, f"feature-{densest(dashboard)}")
    rows = browser.find_elements("css selector", ".example")
    stops = browser.find_elements("css selector", ".example .token[tabindex='0']")
    assert len(stops) == len(rows)
    assert all("centre" in stop.get_attribute("class") for stop in stops)
    stops[0].send_keys("")  # focus
    assert focused(browser) == stops[0]
    assert one(browser, "#tooltip").text.split("\n")[1].startswith("activation ")
    press(browser, LEFT)
    before = browser.execute_script("return arguments[0].closest('.tokens')", stops[0])
    assert focused(browser) != stops[0]
    assert focused(browser) in before.find_elements("css selector", ".token")


def test_heading_and_title(browser):
    assert focused(browser) == one(browser, "body")  # nothing is taken at the start
    link = one(browser, "#rows a")
    name = f"Feature {link.text}"
    link.click()
    assert focused(browser) == one(browser, "#feature-view h2")
    assert browser.title.startswith(name) and browser.title.endswith(" – Features & <b>more</b>")
    webdriver.ActionChains(browser).move_to_element(one(browser, "h1")).perform()
    press(browser, ESCAPE)
    assert focused(browser) == one(browser, "h1")
    assert browser.title == "Features & <b>more</b>"


def test_back_to_the_same_place(browser):
    row = browser.find_elements("css selector", "#rows tr")[60]
    scrolled, wait = "return scrollY", WebDriverWait(browser, 5)  # views follow the address
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", row)
    row.find_element("css selector", "a").click()
    wait.until(lambda _: browser.execute_script(scrolled) == 0)
    browser.back()
    wait.until(lambda _: one(browser, "#index-view").is_displayed())
    wait.until(lambda _: browser.execute_script(scrolled) > 800)


@pytest.mark.parametrize("key", [CONTROL, SHIFT])
def test_link_in_a_new_tab(browser, key):
    """A click with a key held opens another tab or window, and this one stays."""
    here = browser.current_window_handle
    link, row = one(browser, "#rows a"), one(browser, "#rows tr td:nth-child(4)")
    actions = webdriver.ActionChains(browser).key_down(key)
    actions.click(link).click(row).key_up(key).perform()
    WebDriverWait(browser, 5).until(lambda _: len(browser.window_handles) == 2)
    for other in set(browser.window_handles) - {here}:
        browser.switch_to.window(other)
        browser.close()
    browser.switch_to.window(here)
    assert one(browser, "#index-view").is_displayed()
    one(browser, "#rows tr td:nth-child(4)").click()
    assert one(browser, "#feature-view").is_displayed()


def test_notebook_frame(driver, dashboard, tmp_path):
    """A notebook shows the frame; what is in it works there too."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{dashboard._repr_html_()}</body>", encoding="utf-8")
    driver.get(path.as_uri())
    driver.switch_to.frame(one(driver, "iframe"))
    # the log does not tell of errors in such a frame
    driver.execute_script("addEventListener('error', ({ message }) => { failed = message; })")
    assert one(driver, "#count").text == "50 of 50 features (of 300 in the dictionary)"
    assert listed(driver) == np.argsort(dashboard.content["index"]["rank"])[:50].tolist()
    wait = WebDriverWait(driver, 5)  # clicks reach a sandboxed frame a little later
    one(driver, "#rows tr a").click()
    wait.until(lambda _: one(driver, "#feature-view").is_displayed())
    assert driver.find_elements("css selector", ".example .token")
    one(driver, "nav a").click()
    wait.until(lambda _: one(driver, "#index-view").is_displayed())
    body = one(driver, "body")
    before = body.value_of_css_property("background-color")
    one(driver, "#theme").click()  # it cannot be remembered here, but works
    wait.until(lambda _: body.value_of_css_property("background-color") != before)
    settle(driver)
    assert driver.execute_script("return window.failed") is None
    driver.switch_to.default_content()


def test_search_forms(odd_browser):
    search = one(odd_browser, "#search")
    for sought, found in [
        (" 64 ", True),
        ("#64", True),
        ("Feature 64", True),
        ("#6", False),
        (" self", True),
        ("␍⏎⇥", True),
        ("∅", True),
        ("⟨u+202e⟩right", True),
        ("\u200bb", True),
        (" plain", False),
        ("odd⟨U+202E⟩ ones", True),
    ]:
        search.clear()
        search.send_keys(sought)
        assert (64 in listed(odd_browser)) == found, sought


def test_tokens_can_be_seen(odd_browser):
    def shown(selector):
        nodes = odd_browser.find_elements("css selector", selector)
        return [node.get_attribute("textContent") for node in nodes]

    assert shown("#rows tr[data-feature='64'] .c-words .word") == list(ODD.values())
    open_at(odd_browser, "feature-64")
    assert shown(".example .token")[: len(ODD)] == list(ODD.values())
    assert one(odd_browser, "#feature-view h2").text == "Feature 64: odd⟨U+202E⟩ ones"
    open_at(odd_browser, "text-0")
    lines = [text.replace("⏎", "\n") for text in ODD.values()]
    assert shown(".reading .prose .token") == [*lines, "\n⇥", "end"]
    halves = (
        "return visible('a' + String.fromCharCode(0xd800) + 'b' + String.fromCharCode(0xdc00))"
    )
    assert odd_browser.execute_script(halves) == "a⟨U+D800⟩b⟨U+DC00⟩"


def test_order_of_tokens(odd_browser):
    """Whatever the direction of their letters, tokens stand from left to right."""
    open_at(odd_browser, "feature-64")
    tokens = odd_browser.find_element("css selector", ".example").find_elements(
        "css selector", ".token"
    )
    lefts = [token.rect["x"] for token in tokens]
    assert lefts == sorted(lefts)


def test_logits_effects_and_near_misses(odd_browser):
    open_at(odd_browser, "feature-64")
    found = one(odd_browser, "#feature-view").text
    assert "▲ raised" in found and "▼ lowered" in found
    assert "helped to predict" in found and "+0.5 nats" in found
    assert "the encoder's pre-activation" in found
    near = "//h3[contains(., 'Near misses')]/following-sibling::*//*[contains(@class, 'value')]"
    assert [each.text for each in odd_browser.find_elements("xpath", near)] == ["0.25", "0.125"]
    (helped, *_) = odd_browser.find_elements("css selector", ".example .token.helped")
    webdriver.ActionChains(odd_browser).move_to_element(helped).perform()
    assert "the feature helped to predict it: +0.5 nats" in one(odd_browser, "#tooltip").text


@pytest.mark.parametrize("n", [1, 2])
def test_repeated_examples_are_in_line(driver, tmp_path, n):
    """Lines of the same tokens stand once, with their number; the centres below each other."""
    tokens = {
        "document": np.repeat(np.arange(4), 30),
        "token": np.array([*[f" {k % 30}" for k in range(90)], *" others" * 4, " x", " y"][:120]),
    }
    codes = np.zeros((120, 1))
    codes[[10, 40, 70, 100], 0] = 4, 3, 2, 1
    codes[[101, 102], 0] = 0.5, 0.25  # of the last one's passage
    collected = FeatureCodes.from_matrix(codes, tokens=tokens)
    page = FeatureDashboard.from_codes(collected).to_html(tmp_path / "page.html").as_uri()
    driver.get(page + "#feature-0")
    settle(driver)
    assert texts(driver, ".example .count")[:2] == ["×3", "×3"]
    assert texts(driver, ".example .value")[:2] == ["4", "1"]
    centres = driver.find_elements("css selector", ".example .centre")[:2]
    assert len({round(centre.rect["x"], 1) for centre in centres}) == 1


def test_what_is_missing_and_names_of_others(driver, dashboard, tmp_path):
    content = copy.deepcopy(dashboard.content)
    content["missing"] = ["No logits: <b>because</b>"]
    content["names"] = {"9": "nine <i>"}
    content["index"] = {key: column[:1] for key, column in content["index"].items()}
    feature = content["features"][0]
    feature["neighbours"]["cosine"] = {"features": [9, 8], "values": [0.5, 0.25]}
    content["features"] = EncodedFeatures([encoded(feature)])
    page = FeatureDashboard(content).to_html(tmp_path / "page.html").as_uri()
    driver.get(page + "#feature-0")
    assert "No logits: <b>because</b>" in one(driver, "#feature-view").text
    assert "nine <i>" in one(driver, ".neighbours").text


def luminance(colour):
    """Relative luminance of sRGB, as WCAG 2 defines it."""
    if colour.startswith("color("):
        channels = [float(x) for x in re.findall(r"[\d.]+", colour.removeprefix("color(srgb"))]
    else:
        channels = [float(x) / 255 for x in re.findall(r"[\d.]+", colour)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels[:3])
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(odd_browser, theme):
    odd_browser.execute_script("setTheme(arguments[0])", theme)
    open_at(odd_browser, "feature-64")
    page = one(odd_browser, "body").value_of_css_property("background-color")
    for style in ("helped", "hurt"):
        token = one(odd_browser, f".example .token.{style}")
        # what is behind the token is the page: paint it, to read one opaque colour
        odd_browser.execute_script("arguments[0].style.setProperty('--a', 1)", token)
        shaded = odd_browser.execute_script(PAINTED, token, page)
        underline = token.value_of_css_property("border-bottom-color")
        assert contrast(token.value_of_css_property("color"), shaded) >= 4.5
        assert contrast(underline, shaded) >= 3
        assert contrast(underline, page) >= 3
        assert contrast(shaded, page) >= 1.5
        odd_browser.execute_script("arguments[0].style.setProperty('--a', 0.01)", token)
        weak = odd_browser.execute_script(PAINTED, token, page)
        assert contrast(weak, page) >= 1.08  # weak activations can be seen


PAINTED = """
const context = document.createElement("canvas").getContext("2d");
for (const colour of [arguments[1], getComputedStyle(arguments[0]).backgroundColor]) {
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
}
return "rgb(" + [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).join() + ")";
"""


@pytest.mark.parametrize("width", [420, 1400])
def test_nothing_overflows(odd_browser, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    odd_browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for fragment in ("index", "feature-64", "text-0", "compare-64-65"):
            open_at(odd_browser, fragment)
            found, window = widths(odd_browser)
            assert window == width or window == width - 15  # a scroll bar
            assert found <= window, fragment
            assert one(odd_browser, "header").size["height"] < 60
        last = one(odd_browser, "#text-links a:last-child")
        open_at(odd_browser, "text-59")  # its link is brought into sight
        nav, box = one(odd_browser, "nav").rect, last.rect
        assert nav["x"] - 1 <= box["x"] <= nav["x"] + nav["width"]
        assert last.get_attribute("aria-current") == "page"
    finally:
        odd_browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_documents(driver, tmp_path):
    tokens = {"document": np.arange(3), "token": np.array(["a " * 500, "b\nb", "c"], object)}
    codes = FeatureCodes.from_matrix([[3.0], [2.0], [0.0]], tokens=tokens)
    page = FeatureDashboard.from_codes(codes).to_html(tmp_path / "page.html").as_uri()
    driver.get(page + "#feature-0")
    settle(driver)
    lines = driver.find_elements("css selector", ".example")
    assert [line.text.split("\n")[0] for line in lines[:2]] == ["3", "2"]
    before = lines[0].size["height"]
    assert before < 60  # two lines of it
    lines[0].click()
    assert lines[0].size["height"] > before


def test_pictures(driver, tmp_path):
    """Codes on pictures, and no request for these."""
    y, x = np.meshgrid(np.arange(2), np.arange(3), indexing="ij")
    tokens = {"document": np.repeat([0, 1], 6), "y": [*y.ravel()] * 2, "x": [*x.ravel()] * 2}
    codes = np.zeros((12, 1))
    codes[[1, 2, 8], 0] = 2.0, 1.0, 0.5
    images = np.random.default_rng(0).random((2, 4, 6))
    found = FeatureDashboard.from_codes(
        FeatureCodes.from_matrix(codes, tokens=tokens), images=images
    )
    page = found.to_html(tmp_path / "page.html").as_uri()
    driver.get(page + "#feature-0")
    settle(driver)
    figures = driver.find_elements("css selector", "figure.example")
    assert [each.text for each in figures[:2]] == ["2 ×2", "0.5"]
    image = figures[0].find_element("css selector", "img")
    assert driver.execute_script("return arguments[0].naturalWidth", image) == 6
    heat = figures[0].find_elements("css selector", ".heat rect:not(.chosen)")
    assert [rect.get_attribute("x") for rect in heat] == ["1", "2"]
    assert driver.get_log("browser") == []


def test_ten_thousand_features_in_a_folder(driver, tmp_path):
    """It opens at once, loads what is opened from scripts beside it, and nothing else."""
    rng = np.random.default_rng(0)
    n, n_rows = 10_000, 4000
    rows, features = rng.integers(n_rows, size=60_000), rng.integers(n, size=60_000)
    matrix = csr_array((rng.random(60_000) + 0.1, (rows, features)), shape=(n_rows, n))
    tokens = {
        "document": np.arange(n_rows) // 200,
        "token": np.array([f" w{k % 997}" for k in range(n_rows)], dtype=object),
    }
    codes = FeatureCodes.from_matrix(matrix, tokens=tokens)
    path = FeatureDashboard.from_codes(codes, n_top=3, n_intervals=2).to_html(tmp_path / "page")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    start = time.perf_counter()
    driver.get(path.as_uri())
    assert one(driver, "#count").text == "10,000 of 10,000 features"
    assert time.perf_counter() - start < 10
    open_at(driver, "feature-9999")
    wait = WebDriverWait(driver, 5)
    wait.until(lambda _: driver.find_elements("css selector", ".example .token.centre"))
    search = one(driver, "#random")
    search.click()
    wait.until(lambda _: not one(driver, "#feature-view h2").text.startswith("Feature 9999"))
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requested = {
        event["params"]["request"]["url"].split("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    folder = path.parent.as_uri()
    assert f"{folder}/data/features-156.js" in requested and len(requested) < 8
    assert all(url.startswith(folder) for url in requested)
    assert driver.get_log("browser") == []
    (path.parent / "data" / "features-0.js").unlink()
    open_at(driver, "feature-0")
    wait.until(lambda _: "features-0.js is missing" in one(driver, "#feature-view").text)
    driver.get_log("browser")
