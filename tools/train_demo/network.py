"""DiffusionGemma for training on a CPU: the parameters of transformers' own class, a leaner forward pass.

transformers' model is the container, so that its `save_pretrained` writes the checkpoint; what runs here computes the
same (test_train_demo.py compares the logits) for right-padded prefixes, with matrix products in bfloat16 on request and
the experts' rows gathered once.

B: rows of a batch, P: longest prefix, C: canvas, d: width, E: experts, K: experts used, I: an expert's width.
"""

import torch
import torch.nn.functional as F

import tokenizer as tk

CANVAS = 32
WINDOW = 128
EPSILON = 1e-6


def build(vocab=tk.VOCAB):
    """A new model of transformers' class, initialized for training from scratch. vocab: number of tokens."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, EntropyBoundSamplerConfig

    text = dict(
        vocab_size=vocab, hidden_size=160, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, global_head_dim=64, num_global_key_value_heads=1, num_experts=8,
        top_k_experts=2, moe_intermediate_size=96, sliding_window=WINDOW, max_position_embeddings=2048,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2, initializer_range=0.05,
        pad_token_id=tk.PAD, eos_token_id=tk.EOS, bos_token_id=tk.BOS,
    )
    # transformers has no DiffusionGemma without a vision tower: the smallest, which the GGUF leaves out.
    vision = dict(
        model_type="gemma4_vision", hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, global_head_dim=16, position_embedding_size=64,
    )
    config = DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=CANVAS, image_token_id=vocab - 1,
        boi_token_id=vocab - 2, eoi_token_id=vocab - 3,
    )
    model = DiffusionGemmaForBlockDiffusion._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.fill_(parameter.numel() ** -0.25)  # attention is not scaled by 1/sqrt(head size)
            elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                parameter.fill_(0.4)
    generation = model.generation_config
    generation.pad_token_id, generation.bos_token_id = tk.PAD, tk.BOS
    generation.eos_token_id = [tk.EOS, tk.END_TURN]
    # The public model's sampler, written down: the checkpoint is to be complete.
    generation.max_denoising_steps, generation.t_min, generation.t_max = 48, 0.4, 0.8
    generation.stability_threshold, generation.confidence_threshold = 1, 0.005
    generation.sampler_config = EntropyBoundSamplerConfig(entropy_bound=0.1)
    return model


def start_from(model, checkpoint, vocabulary):
    """Takes the weights of a checkpoint with a vocabulary of its own. A token that it lacks starts as the same name in
    other case, or as the mean of the pieces that stood for it there."""
    from tokenizers import Tokenizer
    from transformers import DiffusionGemmaForBlockDiffusion

    known = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    old = DiffusionGemmaForBlockDiffusion.from_pretrained(checkpoint)
    model.load_state_dict({n: w for n, w in old.state_dict().items() if w.shape[0] != len(old.lm_head.weight)}, strict=False)
    with torch.no_grad():  # one tensor, whatever its names
        for token, i in vocabulary.get_vocab().items():
            space, name = token[: token.startswith("▁")], tk.RECASED.get(token.replace("▁", " "))
            same = known.token_to_id(token) or (name and known.token_to_id(space + name))
            pieces = [same] if same else known.encode(token, add_special_tokens=False).ids
            model.lm_head.weight[i] = old.lm_head.weight[pieces].mean(0)


def trained(model):
    """The parameters that text uses, by name."""
    return {name: p for name, p in model.named_parameters() if "vision" not in name}


def rms(x, weight=None):
    return F.rms_norm(x, x.shape[-1:], weight, EPSILON)


class Pass:
    """One step's forward passes: the weights in the products' type, cast once."""

    def __init__(self, model, dtype=torch.float32):
        self.dtype = dtype
        self.decoder = model.model.decoder
        self.encoder_layers = model.model.encoder.language_model.layers
        self.config = model.config.text_config
        self.cap = self.config.final_logit_softcapping
        self.embedding = self.decoder.embed_tokens.weight
        self.scale = self.config.hidden_size**0.5
        self.embedding_cast = self.embedding.to(dtype)
        self.layers = [self.cast(layer) for layer in self.decoder.layers]
        mlp = self.decoder.self_conditioning
        self.conditioning = (self.joined(mlp.gate_proj, mlp.up_proj), mlp.down_proj.weight.to(dtype))
        self.rotation = {}

    def joined(self, *projections):
        return torch.cat([p.weight for p in projections if p is not None]).to(self.dtype)

    def cast(self, layer):
        a = layer.self_attn
        return dict(
            qkv=self.joined(a.q_proj, a.k_proj, a.v_proj),
            o=a.o_proj.weight.to(self.dtype),
            gate_up=self.joined(layer.mlp.gate_proj, layer.mlp.up_proj),
            down=layer.mlp.down_proj.weight.to(self.dtype),
            experts_in=layer.experts.gate_up_proj.to(self.dtype).unbind(0),
            experts_out=layer.experts.down_proj.to(self.dtype).unbind(0),
            router=layer.router.proj.weight * layer.router.scale * self.config.hidden_size**-0.5,
        )

    def angles(self, kind, positions):
        """cos and sin of RoPE at positions [B, T]: [B, T, 1, head size] each."""
        rope = self.decoder.rotary_emb
        x = torch.empty(0, dtype=torch.float32)
        cos, sin = rope(x, positions, kind)
        return cos.unsqueeze(2), sin.unsqueeze(2)

    def project(self, index, x, angles):
        """x [B, T, d] to queries [B, H, T, head size] and (k, v) [B, KV, T, head size]."""
        a, w = self.decoder.layers[index].self_attn, self.layers[index]
        batch, length, _ = x.shape
        cos, sin = angles[a.layer_type]

        def rotate(t):
            half = t.shape[-1] // 2
            return t * cos + torch.cat((-t[..., half:], t[..., :half]), -1) * sin

        size, heads = a.head_dim, self.config.num_attention_heads
        qkv = F.linear(x.to(self.dtype), w["qkv"]).float()
        parts = qkv.view(batch, length, -1, size)
        kv = (parts.shape[2] - heads) // (2 if a.v_proj is not None else 1)
        k = parts[:, :, heads : heads + kv]
        v = rms(parts[:, :, heads + kv :] if a.v_proj is not None else k)
        q = rotate(rms(parts[:, :, :heads], a.q_norm.weight)).transpose(1, 2).to(self.dtype)
        k = rotate(rms(k, a.k_norm.weight)).transpose(1, 2).to(self.dtype)
        v = v.transpose(1, 2).to(self.dtype)
        return q, (k, v)

    def attention(self, index, x, angles, mask, prefix):
        """x [B, T, d]; prefix: the cached (k, v) [B, KV, P, head size], or None. Returns output, own (k, v)."""
        w = self.layers[index]
        batch, length, _ = x.shape
        q, own = self.project(index, x, angles)
        k, v = own
        if prefix is not None:
            k, v = torch.cat((prefix[0], k), 2), torch.cat((prefix[1], v), 2)
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        # By hand: torch's fused attention for CPUs has a slow backward pass in bfloat16.
        out = (q @ k.transpose(2, 3) + mask).float().softmax(-1).to(self.dtype) @ v
        return F.linear(out.transpose(1, 2).reshape(batch, length, -1), w["o"]).float(), own

    def gated(self, x, gate_up, down):
        gate, up = F.linear(x.to(self.dtype), gate_up).chunk(2, -1)
        return F.linear(F.gelu(gate, approximate="tanh") * up, down)

    def experts(self, index, x, routed):
        """x: the experts' input [N, d]; routed: the router's input [N, d]. Returns [N, d]."""
        w, layer = self.layers[index], self.decoder.layers[index]
        count, used = self.config.num_experts, self.config.top_k_experts
        scores, chosen = F.linear(rms(routed), w["router"]).topk(used, -1)
        weights = scores.softmax(-1) * layer.router.per_expert_scale[chosen]
        flat = chosen.flatten()
        order = flat.argsort()
        rows = order.div(used, rounding_mode="floor")
        sizes = torch.bincount(flat, minlength=count).tolist()
        taken = x.to(self.dtype).index_select(0, rows).split(sizes)
        inner = torch.cat([F.linear(t, m) for t, m in zip(taken, w["experts_in"])])
        gate, up = inner.chunk(2, -1)
        inner = (F.gelu(gate, approximate="tanh") * up).split(sizes)
        out = torch.cat([F.linear(t, m) for t, m in zip(inner, w["experts_out"])]).float()
        out = out * weights.flatten().index_select(0, order).unsqueeze(-1)
        return torch.zeros_like(x).index_add(0, rows, out)

    def layer(self, index, x, angles, mask, prefix, scalar):
        layer, w = self.decoder.layers[index], self.layers[index]
        attended, own = self.attention(index, rms(x, layer.input_layernorm.weight), angles, mask, prefix)
        x = x + rms(attended, layer.post_attention_layernorm.weight)
        dense = self.gated(rms(x, layer.pre_feedforward_layernorm.weight), w["gate_up"], w["down"]).float()
        dense = rms(dense, layer.post_feedforward_layernorm_1.weight)
        flat = x.flatten(0, 1)
        sparse = self.experts(index, rms(flat, layer.pre_feedforward_layernorm_2.weight), flat).view_as(x)
        sparse = rms(sparse, layer.post_feedforward_layernorm_2.weight)
        x = x + rms(dense + sparse, layer.post_feedforward_layernorm.weight)
        return x * scalar, own

    def masks(self, seen):
        """Additive masks by kind from seen [B, T, S]: the two kinds' boolean masks."""
        return {
            kind: torch.zeros(m.shape, dtype=self.dtype).masked_fill(~m, float("-inf")).unsqueeze(1)
            for kind, m in seen.items()
        }

    def encode(self, ids, states=False):
        """Keys and values of prefixes [B, P] padded on the right, which a causal mask keeps from being seen; with
        `states` also the last layer's output [B, P, d], of which `head` makes logits of the next token."""
        place = torch.arange(ids.shape[1])
        causal = place[None, :] <= place[:, None]
        near = causal & (place[None, :] > place[:, None] - WINDOW)
        masks = self.masks({"full_attention": causal[None], "sliding_attention": near[None]})
        positions = place[None]
        angles = {kind: self.angles(kind, positions) for kind in masks}
        x = F.embedding(ids, self.embedding) * self.scale
        cache = []
        last = len(self.layers) - 1
        for i, layer in enumerate(self.encoder_layers):
            if i == last and not states:  # nothing reads the last layer's output, only its keys and values
                x = rms(x, self.decoder.layers[last].input_layernorm.weight)
                cache.append(self.project(last, x, angles)[1])
                return cache
            x, own = self.layer(i, x, angles, masks[self.config.layer_types[i]], None, layer.layer_scalar)
            cache.append(own)
        return cache, x

    def head(self, x):
        """Logits [..., V] of the last layer's output [..., d]."""
        logits = F.linear(rms(x, self.decoder.norm.weight).to(self.dtype), self.embedding_cast).float()
        return torch.tanh(logits / self.cap) * self.cap

    def decode(self, canvas, cache, lengths, signal=None):
        """Logits [B, C, V] of a canvas [B, C]. signal: earlier logits [B, C, V] over temperature, or None."""
        batch, size = canvas.shape
        prefix = cache[0][0].shape[2]
        place = torch.arange(prefix)
        full = place[None, :] < lengths[:, None]
        near = full & (place[None, :] >= lengths[:, None] - (WINDOW - 1))
        own = torch.ones(batch, size, dtype=torch.bool)
        masks = self.masks({
            kind: torch.cat((m, own), 1)[:, None, :].expand(batch, size, prefix + size)
            for kind, m in (("full_attention", full), ("sliding_attention", near))
        })
        positions = lengths[:, None] + torch.arange(size)
        angles = {kind: self.angles(kind, positions) for kind in masks}
        x = F.embedding(canvas, self.embedding) * self.scale
        if signal is not None:
            soft = signal.softmax(-1).to(self.dtype) @ self.embedding_cast * self.scale
            soft = rms(soft.float(), self.decoder.self_conditioning.pre_norm.weight)
            x = x + self.gated(soft, *self.conditioning).float()
        x = rms(x)
        for i, layer in enumerate(self.decoder.layers):
            x, _ = self.layer(i, x, angles, masks[self.config.layer_types[i]], cache[i], layer.layer_scalar)
        return self.head(x)
