"""The dashboard in a real browser: it works, it asks for nothing, and texts cannot act in it."""

import copy
import json
import re
import shutil

import numpy as np
import pytest

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import FeatureDashboard

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
    return FeatureDashboard.from_activations(
        dictionary, X, tokens, title="Features & <b>more</b>", labels={3: LABEL, 5: "five"}
    )


@pytest.fixture(scope="module")
def page(dashboard, tmp_path_factory):
    # texts are shown where there is a model; here they are put in by hand
    many = [x for j in range(20) for x in (j, 20.0 - j)]
    dashboard.content["texts"] = [
        [[ATTACK, [3, 1.5, 5, 0.5]], [" x", []], ["\n", [5, 2.0]]],
        [[" many", many], [" one", [19, 2.0]]],
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
    """A page of few features with odd tokens, many texts, effects and projections."""
    content = copy.deepcopy(dashboard.content)
    feature = copy.deepcopy(content["features"][int(np.argmax(dashboard.density_))])
    words, n = list(ODD), len(ODD)
    codes = [x for k in range(n) for x in (k, 1.0)]
    feature |= {"id": 64, "label": "odd\u202e ones", "words": words, "effect": 0.5, "maximum": 1.0}
    feature["snippets"] |= {
        "top": [[[0, n, 3, codes, [4, 0.5, 5, -0.5]]]],
        "near": [[[0, n, 0, [], []], [0, n, 1, [], []]]],
    }
    feature["near_values"] = [0.25, 0.125]
    feature["logits"] = {
        "up": [[word, 1.0] for word in words[-5:]],
        "down": [[word, -1.0] for word in words[-5:]],
        "counts": [1, 2, 3],
        "range": [-1, 1],
    }
    for kind in ("intervals", "random"):
        feature["snippets"][kind] = []
    plain = copy.deepcopy(content["features"][65]) | {"words": ["plain"], "label": None}
    content["features"] = [feature, plain, *content["features"][100:200]]
    content["tokens"] = {"names": words, "ids": list(range(n)), "document": [7, 0]}
    for each in content["features"][1:]:
        each["snippets"] = {"top": [[]], "intervals": [], "random": [[]], "near": [[]]}
    text = [[word, [64, 1.0]] for word in words] + [["\n\t", []], ["end", [64, 0.5]]]
    content["texts"] = [text] * 200
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
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")


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


@pytest.mark.slow
def test_index_and_more(browser, dashboard):
    assert browser.title == "Features & <b>more</b>"
    assert one(browser, "h1").text == "Features & <b>more</b>"
    density = [-each["density"] for each in dashboard.content["features"]]
    order = np.lexsort((np.arange(300), density)).tolist()
    assert listed(browser) == order[:200]
    one(browser, "#more").click()
    assert listed(browser) == order
    assert not one(browser, "#more").is_displayed()
    assert one(browser, "#count").text == "300 of 300 features, 1,500 tokens"


@pytest.mark.parametrize(("column", "key"), [(0, "id"), (4, "maximum")])
def test_sort(browser, dashboard, column, key):
    button = one(browser, f"#columns th[data-column='{column}'] button")
    button.click()
    values = [panel(dashboard, j)[key] for j in listed(browser)]
    assert values == sorted(values, reverse=column > 0)
    state = one(browser, f"#columns th[data-column='{column}']").get_attribute("aria-sort")
    assert state == ("descending" if column > 0 else "ascending")
    button.click()
    values = [panel(dashboard, j)[key] for j in listed(browser)]
    assert values == sorted(values, reverse=column == 0)


def test_unlabelled_features_come_last(browser):
    button = one(browser, "#columns th[data-column='1'] button")
    for expected in ([3, 5], [5, 3]):  # "<i..." before "five"
        button.click()
        assert listed(browser)[:2] == expected


def test_search(browser, dashboard):
    search = one(browser, "#search")
    search.send_keys("FIVE")
    assert listed(browser) == [5]
    search.clear()
    search.send_keys("17")
    assert listed(browser) == [17]
    search.clear()
    search.send_keys("return")
    expected = {j for j in range(300) if " return" in panel(dashboard, j)["words"]}
    assert set(listed(browser)) == expected and expected
    search.clear()
    search.send_keys("no such thing")
    assert listed(browser) == []
    assert one(browser, "#count").text.startswith("0 of 300")


def test_only_active(browser, dashboard):
    one(browser, "#alive").click()
    n_active = int((dashboard.density_ > 0).sum())
    assert one(browser, "#count").text.startswith(f"{n_active} of 300")


def test_deep_link(driver, page, browser):
    driver.get("about:blank")
    driver.get(page + "#feature-5")
    assert one(driver, "h2").text.startswith("Feature 5: five")
    assert not one(driver, "#index-view").is_displayed()
    driver.back()
    driver.get(page + "#feature-12345")
    assert "Feature 12345 is not on this page" in one(driver, "#feature-view").text


def test_panels(browser, dashboard):
    j = int(np.argmax(dashboard.density_))
    open_at(browser, f"feature-{j}")
    found, expected = one(browser, "#feature-view").text, panel(dashboard, j)
    for heading in ("Density", "Activations", "Expected value", "Neurons", "Nearest features"):
        assert heading in found
    for heading in ("Most active", "At random", "Near misses", "enc·dec cosine"):
        assert heading in found
    bars = browser.find_elements("css selector", "#feature-view svg")
    assert len(bars) == 3
    names = [bar.get_attribute("aria-label") for bar in bars]
    assert len(set(names)) == 3 and all(" from " in name for name in names)
    assert bars[1].accessible_name.startswith("Histogram of activations, from 0 to ")
    assert "underlined" not in found  # there are no effects without a model
    links = texts(browser, "#feature-view .pair a")
    neighbours = [k for k, _ in expected["cosine"] + expected["correlation"]]
    assert sorted(map(int, links)) == sorted(neighbours)


def test_hover(browser, dashboard):
    j = int(np.argmax(dashboard.density_))
    open_at(browser, f"feature-{j}")
    expected = panel(dashboard, j)
    token = one(browser, ".snippet .token.centre")
    shade = strength(browser, token)
    top = expected["snippets"]["top"][0][0]
    values = dict(zip(top[3][::2], top[3][1::2], strict=True))
    assert shade == pytest.approx(values[top[2]] / expected["maximum"])
    tooltip = one(browser, "#tooltip")
    assert not tooltip.is_displayed()
    webdriver.ActionChains(browser).move_to_element(token).perform()
    assert tooltip.is_displayed()
    lines = tooltip.get_attribute("textContent").split("\n")
    tokens = dashboard.content["tokens"]
    place = top[0] + top[2]
    assert lines == [
        f"“{tokens['names'][tokens['ids'][place]].replace(chr(10), '⏎')}”",
        f"activation {float(f'{values[top[2]]:.3g}'):g}",
        f"document {tokens['document'][place]}",
    ]
    webdriver.ActionChains(browser).move_to_element(one(browser, "h1")).perform()
    assert not tooltip.is_displayed()


def test_texts_are_inert_everywhere(browser, dashboard):
    attacked = [
        j for j in range(300) if ATTACK in panel(dashboard, j)["words"] and dashboard.density_[j]
    ]
    open_at(browser, f"feature-{attacked[0]}")
    shown = contents(browser, ".snippet .token")
    assert ATTACK in shown and "<b>bold</b>" in shown and "{{ 7 * 7 }}" in shown
    assert "&lt;" in shown and "⏎    " in shown
    place = contents(browser, ".token.centre").index(ATTACK)
    token = browser.find_elements("css selector", ".token.centre")[place]
    webdriver.ActionChains(browser).move_to_element(token).perform()
    assert ATTACK in one(browser, "#tooltip").text
    open_at(browser, "feature-3")
    assert LABEL in one(browser, "h2").text
    open_at(browser, "index")
    assert LABEL in contents(browser, "#rows td.text")


def test_keys(browser):
    body = one(browser, "body")
    first, second = listed(browser)[:2]
    body.send_keys("j")
    assert one(browser, "h2").text.startswith(f"Feature {first}")
    body.send_keys("j")
    assert one(browser, "h2").text.startswith(f"Feature {second}")
    body.send_keys("k")
    assert one(browser, "h2").text.startswith(f"Feature {first}")
    body.send_keys("/")
    search = one(browser, "#search")
    assert focused(browser) == search
    search.send_keys("five", ENTER)
    assert one(browser, "h2").text.startswith("Feature 5")
    press(browser, ESCAPE)
    assert one(browser, "#index-view").is_displayed()


def test_dark_and_light(browser):
    body, button = one(browser, "body"), one(browser, "#theme")
    before = body.value_of_css_property("background-color")
    button.click()
    assert body.value_of_css_property("background-color") != before
    after = body.value_of_css_property("background-color")
    browser.refresh()  # it is remembered
    body, button = one(browser, "body"), one(browser, "#theme")
    assert body.value_of_css_property("background-color") == after
    button.click()
    assert body.value_of_css_property("background-color") == before
    browser.execute_script("localStorage.clear()")


def test_shown_text(browser):
    one(browser, "#text-links a").click()
    tokens = browser.find_elements("css selector", ".prose .token")
    assert [token.get_attribute("textContent") for token in tokens] == [ATTACK, " x", "\n"]
    shades = [strength(browser, token) for token in tokens]
    assert shades == [0.75, 0, 1]
    tokens[0].click()
    rows = texts(browser, ".aside tbody tr")
    assert rows[0].startswith("3 " + LABEL) and rows[1].startswith("5 five")
    browser.find_elements("css selector", ".aside tbody button")[1].click()  # shade by feature 5
    shades = [strength(browser, token) for token in tokens]
    assert shades == [0.25, 0, 1]
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


def test_keys_behind_the_filter(browser):
    one(browser, "#alive").click()
    press(browser, "j")
    assert one(browser, "#feature-view").is_displayed()
    assert one(browser, "#theme").accessible_name == "Dark or light"


def test_notebook_frame(driver, dashboard, tmp_path):
    """A notebook shows the frame; what is in it works there too."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{dashboard._repr_html_()}</body>", encoding="utf-8")
    driver.get(path.as_uri())
    driver.switch_to.frame(one(driver, "iframe"))
    # the log does not tell of errors in such a frame
    driver.execute_script("addEventListener('error', ({ message }) => { failed = message; })")
    assert one(driver, "#count").text.startswith("50 of 50 features (of 300 in the dictionary)")
    wait = WebDriverWait(driver, 5)  # clicks reach a sandboxed frame a little later
    one(driver, "#rows tr a").click()
    wait.until(lambda _: one(driver, "#feature-view").is_displayed())
    assert one(driver, "h2").text.startswith("Feature ")
    one(driver, "nav a").click()
    wait.until(lambda _: one(driver, "#index-view").is_displayed())
    driver.find_elements("css selector", "#rows td.text")[-1].click()  # beside the link
    wait.until(lambda _: one(driver, "#feature-view").is_displayed())
    assert one(driver, "h2").text.startswith("Feature ")
    body = one(driver, "body")
    before = body.value_of_css_property("background-color")
    one(driver, "#theme").click()  # it cannot be remembered here, but works
    wait.until(lambda _: body.value_of_css_property("background-color") != before)
    settle(driver)
    assert driver.execute_script("return window.failed") is None
    driver.switch_to.default_content()


@pytest.mark.parametrize("key", [CONTROL, SHIFT])
def test_link_in_a_new_tab(browser, key):
    """A click with a key held opens another tab or window, and this one stays."""
    here = browser.current_window_handle
    link, row = one(browser, "#rows a"), one(browser, "#rows tr td:nth-child(2)")
    actions = webdriver.ActionChains(browser).key_down(key)
    actions.click(link).click(row).key_up(key).perform()
    WebDriverWait(browser, 5).until(lambda _: len(browser.window_handles) == 2)
    for other in set(browser.window_handles) - {here}:
        browser.switch_to.window(other)
        browser.close()
    browser.switch_to.window(here)
    assert one(browser, "#index-view").is_displayed()
    one(browser, "#rows tr td:nth-child(2)").click()
    assert one(browser, "#feature-view").is_displayed()


def test_search_forms(odd_browser):
    search = one(odd_browser, "#search")
    for sought, found in [
        (" 64 ", True),
        ("#64", True),
        ("feature 64", True),
        ("Feature 64", True),
        ("#6", False),
        ("feature 6", False),
        (" self", True),
        ("self ", True),
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
        assert len(listed(odd_browser)) < 5, sought
    search.clear()
    search.send_keys("  ")
    assert len(listed(odd_browser)) == 102


def test_tokens_can_be_seen(odd_browser):
    def shown(selector):
        nodes = odd_browser.find_elements("css selector", selector)
        return [node.get_attribute("textContent") for node in nodes]

    assert shown("#rows tr[data-feature='64'] .word") == list(ODD.values())
    open_at(odd_browser, "feature-64")
    assert shown(".snippet:first-of-type .token") == list(ODD.values())
    assert one(odd_browser, "#feature-view h2").text.startswith("Feature 64: odd⟨U+202E⟩ ones")
    open_at(odd_browser, "text-0")
    lines = [text.replace("⏎", "\n") for text in ODD.values()]
    assert shown(".prose .token") == [*lines, "\n⇥", "end"]
    halves = (
        "return visible('a' + String.fromCharCode(0xd800) + 'b' + String.fromCharCode(0xdc00))"
    )
    assert odd_browser.execute_script(halves) == "a⟨U+D800⟩b⟨U+DC00⟩"


def test_order_of_tokens(odd_browser):
    """Whatever the direction of their letters, tokens stand from left to right."""
    open_at(odd_browser, "feature-64")
    tokens = odd_browser.find_elements("css selector", ".snippet:first-of-type .token")
    lefts = [token.rect["x"] for token in tokens]
    assert lefts == sorted(lefts)
    open_at(odd_browser, "text-0")
    tokens = odd_browser.find_elements("css selector", ".prose .token")
    k = list(ODD).index("שלום")
    first, second = tokens[k].rect, tokens[k + 1].rect
    assert first["y"] == second["y"] and first["x"] < second["x"]


def test_near_misses(odd_browser):
    open_at(odd_browser, "feature-64")
    values = texts(odd_browser, ".snippet .value")
    assert values == ["1", "0.25", "0.125"]
    assert "the encoder's pre-activation" in one(odd_browser, "#feature-view").text
    assert "underlined where the feature helped" in one(odd_browser, "#feature-view").text


def test_near_misses_show_their_pre_activations(browser, dashboard):
    j = int(np.argmax(dashboard.density_))
    open_at(browser, f"feature-{j}")
    values = panel(dashboard, j)["near_values"]
    assert "pre-activation" in one(browser, "#feature-view").text
    # three digits, two below 0.001; equal snippets stand once, so there may be fewer than values
    expected = {float(f"{value:.{3 if abs(value) >= 1e-3 else 2}g}") for value in values}
    near = "//h3[contains(., 'Near misses')]/following-sibling::*//*[contains(@class, 'value')]"
    shown = [float(value.text) for value in browser.find_elements("xpath", near)]
    assert shown and set(shown) <= expected


@pytest.mark.slow
def test_repeated_examples_are_in_line(driver, dashboard, tmp_path):
    """Snippets of the same tokens stand once, with their number; the centres below each other."""
    content = copy.deepcopy(dashboard.content)
    feature = content["features"][0]
    feature["snippets"]["top"] = [[[0, 9, 4, [4, 1.0], []]] * 3 + [[1, 9, 4, [4, 1.0], []]]]
    content["features"] = [feature]
    driver.get(FeatureDashboard(content).to_html(tmp_path / "page.html").as_uri() + "#feature-0")
    assert texts(driver, ".snippet .count")[:2] == ["×3", ""]
    centres = driver.find_elements("css selector", ".snippet .centre")
    assert len({round(centre.rect["x"], 1) for centre in centres}) == 1


def test_what_is_missing_and_names_of_others(driver, dashboard, tmp_path):
    content = copy.deepcopy(dashboard.content)
    content["missing"] = ["No logits: <b>because</b>"]
    content["names"] = {9: "nine <i>"}
    content["features"] = content["features"][:1]
    content["features"][0]["cosine"] = [[9, 0.5], [8, 0.25]]
    content["texts"] = [[["x", [9, 1.0]]]]
    page = FeatureDashboard(content).to_html(tmp_path / "page.html").as_uri()
    driver.get(page + "#feature-0")
    assert "No logits: <b>because</b>" in one(driver, "#feature-view").text
    assert "9 0.5 nine <i>" in one(driver, ".neighbours").text
    driver.get(page + "#text-0")
    one(driver, ".prose .token").click()
    assert "nine <i>" in one(driver, ".aside").text


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
        token = one(odd_browser, f".token.{style}")
        assert strength(odd_browser, token) == 1
        # what is behind the token is the page: paint it, to read one opaque colour
        shaded = odd_browser.execute_script(PAINTED, token, page)
        underline = token.value_of_css_property("border-bottom-color")
        assert contrast(token.value_of_css_property("color"), shaded) >= 4.5
        assert contrast(underline, shaded) >= 3
        assert contrast(underline, page) >= 3
        assert contrast(shaded, page) >= 1.5


PAINTED = """
const context = document.createElement("canvas").getContext("2d");
for (const colour of [arguments[1], getComputedStyle(arguments[0]).backgroundColor]) {
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
}
return "rgb(" + [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).join() + ")";
"""


def test_text_by_keyboard(browser):
    open_at(browser, "text-0")
    tooltip, tokens = one(browser, "#tooltip"), browser.find_elements("css selector", ".token")
    assert browser.title == "Text 0 – Features & <b>more</b>"
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


def next_in_sight(browser, token):
    """The token after this one in its row; None if there is none, or it is clipped."""
    return browser.execute_script(
        """const next = arguments[0].nextElementSibling;
        const end = arguments[0].parentElement.getBoundingClientRect().right;
        return next && next.getBoundingClientRect().left < end - 1 ? next : null;
        """,
        token,
    )


def test_snippets_by_keyboard(browser, dashboard):
    j = int(np.argmax(dashboard.density_))
    open_at(browser, f"feature-{j}")
    rows = browser.find_elements("css selector", ".snippet")
    stops = browser.find_elements("css selector", ".snippet .token[tabindex='0']")
    assert len(stops) == len(rows)
    assert all("centre" in stop.get_attribute("class") for stop in stops)
    stops[0].send_keys("")  # focus
    tooltip = one(browser, "#tooltip")
    assert focused(browser) == stops[0] and tooltip.text.split("\n")[1].startswith("activation ")
    press(browser, TAB)
    assert focused(browser) == stops[1]
    assert stops[1].value_of_css_property("outline-width") == "2px"  # 1px: only framed
    place = 1
    while (after := next_in_sight(browser, stops[place])) is None:  # there RIGHT has no way to go
        press(browser, TAB)
        place += 1
    assert focused(browser) == stops[place]
    press(browser, RIGHT)
    assert focused(browser) == after
    for _ in range(20):  # not beyond what can be seen
        press(browser, LEFT)
    before = rows[place].find_element("css selector", ".before").rect
    last = focused(browser).rect
    assert last["x"] + last["width"] > before["x"]


def test_heading_and_title(browser):
    assert focused(browser) == one(browser, "body")  # nothing is taken at the start
    link = one(browser, "#rows a")
    name = f"Feature {link.text}"
    link.click()
    assert focused(browser) == one(browser, "#feature-view h2")
    assert browser.title == f"{name} – Features & <b>more</b>"
    open_at(browser, "feature-5")
    assert focused(browser) == one(browser, "#feature-view h2")
    assert browser.title == "Feature 5: five – Features & <b>more</b>"
    webdriver.ActionChains(browser).move_to_element(one(browser, "h1")).perform()
    press(browser, ESCAPE)
    assert focused(browser) == one(browser, "h1")
    assert browser.title == "Features & <b>more</b>"
    open_at(browser, "feature-5")
    press(browser, "/", "fi")
    assert focused(browser).get_attribute("value") == "fi"


def test_back_to_the_same_place(browser):
    row = browser.find_elements("css selector", "#rows tr")[150]
    scrolled, wait = "return scrollY", WebDriverWait(browser, 5)  # views follow the address
    row.find_element("css selector", "a").click()
    wait.until(lambda _: browser.execute_script(scrolled) == 0)
    browser.back()
    wait.until(lambda _: one(browser, "#index-view").is_displayed())
    wait.until(lambda _: browser.execute_script(scrolled) > 1000)
    place = browser.execute_script(scrolled)
    assert 0 < row.rect["y"] - place < 1000


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1400])
def test_nothing_overflows(odd_browser, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    odd_browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for fragment in ("index", "feature-64", "text-0"):
            open_at(odd_browser, fragment)
            found, window = widths(odd_browser)
            assert window == width or window == width - 15  # a scroll bar
            assert found <= window, fragment
            assert one(odd_browser, "header").size["height"] < 60
        last = one(odd_browser, "#text-links a:last-child")
        open_at(odd_browser, "text-199")  # its link is brought into sight
        nav, box = one(odd_browser, "nav").rect, last.rect
        assert nav["x"] <= box["x"] <= nav["x"] + nav["width"]
        assert last.get_attribute("aria-current") == "page"
    finally:
        odd_browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
