"""Every benchmark goes through lmms-eval: its documents, prompts, metrics and their standard errors."""

import itertools
import json
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import stdev

import benchmark_data
import pytest
from helpers import Recorder, Scripted, evaluate, register
from hostile import LONG, TEXTS, repeated
from hypothesis import given, settings
from hypothesis import strategies as st

from comem_lmms import data
from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.linking import TitleIndex
from comem_lmms.plugin import task_folder
from comem_lmms.questions import ask
from comem_lmms.report import read_rows
from comem_lmms.report.reading import evaluations, read_answers
from comem_lmms.report.scored import sample_of
from comem_lmms.rescore import rescore
from comem_lmms.runs.facts import declared, facts
from comem_lmms.scoring.extraction import extract

FOLDER = Path(task_folder())
YAMLS = sorted(path for path in FOLDER.rglob("*.yaml") if path.stem != "microseek")
GROUPS = ("aokvqa", "comem_bench", "comem_bench_english", "infoseek_multilingual", "infoseek_overall")
TASKS = tuple(path.stem for path in YAMLS if not path.stem.startswith("_") and path.stem not in GROUPS)
SUBSET_TASKS = tuple(name for name in TASKS if name.startswith("cvqa_") and name != "cvqa_all")
LANGUAGES = {"es": "spanish", "pt": "portuguese", "zh": "chinese", "ru": "russian", "bg": "bulgarian"}


def config(name: str) -> dict:
    """A task's YAML as lmms-eval reads it to run it."""
    from lmms_eval.utils import load_yaml_config

    (path,) = (path for path in YAMLS if path.stem == name)
    return load_yaml_config(str(path), mode="full")


def cvqa_subsets() -> dict[str, str]:
    from comem_lmms.tasks.cvqa.utils import SUBSETS

    return SUBSETS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Made-up data sets and titles, where lmms-eval and the tasks look for them; returns the folder."""
    from lmms_eval.api.task import _resolve_hf_datasets_cache_dir

    folder = tmp_path_factory.mktemp("world")
    benchmark_data.save_prepared(folder / "data")
    (folder / "cache").mkdir()
    benchmark_data.save_downloaded(folder / "cache", list(cvqa_subsets().values()))
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "oslo", "rome", "park"]))
    titles = [
        {"wikidata_id": f"Q{i}", "wikipedia_title": title} for i, title in enumerate(["Oslo", "Rome", "Rome Park"])
    ]
    (folder / "titles.jsonl").write_text("".join(json.dumps(title) + "\n" for title in titles))
    TitleIndex.build(folder / "titles.jsonl", folder / "data/titles", vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMEM_DATA", str(folder / "data"))
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder / "cache"))
        patch.setenv("API_TYPE", "dummy")  # a judge that names no letter
        patch.setattr(data, "verify", lambda rows, name, split: rows)  # the numbers are not the published ones
        _resolve_hf_datasets_cache_dir.cache_clear()
        yield folder
    _resolve_hf_datasets_cache_dir.cache_clear()


def run_scripted(says, *tasks: str, model: str = "scripted", **arguments) -> dict:
    """A run of a model whose answers are known; the name of the model decides which prompts it gets."""
    Scripted.says = staticmethod(says)
    Scripted.asked.clear()
    register("scripted", "chat", "helpers.Scripted")
    return evaluate(model, tasks, task_manager=manager(model), **arguments)


@cache
def manager(model: str):
    """A TaskManager of our tasks alone: reading all of lmms-eval's files takes seconds."""
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=str(FOLDER), include_defaults=False, model_name=model)


def right(task: str, doc: dict) -> str:
    """The right answer, in a box as the paper asks for it."""
    if task.startswith("cvqa"):
        return rf"\boxed{{{doc['Label'] + 1}}}"
    if task.startswith("mrag"):
        return doc["answer_choice"]
    if task.endswith("_mc"):
        return doc["choices"][doc["correct_choice_idx"]]
    if "entity_text" in doc:
        return rf"It is\nReasoning: none\nFinal answer: \boxed{{{doc['entity_text']}}}"
    if "direct_answers" in doc:
        return r"\boxed{racing}"
    return rf"Because. Final answer: \boxed{{{(doc['answers'] if 'answers' in doc else doc['answer'])[0]}}}"


