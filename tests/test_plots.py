"""The report's plots: what they show is what the results say, what cannot be drawn is said, and files are the same."""

import builtins
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import readme
from matplotlib import __version__ as matplotlib_version
from matplotlib.testing.compare import compare_images
from PIL import Image
from results import MODEL, ones, usage, write_run

from comem_lmms.cli import main
from comem_lmms.report import build
from comem_lmms.report.drawing import COLOURS, MARKERS, digest, draw
from comem_lmms.report.figures import Figure, Point, Series, figures

METHODS = (("baseline", 30), ("vanilla_rag", 60), ("comem", 70))
HOSTILE = r"""_a $b$ \frac{1}{0} <script>alert(1)</script> & "c" ^d %e #f {g} ~ 中"""
SVG = "{http://www.w3.org/2000/svg}"


def three(folder, tasks=("okvqa",), of=100, **options):
    for method, right in METHODS:
        write_run(folder / method, {task: ones(right, of) for task in tasks}, method, **options)


def by_name(found):
    return {figure.name: figure for figure in found.drawn}


def points(figure):
    """By label."""
    return {series.label: series.points for series in figure.series}


def test_accuracy_against_what_is_read_and_against_seconds(tmp_path):
    three(tmp_path, usages=[usage(input_tokens=100)] * 100)
    table = build(tmp_path)
    found = by_name(figures(table))
    (point,) = points(found["accuracy-tokens"])["comem"]
    assert (point.x, point.y, point.error) == (124, 70, pytest.approx(table.cells[2][0].stderr))
    (point,) = points(found["accuracy-seconds"])["vanilla_rag"]
    assert (point.x, point.y) == (pytest.approx(0.5), 60)
    assert found["accuracy-tokens"].y == "okvqa, official, %"


def test_of_several_benchmarks_it_is_the_average(tmp_path):
    three(tmp_path, ("okvqa", "viquae"))
    assert by_name(figures(build(tmp_path)))["accuracy-tokens"].y == "average, %"
    write_run(tmp_path / "other", {"mrag_bench": ones(1, 2)}, "llava")
    found = figures(build(tmp_path))
    reason = "there is no average over the benchmarks"
    assert {f"accuracy-{kind}: {reason}" for kind in ("tokens", "seconds", "k")} <= set(found.left_out)


def test_labels_say_what_tells_lines_apart(tmp_path):
    three(tmp_path)
    named = [series.label for series in by_name(figures(build(tmp_path)))["accuracy-tokens"].series]
    assert named == ["baseline", "vanilla_rag", "comem"]
    write_run(tmp_path / "4", {"okvqa": ones(5, 100)}, "comem", arguments="pretrained=a/b,top_k=7,retrieval=oracle")
    figure = by_name(figures(build(tmp_path)))["accuracy-tokens"]
    assert [(series.label, series.is_control) for series in figure.series] == [
        (f"baseline, {MODEL}", False),
        (f"vanilla_rag, {MODEL}, clip, k=3", False),
        (f"comem, {MODEL}, clip, k=3", False),
        ("comem, a/b, oracle, k=7", True),
    ]


def by_k(folder):
    for k in (1, 5, 3):
        for method, right in METHODS[1:]:
            arguments = f"pretrained={MODEL},top_k={k},batch_size={k}"
            write_run(folder / f"{method}{k}", {"okvqa": ones(right + 2 * k, 100)}, method, arguments=arguments)
    write_run(folder / "baseline", {"okvqa": ones(30, 100)}, "baseline", usages=[usage(retrieval="none")] * 100)
    more = f"pretrained={MODEL},top_k=3,memory_encoder=other"
    write_run(folder / "else", {"okvqa": ones(50, 100)}, "comem", arguments=more)


