"""The formats of the main table are read by what they are for: Markdown, TeX, CSV, a JSON schema, the Hub's library."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import jsonschema
import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from results import MODEL, ones, usage, write_run

from comem_lmms.cli import main
from comem_lmms.cli.results import FORMATS as OF_COMMAND
from comem_lmms.report import FORMATS, build, load_paper, write
from comem_lmms.report.export import SCHEMA
from comem_lmms.report.latex import PACKAGES
from comem_lmms.report.ranks import Count, Ranks

HOSTILE = r"""a|b\c_d_ *e* `f` <script>alert(1)</script> & "g' $h$ #i {j} ~k ^l %m ]( https://x &lt; \| \n ±’ 中"""


@pytest.fixture(params=[MODEL, HOSTILE], ids=["plain", "hostile"])
def model(request):
    return request.param


@pytest.fixture
def table(tmp_path, model):
    """Two benchmarks, three lines, notes, an older run, and another metric to compare with the paper's numbers."""

    def scores(right, of):
        return {"official": ones(right, of), "paper": ones(right, of), "paper_easy": ones(right, of)}

    both = {"okvqa": scores(60, 100), "viquae": scores(20, 50)}
    arguments = {"pretrained": model}
    write_run(tmp_path / "1", {"okvqa": scores(30, 100), "viquae": scores(10, 50)}, "baseline", arguments=arguments)
    write_run(tmp_path / "2", both, "comem", arguments=arguments, date="20260102_000000")
    write_run(tmp_path / "3", both, "comem", arguments=arguments)
    other = [usage(fingerprints={"knowledge": model})] * 100
    write_run(tmp_path / "4", {"okvqa": both["okvqa"]}, "vanilla_rag", arguments=arguments, usages=other)
    return build(tmp_path, "paper", "baseline", load_paper())