def half_right(task: str, doc: dict) -> str:
    """Right for every other question, by a text of the document that differs from row to row."""
    key = next(str(doc[name]) for name in ("data_id", "question_id", "ID", "id") if name in doc)
    return right(task, doc) if int(key.rsplit("-", 1)[-1]) % 2 == 0 else "no idea at all"


# ---- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_file_loads_from_any_folder(world, path, tmp_path, monkeypatch):
    from lmms_eval.utils import load_yaml_config

    loaded = []
    for folder in (tmp_path, path.parent):
        monkeypatch.chdir(folder)
        loaded.append(load_yaml_config(str(path), mode="full"))
    assert loaded[0].keys() == loaded[1].keys()
    assert load_yaml_config(str(path), mode="simple")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_it_needs(world, name):
    task = config(name)
    assert task["task"] == name
    assert task["generation_kwargs"] == {"until": [], "max_new_tokens": 1000, "do_sample": False, "temperature": 0}
    metrics = [entry["metric"] for entry in task["metric_list"]]
    assert metrics[0] == task["score_key"] == "official"  # what reports take
    assert {"paper", "unparsed"} - set(metrics) == ({"paper"} if name == "evqa_train" else set())
    for entry in task["metric_list"]:
        assert entry["higher_is_better"] is not entry["metric"].endswith(("unparsed", "judged", "_stderr"))


@pytest.mark.parametrize("name", [name for name in TASKS if name not in SUBSET_TASKS[1:]])
def test_every_task_declares_what_retrieval_is_measured_by(world, name):
    """What is declared is in the documents, as text; InfoSeek's documents as published name no entity."""
    (task,) = manager("baseline").load_task_or_group([name], "chat").values()
    fields = declared(name, task.config.metadata)
    columns = {source for key, source in fields.items() if isinstance(source, str) and key != "normalise"}
    lacking = columns - set(task.eval_docs_no_media.column_names)
    assert lacking == ({"entity_text"} if name.startswith("infoseek") else set())
    for doc in task.eval_docs_no_media:
        told = facts(doc, fields)
        if "entity_text" in doc:
            assert told.entity == doc["entity_text"]
        elif doc.get("answer_range"):
            assert set(told.answers) <= {"255 es"}  # a number within a range is no text
        else:
            assert told.answers
            assert all(told.answers)
        if "Subset" in doc:
            assert doc["Subset"].startswith(f"('{told.language}', ")
            assert told.answers == [doc["Options"][doc["Label"]]]


def test_each_subset_of_cvqa_has_a_task():
    subsets = cvqa_subsets()
    assert set(SUBSET_TASKS) == {f"cvqa_{name}" for name in subsets}
    assert len(subsets) == 39
    assert subsets["spanish_spain"] == "('Spanish', 'Spain')"
    assert subsets["korean_south_korea"] == "('Korean', 'South Korea')"


def test_no_name_is_taken_by_lmms_eval():
    from lmms_eval.tasks import TaskManager

    manager = TaskManager()
    for name in (*TASKS, *GROUPS):
        assert Path(manager.task_index[name]["yaml_path"]).is_relative_to(FOLDER), name


# ---- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["baseline", "vanilla_rag", "comem"])
def test_every_benchmark_runs_with_each_method(world, model):
    tasks = [name for name in TASKS if name not in SUBSET_TASKS[1:]]
    results = evaluate(model, tasks, batch_size=1, limit=2, gen_kwargs="max_new_tokens=4")
    for task in tasks:
        scores = results["results"][task]
        assert all(
            0 <= scores[f"{metric},none"] <= 1 for metric in ("official", "unparsed") if scores[f"{metric},none"]
        )
        assert len(results["samples"][task]) == 2 or task == "cvqa_all"


AS_THEY_ARE = ("stderr", "translated", "unparsed", "judged")  # no scores of right answers


