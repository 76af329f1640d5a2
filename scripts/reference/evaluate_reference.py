"""The scores of `chai-llm evaluate`, computed again with `transformers` (float32) on the same model directory.

usage: evaluate_reference.py compare MODEL RESULT.json   every log-likelihood of the dense column, and the figures made of them
       evaluate_reference.py fixture MODEL FOLDER        scores FOLDER/<task>.jsonl and FOLDER/perplexity.txt into FOLDER/expected.json

RESULT.json is written by `chai-llm evaluate MODEL --items --cache-type float32 --out RESULT.json ...` without --shots; texts without
--limit, and documents below 2^20 characters. Prompt forms and scores follow EleutherAI's lm-evaluation-harness. Exit code 1 when a
log-likelihood differs by more than 1e-3 or a figure by more than its share of that.
"""
import argparse
import gzip
import json
import lzma
import math
import pathlib
import re
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

LIMIT = 1e-3


class Reference:
    """A model and its tokenizer; log-likelihoods in float64 from float32 logits."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text())
        self.context = config["max_position_embeddings"]
        self.prefix = config.get("bos_token_id", config.get("eos_token_id"))

    def encode(self, text, special):
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    @torch.no_grad()
    def tail(self, ids, start):
        """Sum of the log-probabilities of ids[start:], and whether each is the likeliest."""
        logits = self.model(torch.tensor([ids])).logits[0, start - 1 : -1].double()
        wanted = torch.tensor(ids[start:])
        told = torch.log_softmax(logits, -1)[torch.arange(len(wanted)), wanted]
        return told.sum().item(), bool((logits.argmax(-1) == wanted).all())

    def continuation(self, context, continuation):
        """lm-evaluation-harness's rule: blanks move to the continuation, whose ids are what both together add to the context's."""
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        if kept == "":
            before, after = [self.prefix], self.encode(continuation, False)
        else:
            before = self.encode(kept, True)
            after = self.encode(kept + continuation, True)[len(before) :]
        ids = (before + after)[-self.context :]
        return *self.tail(ids, len(ids) - len(after)), len(after)


def hellaswag(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def asked(query):
    return query.rstrip() + "\nAnswer:"


def question(task, item):
    """(context, continuations as the harness counts their length, index of the right one), from our files' shapes or the data sets' own"""
    if task == "blimp":
        return "", [item.get("good") or item["sentence_good"], item.get("bad") or item["sentence_bad"]], 0
    if task == "lambada" and "text" in item:
        words = item["text"].split(" ")
        return " ".join(words[:-1]), [words[-1]], 0
    if task == "lambada":
        return item["context"], [item["continuation"]], 0
    if "endings" in item:
        context = hellaswag(item["activity_label"] + ": " + item["ctx_a"] + " " + item["ctx_b"].capitalize())
        return context, [hellaswag(ending) for ending in item["endings"]], int(item["label"])
    if "answerKey" in item:
        choices = item["choices"]
        return asked("Question: " + item["question"]), choices["text"], choices["label"].index(item["answerKey"])
    if "passage" in item:
        return asked(f"{item['passage']}\nQuestion: {item['question']}?"), ["no", "yes"], item["label"]
    if "goal" in item:
        return asked("Question: " + item["goal"]), [item["sol1"], item["sol2"]], item["label"]
    query, choices, gold = item["query"], item["choices"], item["gold"]
    if task == "hellaswag":
        return hellaswag(query), [hellaswag(choice) for choice in choices], gold
    return (query.rstrip() if task == "choice" else asked(query)), choices, gold


def opened(path):
    name = str(path)
    unpack = lzma.open if name.endswith(".xz") else gzip.open if name.endswith(".gz") else open
    return unpack(name, "rt", encoding="utf-8", newline="")


def score_items(reference, task, path, lines=None):
    found = []
    for number, text in enumerate(opened(path), 1):
        if not text.strip() or (lines is not None and number not in lines):
            continue
        context, choices, gold = question(task, json.loads(text))
        scores = [reference.continuation(context, " " + choice) for choice in choices]
        found.append({"line": number, "gold": gold, "logLikelihoods": [s[0] for s in scores], "greedy": scores[0][1],
                      "tokens": [s[2] for s in scores], "lengths": [len(c) for c in choices],
                      "bytes": [len(c.encode()) for c in choices]})
    return found


def score_windows(reference, path, window, stride):
    found = []
    special = reference.encode("a", True)
    bare = reference.encode("a", False)
    before = special[: len(special) - len(bare)] if special[-len(bare) :] == bare else []
    for text in opened(path).read().split("\f"):
        if not text.strip():
            continue
        if len(text) > 2**20:
            sys.exit(f"{path}: documents of more than 2^20 characters are not compared; take a shorter text")
        ids = reference.encode(text, False)
        room, scored, start = window - len(before), 0 if before else 1, 0
        while scored < len(ids):
            end = min(start + room, len(ids))
            if end > scored:
                part = before + ids[start:end]
                total, _ = reference.tail(part, len(before) + scored - start)
                found.append({"logLikelihoods": [total], "tokens": [end - scored], "bytes": (end - scored) * len(text.encode()) / len(ids)})
                scored = end
            start += min(stride, room if before else room - 1)
    return found


def best(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


def figures(task, found):
    n = len(found)
    if task == "perplexity":
        nats = -sum(f["logLikelihoods"][0] for f in found)
        per_token = nats / sum(f["tokens"][0] for f in found)
        return {"perplexity": math.exp(per_token), "natsPerToken": per_token, "bitsPerByte": nats / math.log(2) / sum(f["bytes"] for f in found)}
    if task == "lambada":
        return {"accuracy": sum(f["greedy"] for f in found) / n, "perplexity": math.exp(-sum(f["logLikelihoods"][0] for f in found) / n)}
    def share(divide):
        return sum(best([v / d for v, d in zip(f["logLikelihoods"], divide(f))]) == f["gold"] for f in found) / n
    return {"accuracy": share(lambda f: [1] * len(f["lengths"])), "accuracyPerCharacter": share(lambda f: f["lengths"]),
            "accuracyPerByte": share(lambda f: f["bytes"])}


def compare(arguments):
    reference = Reference(arguments.model)
    failed = False
    print("| task | items | log-likelihoods | largest difference, nats | figures equal |\n| --- | --- | --- | --- | --- |")
    for task in json.loads(pathlib.Path(arguments.result).read_text())["tasks"]:
        dense = next((r for r in task["results"] if r["attention"] == "dense"), None)
        if dense is None or "items" not in dense or task["task"] == "agreement":
            print(f"{task['task']}: no dense column with items; left out", file=sys.stderr)
            continue
        if task["shots"] > 0:
            sys.exit(f"{task['task']}: results with --shots are not compared")
        if task["task"] == "perplexity":
            found = score_windows(reference, task["file"], task["window"], task["stride"])
        else:
            found = score_items(reference, task["task"], task["file"], {item["line"] for item in dense["items"]})
        pairs = [(a, b) for mine, theirs in zip(found, dense["items"], strict=True)
                 for a, b in zip(mine["logLikelihoods"], theirs["logLikelihoods"], strict=True)]
        worst = max(abs(a - b) for a, b in pairs)
        tokens = all(mine["tokens"] == theirs["tokens"] for mine, theirs in zip(found, dense["items"]))
        expected = figures(task["task"], found)
        given = {f["name"]: f["value"] for f in dense["figures"]}
        same = given.keys() == expected.keys() and all(math.isclose(given[n], expected[n], rel_tol=LIMIT) for n in expected)
        failed |= worst > LIMIT or not same or not tokens
        print(f"| {task['task']} | {len(found)} | {len(pairs)} | {worst:.1e} | {'yes' if same and tokens else 'NO'} |")
    sys.exit(int(failed))


def fixture(arguments):
    reference = Reference(arguments.model)
    folder = pathlib.Path(arguments.folder)
    expected = {}
    for path in sorted(folder.glob("*.jsonl")):
        found = score_items(reference, path.stem, path)
        items = [{key: f[key] for key in ("line", "gold", "logLikelihoods", "greedy", "tokens")} for f in found]
        expected[path.stem] = {"items": items, "figures": figures(path.stem, found)}
    window, stride = 64, 24
    found = score_windows(reference, folder / "perplexity.txt", window, stride)
    items = [{key: f[key] for key in ("logLikelihoods", "tokens")} for f in found]
    expected["perplexity"] = {"window": window, "stride": stride, "items": items, "figures": figures("perplexity", found)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, action, last in (("compare", compare, "result"), ("fixture", fixture, "folder")):
        command = commands.add_parser(name)
        command.add_argument("model")
        command.add_argument(last)
        command.set_defaults(action=action)
    chosen = parser.parse_args()
    chosen.action(chosen)