def test_lines_that_differ_in_k_only_are_one_curve(tmp_path):
    by_k(tmp_path)
    found = by_name(figures(build(tmp_path)))
    assert {label: [(p.x, p.y) for p in own] for label, own in points(found["accuracy-k"]).items()} == {
        "baseline": [(0, 30)],
        "vanilla_rag": [(1, 62), (3, 66), (5, 70)],
        "comem": [(1, 72), (3, 76), (5, 80)],
    }
    assert [p.text for p in points(found["accuracy-tokens"])["vanilla_rag"]] == ["k=1", "k=3", "k=5"]
    assert len(found["accuracy-tokens"].series) == 4


def test_a_result_on_other_documents_is_in_no_plot_and_named(tmp_path):
    """By all that are of one task; a line that differs in k makes each of them possible."""
    ids = ["item 0", "item 1"]
    for method, k, n, options in (
        ("vanilla_rag", 1, 100, {}),
        ("vanilla_rag", 2, 100, {}),
        ("comem", 1, 100, {}),
        ("comem", 2, 4, {"limit": 4, "documents": 100}),
        ("baseline", 0, 4, {"limit": 4, "documents": 100}),
    ):
        scores = {"official": ones(n // 2, n), "official_a": ones(n // 2, n), "official_b": ones(n // 4, n)}
        usages = [usage(retrieved=ids, gold=f"item {number % 2}") for number in range(n)]
        arguments = f"pretrained={MODEL}" + (f",top_k={k}" if k else "")
        if method == "baseline":
            usages = [usage(retrieval="none", retrieved=[])] * n
        write_run(tmp_path / f"{method}{k}", {"okvqa": scores}, method, arguments=arguments, usages=usages, **options)
    table = build(tmp_path)
    found = figures(table)
    assert {"accuracy-tokens", "accuracy-seconds", "accuracy-k", "parts-okvqa", "rank-okvqa"} == by_name(found).keys()
    shown = {place for figure in found.drawn for place in (series.place for series in figure.series)}
    assert {(table.lines[place].method, table.lines[place].k) for place in shown} == {
        ("vanilla_rag", 1),
        ("vanilla_rag", 2),
        ("comem", 1),
    }
    assert [len(series.points) for series in by_name(found)["accuracy-k"].series] == [2]
    assert found.left_out[:2] == [
        "baseline on okvqa: 4 of 100 questions (--limit 4), other than most lines",
        "comem, k=2 on okvqa: 4 of 100 questions (--limit 4), other than most lines",
    ]


def languages(folder):
    tasks = {"infoseek_paper": 0, "infoseek_es": 4, "infoseek_zh": 9}
    for method, right in METHODS:
        scores = {task: ones(right - less, 100) for task, less in tasks.items()}
        cvqa = {"official": ones(right, 100), "official_micro": ones(right, 100)}
        cvqa |= {
            f"official_{subset}": ones(right // 2 + n, 100)
            for n, subset in enumerate(("spanish_chile", "irish_ireland"))
        }
        write_run(folder / method, {**scores, "cvqa": cvqa}, method)


def test_languages(tmp_path):
    languages(tmp_path)
    found = by_name(figures(build(tmp_path)))
    assert found["language-infoseek"].categories == ["English", "Spanish", "Chinese"]
    assert [p.y for p in points(found["language-infoseek"])["comem"]] == [70, 66, 61]
    assert found["language-cvqa"].categories == ["Spanish Chile", "Irish Ireland"]
    assert "parts-cvqa" not in found


def test_a_subset_of_several_cvqa_tasks_is_in_the_figure_of_each(tmp_path):
    """With a different result in each."""
    tasks = {
        task: {
            "official": ones(of_all, 100),
            "official_micro": ones(of_all, 100),
            "official_spanish_chile": ones(of_all + 1, 100),
            "official_irish_ireland": ones(of_all + 2, 100),
        }
        for task, of_all in (("cvqa", 10), ("cvqa_all", 20))
    }
    tasks |= {"cvqa_spanish_chile": ones(31, 100), "cvqa_irish_ireland": ones(32, 100)}
    write_run(tmp_path, tasks)
    found = by_name(figures(build(tmp_path)))
    shown = {
        name: dict(zip(figure.categories, [p.y for p in figure.series[0].points], strict=True))
        for name, figure in found.items()
        if name.startswith("language-")
    }
    assert shown == {
        "language-cvqa": {"Spanish Chile": 11, "Irish Ireland": 12},
        "language-cvqa_all": {"Spanish Chile": 21, "Irish Ireland": 22},
        "language-cvqa_subsets": {"Irish Ireland": 32, "Spanish Chile": 31},
    }


def test_parts_are_those_that_questions_are_divided_into(tmp_path):
    parts = ("number", "string", "string_long", "micro", "translated", "translated_number")
    for method, right in METHODS:
        scores = {"official": ones(right, 100), **{f"official_{part}": ones(right // 2, 100) for part in parts}}
        write_run(tmp_path / method, {"infoseek": scores}, method)
    (figure,) = [figure for figure in figures(build(tmp_path)).drawn if figure.kind == "rows"]
    assert (figure.name, figure.categories, figure.x) == ("parts-infoseek", ["number", "string"], "official, %")


def ranked(folder, k=5):
    """The first twenty questions have the right item first, the next second, and so on; the last ten lack it."""
    ids = [f"item {n}" for n in range(k)]
    usages = [usage(retrieved=ids, gold=f"item {n // 20}") for n in range(20 * k + 10)]
    for method, right in METHODS[1:]:
        write_run(folder / method, {"okvqa": ones(right, 20 * k + 10)}, method, usages=usages)
    write_run(folder / "baseline", {"okvqa": ones(9, 20 * k + 10)}, "baseline", usages=[usage(retrieved=[])] * 110)


def test_rank_of_the_right_item_against_right_answers(tmp_path):
    ranked(tmp_path)
    figure = by_name(figures(build(tmp_path)))["rank-okvqa"]
    assert figure.categories == ["1", "2", "3", "4-5", "not found"]
    assert figure.x == "rank of the right item"
    assert [(p.x, p.y) for p in points(figure)["comem"]] == [(0, 100), (1, 100), (2, 100), (3, 25), (4, 0)]
    scores = np.array([1.0] * 10 + [0.0] * 30)
    assert points(figure)["comem"][3].error == pytest.approx(100 * scores.std(ddof=1) / 40**0.5)
    assert "baseline" not in points(figure)


def test_what_is_not_drawn_is_said_with_its_reason(tmp_path):
    three(tmp_path, log=False)
    found = figures(build(tmp_path))
    assert found.drawn == []
    assert found.left_out == [
        "accuracy-tokens: no answer tells its prompt tokens and memory vectors (--log_samples)",
        "accuracy-seconds: no answer tells its seconds (--log_samples)",
        "accuracy-k: no two lines differ in k alone",
        "language: no benchmark was asked in two languages",
        "parts: no benchmark states parts of its result, such as types of question",
        "rank-okvqa: no answer tells the rank of a right item; --support may find one",
    ]


def test_figures_are_kept_as_json(tmp_path):
    ranked(tmp_path)
    languages(tmp_path)
    found = figures(build(tmp_path)).drawn
    assert [Figure.from_json(json.loads(json.dumps(figure.as_json()))) for figure in found] == found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Every kind of plot, drawn twice, of hostile names."""
    folder = tmp_path_factory.mktemp("plots")
    for number, fill in enumerate((by_k, languages, ranked)):
        fill(folder / str(number))
    found = [figure for number in range(3) for figure in figures(build(folder / str(number))).drawn]
    series = [Series(f"{HOSTILE} {place}", place, place > 5, [Point(0.1 + place, 50, 3)]) for place in range(9)]
    found.append(Figure("hostile", HOSTILE, HOSTILE, HOSTILE, "numbers", series))
    draw(found, folder / "one")
    draw(found, folder / "two")
    return folder


def test_files_are_the_same_each_time(drawn):
    names = sorted(path.name for path in (drawn / "one").iterdir())
    kinds = {"accuracy-k", "accuracy-seconds", "accuracy-tokens", "hostile", "language-cvqa", "language-infoseek"}
    assert {*kinds, "rank-okvqa"} <= {name.partition(".")[0] for name in names}
    for name in names:
        assert (drawn / "one" / name).read_bytes() == (drawn / "two" / name).read_bytes(), name


def test_text_in_svg_stays_text_and_its_font_is_in_it(drawn):
    text = (drawn / "one/accuracy-k.svg").read_text()
    tree = ElementTree.fromstring(text)
    said = {"".join(element.itertext()).strip() for element in tree.iter(f"{SVG}text")}
    assert {"items a question, k", "okvqa, official, %", "vanilla_rag", "baseline", "3"} <= said
    assert re.search(r"@font-face\{font-family:\"DejaVu Sans\";src:url\(data:font/woff;base64,\w", text)
    assert not re.search(r"dc:date|matplotlib\.org|http://(?!www\.w3\.org|purl|creativecommons)", text)


def test_hostile_names_stay_text(drawn):
    tree = ElementTree.parse(drawn / "one/hostile.svg")
    assert not list(tree.iter(f"{SVG}script"))
    said = " ".join("".join(element.itertext()) for element in tree.iter(f"{SVG}text"))
    assert r"\frac{1}{0}" in said
    assert "$b$" in said


def test_pictures_are_sharp_enough_for_print_and_not_empty(drawn):
    for path in (drawn / "one").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            pixels = np.asarray(picture.convert("L"))
            assert picture.width >= 1280
        assert (pixels < 250).mean() > 0.01
        assert (pixels[:, [0, -1]] == 255).all(), path  # nothing is cut off at a side
        assert (pixels[[0, -1]] == 255).all(), path


def test_plots_in_documents_are_of_the_measured_results(tmp_path):
    found = readme.shown()
    assert [figure.name for figure in found] == list(readme.SHOWN)
    texts = [(readme.ROOT / name).read_text() for name in ("README.md", "docs/report.md")]
    for figure, path in zip(found, draw(found, tmp_path, ["png"]), strict=True):
        committed = readme.PLOTS / path.name
        assert any(f"plots/{path.name})" in text for text in texts)
        with Image.open(committed) as picture:
            assert picture.info["Description"] == digest(figure), "run benchmarks/readme.py"
            same_version = f"version{matplotlib_version}," in picture.info["Software"]
        if same_version:
            assert compare_images(str(committed), str(path), tol=3) is None, "run benchmarks/readme.py"


def luminance(colour):
    """By WCAG."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4)
        for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def test_series_differ_in_colour_and_marker_and_colours_show_on_white():
    looks = {(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]) for place in range(56)}
    assert len(looks) == 56
    assert all(1.05 / (luminance(colour) + 0.05) > 2 for colour in COLOURS)


def test_the_command_says_what_it_wrote_and_what_not(tmp_path, capsys):
    three(tmp_path / "results")
    assert main(["report", str(tmp_path / "results"), "--plots", str(tmp_path / "new/plots"), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["format"] == 1
    assert f"wrote {tmp_path}/new/plots/accuracy-tokens.svg\n" in err
    assert "not drawn: accuracy-k: no two lines differ in k alone\n" in err
    assert {path.name for path in (tmp_path / "new/plots").iterdir()} == {
        f"accuracy-{what}.{kind}" for what in ("tokens", "seconds") for kind in ("png", "svg")
    }


def test_a_folder_that_cannot_be_written_to_and_no_matplotlib_are_one_line(tmp_path, capsys, monkeypatch):
    three(tmp_path / "results")
    (tmp_path / "file").write_text("")
    assert main(["report", str(tmp_path / "results"), "--plots", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert f"cannot write plots to {tmp_path}/file (File exists)" in error
    assert error.count("\n") == 1
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["report", str(tmp_path / "results"), "--plots", str(tmp_path / "plots")]) == 2
    error = capsys.readouterr().err
    assert 'matplotlib, which is not installed; pip install "comem-lmms[plots]"' in error
    assert error.count("\n") == 1