def test_right_answers_score_one(world):
    """The paper's metric wants no capitals where a gold has one, and translated golds differ from the English."""
    results = run_scripted(right, *TASKS)["results"]
    for task in TASKS:
        scores = {key.removesuffix(",none"): value for key, value in results[task].items() if key.endswith(",none")}
        assert scores.keys() >= {entry["metric"] for entry in config(task)["metric_list"]}, task
        assert scores["unparsed"] == 0, task
        unreachable = ("paper",) if task in ("viquae", "aokvqa_mc") else ()
        ones = {
            metric: score
            for metric, score in scores.items()
            if metric not in unreachable and not any(word in metric for word in AS_THEY_ARE)
        }
        assert set(ones.values()) == {1}, (task, ones)


def test_harmonic_means_and_their_errors_are_printed_and_saved(world):
    from lmms_eval.utils import make_table

    results = run_scripted(half_right, "infoseek", "oven")
    scores = results["results"]["infoseek"]
    assert scores["official,none"] == 0.5
    one = stdev([1, 0]) / math.sqrt(2)  # of either split; h = 2ab/(a+b) changes by one half with each
    assert scores["official_stderr,none"] == pytest.approx(math.hypot(one / 2, one / 2))
    assert scores["official_unseen_question_stderr,none"] == pytest.approx(one)
    oven = results["results"]["oven"]
    assert oven["official_query_stderr,none"] == pytest.approx(math.hypot(one / 2, one / 2))
    assert oven["official_stderr,none"] == pytest.approx(oven["official_query_stderr,none"] / math.sqrt(2))
    json.dumps(dict(scores), allow_nan=False)
    table = make_table(results)
    rows = {tuple(cell.strip() for cell in line.split("|")[1:5:3]): line for line in table.splitlines()}
    assert f"{scores['official_stderr,none']:.4f}" in rows["infoseek", "official"]
    assert "_stderr" not in table


def test_a_split_without_questions_gives_no_score(world):
    """`--limit` takes the first documents, which are all of one split."""
    scores = run_scripted(right, "infoseek", limit=2)["results"]["infoseek"]
    assert scores["official,none"] is None
    assert scores["official_stderr,none"] == "N/A"
    assert scores["official_unseen_question,none"] == 1


def test_the_group_s_error_is_that_of_an_unweighted_mean(world):
    results = run_scripted(half_right, "comem_bench")["results"]
    english = config("comem_bench_english")["task"]
    assert len(english) == 8
    group = results["comem_bench_english"]
    for metric in ("official", "paper"):
        assert group[f"{metric},none"] == pytest.approx(sum(results[task][f"{metric},none"] for task in english) / 8)
        errors = [results[task][f"{metric}_stderr,none"] for task in english]
        assert group[f"{metric}_stderr,none"] == pytest.approx(math.hypot(*errors) / 8)
    assert {key.split(",")[0] for key in group} == {"official", "official_stderr", "paper", "paper_stderr", "alias"}
    translations = results["infoseek_multilingual"]
    assert translations["official,none"] == 0.5
    assert translations["official_stderr,none"] == "N/A"  # the same questions five times
    assert {metric for one in results.values() for metric in one if metric.startswith("samples")} == set()


def test_the_paper_s_overall_is_over_six_languages(world, spec):
    from comem_lmms.tasks.common import mean_of_translations

    results = run_scripted(half_right, "infoseek_overall")["results"]
    languages = ["infoseek_paper", *(f"infoseek_{language}" for language in LANGUAGES)]
    for part in ("", "_unseen_question", "_unseen_entity"):
        scores = [results[task][f"paper{part},none"] for task in languages]
        assert results["infoseek_overall"][f"paper{part},none"] == pytest.approx(sum(scores) / 6)
    tables = json.loads((spec / "paper_results.json").read_text())
    rows = [
        row
        for row in (*tables["main"], *tables["multilingual"])
        if (row["model"], row["method"]) == ("Qwen2.5-VL-7B", "baseline")
    ]
    for part, overall in (("unseen_question", 17.3), ("unseen_entity", 16.2)):  # as the paper has them
        columns = [row[f"infoseek_{part}"] for row in rows]
        assert mean_of_translations(columns, [1] * 6, False) == pytest.approx(overall, abs=0.051)


