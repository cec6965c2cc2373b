"""Result and sample files as lmms-eval writes them, made of scores that a test names."""

import json
from pathlib import Path
from statistics import fmean, stdev

MODEL = "Qwen/Qwen2-VL-7B-Instruct"


def usage(**more):
    """What an answer of ours cost, in the form of a sample log."""
    told = {
        "input_tokens": 40,
        "output_tokens": 5,
        "memory_vectors": 24,
        "retrieval": "clip",
        "retrieved": ["a", "b", "c"],
        "gold": None,
        "seconds": {"retrieve": 0.1, "encode": 0.2, "answer": 0.2},
        "fingerprints": {"knowledge": "kb1", "vlm": "vlm1"},
        "versions": {"torch": "2.9"},
    }
    return told | more


def write_run(folder, tasks, method="comem", date="20260101_000000", arguments=f"pretrained={MODEL}", **options):
    """One run: a result file, and a sample file for each task.

    Args:
        tasks: by name a list of scores, or a dictionary of such lists by metric, with None for documents that do not
            count; or (value, items) for a metric that is no mean.
        options: log (whether there are samples), usages, documents, limit, generation, prompt, targets, lower, stderr,
            samples (what else each sample logs).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "results": {},
        "group_subtasks": {},
        "configs": {},
        "higher_is_better": {},
        "n-samples": {},
        "config": {"model": method, "model_args": arguments, "limit": options.get("limit"), "gen_kwargs": ""},
        "lmms_eval_version": "0.7.3@unknown",
    }
    for task, scores in tasks.items():
        by_metric = scores if isinstance(scores, dict) else {"official": scores}
        items = {metric: given[1] if isinstance(given, tuple) else given for metric, given in by_metric.items()}
        run["results"][task] = {"alias": task}
        for metric, given in by_metric.items():
            value, stderr = (given[0], options.get("stderr", "N/A")) if isinstance(given, tuple) else of_mean(given)
            run["results"][task] |= {f"{metric},none": value, f"{metric}_stderr,none": stderr}
        listed = [
            name for m, given in by_metric.items() for name in ([m, f"{m}_stderr"] if isinstance(given, tuple) else [m])
        ]
        main = next(iter(items.values()))
        run["configs"][task] = {
            "metric_list": [{"metric": name} for name in listed],
            "generation_kwargs": options.get("generation", {"max_new_tokens": 1000}),
            "lmms_eval_specific_kwargs": {"default": {}, "prompt": options.get("prompt", "paper"), "template": "open"},
            "dataset_path": "lmms-lab/OK-VQA",
        }
        run["higher_is_better"][task] = {name: name not in options.get("lower", ()) for name in listed}
        run["n-samples"][task] = {"original": options.get("documents", len(main)), "effective": len(main)}
        if options.get("log", True):
            targets = options.get("targets") or [f"answer {number}" for number in range(len(main))]
            usages = options.get("usages") or [usage()] * len(main)
            more = options.get("samples") or [{}] * len(main)
            lines = [
                {
                    "doc_id": n,
                    "target": targets[n],
                    "token_counts": [usages[n]],
                    **more[n],
                    **{m: given[n] for m, given in items.items() if given[n] is not None},
                }
                for n in range(len(main))
            ]
            file = folder / f"{date}_samples_{task}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / f"{date}_results.json").write_text(json.dumps(run))
    return folder


def of_mean(scores):
    """The mean and its standard error, as lmms-eval has them."""
    counted = [score for score in scores if score is not None]
    return fmean(counted), stdev(counted) / len(counted) ** 0.5 if len(counted) > 1 else "N/A"


def ones(right, of):
    """Scores of which the first are 1."""
    return [1.0] * right + [0.0] * (of - right)
