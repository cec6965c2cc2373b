"""The explorer's page in a real browser: filters, search, keys, phone, dark and light, 10,000 questions, hostile data,
and a real run on MicroSeek."""

import io
import json
import shutil
import threading

import pytest
import yaml
from PIL import Image
from results import usage, write_run

from comem_lmms.explorer import build, serve
from comem_lmms.knowledge import KnowledgeBase, Row

SCRIPT = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"{{script}}"
HOSTILE_TASK = "<img src=x onerror=\"document.title='owned'\">#%2F?__proto__"  # what a file can be called


def picture(color, size=(700, 400)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three methods and a control on two benchmarks: 60 questions in English and 20 in Spanish, by two metrics."""
    folder = tmp_path_factory.mktemp("explorer")
    rows = [Row(f"item{n}", f"Title {n}", f"Text about {n}.", picture((n * 20, 90, 90))) for n in range(3)]
    base = KnowledgeBase.create(folder / "kb", rows)
    told = usage(
        retrieved=["item2", "item0"], scores=[0.9, 0.8], gold="item0", fingerprints={"knowledge": base.fingerprint[:16]}
    )

    def scores(right, of):
        official = [float(n < right) for n in range(of)]
        parts = {"official_even": [s if n % 2 == 0 else None for n, s in enumerate(official)]}
        return {"official": official, "paper": [1 - s for s in official], **parts}

    def samples(method, of):
        return [
            {"filtered_resps": f"{method} says word{n}", "input": f"Question number {n}, please"} for n in range(of)
        ]

    for name, right in (("baseline", 10), ("vanilla_rag", 30), ("comem", 40), ("oracle", 60)):
        method = "comem" if name == "oracle" else name
        arguments = f"pretrained=org/model,knowledge={base.folder}" + (",retrieval=oracle" if name == "oracle" else "")
        for task, of, count in (("okvqa", 60, right), ("infoseek_es", 20, right // 10)):
            write_run(
                folder / "r" / name / task,
                {task: scores(count, of)},
                method,
                arguments=arguments,
                samples=samples(name, of),
                usages=[told if method != "baseline" else usage(retrieved=[], retrieval="none")] * of,
            )
    build(folder / "r", folder / "site")
    return folder / "site"


@pytest.fixture
def watched(browser):
    """Opens pages; afterwards none may have asked for anything else, complained, or shown a dialog."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    asked, complaints = [], []

    def opened(address):
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: complaints.append(f"{request.url} failed"))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(address)
        until(page, "!document.getElementById('count').textContent.includes('oading')")
        opened.start = address.partition("index.html")[0]
        return page

    yield opened
    context.close()
    assert [url for url in asked if not url.startswith((opened.start, "data:"))] == []
    assert complaints == []


@pytest.fixture
def page(watched, site):
    return watched((site / "index.html").as_uri())


def until(page, condition, argument=None):
    """As playwright's wait_for_function, which evaluates a text in the page; the page's policy forbids that."""
    for _ in range(300):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{condition} with {argument}: {page.locator('body').inner_text()}")


def count(page):
    until(page, "!document.getElementById('count').textContent.includes('oading')")
    return int(page.get_by_role("status").inner_text().split(" of ")[0].replace(",", ""))


def ids(page):
    return [text.rpartition(" · ")[2] for text in page.locator("#list .below").all_inner_texts()]


def heading(page):
    return page.locator("#content h2").first.inner_text()


def opened(page, id_):
    until(page, "id => document.querySelector('#content a')?.textContent === id", id_)


# ---- filters --------------------------------------------------------------------------------------------------------


def test_by_benchmark_language_and_split(page):
    assert count(page) == 80
    page.locator("#task").select_option("okvqa")
    assert count(page) == 60
    page.locator("#split").select_option("even")
    assert count(page) == 30
    page.locator("#task").select_option("all")
    page.locator("#language").select_option("Spanish")
    assert count(page) == 10
    assert set(ids(page)) == {f"infoseek_es/{n}" for n in range(0, 20, 2)}