@pytest.mark.parametrize(("limit", "score"), [(1, None), (3, 0.6667), (None, 0.5)])
@pytest.mark.parametrize("group", ["comem_bench", "infoseek_overall"])
def test_results_are_strict_json_with_any_limit(world, tmp_path, group, limit, score):
    """`--limit` leaves InfoSeek and OVEN without one of their splits, and CVQA without some subsets."""
    from lmms_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path))
    results = run_scripted(half_right, group, limit=limit, evaluation_tracker=tracker)
    tracker.save_results_aggregated(results=results, samples=results.pop("samples"), datetime_str="now")
    (path,) = tmp_path.rglob("*_results.json")
    saved = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    translated = saved["results"]["infoseek_overall" if group == "infoseek_overall" else "infoseek_multilingual"]
    assert translated["official_stderr,none"] == "N/A"
    assert translated["official,none"] == (score and pytest.approx(score))
    shown = {row.task: row.accuracy for row in read_rows(tmp_path) if row.tasks}
    groups = ["comem_bench_english", "infoseek_multilingual"] if group == "comem_bench" else [group]
    assert sorted(shown) == groups
    assert shown[groups[-1]] == (score and pytest.approx(100 * score))


def test_the_report_knows_what_every_result_is_made_of(world, tmp_path):
    """So it can compare two methods by it; and where there is a standard error, it comes to the same."""
    from lmms_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path))
    results = run_scripted(half_right, "comem_bench", "infoseek", "oven", "cvqa_all", evaluation_tracker=tracker)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="now")
    for task, logged in samples.items():
        tracker.save_results_samples(task_name=task, samples=logged)
    (path,) = tmp_path.rglob("*_results.json")
    checked = set()
    for run in evaluations(path):
        answers = read_answers(path, run.task, run.scores)
        for metric, (value, stderr) in run.scores.items():
            if not metric.endswith("_stderr"):
                found = sample_of(answers.items[metric], value)
                assert found is not None, (run.task, metric)
                assert stderr in (None, pytest.approx(found.stderr)), (run.task, metric)
                checked.add(run.task)
    assert {"infoseek", "infoseek_es", "oven", "oven_paper_query", "cvqa", "cvqa_all", "okvqa"} <= checked


def test_a_limit_leaves_the_mean_over_the_subsets_that_were_asked(world):
    """As lmms-eval's means are over the questions that were asked."""

    def says(task: str, doc: dict) -> str:
        return right(task, doc) if "Bulgarian" in doc["Subset"] else "?"

    scores = run_scripted(says, "cvqa", limit=2)["results"]["cvqa"]
    asked = {name for name in cvqa_subsets() if f"official_{name},none" in scores}
    assert asked == {"bulgarian_bulgaria", "chinese_china"}
    assert scores["official,none"] == 1 / 2


def test_cvqa_counts_each_subset_once(world):
    def says(task: str, doc: dict) -> str:
        return right(task, doc) if doc["Subset"] == "('Spanish', 'Spain')" else "?"

    scores = run_scripted(says, "cvqa")["results"]["cvqa"]
    assert scores["official,none"] == scores["official_micro,none"] == pytest.approx(1 / 5)
    assert scores["official_spanish_spain,none"] == scores["paper_spanish_spain,none"] == 1
    assert scores["unparsed,none"] == pytest.approx(4 / 5)


def test_difficult_questions_have_no_official_score(world):
    results = run_scripted(right, "aokvqa_da")
    official = ["official" in sample for sample in results["samples"]["aokvqa_da"]]
    assert official == [True, False, True]
    assert all("paper" in sample for sample in results["samples"]["aokvqa_da"])


# ---- prompts --------------------------------------------------------------------------------------------------------


def test_prompts_are_the_paper_s(spec):
    prompts = json.loads((spec / "prompts.json").read_text())
    wanted = {
        (name, style): prompts[benchmark][language][mode]["rendered_for_question_Q?"]
        for name, benchmark, language in [
            ("infoseek", "infoseek", "en"),
            *((f"infoseek_{ours}", "infoseek", theirs) for ours, theirs in LANGUAGES.items()),
            ("oven", "oven", "en"),
            *(("open", benchmark, "en") for benchmark in ("ok_vqa", "a_okvqa", "viquae")),
        ]
        for style, modes in (("paper", ["baseline"]), ("paper_knowledge", ["rag", "comem"]))
        for mode in modes
    }
    wanted |= {
        (f"cvqa {subset}", "paper"): one["all_modes"]["rendered_for_question_Q?"]
        for subset, one in prompts["cvqa"].items()
    }
    instructions = prompts["mrag_bench"]["en"]
    wanted["mrag_bench", "paper"] = instructions["baseline"]["instruction"] + "Q?"
    wanted["mrag_bench", "paper_knowledge"] = instructions["rag_and_comem"]["instruction"] + "Q?"
    assert {key: ask(*key, "Q?") for key in wanted} == wanted