class Cells(HTMLParser):
    """The text of table cells, and all tags."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.inside = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_the_command_knows_the_formats():
    assert OF_COMMAND == FORMATS


def test_markdown_renders(table, model):
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(
        write(table, "md", splits=True, verbose=True)
    )
    page = Cells(html)
    (head, *lines), costs = page.rows[: len(table.lines) + 1], page.rows[len(table.lines) + 1 :]
    assert head[:5] == ["method", "model", "retrieval", "okvqa", *(["paper"] if model == MODEL else ["okvqa easy"])]
    assert {len(line) for line in [head, *lines]} == {len(head)}
    assert {line[1] for line in lines} == {" ".join(model.split())}
    assert {len(line) for line in costs} == {10}
    assert not {"script", "em", "code", "a", "math"} & set(page.tags)
    if model == MODEL:
        assert "paper" in head
        shown = lines[2][3]
        assert shown.startswith("60.0 ± 4.9")
        assert "+30.0 [" in shown
        assert "57.7 (+2.3)" in lines[2]


def test_csv_is_read_back(table, model):
    rows = list(csv.DictReader(io.StringIO(write(table, "csv"))))
    assert {row["model"] for row in rows} == {model}
    by = {(row["method"], row["task"], row["split"]): row for row in rows}
    row = by["comem", "okvqa", ""]
    assert (float(row["value"]), row["best"], row["metric"], row["baseline"]) == (60, "1", "paper", "baseline")
    assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert by["vanilla_rag", "okvqa", ""]["notes"].startswith("okvqa: knowledge base ")
    assert ("vanilla_rag", "viquae", "") not in by
    assert by["comem", "viquae", "easy"]["questions"] == "50"


def test_json_is_as_its_schema_says(table, model):
    schema, content = json.loads(SCHEMA.read_text()), json.loads(write(table, "json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema, jsonschema.Draft202012Validator)
    assert {line["model"] for line in content["lines"]} == {model}
    assert all(len(line["results"]) == len(content["columns"]) for line in content["lines"])
    assert [run["task"] for run in content["older"]] == ["okvqa", "viquae"]
    content["lines"][0]["results"][0]["vlaue"] = 1
    with pytest.raises(jsonschema.ValidationError, match="vlaue"):
        jsonschema.validate(content, schema, jsonschema.Draft202012Validator)


def test_the_hub_s_library_reads_the_model_index(table, model):
    entries = yaml.safe_load(write(table, "hf"))["model-index"]
    assert [entry["name"] for entry in entries] == [
        f"baseline, {model}",
        f"vanilla_rag, {model}, clip, k=3",
        f"comem, {model}, clip, k=3",
    ]
    _, results = model_index_to_eval_results([entries[-1]])
    found = {result.dataset_name: result for result in results}
    assert set(found) == {"okvqa", "viquae"}
    assert (found["okvqa"].metric_value, found["okvqa"].dataset_type) == (60, "lmms-lab/OK-VQA")
    assert found["okvqa"].metric_args["stderr"] == pytest.approx(4.9237, abs=1e-3)


def test_a_model_index_has_no_partial_results(tmp_path, capsys, caplog):
    """Nor those on other documents; but whole ones among partial ones."""
    other = {"targets": [f"other {number}" for number in range(10)]}
    write_run(tmp_path / "1", {"okvqa": ones(5, 10), "viquae": ones(3, 3)}, "baseline")
    write_run(tmp_path / "2", {"okvqa": ones(6, 10)}, "comem")
    write_run(tmp_path / "3", {"okvqa": ones(7, 10)}, "vanilla_rag", **other)
    write_run(tmp_path / "4", {"okvqa": ones(3, 3)}, "comem", limit=3, documents=10)
    write_run(tmp_path / "5", {"viquae": ones(2, 2)}, "comem", limit=2, documents=3)
    write_run(tmp_path / "6", {"viquae": ones(2, 2)}, "vanilla_rag", limit=2, documents=3)
    assert main(["report", str(tmp_path), "--format", "hf"]) == 0
    told = capsys.readouterr()
    entries = yaml.safe_load(told.out)["model-index"]
    assert {
        (entry["name"].split(",")[0], one["dataset"]["name"]): one["metrics"][0]["value"]
        for entry in entries
        for one in entry["results"]
    } == {("baseline", "okvqa"): 50, ("baseline", "viquae"): 100, ("comem", "okvqa"): 60}
    lines = caplog.messages
    assert len(lines) == 4
    assert all(line.startswith("not in the model-index: ") for line in lines)
    assert sum("on okvqa, 3 of 10 questions (--limit 3)" in line for line in lines) == 1
    assert sum("vanilla_rag" in line and line.endswith("on okvqa, 10 questions") for line in lines) == 1


def test_latex_compiles(table, model, tmp_path):
    table = replace(table, support={(1, "okvqa"): Ranks("answer", {1: Count(3, 5), None: Count(1, 4)}, 2)})
    tex = write(table, "tex", splits=True)
    assert tex.count(r"\toprule") == 3
    assert r"3 (60.0 \%)" in tex
    assert ("57.7 (+2.3)" in tex) == (model == MODEL)
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    document = rf"\documentclass{{article}}{PACKAGES}\begin{{document}}" + "\n" + tex + "\n" + r"\end{document}"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    more = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    done = subprocess.run([engine, *more, "table.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "table.pdf").stat().st_size > 1000


def test_the_command_writes_every_format(tmp_path, capsys):
    write_run(tmp_path, {"okvqa": ones(5, 10), "viquae": ones(5, 10)})
    written = {}
    for kind in FORMATS:
        assert main(["report", str(tmp_path), "--format", kind]) == 0
        written[kind] = capsys.readouterr().out
    assert len(set(written.values())) == len(FORMATS)
    assert written["html"].startswith("<!doctype html>")


def test_paper_goes_by_the_metric_of_the_paper(tmp_path, capsys):
    write_run(tmp_path, {"okvqa": {"official": ones(5, 10), "paper": ones(6, 10)}})
    assert main(["report", str(tmp_path), "--paper"]) == 0
    out = capsys.readouterr().out
    assert "57.7 (+2.3)" in out
    assert "Percent by paper" in out
    assert "No standard errors are stated." in out
    assert main(["report", str(tmp_path), "--paper", "--metric", "official"]) == 0
    out = capsys.readouterr().out
    assert "57.7 (-7.7)" in out
    assert "A result by official is not what the paper's numbers are of" in out
