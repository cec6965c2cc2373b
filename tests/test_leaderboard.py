"""The main table: what stands in a line and a cell, what is bold, what is marked, and what the paper states."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from results import MODEL, ones, usage, write_run

from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.report import build, load_paper, statistics, write
from comem_lmms.report.columns import ask_different_questions
from comem_lmms.scoring import infoseek, oven

SPEC = Path(__file__).parents[2] / "shared/spec/paper_results.json"


def results(table):
    """Cells by method and column."""
    names = [column.name for column in table.columns]
    return {
        line.name: dict(zip(names, cells, strict=True)) for line, cells in zip(table.lines, table.cells, strict=True)
    }


def three(folder, task="okvqa", **options):
    """comem is best, rag not significantly worse, the baseline far behind."""
    write_run(folder / "1", {task: ones(30, 100)}, "baseline", usages=[usage(memory_vectors=0, retrieval="none")] * 100)
    write_run(folder / "2", {task: ones(68, 100)}, "vanilla_rag", **options)
    write_run(folder / "3", {task: ones(70, 100)}, "comem", **options)


def test_value_error_and_order(tmp_path):
    three(tmp_path)
    table = build(tmp_path)
    assert [(line.method, line.model, line.knowledge) for line in table.lines] == [
        ("baseline", MODEL, "-"),
        ("vanilla_rag", MODEL, "clip, k=3"),
        ("comem", MODEL, "clip, k=3"),
    ]
    cell = results(table)["comem"]["okvqa"]
    assert cell.value == pytest.approx(70)
    assert cell.stderr == pytest.approx(100 * (0.7 * 0.3 / 99) ** 0.5)
    assert [column.name for column in table.columns] == ["okvqa"]  # an average of one benchmark would be the same


def test_bold_is_the_best_and_what_is_not_significantly_worse(tmp_path):
    three(tmp_path)
    found = results(build(tmp_path))
    assert [found[method]["okvqa"].best for method in ("baseline", "vanilla_rag", "comem")] == [False, True, True]


def test_holm_makes_bold_more_generous(tmp_path):
    """p = 0.03 each against the best: worse alone, not among four comparisons."""
    write_run(tmp_path / "0", {"okvqa": ones(60, 100)}, "comem")
    for number in range(1, 5):
        write_run(
            tmp_path / str(number),
            {"okvqa": ones(54, 100)},
            "vanilla_rag",
            arguments=f"pretrained={MODEL},top_k={number}",
        )
    assert statistics.mcnemar(*(statistics.Sample([np.array(ones(n, 100))]) for n in (60, 54))) == pytest.approx(
        0.03125
    )
    assert all(cells[0].best for cells in build(tmp_path).cells)
    for number in range(2, 5):
        next((tmp_path / str(number)).glob("*_results.json")).unlink()
    assert [cells[0].best for cells in build(tmp_path).cells] == [False, True]


def test_controls_are_never_the_best(tmp_path):
    three(tmp_path)
    write_run(tmp_path / "4", {"okvqa": ones(99, 100)}, "comem", arguments=f"pretrained={MODEL},retrieval=oracle")
    *others, control = build(tmp_path).cells
    assert (control[0].value, control[0].best) == (99, False)
    assert [cells[0].best for cells in others] == [False, True, True]


def test_less_can_be_better(tmp_path):
    for number, (method, wrong) in enumerate([("baseline", 60), ("comem", 5)]):
        write_run(
            tmp_path / str(number),
            {"okvqa": {"official": ones(9, 99), "unparsed": ones(wrong, 99)}},
            method,
            lower=["unparsed"],
        )
    found = results(build(tmp_path, "unparsed"))
    assert (found["baseline"]["okvqa"].best, found["comem"]["okvqa"].best) == (False, True)


def test_difference_to_the_baseline_of_the_same_model(tmp_path):
    three(tmp_path)
    write_run(tmp_path / "4", {"okvqa": ones(10, 100)}, "baseline", arguments="pretrained=other")
    write_run(tmp_path / "5", {"okvqa": ones(20, 100)}, "comem", arguments="pretrained=alone/only")
    table = build(tmp_path, baseline="baseline")
    by_model = {
        (line.method, line.model): cells[0].difference for line, cells in zip(table.lines, table.cells, strict=True)
    }
    found = by_model["comem", MODEL]
    there = statistics.compare(*(statistics.Sample([np.array(ones(n, 100))]) for n in (70, 30)))
    assert tuple(found) == pytest.approx((100 * there.value, 100 * there.low, 100 * there.high, there.p))
    assert by_model["baseline", MODEL] is None
    assert by_model["comem", "alone/only"] is None
    with pytest.raises(
        UserError, match="--baseline rag is no method of these results; there are baseline, vanilla_rag, comem"
    ):
        build(tmp_path, baseline="rag")


def test_without_answers_there_is_a_difference_but_no_test(tmp_path):
    three(tmp_path, log=False)
    found = results(build(tmp_path, baseline="baseline"))
    assert found["comem"]["okvqa"].difference[1:] == (None, None, None)
    assert [found[method]["okvqa"].best for method in ("vanilla_rag", "comem")] == [False, True]


def test_average_over_what_all_lines_share(tmp_path):
    write_run(tmp_path / "1", {"okvqa": ones(30, 100), "viquae": ones(10, 50)}, "baseline")
    write_run(tmp_path / "2", {"okvqa": ones(60, 100), "viquae": ones(20, 50), "mrag_bench": ones(5, 10)}, "comem")
    table = build(tmp_path, baseline="baseline")
    assert [column.name for column in table.columns] == ["average", "mrag_bench", "okvqa", "viquae"]
    found = results(table)
    cell, parts = found["comem"]["average"], [found["comem"][task] for task in ("okvqa", "viquae")]
    assert cell.value == pytest.approx(50)
    assert cell.stderr == pytest.approx(np.hypot(*(part.stderr for part in parts)) / 2)
    assert cell.difference.value == pytest.approx(25)
    assert cell.best
    assert not found["baseline"]["average"].best
    assert found["baseline"]["mrag_bench"].value is None
    assert "The average is over okvqa, viquae, which all lines share." in table.remarks


def test_there_is_no_average_where_nothing_is_shared(tmp_path):
    write_run(tmp_path / "1", {"okvqa": ones(30, 100)}, "baseline")
    write_run(tmp_path / "2", {"viquae": ones(20, 50)}, "comem")
    table = build(tmp_path)
    assert [column.name for column in table.columns] == ["okvqa", "viquae"]
    assert any("no average" in remark for remark in table.remarks)


def test_tasks_of_the_same_questions_have_an_average_without_an_error(tmp_path):
    for method, right in (("baseline", 20), ("comem", 40)):
        write_run(tmp_path / method, {"infoseek_es": ones(right, 50), "infoseek_zh": ones(right, 50)}, method)
    cell = results(build(tmp_path, baseline="baseline"))["comem"]["average"]
    assert (cell.value, cell.stderr, cell.difference.low) == (80, None, None)


@pytest.mark.parametrize(
    ("tasks", "different"),
    [
        (["okvqa", "viquae", "mrag_bench"], True),
        (["infoseek_paper_unseen_question", "infoseek_paper_unseen_entity", "oven_query", "oven_entity"], True),
        (["cvqa_spanish_spain", "cvqa_chinese_china"], True),
        (["cvqa", "cvqa_chinese_china"], False),
        (["infoseek_es", "infoseek_bg"], False),
        (["infoseek_paper", "infoseek_paper_unseen_entity"], False),
        (["infoseek_unseen_question", "infoseek_paper_unseen_question"], False),
        (["aokvqa_da", "aokvqa_mc"], False),
    ],
)
def test_which_tasks_ask_different_questions(tasks, different):
    assert ask_different_questions(tasks) is different


def combined(random, lift):
    """InfoSeek's, OVEN's and CVQA's items, with the values that the tasks make of them."""
    score = lambda: float(random.random() < lift)  # noqa: E731
    seek = [["val_unseen_question" if n < 40 else "val_unseen_entity", "String", score()] for n in range(100)]
    link = [
        [f"{part}_val_{split}", score()]
        for part in ("query", "entity")
        for split in ("seen", "unseen")
        for _ in range(30)
    ]
    subsets = [[name, score()] for name in ("spanish_spain", "chinese_china") for _ in range(20)]
    return {
        "infoseek": {
            "official": (infoseek.final([infoseek.Scored(*row) for row in seek]).value, seek),
            "official_unseen_question": [row[2] if n < 40 else None for n, row in enumerate(seek)],
        },
        "oven": {"official": (oven.final_estimate(link).value, link)},
        "oven_query": {"official": (oven.part_estimate(link[:60]).value, link[:60])},
        "cvqa": {
            "official": (
                float(np.mean([np.mean([r[1] for r in subsets[:20]]), np.mean([r[1] for r in subsets[20:]])])),
                subsets,
            )
        },
    }