def test_a_question_with_braces_is_left_as_it_is():
    assert r"{question} {} \boxed{}" in ask("open", "paper", r"{question} {} \boxed{}")


def test_an_unknown_style_is_refused():
    with pytest.raises(UserError, match="'papr'"):
        ask("open", "papr", "Q?")


@pytest.mark.parametrize(
    ("model", "style", "types"),
    [("baseline", "paper", ["text", "image"]), ("comem", "paper_knowledge", ["text", "image"])],
)
def test_our_methods_get_the_paper_s_prompts(world, model, style, types):
    content, text = _asked(model)
    assert [part["type"] for part in content] == types
    assert text == ask("infoseek", style, "What is the capital of 0?")


def test_other_models_get_a_short_prompt(world):
    content, text = _asked("scripted")
    assert [part["type"] for part in content] == ["image", "text"]
    assert text == "What is the capital of 0?\nAnswer with a single word or a short phrase."


@pytest.mark.parametrize(("model", "style"), [("baseline", "paper"), ("vanilla_rag", "paper_knowledge")])
def test_other_models_get_the_paper_s_prompts_as_base(world, model, style):
    run_scripted(right, "infoseek", model=model, model_args="base=scripted", limit=1)
    _, chat, _ = Scripted.asked["infoseek", 0]
    assert [part["type"] for part in chat[-1]["content"]] == ["text", "image"]
    assert chat[-1]["content"][0]["text"] == ask("infoseek", style, "What is the capital of 0?")
    register("recorder", "simple", "helpers.Recorder")
    Recorder.asked.clear()
    evaluate(model, ("infoseek",), model_args="base=recorder", limit=1, task_manager=manager(model))
    assert Recorder.asked["infoseek", 0][0].endswith(ask("infoseek", style, "What is the capital of 0?"))


@pytest.mark.parametrize("model", ["scripted", "baseline"])
@pytest.mark.parametrize(("style", "types"), [("paper", ["text", "image"]), ("short", ["image", "text"])])
def test_a_file_of_one_s_own_may_ask_every_model_alike(world, tmp_path, model, style, types):
    """As docs/benchmarks.md has it."""
    from lmms_eval.tasks import TaskManager

    (tmp_path / "mine.yaml").write_text(
        f"include: {FOLDER}/infoseek/infoseek.yaml\n"
        "task: infoseek_mine\n"
        f"lmms_eval_specific_kwargs: {{default: {{prompt: {style}, template: infoseek}}}}\n"
    )
    register("scripted", "chat", "helpers.Scripted")
    Scripted.says = staticmethod(right)
    Scripted.asked.clear()
    folders = TaskManager(include_path=str(tmp_path), include_defaults=False, model_name=model)
    arguments = "base=scripted" if model == "baseline" else ""
    results = evaluate(model, ("infoseek_mine",), model_args=arguments, task_manager=folders)
    assert results["results"]["infoseek_mine"]["official,none"] == 1
    _, chat, _ = Scripted.asked["infoseek_mine", 0]
    assert [part["type"] for part in chat[-1]["content"]] == types
    assert next(part["text"] for part in chat[-1]["content"] if part["type"] == "text") == ask(
        "infoseek", style, "What is the capital of 0?"
    )


def _asked(model: str) -> tuple[list[dict], str]:
    """What lmms-eval asks a model of this name first in InfoSeek."""
    task = manager(model).load_task_or_group(["infoseek"], "chat")["infoseek"]
    (turn,) = task.doc_to_messages(task.eval_docs[0])
    (text,) = (part["text"] for part in turn["content"] if part["type"] == "text")
    assert text == task.doc_to_text(task.eval_docs_no_media[0])
    return turn["content"], text


