"""The page of the main table in a real browser: sort, filter, keyboard, phone, dark and light, and hostile results."""

import pytest
from results import MODEL, ones, usage, write_run

from comem_lmms.report import build, load_paper, write

SCRIPT = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"{{script}}"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with an average, parts, notes, a missing result, an older run, the paper's numbers and differences."""
    folder = tmp_path_factory.mktemp("results")

    def scores(right, of):
        return {"official": ones(right, of), "official_easy": ones(right, of)}

    for number, (method, right) in enumerate([("baseline", 30), ("vanilla_rag", 70), ("comem", 100)]):
        tasks = {"okvqa": scores(right, 100), "viquae": scores(right // 2, 50)}
        write_run(folder / str(number), tasks | ({"mrag_bench": scores(9, 10)} if number else {}), method)
    write_run(folder / "2", {"okvqa": scores(1, 100)}, date="20250101_000000")
    short = {"okvqa": scores(8, 10), "viquae": scores(4, 10)}
    write_run(folder / "3", short, "llava", arguments="pretrained=llava-hf/llava-1.5-7b-hf", documents=100, limit=10)
    page = folder / "page.html"
    page.write_text(write(build(folder, None, "baseline", load_paper()), "html"))
    return page


@pytest.fixture
def page(browser, path):
    """The page, opened; afterwards it must have asked for nothing and complained of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    asked, complaints = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(path.as_uri())
    yield opened
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


def methods(page, table=0):
    return page.locator("table").nth(table).locator("tbody tr:visible th").all_inner_texts()


def head(page, name):
    return page.get_by_role("columnheader", name=name, exact=True).first


def test_sorting(page):
    assert methods(page) == ["baseline", "vanilla_rag", "comem", "llava"]
    button = head(page, "mrag_bench").get_by_role("button")
    button.click()
    assert methods(page)[:2] == ["vanilla_rag", "comem"]  # equal, so in the order they were
    okvqa = page.get_by_role("columnheader").filter(has_text="okvqa").first
    for order, sorted_ in (
        ("descending", ["comem", "llava", "vanilla_rag", "baseline"]),
        ("ascending", ["baseline", "vanilla_rag", "llava", "comem"]),
    ):
        okvqa.get_by_role("button").click()
        assert (methods(page), okvqa.get_attribute("aria-sort")) == (sorted_, order)
    head(page, "method").get_by_role("button").click()
    assert methods(page) == ["baseline", "comem", "llava", "vanilla_rag"]
    assert okvqa.get_attribute("aria-sort") is None
    assert methods(page, 1) == ["baseline", "vanilla_rag", "comem", "llava"]


def test_what_is_not_known_comes_last_either_way(page):
    for _ in range(2):
        head(page, "mrag_bench").get_by_role("button").click()
        assert set(methods(page)[2:]) == {"baseline", "llava"}


def test_filter(page):
    page.get_by_label("Filter").fill("QWEN comem")
    assert methods(page) == methods(page, 1) == ["comem"]
    assert page.get_by_role("status").inner_text() == "1 of 4 lines"
    page.get_by_label("Filter").fill("nothing like it")
    assert methods(page) == []
    page.get_by_label("Filter").fill("")
    assert len(methods(page)) == 4


def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    page.keyboard.type("baseline")
    assert methods(page) == ["baseline"]
    for _ in range(8):
        page.keyboard.press("Backspace")
    focused = lambda: page.evaluate("document.activeElement.innerText || document.activeElement.id")  # noqa: E731
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(focused())
        if seen[-1] == "okvqa":
            break
    assert "parts" in seen
    assert seen[-1] == "okvqa"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert methods(page)[0] == "comem"


def test_parts_are_shown_on_demand(page):
    assert head(page, "okvqa easy").is_hidden()
    page.get_by_label("all parts of benchmarks").check()
    assert head(page, "okvqa easy").is_visible()


def test_marks_lead_to_their_notes(page):
    link = page.locator("td sup a").first
    assert link.inner_text() == "a"
    link.click()
    assert "--limit 10" in page.locator(":target").inner_text()


def test_dark_and_light(page):
    back = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = back()
    page.get_by_role("button", name="Dark or light").click()
    dark = back()
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(22, 24, 29)")
    page.get_by_role("button", name="Dark or light").click()
    page.emulate_media(color_scheme="dark")
    assert back() == light  # what was chosen stays
    page.reload()
    assert back() == dark


def test_on_a_phone_the_table_scrolls_and_the_page_does_not(page):
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    region = page.get_by_role("region", name="Results")
    assert region.evaluate("box => box.scrollWidth > box.clientWidth")
    region.evaluate("box => { box.scrollLeft = 200 }")
    assert page.locator("tbody th").first.bounding_box()["x"] < 40  # which line it is stays in sight


def test_hostile_results_run_no_script(browser, tmp_path):
    asked = {"okvqa": ones(5, 10)}
    write_run(tmp_path / "1", asked, SCRIPT, arguments={"pretrained": SCRIPT, "x": SCRIPT}, prompt=SCRIPT)
    told = usage(fingerprints={"knowledge": SCRIPT, SCRIPT: SCRIPT}, retrieval=SCRIPT, versions={SCRIPT: SCRIPT})
    arguments = {"top_k": SCRIPT, "x": SCRIPT, "retrieval": SCRIPT}
    write_run(tmp_path / "2", asked, "comem", arguments=arguments, usages=[told] * 10)
    write_run(tmp_path / "3", asked, generation={"stop": SCRIPT})
    source = tmp_path / "page.html"
    source.write_text(write(build(tmp_path), "html"))
    page = browser.new_page()
    page.goto(source.as_uri())
    page.get_by_label("Filter").fill("owned")
    assert page.title() == "Results"
    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 0
    assert page.locator("tbody tr:visible th").first.inner_text() == " ".join(SCRIPT.split())
    page.close()


def test_nothing_from_outside_is_named(path):
    text = path.read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert MODEL in text
