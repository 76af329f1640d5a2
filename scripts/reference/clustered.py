"""Clustered head attention in plain numpy float64, written from the papers: the measure for the engine. One row, one head, one key at a time
where that is the clearest. In: a model directory, a head plan, token ids. Out: logits and the memberships found.
"""
import json
import pathlib

import numpy as np
from safetensors.torch import load_file


class Network:
    """Weights of a Llama or OPT directory as float64."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.tensors |= {k: v.double().numpy() for k, v in load_file(file).items()}
        c = self.config
        self.opt = c["model_type"] == "opt"
        self.layers, self.heads = c["num_hidden_layers"], c["num_attention_heads"]
        self.key_heads = c.get("num_key_value_heads") or self.heads
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.pre_norm = c.get("do_layer_norm_before", True)
        self.window = c.get("sliding_window")

    def get(self, name):
        for prefix in ("model.decoder.", "model.", ""):
            if prefix + name in self.tensors:
                return self.tensors[prefix + name]
        return None

    def linear(self, name, x):
        y = x @ self.get(name + ".weight").T
        bias = self.get(name + ".bias")
        return y if bias is None else y + bias

    def norm(self, name, x):
        weight, bias = self.get(name + ".weight"), self.get(name + ".bias")
        if not self.opt:
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * weight
        mean = x.mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * weight + bias

    def rotate(self, x):
        """x: [tokens, heads, head_dim]"""
        if self.opt:
            return x
        rope = self.config.get("rope_parameters") or {}
        assert rope.get("rope_type", "default") == "default" and not self.config.get("rope_scaling")
        theta = rope.get("rope_theta") or self.config.get("rope_theta", 10000.0)
        half = self.head_dim // 2
        frequency = theta ** (-np.arange(half) / half)
        angle = np.arange(len(x))[:, None, None] * frequency
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def embed(self, ids):
        x = self.get("embed_tokens.weight")[ids]
        if self.get("project_in.weight") is not None:
            x = self.linear("project_in", x)
        return x + self.get("embed_positions.weight")[np.arange(len(ids)) + 2] if self.opt else x

    def feed_forward(self, prefix, x):
        if self.opt:
            return self.linear(prefix + "fc2", np.maximum(self.linear(prefix + "fc1", x), 0))
        gate = self.linear(prefix + "mlp.gate_proj", x)
        assert self.config["hidden_act"] == "silu"
        return self.linear(prefix + "mlp.down_proj", gate / (1 + np.exp(-gate)) * self.linear(prefix + "mlp.up_proj", x))

    def logits(self, x):
        name = "final_layer_norm" if self.opt else "norm"
        if self.get(name + ".weight") is not None:
            x = self.norm(name, x)
        if self.get("project_out.weight") is not None:
            x = self.linear("project_out", x)
        head = self.tensors.get("lm_head.weight")
        return x @ (self.get("embed_tokens.weight") if head is None else head).T


def softmax_row(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


# ---- clustering ---------------------------------------------------------------------------------------------------


def squared(a, b):
    return float(((a - b) ** 2).sum())


def kmeans(points, k):
    """Farthest-first start from point 0, at most 20 Lloyd rounds; returns clusters, and the smallest gap that decided anything."""
    n, margin = len(points), np.inf
    chosen = [0]
    while len(chosen) < k:
        nearest = [min(squared(p, points[c]) for c in chosen) for p in points]
        order = sorted(nearest, reverse=True)
        if n > 1:
            margin = min(margin, order[0] - order[1])
        chosen.append(int(np.argmax(nearest)))
    centres = [points[c] for c in chosen]
    clusters = None
    for _ in range(20):
        distance = np.array([[squared(p, c) for c in centres] for p in points])
        new = distance.argmin(1)
        if k > 1:
            two = np.sort(distance, 1)[:, :2]
            margin = min(margin, float((two[:, 1] - two[:, 0]).min()))
        own = distance[np.arange(n), new]
        for c in range(k):
            if (new == c).sum() > 0:
                continue
            candidates = [p for p in range(n) if (new == new[p]).sum() > 1]
            far = max(candidates, key=lambda p: (own[p], -p))
            new[far], own[far] = c, 0
        if clusters is not None and (new == clusters).all():
            break
        clusters = new.copy()
        centres = [np.mean([points[p] for p in range(n) if clusters[p] == c], axis=0) for c in range(k)]
    return clusters, margin


def average_linkage(points, k):
    def cosine(a, b):
        aa, bb = float(a @ a), float(b @ b)
        if aa == 0 or bb == 0:
            return 0.0 if aa == bb else 1.0
        return 1 - float(a @ b) / np.sqrt(aa * bb)

    groups, margin = [[i] for i in range(len(points))], np.inf
    pair = [[cosine(a, b) for b in points] for a in points]
    while len(groups) > k:
        means = sorted((float(np.mean([pair[p][q] for p in groups[a] for q in groups[b]])), a, b)
                       for a in range(len(groups)) for b in range(a + 1, len(groups)))
        if len(means) > 1:
            margin = min(margin, means[1][0] - means[0][0])
        _, a, b = means[0]
        groups[a] = sorted(groups[a] + groups[b])
        del groups[b]
        groups.sort()
    clusters = np.zeros(len(points), int)
    for c, group in enumerate(groups):
        clusters[group] = c
    return clusters, margin


def membership(points, k, method):
    clusters, margin = (kmeans if method == "kmeans" else average_linkage)(points, k)
    order = []
    for c in clusters:  # numbered by lowest member
        if c not in order:
            order.append(c)
    clusters = [order.index(c) for c in clusters]
    representatives = []
    for c in range(k):
        members = [h for h in range(len(points)) if clusters[h] == c]
        centre = np.mean([points[h] for h in members], axis=0)
        distance = [squared(points[h], centre) for h in members]
        near = [h for h, far in zip(members, distance) if far <= min(distance) * (1 + 1e-5)]  # two members are always equally far: a tie
        representatives.append(near[0])
        if len(near) < len(members):
            margin = min(margin, min(far for far in distance if far > min(distance) * (1 + 1e-5)) - min(distance))
    return dict(clusterOf=[int(c) for c in clusters], representatives=[int(r) for r in representatives], margin=float(min(margin, 1e9)))


# ---- the forward pass ----------------------------------------------------------------------------------------------


def identity(network):
    group = network.heads // network.key_heads
    return dict(score_of=list(range(network.heads)), query_of=list(range(network.heads)), key_of=[h // group for h in range(network.heads)],
                value_of=[h // group for h in range(network.heads)])


def shared(network, found):
    group = network.heads // network.key_heads
    return dict(score_of=found["clusterOf"], query_of=found["representatives"], key_of=[r // group for r in found["representatives"]],
                value_of=[h // group for h in range(network.heads)])


def explicit(entry):
    return dict(score_of=entry["scoreOfQuery"], query_of=entry["queryOfScore"], key_of=[entry["keptKeys"][s] for s in entry["keyOfScore"]],
                value_of=[entry["keptValues"][s] for s in entry["valueOfQuery"]], scores_from=entry["scoresFrom"])


def run(network, plan, ids):
    """Logits [tokens, vocabulary] and, for method chai, the membership of each layer (None while the warm-up lasts)."""
    n, d = len(ids), network.head_dim
    start, width = plan.get("warmupStart", 0), plan.get("warmupTokens", 5)
    end = start + width if plan["method"] == "chai" else 0
    x, found, sources = network.embed(ids), [], {}
    for layer in range(network.layers):
        prefix = f"layers.{layer}."
        norm = "self_attn_layer_norm" if network.opt else "input_layernorm"
        h = network.norm(prefix + norm, x) if network.pre_norm else x
        project = lambda kind, heads: network.linear(prefix + f"self_attn.{kind}_proj", h).reshape(n, heads, d)
        q, k = network.rotate(project("q", network.heads)), network.rotate(project("k", network.key_heads))
        v = project("v", network.key_heads)
        sources[layer] = (q, k)
        dense, entry = identity(network), plan["layers"][layer] if plan["layers"] else {}

        def probabilities(position, query_head, key_head, source=layer):
            qs, ks = sources[source]
            first = max(0, position - network.window + 1) if network.window else 0
            row = np.zeros(position + 1)
            row[first:] = softmax_row(np.array([qs[position, query_head] @ ks[j, key_head] / np.sqrt(d) for j in range(first, position + 1)]))
            return row

        later = dense
        if plan["method"] == "chai":
            later = None
            if n >= end:
                group = network.heads // network.key_heads
                points = [np.concatenate([probabilities(p, head, head // group) for p in range(start, end)]) for head in range(network.heads)]
                found.append(membership(points, entry["clusters"], plan.get("clustering", "kmeans")))
                later = shared(network, found[-1])
        elif plan["method"] == "chai-static":
            later = shared(network, entry)
        elif plan["method"] == "explicit":
            later = explicit(entry["map"])
        mixed = np.zeros((n, network.heads, d))
        for position in range(n):
            heads = dense if position < end else later
            source = heads.get("scores_from", layer)
            tables = explicit(plan["layers"][source]["map"]) if source != layer else heads
            rows = [probabilities(position, tables["query_of"][s], tables["key_of"][s], source) for s in range(len(tables["query_of"]))]
            for head in range(network.heads):
                mixed[position, head] = rows[heads["score_of"][head]] @ v[: position + 1, heads["value_of"][head]]
        out = "out_proj" if network.opt else "o_proj"
        x = x + network.linear(prefix + "self_attn." + out, mixed.reshape(n, -1))
        second = "final_layer_norm" if network.opt else "post_attention_layernorm"
        if not network.pre_norm:
            x = network.norm(prefix + norm, x)
        x = x + network.feed_forward(prefix, network.norm(prefix + second, x) if network.pre_norm else x)
        if not network.pre_norm:
            x = network.norm(prefix + second, x)
    return network.logits(x), found


# ---- the cases -------------------------------------------------------------------------------------------------------


def chai(counts, **fields):
    return dict(format="chai-llm/head-plan@1", method="chai", layers=[dict(clusters=k) for k in counts], **fields)


def static(network, random, counts):
    layers = []
    for k in counts:
        cluster_of = list(range(k)) + [int(c) for c in random.integers(0, k, network.heads - k)]
        random.shuffle(cluster_of)
        members = [[h for h in range(network.heads) if cluster_of[h] == c] for c in range(k)]
        layers.append(dict(clusters=k, clusterOf=[int(c) for c in cluster_of], representatives=[int(random.choice(m)) for m in members]))
    return dict(format="chai-llm/head-plan@1", method="chai-static", layers=layers)


def decoupled(network, random, borrowers=()):
    """Random explicit maps with separate numbers of key and value heads; layers in `borrowers` take the scores of the layer before."""
    layers = []
    for layer in range(network.layers):
        values = sorted(int(i) for i in random.choice(network.key_heads, max(1, network.key_heads // 2 + layer % 2), replace=False))
        value_of = list(range(len(values))) + [int(i) for i in random.integers(0, len(values), network.heads - len(values))]
        entry = dict(scoresFrom=layer, valueOfQuery=value_of, keptValues=values)
        if layer in borrowers:
            slots = len(layers[layer - 1]["map"]["queryOfScore"])
            entry |= dict(scoresFrom=layer - 1, scoreOfQuery=[int(i) for i in random.integers(0, slots, network.heads)], queryOfScore=[],
                          keyOfScore=[], keptKeys=[])
        else:
            slots = max(2, network.heads // 3)
            keys = [int(i) for i in random.choice(network.key_heads, min(slots, max(1, network.key_heads // 2)), replace=False)]
            entry |= dict(scoreOfQuery=list(range(slots)) + [int(i) for i in random.integers(0, slots, network.heads - slots)],
                          queryOfScore=[int(i) for i in random.choice(network.heads, slots, replace=False)],
                          keyOfScore=list(range(len(keys))) + [int(i) for i in random.integers(0, len(keys), slots - len(keys))], keptKeys=keys)
        layers.append(dict(map=entry))
    return dict(format="chai-llm/head-plan@1", method="explicit", layers=layers)


def write_cases(out, starter):
    random, folder = np.random.default_rng(5), out / "clustered"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    check_dense(out)
    many, gqa, opt = (Network(out / name) for name in ("llama-many-heads", "llama-gqa-tied-bf16", "opt-pre"))
    cases = {
        "many-kmeans": ("llama-many-heads", chai([4, 7, 2]), 60),
        "many-average": ("llama-many-heads", chai([5, 3, 9], clustering="average-linkage-cosine"), 40),
        "many-late-start": ("llama-many-heads", chai([3, 6, 10], warmupStart=3, warmupTokens=4), 40),
        "many-one-cluster": ("llama-many-heads", chai([1, 1, 1]), 30),
        "many-all-clusters": ("llama-many-heads", chai([16, 16, 16]), 30),
        "many-before": ("llama-many-heads", chai([4, 7, 2]), 4),
        "many-at": ("llama-many-heads", chai([4, 7, 2]), 5),
        "many-after": ("llama-many-heads", chai([4, 7, 2]), 6),
        "many-static": ("llama-many-heads", static(many, random, [4, 8, 3]), 40),
        "many-explicit": ("llama-many-heads", decoupled(many, random), 40),
        "many-cross-layer": ("llama-many-heads", decoupled(many, random, borrowers=(1,)), 40),
        "gqa-kmeans": ("llama-gqa-tied-bf16", chai([3, 5, 2]), 40),
        "gqa-static": ("llama-gqa-tied-bf16", static(gqa, random, [4, 2, 3]), 30),
        "gqa-cross-layer": ("llama-gqa-tied-bf16", decoupled(gqa, random, borrowers=(2,)), 30),
        "opt-kmeans": ("opt-pre", chai([2, 3, 1]), 40),
        "starter-kmeans": ("starter", chai([3, 5, 4, 6]), 24),
    }
    for name, (model, plan, length) in cases.items():
        network = Network(starter if model == "starter" else out / model)
        ids = [int(i) for i in random.integers(2, 300, length)]
        logits, found = run(network, plan, np.array(ids))
        logits.astype("<f4").tofile(folder / f"{name}.bin")
        (folder / f"{name}.json").write_text(json.dumps(dict(model=model, plan=plan, prompt=ids, vocabulary=logits.shape[1], memberships=found)))
        print("clustered", name, f"least margin {min([m['margin'] for m in found], default=0):.1e}", flush=True)
    write_clusterings(out, random)


def check_dense(out):
    """This reference without sharing must equal transformers, and one cluster a head must equal no sharing."""
    for name in ("llama-mha", "llama-gqa-tied-bf16", "mistral-window", "opt-pre", "opt-post"):
        network, stored = Network(out / name), json.loads((out / name / "reference.json").read_text())
        expected = np.fromfile(out / name / "reference.bin", "<f4").reshape(-1, stored["vocabulary"]).astype(float)
        ids = np.array(stored["prompt"])
        dense, _ = run(network, dict(method="dense", layers=[]), ids)
        error = np.linalg.norm(dense - expected) / np.linalg.norm(expected)
        assert error < 1e-5, (name, error)
        every, _ = run(network, chai([network.heads] * network.layers), ids[:20])
        assert np.abs(every - dense[:20]).max() < 1e-9, name
        print("float64 equals transformers:", name, f"{error:.1e}", flush=True)


def write_clusterings(out, random):
    cases = []
    for case in range(40):
        heads, length = int(random.integers(2, 17)), int(random.integers(1, 16))
        points = random.random((heads, length)).round(3)
        if case % 4 == 0:  # near copies, as heads of a trained model are
            points = np.concatenate([points[: max(1, heads // 3)]] * 3)[:heads] + random.normal(0, 0.01, (min(heads, 3 * max(1, heads // 3)), length)).round(4)
        if case % 10 == 7:
            points[:] = points[0]
        for method in ("kmeans", "average-linkage-cosine"):
            k = int(random.integers(1, len(points) + 1))
            cases.append(dict(features=points.tolist(), clusters=k, clustering=method, expected=membership(list(points), k, method)))
    (out / "clustering.json").write_text(json.dumps(cases))