def test_options_are_laid_out_as_in_the_paper(world):
    run_scripted(right, "cvqa_spanish_spain", "mrag_bench", "mrag_bench_gt", "aokvqa_mc")
    asked = {
        task: Scripted.asked[task, 0] for task in ("cvqa_spanish_spain", "mrag_bench", "mrag_bench_gt", "aokvqa_mc")
    }
    assert asked["cvqa_spanish_spain"][0].startswith("¿Dónde?1. Sol 2. Mayor 3. Retiro 4. Prado \n")
    choices = "Which dog is it?\n Choices:\nA: A-0\nB: B-0\nC: C-0\nD: D-0"
    assert asked["mrag_bench"][0] == f"Answer with the option's letter from the given choices directly.\n{choices}"
    assert asked["mrag_bench_gt"][0].endswith(choices)
    assert "Choose one of the following: skiing, race, bike, boat" in asked["aokvqa_mc"][0]
    counts = {task: len(one[1][0]["content"]) - 1 for task, one in asked.items()}
    assert counts == {"cvqa_spanish_spain": 1, "mrag_bench": 1, "mrag_bench_gt": 6, "aokvqa_mc": 1}


def test_simple_models_get_image_and_text(world):
    register("recorder", "simple", "helpers.Recorder")
    Recorder.asked.clear()
    evaluate("recorder", ("infoseek", "mrag_bench_gt"), limit=1, task_manager=manager("recorder"))
    context, images, _ = Recorder.asked["infoseek", 0]
    assert context == "What is the capital of 0?\nAnswer with a single word or a short phrase."
    assert len(images) == 1
    assert len(Recorder.asked["mrag_bench_gt", 0][1]) == 6


# ---- scorers --------------------------------------------------------------------------------------------------------

# One task of each kind.
SCORED = (
    *("infoseek", "infoseek_es", "infoseek_unseen_entity", "oven", "oven_query", "mrag_bench", "okvqa", "aokvqa_da"),
    *("aokvqa_mc", "viquae", "cvqa", "cvqa_urdu_india", "evqa_train", "infoseek_paper"),
)


@pytest.fixture(scope="module")
def scorers(world) -> dict[str, tuple]:
    """By task: the function that scores, and the documents without images, as lmms-eval hands them over."""
    tasks = manager("scripted").load_task_or_group(list(SCORED), "chat")
    return {name: (task.config.process_results, list(task.eval_docs_no_media)[:4]) for name, task in tasks.items()}


@pytest.mark.parametrize("name", SCORED)
@settings(max_examples=30)
@given(outputs=st.lists(TEXTS, min_size=4, max_size=4))
def test_any_output_gets_scores_from_0_to_1(scorers, name, outputs):
    score, documents = scorers[name]
    for doc, output in zip(itertools.cycle(documents), outputs, strict=False):
        before = deepcopy(doc)
        scores = score(doc, [output])
        assert doc == before
        for item in scores.values():
            number = item if isinstance(item, float) else item[-1]
            assert 0 <= number <= 1
            assert json.loads(json.dumps(item)) == (item if isinstance(item, float) else list(item))


@pytest.mark.parametrize("name", SCORED)
def test_long_outputs_take_linear_time(scorers, name):
    score, documents = scorers[name]
    for doc in documents:
        for piece in LONG:
            start = time.process_time()
            score(doc, [repeated(piece)])
            assert time.process_time() - start < 2, piece


def test_threads_change_nothing(world):
    one, four = (run_scripted(half_right, "infoseek", "oven", "okvqa", "cvqa", process_docs_parallel=n) for n in (1, 4))
    assert one["results"] == four["results"]
    assert one["samples"] == four["samples"]


def test_threads_share_the_titles(world):
    from comem_lmms.tasks.oven import utils

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(utils._link, ["Oslo", "rome", "?", "the park"])) == ["Q0", "Q1", None, "Q2"]


# ---- a judge --------------------------------------------------------------------------------------------------------


@pytest.fixture
def judge(monkeypatch):
    """An API like OpenAI's in this process, which replies what it is told to; yields the questions it was asked."""
    from comem_lmms.tasks.mrag_bench import judge as task

    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"])
            letter = "C" if "the third" in asked[-1] else "Z"
            message = {"role": "assistant", "content": letter}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("API_TYPE", "openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_API_URL", f"http://127.0.0.1:{server.server_port}/v1")
    task._server.cache_clear()
    yield asked
    task._server.cache_clear()
    server.shutdown()