def test_by_who_was_right(page):
    """Of 60, by number: the first 10 all three, up to 30 two, up to 40 CoMEM alone; controls do not count."""
    page.locator("#task").select_option("okvqa")
    expected = {"all": 10, "none": 20, "some": 30, "only:2": 10, "only:1": 0, "right:1": 30, "wrong:0": 50, "": 60}
    for value, number in expected.items():
        page.locator("#verdict").select_option(value)
        assert count(page) == number, value
    page.locator("#verdict").select_option("only:2")
    assert ids(page)[0] == "okvqa/30"
    page.get_by_role("checkbox", name="oracle").check()
    assert count(page) == 0  # the control was right as well
    page.locator("#verdict").select_option(label="only comem (org/model, oracle, k=2)")
    assert count(page) == 20
    page.get_by_role("checkbox", name="oracle").uncheck()
    page.locator("#verdict").select_option("only:2")
    page.get_by_role("checkbox", name="vanilla_rag").uncheck()
    assert count(page) == 30
    page.locator("#metric").select_option("paper")  # the other way round
    page.locator("#verdict").select_option("none")
    assert count(page) == 10


def test_where_the_main_metric_cannot_judge_nobody_is_right_until_another_is_chosen(tmp_path, watched):
    write_run(tmp_path / "r", {"scale": {"rating": [3, 5, 1], "format_ok": [1, 1, 0]}}, "llava")
    page = watched(build(tmp_path / "r", tmp_path / "site").page.as_uri())
    page.locator("#verdict").select_option("all")
    assert count(page) == 0
    assert page.locator("#metric option").all_inner_texts() == ["each benchmark's own metric", "format_ok"]
    page.locator("#metric").select_option("format_ok")
    assert count(page) == 2


def test_search_goes_over_questions_answers_outputs_and_titles(page):
    for words, number in (("word7", 2), ("VANILLA_RAG says WORD19", 2), ("answer 59", 1), ("number 23, please", 1)):
        page.get_by_label("Search").fill(words)
        until(page, "n => document.getElementById('count').textContent.startsWith(n + ' of')", number)
    page.get_by_label("Search").fill("title 2")
    until(page, "document.getElementById('count').textContent.startsWith('80 of')")
    page.get_by_label("Search").fill("not to be found")
    until(page, "document.getElementById('count').textContent.startsWith('0 of')")
    assert ids(page) == []


# ---- a question -----------------------------------------------------------------------------------------------------


def test_a_question_shows_all_that_is_known(page):
    page.evaluate("location.hash = '#okvqa/5'")
    opened(page, "okvqa/5")
    text = page.locator("#content").inner_text()
    assert heading(page) == "Question number 5, please"
    for shown in ("answer 5", "vanilla_rag says word5", "comem says word5", "given to vanilla_rag", "1. Title 2"):
        assert shown in text
    assert "the right item" in page.locator(".card.gold").inner_text()
    assert "oracle says" not in text
    assert "Not ticked under Methods: comem (org/model, oracle, k=2)" in text
    assert page.locator("#content .card").first.inner_text().startswith("✓ right baseline")
    assert "official\n1\npaper\n0" in page.locator("#content .card").first.inner_text()
    page.get_by_role("checkbox", name="oracle").check()
    until(page, "document.getElementById('content').innerText.includes('oracle says word5')")
    page.locator("#metric").select_option("paper")
    until(page, "document.querySelector('#content .card').innerText.startsWith('✗ wrong baseline')")


def test_pictures_are_small_files_of_their_own(page, site):
    page.locator("#list [role=option]").first.click()
    opened(page, "infoseek_es/0")
    picture = page.get_by_alt_text("picture of the item").first
    picture.scroll_into_view_if_needed()
    until(page, "document.querySelector('#content img').naturalWidth > 0")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight, image.loading]") == [512, 293, "lazy"]
    assert len(list((site / "images").iterdir())) == 2  # each once, and none that no question was given


def test_a_link_leads_to_its_question_and_back(watched, site):
    page = watched((site / "index.html").as_uri() + "#okvqa/42")
    opened(page, "okvqa/42")
    assert page.locator("#list [aria-selected=true] .below").inner_text().endswith("okvqa/42")  # scrolled to
    page.evaluate("location.hash = '#infoseek_es/3'")
    opened(page, "infoseek_es/3")
    page.go_back()
    opened(page, "okvqa/42")
    page.evaluate("location.hash = '#okvqa/999'")
    until(page, "document.getElementById('content').innerText === 'There is no question okvqa/999 here.'")
    page.evaluate("location.hash = '#%'")


def test_by_keyboard_alone(page):
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "list":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowDown")
    opened(page, "infoseek_es/0")
    page.keyboard.press("ArrowDown")
    opened(page, "infoseek_es/1")
    active = page.locator("#list").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-posinset") == "2"
    assert "comem (org/model, clip, k=2) right" in page.locator(f"#{active}").get_attribute("aria-label")
    page.keyboard.press("End")
    opened(page, "okvqa/59")
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    opened(page, "infoseek_es/0")
    assert page.evaluate("location.hash") == "#infoseek_es/0"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "A"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"


