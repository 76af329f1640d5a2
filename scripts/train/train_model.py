"""Trains a small Llama-style multi-head-attention model from scratch; writes a Hugging Face directory with float16 weights.

In: text files (.txt.xz, documents separated by form feeds). Out: config.json, model.safetensors, tokenizer.json, training.json.
usage: train_model.py TEXT.xz... --out DIR [--from DIR] [--dim 256 --layers 8 --heads 8 --ffn 688 --vocab 4096 --context 512]
       [--batch 8 --minutes 120 --lr 2e-3 --max-mb MB --seed 1 --threads N --bfloat16 --compile]
Runs on CUDA (bfloat16 autocast) when there is one, else on the CPU. Stops on the clock, not on a step count; the learning rate falls to
zero by then. The latest weights and their held-out loss are kept on disk all the time. --from goes on from an earlier run's weights and
tokenizer: give it the same shape and text, so that the held-out part stays the same, and another seed. Matrices of the layers learn by Muon
(Jordan et al., 2024; its step scaled to the size of AdamW's, Liu et al., 2025), the embedding and the norms by AdamW.
Needs torch >= 2.9, tokenizers, safetensors, numpy.
"""
import argparse, json, lzma, math, pathlib, time
import torch, torch.nn as nn, torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

p = argparse.ArgumentParser()
p.add_argument("text", nargs="+"); p.add_argument("--out", required=True); p.add_argument("--from", dest="earlier", type=pathlib.Path)
for name, value in dict(dim=256, layers=8, heads=8, ffn=688, vocab=4096, context=512, batch=8, seed=1, threads=0).items():
    p.add_argument(f"--{name}", type=int, default=value)
p.add_argument("--minutes", type=float, default=10); p.add_argument("--lr", type=float, default=2e-3)
p.add_argument("--max-mb", type=float, default=1e9); p.add_argument("--compile", action="store_true")
p.add_argument("--bfloat16", action="store_true", help="autocast on the CPU too")
a = p.parse_args()
out = pathlib.Path(a.out); out.mkdir(parents=True, exist_ok=True)
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(a.seed)
if a.threads: torch.set_num_threads(a.threads)

# --- text -> tokens -------------------------------------------------------------------------------------------------
books = [b for f in a.text for b in lzma.decompress(pathlib.Path(f).read_bytes()).decode().split("\f")]
total, kept = 0, []
for b in books:
    if total > a.max_mb * 1e6: break
    kept.append(b); total += len(b)
if a.earlier:
    tok = Tokenizer.from_file(str(a.earlier / "tokenizer.json"))
else:
    tok = Tokenizer(models.BPE()); tok.decoder = decoders.ByteLevel()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator((b[:400_000] for b in kept), trainers.BpeTrainer(vocab_size=a.vocab, show_progress=False,
        special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
ids = []
for b in kept:                                     # paragraphs in chunks: the tokenizer is far faster on lists
    ids.append(0)
    paragraphs = b.split("\n\n")
    for e in tok.encode_batch([q + "\n\n" for q in paragraphs]): ids.extend(e.ids)
    ids.append(1)
data = torch.tensor(ids, dtype=torch.int32)
held = max(a.context * 64, len(data) // 200); train, valid = data[:-held], data[-held:]
print(f"{len(kept)} books, {total/1e6:.1f} MB, {len(data)/1e6:.2f} M tokens, {total/len(data):.2f} characters a token", flush=True)

# --- model: RMSNorm, RoPE, SwiGLU, tied embedding (the layout of LlamaForCausalLM) ------------------------------------
def rope(x, cos, sin):
    h = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., h:], x[..., :h]), -1) * sin