def test_a_judge_is_asked_where_no_letter_is_found(judge):
    from comem_lmms.tasks.mrag_bench.judge import process_results

    doc = {"question": "Which dog?", "A": "pug", "B": "collie", "C": "beagle", "D": "boxer"}
    doc |= {"answer_choice": "C", "scenario": "Angle"}
    found = process_results(doc, ["C."])
    assert (found["official"], found["paper"], found["judged"]) == (1, 1, 0)
    assert not judge
    read = process_results(doc, ["the third one"])
    assert (read["official"], read["official_angle"], read["paper"]) == (1, 1, 1)
    assert (read["unparsed"], read["paper_unparsed"], read["judged"]) == (0, 0, 1)
    half = process_results(doc, ["In the third picture. The answer is (B)"])
    assert (half["official"], half["paper"], half["judged"]) == (0, 1, 1)
    assert "B: collie\n" in judge[0]
    unread = process_results(doc, ["dogs"])
    assert (unread["official"], unread["unparsed"], unread["judged"]) == (0, 1, 1)


def test_without_a_judge_nothing_is_generated(monkeypatch):
    import datasets
    from comem_lmms.tasks.mrag_bench import judge

    monkeypatch.setenv("API_TYPE", "openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge._server.cache_clear()
    with pytest.raises(UserError, match="mrag_bench_judge has no judge"):
        judge.docs(datasets.Dataset.from_dict({"scenario": ["Angle"]}))
    judge._server.cache_clear()


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_data_that_is_not_prepared_is_one_line(run, tmp_path):
    command = ["lmms-eval", "--model", "baseline", "--tasks", "viquae", "--limit", "1"]
    output = run(*command, COMEM_DATA=str(tmp_path), check=False).stdout
    line = next(line for line in output.splitlines() if "viquae is not prepared" in line)
    assert "comem-lmms data prepare viquae" in line


def test_all_that_a_group_lacks_is_said_at_once_before_a_model_is_loaded(run, tmp_path):
    command = ["lmms-eval", "--model", "baseline", "--tasks", "comem_bench_english", "--limit", "1"]
    empty = dict.fromkeys(("COMEM_DATA", "HF_HOME", "LMMS_EVAL_DATASETS_CACHE"), str(tmp_path))
    done = run(*command, **empty, HF_HUB_OFFLINE="1", check=False)
    said = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("comem-lmms: ")]
    assert done.returncode == 2
    assert set(said) == {"infoseek_paper", "oven_paper", "mrag_bench", "okvqa", "aokvqa", "viquae"}
    assert "Loading weights" not in done.stdout


def test_images_that_are_gone_are_said(world, tmp_path, monkeypatch):
    from comem_lmms.data import store

    picture = tmp_path / "picture.png"
    benchmark_data.picture().save(picture)
    monkeypatch.setenv("COMEM_DATA", str(tmp_path))
    rows = [{"id": "1", "image": str(picture), "question": "?"}]
    store.write(tmp_path / "viquae", {"test": rows}, {"id": "string", "image": "image", "question": "string"}, {})
    assert data.prepared("viquae") == str(tmp_path / "viquae")
    picture.unlink()
    with pytest.raises(UserError, match=r"viquae lacks images that it had, e.g. .*picture.png; run: comem-lmms data"):
        data.prepared("viquae")


def test_other_subsets_of_cvqa_are_named(world):
    import datasets

    known = [subset for subset in cvqa_subsets().values() if "Amharic" not in subset]
    rows = datasets.Dataset.from_dict({"Subset": [*known, "('Welsh', 'Wales')"], "Label": [0] * 39})
    with pytest.raises(UserError, match=r"no subset .*Amharic.*unknown here are .*Welsh"):
        config("cvqa_amharic_ethiopia")["process_docs"](rows)
    assert len(config("cvqa")["process_docs"](rows)) == 5
    assert len(config("cvqa_all")["process_docs"](rows)) == 39