def test_results_that_are_no_means_are_compared_too(tmp_path):
    random = np.random.default_rng(0)
    write_run(tmp_path / "1", combined(random, 0.3), "baseline", stderr=0.02)
    write_run(tmp_path / "2", combined(random, 0.7), "comem", stderr=0.02)
    found = results(build(tmp_path, baseline="baseline"))
    for task in ("infoseek", "infoseek unseen_question", "oven", "oven_query", "cvqa"):
        cell = found["comem"][task]
        assert cell.difference.low < cell.difference.value < cell.difference.high, task
        assert cell.difference.p < 0.05
        assert (cell.best, found["baseline"][task].best) == (True, False)


def test_a_metric_that_is_no_fraction_is_stated_as_it_is(tmp_path):
    for method, more in (("baseline", 0), ("comem", 20)):
        points = {"mme": [100.0 + more] * 9, "okvqa": ones(1 + more // 20, 10), "viquae": ones(5, 10)}
        write_run(tmp_path / method, points, method)
    table = build(tmp_path, baseline="baseline")
    found = results(table)["comem"]
    assert (found["mme"].value, found["mme"].difference[:3]) == (120, (20, 20, 20))
    assert found["average"].value == 35
    assert "not in percent: mme" in write(table, "md")


def test_a_metric_whose_items_do_not_give_its_value_is_not_tested(tmp_path):
    for method, value in (("baseline", 0.2), ("comem", 0.9)):
        write_run(tmp_path / method, {"foreign": {"official": (value, ones(5, 10))}}, method)
    assert results(build(tmp_path, baseline="baseline"))["comem"]["foreign"].difference[1:] == (None, None, None)


def test_parts_that_a_result_is_made_of_are_told_from_others(tmp_path):
    write_run(
        tmp_path / "1",
        combined(np.random.default_rng(0), 0.5)
        | {"mrag_bench": {"official": ones(5, 10), "official_angle": ones(2, 10)}},
    )
    made_of = {column.name: column.is_made_of for column in build(tmp_path).columns}
    assert (made_of["infoseek unseen_question"], made_of["mrag_bench angle"], made_of["mrag_bench"]) == (
        True,
        False,
        True,
    )


def test_columns_are_in_the_papers_order(tmp_path):
    infoseek = ["infoseek_unseen_question", "infoseek_unseen_entity"]
    tasks = [*infoseek, "oven_query", "oven_entity", "mrag_bench", "okvqa", "aokvqa_da", "viquae", "cvqa", "a", "z"]
    write_run(tmp_path, {task: ones(1, 3) for task in reversed(tasks)})
    assert [column.task for column in build(tmp_path).columns[1:]] == tasks


def test_the_newest_run_wins_and_older_ones_are_listed(tmp_path):
    write_run(tmp_path / "a", {"okvqa": ones(10, 20), "viquae": ones(5, 20)}, date="20260102_000000")
    write_run(
        tmp_path / "b", {"okvqa": ones(18, 20)}, date="20260103_000000", arguments=f"batch_size=8,pretrained={MODEL}"
    )
    write_run(tmp_path / "c", {"okvqa": ones(1, 20)}, date="20260101_000000")
    table = build([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    ((cell, *_),) = [[c[name] for name in ("okvqa", "viquae")] for c in results(table).values()]
    assert cell.value == 90
    assert [(Path(run.path).parent.name, run.task) for run in table.older] == [("c", "okvqa"), ("a", "okvqa")]


def test_lines_that_would_be_called_the_same_are_told_apart_by_their_arguments(tmp_path):
    for number, more in enumerate(("memory_encoder=one", "memory_encoder=two", "memory_encoder=two,top_k=5", "")):
        write_run(
            tmp_path / str(number), {"okvqa": ones(5, 10)}, arguments=f"pretrained={MODEL},clip_pretrained=x,{more}"
        )
    assert [(line.name, line.k) for line in build(tmp_path).lines] == [
        ("comem", 3),
        ("comem memory_encoder=one", 3),
        ("comem memory_encoder=two", 3),
        ("comem", 5),
    ]


@pytest.mark.parametrize(
    ("method", "arguments", "model"),
    [
        ("comem", "", "micro"),
        ("comem", "pretrained=a/b,memory_encoder=c", "a/b"),
        ("comem", "pretrained=a/b,reader=c/d", "c/d"),
        ("vanilla_rag", "clip_pretrained=x,base=openai,model_version=gpt", "gpt"),
        ("vanilla_rag", "base=openai", "openai"),
        ("qwen2_5_vl", "pretrained=a/b", "a/b"),
        ("llava", "", "llava"),
    ],
)
def test_the_model_is_what_answers(tmp_path, method, arguments, model):
    write_run(tmp_path, {"okvqa": ones(5, 10)}, method, arguments=arguments)
    assert build(tmp_path).lines[0].model == model


def marked(table, method="comem", column=0):
    """The notes on a line's cell."""
    place = next(place for place, line in enumerate(table.lines) if line.method == method)
    return [table.notes[mark] for mark in table.cells[place][column].marks]


def test_other_documents_are_marked_and_take_no_part(tmp_path):
    three(tmp_path)
    write_run(tmp_path / "4", {"okvqa": ones(10, 10)}, "llava", documents=100, limit=10)
    table = build(tmp_path, baseline="llava")
    assert marked(table, "llava") == ["okvqa: 10 of 100 questions (--limit 10), other than most lines here"]
    found = results(table)
    assert (found["llava"]["okvqa"].best, found["comem"]["okvqa"].best) == (False, True)
    assert not marked(table)


def test_a_run_on_a_few_questions_replaces_none_and_takes_no_average(tmp_path):
    for method in ("baseline", "comem"):
        write_run(tmp_path / method, {"okvqa": ones(60, 100), "viquae": ones(20, 50)}, method)
    write_run(tmp_path / "try", {"okvqa": ones(3, 4)}, documents=100, limit=4, date="20260201_000000")
    table = build(tmp_path)
    assert [line.name for line in table.lines] == ["baseline", "comem", "comem --limit=4"]
    assert [cells[0].value for cells in table.cells] == [50, 50, None]
    assert table.older == []
    assert [cost.asked for cost in table.costs] == [150, 150, 4]


def test_other_questions_of_the_same_number_are_noticed(tmp_path):
    three(tmp_path)
    write_run(tmp_path / "4", {"okvqa": ones(10, 100)}, "llava", targets=[f"other {n}" for n in range(100)])
    assert marked(build(tmp_path), "llava") == ["okvqa: 100 questions, other than most lines here"]


def test_a_limit_that_all_share_is_said_once(tmp_path):
    for method in ("baseline", "comem"):
        write_run(tmp_path / method, {"okvqa": ones(10, 20)}, method, documents=5046, limit=20)
    table = build(tmp_path)
    assert [table.notes[mark] for mark in table.columns[0].marks] == ["okvqa: 20 of 5,046 questions (--limit 20)"]
    assert not marked(table)


def test_other_knowledge_prompts_and_generation_are_marked(tmp_path):
    three(tmp_path, prompt="paper_knowledge")
    other = [usage(fingerprints={"knowledge": "kb2"})] * 100
    write_run(
        tmp_path / "4",
        {"okvqa": ones(70, 100)},
        "llava",
        usages=other,
        prompt="short",
        generation={"max_new_tokens": 16},
    )
    table = build(tmp_path)
    assert marked(table, "llava") == [
        "okvqa: knowledge base kb2, most lines here kb1",
        "okvqa: prompts short, most lines here paper",
        'okvqa: generation {"max_new_tokens": 16}, most lines here {"max_new_tokens": 1000}',
    ]
    assert not marked(table)
    assert results(table)["llava"]["okvqa"].best  # on the same questions it can be compared


def test_costs_are_of_the_benchmarks_that_all_share(tmp_path):
    write_run(tmp_path / "1", {"okvqa": ones(1, 2)}, "baseline", usages=[usage(), usage(input_tokens=60)])
    write_run(tmp_path / "2", {"okvqa": ones(1, 2), "viquae": ones(1, 2)}, "comem", usages=[usage(), {}])
    write_run(tmp_path / "3", {"okvqa": ones(1, 2)}, "llava", usages=[{"output_tokens": 7}] * 2)
    baseline, comem, foreign = build(tmp_path).costs
    assert baseline.prompt_tokens == 50
    assert (comem.told, comem.asked) == (1, 2)
    assert (comem.memory_vectors, comem.output_tokens, comem.retrieve, comem.encode) == (24, 5, 0.1, 0.2)
    assert comem.questions_per_second == pytest.approx(2)
    assert (foreign.output_tokens, foreign.prompt_tokens, foreign.answer, foreign.questions_per_second) == (
        7,
        None,
        None,
        None,
    )


def test_time_to_the_first_token_memory_and_the_bank_have_columns_where_a_line_tells_them(tmp_path):
    write_run(tmp_path / "1", {"okvqa": ones(1, 2)}, "baseline")
    assert "questions / s |\n" in write(build(tmp_path), "md")
    told = [usage(first_token=0.5, bank_bytes=2**20), usage(first_token=0.7, peak_memory=3 * 2**30)]
    write_run(tmp_path / "2", {"okvqa": ones(1, 2)}, "comem", usages=told)
    table = build(tmp_path)
    assert table.costs[1].first_token == pytest.approx(0.6)
    assert (table.costs[1].peak_memory, table.costs[1].bank_bytes) == (3 * 2**30, 2**20)
    head, _, *lines = write(table, "md").split("Costs of a question\n\n")[1].splitlines()
    assert [cell.strip() for cell in head.split("|")[-4:-1]] == ["s to first token", "peak GPU GiB", "bank MiB"]
    assert [[cell.strip() for cell in line.split("|")[-4:-1]] for line in lines] == [
        ["-", "-", "-"],
        ["0.600", "3.00", "1.0"],
    ]


def test_provenance(tmp_path, capsys):
    write_run(tmp_path, {"okvqa": ones(5, 10)}, arguments=f"pretrained={MODEL},revision=abc123")
    (line,) = build(tmp_path).lines
    assert line.told("fingerprints") == {"knowledge": ["kb1"], "vlm": ["vlm1"]}
    assert line.told("versions") == {"torch": ["2.9"]}
    assert main(["report", str(tmp_path), "--verbose"]) == 0
    out = capsys.readouterr().out
    for told in (
        "revision: abc123",
        "knowledge: kb1",
        "versions: torch=2.9",
        "10 questions; prompts paper",
        "lmms-eval 0.7.3",
    ):
        assert told in out.replace("\\", ""), told


def test_the_papers_numbers_stand_beside_ours(tmp_path):
    scores = {
        "okvqa": {"official": ones(4, 10), "paper": ones(6, 10)},
        "viquae": {"official": ones(4, 10), "paper": ones(3, 10)},
    }
    write_run(tmp_path / "1", scores, "comem")
    write_run(tmp_path / "2", scores, "comem", arguments=f"pretrained={MODEL},retrieval=wrong")
    write_run(tmp_path / "3", scores, "comem", arguments="pretrained=/models/Qwen2-VL-7B-Instruct")
    write_run(tmp_path / "4", scores, "comem", arguments="pretrained=another")
    table = build(tmp_path, "paper", paper=load_paper())
    stated = {
        (line.model, line.retrieval): [cell.paper for cell in cells]
        for line, cells in zip(table.lines, table.cells, strict=True)
    }
    assert stated[MODEL, "clip"] == [pytest.approx((57.7 + 36.3) / 2), 57.7, 36.3]
    assert stated["/models/Qwen2-VL-7B-Instruct", "clip"][1] == 57.7
    assert stated[MODEL, "wrong"] == stated["another", "clip"] == [None, None, None]
    assert any("4.6" in remark for remark in table.remarks)


def test_the_papers_numbers_are_entered_right():
    if not SPEC.exists():
        pytest.skip(f"{SPEC} is not here")
    there, paper = json.loads(SPEC.read_text()), load_paper()
    english = {
        "infoseek_unseen_question": "infoseek_paper_unseen_question",
        "infoseek_unseen_entity": "infoseek_paper_unseen_entity",
        "oven_query": "oven_paper_query",
        "oven_entity": "oven_paper_entity",
        "aokvqa": "aokvqa_da",
        "infoseek_all": "infoseek_paper",
        "oven_all": "oven_paper",
    }
    subsets = {
        "zh": "chinese_china",
        "ru": "russian_russia",
        "es": "spanish_spain",
        "pt": "portuguese_brazil",
        "bg": "bulgarian_bulgaria",
    }
    checked = 0
    for row in [*there["main"], *there["multilingual"], *there["text_llm_reader"]]:
        language = row.get("language")
        for column, value in row.items():
            if column in ("model", "method", "average", "language"):
                continue
            ours = english.get(column, column)
            if language:
                ours = {"infoseek_all": f"infoseek_{language}", "cvqa": f"cvqa_{subsets[language]}"}.get(
                    column, column.replace("infoseek_", f"infoseek_{language} ")
                )
            assert paper.values.get((row["model"], row["method"], ours)) == value, (row["model"], column)
            checked += value is not None
    assert checked == 146 + 120 + 18


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no folder"),
        ("", "no results of lmms-eval"),
        ('{"results": {', "cannot read"),
        ("[1]", "holds a list"),
        (
            '{"results": {"okvqa": {"acc,none": 1}}, "config": {"model": "x"}, "versions": {}}',
            "lacks 'configs': not a result file",
        ),
        ('{"results": {"a": {}}, "configs": {"a": {}}, "config": {}, "n-samples": {}}', "lacks 'a': not a result file"),
    ],
)
def test_bad_results_are_one_line(tmp_path, capsys, content, said):
    folder = tmp_path / "results"
    if content is not None:
        folder.mkdir()
        if content:
            (folder / "20260101_000000_results.json").write_text(content)
    assert main(["report", str(folder), "--format", "json"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text + "17\n", lambda text: text + "\x00\n"])
def test_a_damaged_sample_log_is_one_line(tmp_path, capsys, damage):
    three(tmp_path)
    log = next(tmp_path.rglob("*_samples_*.jsonl"))
    log.write_text(damage(log.read_text()))
    assert main(["report", str(tmp_path), "--format", "csv"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"_samples_okvqa.jsonl (is cut off or damaged|holds lines)", error)
    assert error.count("\n") == 1


def test_thousands_of_runs(tmp_path):
    """Only the newest one's answers are read."""
    for number in range(2000):
        write_run(tmp_path / str(number % 7), {"okvqa": ones(5, 10)}, date=f"20260101_{number:06d}", log=False)
    write_run(tmp_path, {"okvqa": ones(9, 10)}, date="20260102_000000")
    table = build(tmp_path)
    assert (table.cells[0][0].value, len(table.older)) == (90, 2000)