class Layer(nn.Module):
    def __init__(s):
        super().__init__(); d, f = a.dim, a.ffn
        s.n1, s.n2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        s.q, s.k, s.v, s.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        s.gate, s.up, s.down = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)
    def forward(s, x, cos, sin):
        B, T, D = x.shape; h = s.n1(x)
        q, k, v = (w(h).view(B, T, a.heads, D // a.heads).transpose(1, 2) for w in (s.q, s.k, s.v))
        y = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + s.o(y.transpose(1, 2).reshape(B, T, D)); h = s.n2(x)
        return x + s.down(F.silu(s.gate(h)) * s.up(h))

class Model(nn.Module):
    def __init__(s):
        super().__init__(); hd = a.dim // a.heads
        s.embed = nn.Embedding(a.vocab, a.dim); s.layers = nn.ModuleList(Layer() for _ in range(a.layers))
        s.norm = nn.RMSNorm(a.dim, eps=1e-5)
        f = torch.outer(torch.arange(a.context).float(), 1e4 ** (-torch.arange(0, hd, 2).float() / hd)); f = torch.cat((f, f), -1)
        s.register_buffer("cos", f.cos()); s.register_buffer("sin", f.sin())
        for n, w in s.named_parameters():
            if w.dim() == 2: nn.init.normal_(w, std=0.02 / (math.sqrt(2 * a.layers) if n.endswith(("o.weight", "down.weight")) else 1))
    def forward(s, t, target):
        x = s.embed(t)
        for l in s.layers: x = l(x, s.cos[: t.shape[1]], s.sin[: t.shape[1]])
        return F.cross_entropy((s.norm(x) @ s.embed.weight.T).float().view(-1, a.vocab), target.reshape(-1))

m = Model().to(device); n_par = sum(w.numel() for w in m.parameters())
step_fn = torch.compile(m) if a.compile else m
matrices = [w for w in m.layers.parameters() if w.dim() == 2]
rest = [m.embed.weight] + [w for w in m.parameters() if w.dim() < 2]
optimizers = [torch.optim.Muon(matrices, lr=a.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
              torch.optim.AdamW(rest, lr=a.lr, betas=(0.9, 0.95), weight_decay=0.0)]
amp = torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or a.bfloat16)
train, valid = train.to(device), valid.to(device); grid = torch.arange(a.context + 1, device=device)
def batch(source, n, length=a.context):
    at = torch.randint(0, len(source) - a.context - 1, (n, 1), device=device)
    t = source[at + grid[: length + 1]].long(); return t[:, :-1], t[:, 1:]
@torch.no_grad()
def evaluate():
    g = torch.random.get_rng_state(); torch.manual_seed(7)
    with amp: loss = sum(m(*batch(valid, 16)).item() for _ in range(8)) / 8
    torch.random.set_rng_state(g); return loss

def named():
    """The parameters by their names in the file."""
    w = {"model.embed_tokens.weight": m.embed.weight, "model.norm.weight": m.norm.weight}
    for i, l in enumerate(m.layers):
        q = f"model.layers.{i}."
        w |= {q + "input_layernorm.weight": l.n1.weight, q + "post_attention_layernorm.weight": l.n2.weight}
        w |= {q + f"self_attn.{n}_proj.weight": getattr(l, n).weight for n in "qkvo"}
        w |= {q + f"mlp.{n}_proj.weight": getattr(l, n).weight for n in ("gate", "up", "down")}
    return w

def save(loss, steps):
    save_file({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in named().items()}, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": a.dim,
        "intermediate_size": a.ffn, "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "num_key_value_heads": a.heads,
        "vocab_size": a.vocab, "max_position_embeddings": a.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float16"}, indent=1))
    tok.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "model_max_length": a.context, "add_bos_token": False, "clean_up_tokenization_spaces": False}))
    (out / "training.json").write_text(json.dumps({"parameters": n_par, "steps": steps, "tokens": steps * a.batch * a.context,
        "validation_nats_per_token": loss, "device": device, "characters": total, "books": len(kept), "date": time.strftime("%Y-%m-%d"),
        "settings": {k: v for k, v in vars(a).items() if k not in ("text", "out", "earlier")},
        **({"earlier": json.loads((a.earlier / "training.json").read_text())} if a.earlier else {})}))

if a.earlier:
    with torch.no_grad():
        stored = load_file(a.earlier / "model.safetensors")
        for k, w in named().items(): w.copy_(stored[k])
print(f"{n_par/1e6:.2f} M parameters on {device}", flush=True)
start, steps, shown = time.time(), 0, 0.0
while True:
    done = (time.time() - start) / (a.minutes * 60)
    if done >= 1: break
    rate = a.lr * min(1, (steps + 1) / 100) * min(1, 2 * (1 - done))                # flat for half of the time, then linear to zero
    halves = 2 if done < 0.6 else 1                                                 # short windows first: their attention costs half
    with amp: loss = step_fn(*batch(train, a.batch * halves, a.context // halves))
    m.zero_grad(set_to_none=True); loss.backward(); nn.utils.clip_grad_norm_(m.parameters(), 1.0); steps += 1
    for o in optimizers:
        for g in o.param_groups: g["lr"] = rate
        o.step()
    if time.time() - shown > max(30, a.minutes * 5):           # a dozen looks a run
        shown = time.time(); v = evaluate(); save(v, steps)
        print(f"{done:5.1%} step {steps} train {loss.item():.3f} valid {v:.3f}  {steps*a.batch*a.context/(time.time()-start):,.0f} tokens/s", flush=True)
v = evaluate(); save(v, steps); print(f"done: {steps} steps, valid {v:.4f} nats a token")