def test_labels_that_are_withheld_are_refused():
    import datasets

    rows = datasets.Dataset.from_dict({"Subset": list(cvqa_subsets().values()), "Label": [-1] * 39})
    with pytest.raises(UserError, match=r"\[-1\]"):
        config("cvqa")["process_docs"](rows)


def test_unknown_scenarios_are_named():
    import datasets

    rows = datasets.Dataset.from_dict({"scenario": ["Angle", "Fog"], "retrieved_images": [0, 0], "gt_images": [0, 0]})
    with pytest.raises(UserError, match="Fog"):
        config("mrag_bench")["process_docs"](rows)


# ---- scoring again --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(world, tmp_path_factory) -> Path:
    """Sample logs as lmms-eval writes them."""
    from lmms_eval.loggers import EvaluationTracker

    folder = tmp_path_factory.mktemp("logs")
    tracker = EvaluationTracker(output_path=str(folder))
    results = run_scripted(half_right, *SCORED, evaluation_tracker=tracker)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="now")
    for name in SCORED:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    (folder / "results.json").write_text(json.dumps(results["results"]))
    return folder


@pytest.mark.parametrize("name", SCORED)
def test_a_log_scored_again_gives_the_same(logs, name):
    (log,) = logs.rglob(f"*_samples_{name}.jsonl")
    scores = json.loads((logs / "results.json").read_text())[name]
    again = rescore(log, name)
    assert {f"{row.metric},none" for row in again} == {
        key for key in scores if key.endswith(",none") and "_stderr" not in key
    }
    for row in again:
        assert row.value == row.logged == scores[f"{row.metric},none"]
        stderr = scores[f"{row.metric}_stderr,none"]
        assert row.stderr == (None if stderr == "N/A" else pytest.approx(stderr))


def test_the_command_prints_a_table(logs, run, capsys):
    (log,) = logs.rglob("*_samples_infoseek_paper.jsonl")
    assert main(["rescore", str(log), "--task", "infoseek_paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "score", "stderr", "logged"]
    assert lines[1].split() == ["official", "0.5000", "0.3536", "0.5000"]
    missing = run(
        "comem-lmms", "rescore", str(log), "--task", "infoseek_paper", COMEM_DATA=os.devnull, check=False
    ).stdout
    assert missing.startswith("comem-lmms: infoseek_paper is not prepared")
    assert len(missing.splitlines()) == 1


def test_logs_of_another_task_and_unknown_tasks_are_named(logs, tmp_path):
    (log,) = logs.rglob("*_samples_infoseek.jsonl")
    first = log.read_text().splitlines()[0]
    for content, said in (
        ("", "holds no samples"),
        ("[1]", r"line 1 of .* is no sample of lmms-eval but \[1\]"),
        (f"{first}\n{first}", "line 2 of .* is of document 0, as one before it"),
        (first.replace('"doc_id": 0', '"doc_id": -1'), "document -1 of task infoseek has None"),
    ):
        (tmp_path / "odd.jsonl").write_text(content)
        with pytest.raises(UserError, match=said):
            rescore(tmp_path / "odd.jsonl", "infoseek")
    with pytest.raises(UserError, match=r"'aokvqa' is a group.*aokvqa_da, aokvqa_mc"):
        rescore(log, "aokvqa")
    with pytest.raises(UserError, match=r"line 1 of .*'Oslo'.*document 0 of task okvqa has 'racing'"):
        rescore(log, "okvqa")
    with pytest.raises(UserError, match="did you mean infoseek"):
        rescore(log, "infoseekk")
    with pytest.raises(UserError, match="does not exist"):
        rescore(tmp_path / "none.jsonl", "okvqa")
    cut = tmp_path / "cut.jsonl"
    cut.write_text(log.read_text()[:-20])
    with pytest.raises(UserError, match=r"line 4 of .*cut off"):
        rescore(cut, "infoseek")


def test_official_metrics_are_given_the_extracted_answer(world):
    output = r"Reasoning: it is 1, or 2. Final answer: \boxed{255}"
    assert extract(output).text == "255"
    scores = run_scripted(lambda task, doc: output, "infoseek")["samples"]["infoseek"]
    assert [sample["official"][-1] for sample in scores] == [0, 0, 0, 1]