def test_on_a_phone_the_question_takes_the_place_of_the_list(page):
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#list [role=option]").nth(1).click()
    opened(page, "infoseek_es/1")
    assert page.locator("#list").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Back to the list").click()
    assert page.locator("#list").is_visible()
    assert page.locator("#content").is_hidden()
    assert page.evaluate("document.activeElement.id") == "list"
    page.locator("#list [role=option]").nth(2).click()
    page.go_back()
    until(page, "!document.body.classList.contains('open')")


def test_dark_and_light(page):
    back = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    assert back() == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Dark or light").click()
    assert back() == "rgb(22, 24, 29)"


def test_served_it_is_the_same(watched, site):
    with serve(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = watched(f"http://127.0.0.1:{server.server_port}/index.html#okvqa/1")
        opened(page, "okvqa/1")
        page.get_by_alt_text("picture of the item").first.scroll_into_view_if_needed()
        until(page, "document.querySelector('#content img').naturalWidth > 0")
        server.shutdown()
        thread.join()


def test_a_missing_file_is_said(browser, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site/data/list-0.js").unlink()
    page = browser.new_page()
    page.goto((tmp_path / "site/index.html").as_uri())
    until(page, "document.getElementById('count').textContent.includes('list-0.js cannot be loaded')")
    page.close()


# ---- others' data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>"
    rows = [Row(f"{n}{SCRIPT}", SCRIPT, SCRIPT, picture("red"), SCRIPT, SCRIPT) for n in range(2)]
    base = KnowledgeBase.create(folder / "kb", rows)
    told = usage(
        retrieved=[row.id for row in rows],
        scores=[SCRIPT, 0.5],
        gold=rows[0].id,
        retrieval=SCRIPT,
        fingerprints={"knowledge": base.fingerprint[:16], SCRIPT: SCRIPT},
        input_tokens=SCRIPT,
    )
    gone = usage(retrieved=[SCRIPT], fingerprints={"knowledge": SCRIPT})
    sample = {"filtered_resps": [SCRIPT, {"__proto__": {"x": SCRIPT}}], "resps": SCRIPT, "input": SCRIPT}
    scores = {SCRIPT: [1.0, 0.0], f"{SCRIPT}_{SCRIPT}": [1.0, None], "__proto__": [0.5, 0.5]}
    scores["constructor"] = (0.1, [[SCRIPT, 1.0], [SCRIPT, 0.0]])
    for place, (method, known) in enumerate(((SCRIPT, told), ("comem", gone))):
        write_run(
            folder / "r" / str(place),
            {HOSTILE_TASK: scores},
            method,
            arguments={
                "pretrained": SCRIPT,
                "knowledge": str(base.folder) if known is told else SCRIPT,
                "top_k": SCRIPT,
            },
            usages=[known] * 2,
            samples=[sample] * 2,
            targets=[SCRIPT] * 2,
        )
    write_run(folder / "r/3", {HOSTILE_TASK: [1.0]}, "baseline", log=False)
    build(folder / "r", folder / "site")
    return folder / "site"


def test_hostile_results_run_no_script(watched, hostile):
    page = watched((hostile / "index.html").as_uri())
    page.locator("#list [role=option]").first.click()
    until(page, "document.querySelectorAll('#content .card').length > 3")
    page.locator("#notes summary").click()
    for option in page.locator("#verdict option").all():
        page.locator("#verdict").select_option(option.get_attribute("value"))
    page.locator("#verdict").select_option("")
    page.get_by_label("Search").fill("owned __proto__")
    page.wait_for_timeout(500)
    assert page.title() == "Questions"
    assert page.locator("script").count() == 1
    sources = page.locator("img").evaluate_all("all => all.map(image => image.getAttribute('src'))")
    assert {source.partition("/")[0] for source in sources} == {"images"}
    assert page.evaluate("({}).x") is None
    text = page.locator("#content").inner_text()
    assert text.count("<script>document.title='owned'</script>") > 10
    assert "__proto__" in text
    assert page.locator("#content a").get_attribute("href").startswith("#%3Cimg")
    page.reload()
    until(page, "document.querySelectorAll('#content .card').length > 3")  # the link holds what it must


def test_the_policy_of_the_page_forbids_all_else(browser, site):
    page = browser.new_page()
    reached = []
    page.route("https://**", lambda route: (reached.append(route.request.url), route.abort()))
    page.goto((site / "index.html").as_uri())
    for tried in ("document.body.innerHTML = '<p>'", "fetch('https://example.org/')"):
        with pytest.raises(Exception, match=r"TrustedHTML|Failed to fetch"):
            page.evaluate(tried)
    page.evaluate(
        """() => new Promise((done) => {
            const image = new Image();
            image.onerror = done;
            image.src = "https://example.org/x.png";
        })"""
    )
    assert reached == []
    page.close()


# ---- many -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """10,000 questions, three methods."""
    folder = tmp_path_factory.mktemp("large")
    for place, method in enumerate(("baseline", "vanilla_rag", "comem")):
        official = [float(n % (place + 2) == 0) for n in range(10_000)]
        samples = [
            {"filtered_resps": f"{method} reasons at length. " * 10 + f"word{n}", "input": f"Question {n}"}
            for n in range(10_000)
        ]
        write_run(folder / "r" / method, {"okvqa": official}, method, samples=samples)
    build(folder / "r", folder / "site")
    return folder / "site"


def test_ten_thousand_questions_open_filter_and_scroll(watched, large):
    page = watched((large / "index.html").as_uri())
    assert count(page) == 10_000
    assert page.locator("#list [role=option]").count() < 40  # only what is in sight
    assert page.locator("script").count() == 1
    loaded = page.evaluate("performance.getEntriesByType('resource').map(one => one.name.split('/').pop())")
    assert not [name for name in loaded if name.startswith(("words", "details"))]  # nothing that nobody asked for
    page.locator("#verdict").select_option("all")
    assert count(page) == 10_000 // 12 + 1
    page.locator("#verdict").select_option("")
    page.get_by_label("Search").fill("word9876")
    until(page, "document.getElementById('count').textContent.startsWith('1 of 10,000')")
    page.get_by_label("Search").fill("")
    until(page, "document.getElementById('count').textContent.startsWith('10,000 of')")
    page.locator("#list").focus()
    page.keyboard.press("End")
    opened(page, "okvqa/9999")
    assert ids(page)[-1] == "okvqa/9999"
    assert page.locator("#list [role=option]").count() < 40
    page.evaluate("document.getElementById('list').scrollTop = 76 * 5000")
    below = "[...document.querySelectorAll('#list .below')]"
    until(page, f"{below}.some(one => one.textContent.endsWith('okvqa/5001'))")


# ---- from a model to the page ---------------------------------------------------------------------------------------


def test_a_real_run_shows_its_questions_items_and_answers(run, tmp_path, watched, knowledge, questions):
    asked = {"tasks": "microseek", "batch_size": 4, "limit": 6, "log_samples": True}
    methods = ("baseline", "vanilla_rag", "comem")
    runs = [{**asked, "model": method, "output_path": f"results/{method}"} for method in methods]
    (tmp_path / "runs.yaml").write_text(yaml.safe_dump(runs))
    run("lmms-eval", "--config", "runs.yaml")
    told = run("comem-lmms", "explore", "results", "--out", "site").stdout
    assert "site/index.html: 6 questions (6 with a picture) of microseek, answered by 3 lines" in told
    logs = {method: next((tmp_path / "results" / method).rglob("*.jsonl")).read_text() for method in methods}
    samples = {
        method: sorted(map(json.loads, log.splitlines()), key=lambda sample: sample["doc_id"])
        for method, log in logs.items()
    }
    page = watched((tmp_path / "site/index.html").as_uri() + "#microseek/2")
    opened(page, "microseek/2")
    assert heading(page) == questions[2]["question"]
    text = page.locator("#content").inner_text()
    for method in methods:
        assert samples[method][2]["filtered_resps"] in text
    usage_ = samples["comem"][2]["token_counts"][0]
    for rank, (id_, score) in enumerate(zip(usage_["retrieved"], usage_["scores"], strict=True), start=1):
        title, words = knowledge.words(knowledge.find(id_))
        assert f"{rank}. {title}" in text
        assert words in text
        assert f"{id_}, score {score:.4g}" in text
    pictures = "[...document.querySelectorAll('.pictures img, .thumb')]"
    until(page, f"{pictures}.every(image => image.naturalWidth > 0)")
    right = {method: [sample["exact_match"] == 1 for sample in samples[method]] for method in methods}
    page.locator("#verdict").select_option("some")
    assert count(page) == sum(0 < sum(of) < 3 for of in zip(*right.values(), strict=True)) > 0
