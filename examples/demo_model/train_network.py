"""The network that train.py trains: Mixtral's decoder, with its experts or with one dense layer in their place.

Parameters are float32; products run in `Shape.compute` (bfloat16 is several times faster where the CPU has AMX or
AVX512-BF16). Everything is written for one CPU thread and batches of thousands of tokens: rows are sorted by expert, so that
each expert is three products, and no row is dropped, so that the result is exactly what `MixtralForCausalLM` computes.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    """Sizes of a network. `experts` = 1 is the dense twin: one expert, always chosen, as wide as `top_k` experts are."""
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 16
    top_k: int = 2
    expert_width: int = 160
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    compute: torch.dtype = torch.bfloat16

    def dense(self):
        """The dense shape with the same number of active parameters per token (but for the gates)."""
        return Shape(**{**self.__dict__, "experts": 1, "top_k": 1, "expert_width": self.expert_width * self.top_k})


class GroupedLinear(torch.autograd.Function):
    """y[i] = w[e(i)] x[i] for rows sorted by expert: x [N, in], w [E, out, in], counts (rows per expert) -> [N, out]."""

    @staticmethod
    def forward(ctx, x, w, counts):
        ctx.save_for_backward(x, w)
        ctx.counts = counts
        y = x.new_empty(x.shape[0], w.shape[1])
        for x_e, w_e, y_e in zip(x.split(counts), w, y.split(counts)):
            torch.mm(x_e, w_e.t(), out=y_e)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dw = torch.empty_like(x), torch.empty_like(w)
        parts = zip(x.split(ctx.counts), w, dy.split(ctx.counts), dx.split(ctx.counts), dw)
        for x_e, w_e, dy_e, dx_e, dw_e in parts:
            torch.mm(dy_e, w_e, out=dx_e)
            torch.mm(dy_e.t(), x_e, out=dw_e)
        return dx, dw, None


def rows_of_tokens(x, route):
    """x [N, H] -> [rows, H]: one row for each chosen expert, sorted by expert."""
    return x.index_select(0, route.token_of_row)


def sum_of_rows(y, route):
    """y [rows, H], sorted by expert -> [N, H]: the sum of each token's rows."""
    y = y.index_select(0, route.row_of_choice).unflatten(0, (-1, route.top_k))
    total = y[:, 0]
    for k in range(1, route.top_k):
        total = total + y[:, k]
    return total


class Route:
    """Where the rows of each token go: `chosen` [N, k] expert indices. Every expert's rows are filled up to a multiple of
    BLOCK, so that few shapes of product occur (the library makes code for each new one); the rows that fill up are copies
    of token 0 and must get the weight 0."""

    BLOCK = 128

    def __init__(self, chosen, experts):
        expert = chosen.flatten()
        order = expert.argsort(stable=True)
        counts = expert.bincount(minlength=experts)
        filled = (counts + self.BLOCK - 1) // self.BLOCK * self.BLOCK
        added_before = (filled - counts).cumsum(0) - (filled - counts)
        rows = torch.arange(len(order)) + added_before[expert[order]]
        self.top_k, self.counts, self.rows = chosen.shape[1], filled.tolist(), int(filled.sum())
        self.token_of_row = torch.zeros(self.rows, dtype=torch.long).scatter_(0, rows, order // self.top_k)
        self.row_of_choice = torch.empty_like(order).scatter_(0, order, rows)

    def rows_of_weights(self, weights):
        """weights [N, k] -> [rows, 1]."""
        return weights.new_zeros(self.rows).index_copy(0, self.row_of_choice, weights.flatten()).unsqueeze(1)


class Dispatch(torch.autograd.Function):
    """`rows_of_tokens`, whose adjoint is `sum_of_rows`."""

    @staticmethod
    def forward(ctx, x, route):
        ctx.route = route
        return rows_of_tokens(x, route)

    @staticmethod
    def backward(ctx, d_rows):
        return sum_of_rows(d_rows, ctx.route), None


class Combine(torch.autograd.Function):
    """`sum_of_rows`, whose adjoint is `rows_of_tokens`."""

    @staticmethod
    def forward(ctx, y, route):
        ctx.route = route
        return sum_of_rows(y, route)

    @staticmethod
    def backward(ctx, d_total):
        return rows_of_tokens(d_total, ctx.route), None


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight: x [N, H] float32, result in `dtype`. In chunks of rows that stay in the cache: twice as fast."""

    CHUNK = 512

    @staticmethod
    def forward(ctx, x, weight, epsilon, dtype):
        y, scale = torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[0], 1)
        for x_c, scale_c, y_c in zip(*(t.split(RmsNorm.CHUNK) for t in (x, scale, y))):
            norm = torch.linalg.vector_norm(x_c, dim=-1, keepdim=True)
            scale_c.copy_(norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_())
            y_c.copy_((x_c * scale_c).mul_(weight))
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        dx, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        for x_c, scale_c, dy_c, dx_c in zip(*(t.split(RmsNorm.CHUNK) for t in (x, scale, dy, dx))):
            unit, d_unit = x_c * scale_c, dy_c.float()
            d_weight += (d_unit * unit).sum(0)
            d_unit = d_unit * weight
            mean = (d_unit * unit).mean(-1, keepdim=True)
            torch.mul(d_unit.addcmul_(unit, mean, value=-1), scale_c, out=dx_c)
        return dx, d_weight, None, None


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of x [N, H] against targets [N] under the head w [V, H], and its gradients, in chunks of rows, so
    that no [N, V] tensor is ever kept."""

    CHUNK = 1024

    @staticmethod
    def forward(ctx, x, w, targets):
        dx, dw = torch.empty_like(x), torch.zeros(w.shape)
        loss = torch.zeros(())
        chunks = (t.split(HeadLoss.CHUNK) for t in (x, dx, targets.unsqueeze(1)))
        for x_c, dx_c, t_c in zip(*chunks):
            p = torch.softmax(x_c @ w.t(), -1)
            p_target = p.gather(1, t_c).float()
            loss -= p_target.log().sum()
            p.scatter_(1, t_c, (p_target - 1).to(p.dtype))
            torch.mm(p, w, out=dx_c)
            dw += p.t() @ x_c
        rows = x.shape[0]
        ctx.save_for_backward(dx.div_(rows), dw.div_(rows).to(w.dtype))
        return loss / rows

    @staticmethod
    def backward(ctx, d_loss):
        dx, dw = ctx.saved_tensors
        return dx * d_loss.to(dx.dtype), dw * d_loss.to(dw.dtype), None


class Attention(nn.Module):
    """Grouped-query attention with rotary embeddings, causal."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Parameter(torch.randn(q_width, shape.hidden) * 0.02)
        self.k_proj = nn.Parameter(torch.randn(kv_width, shape.hidden) * 0.02)
        self.v_proj = nn.Parameter(torch.randn(kv_width, shape.hidden) * 0.02)
        self.o_proj = nn.Parameter(torch.zeros(shape.hidden, q_width))

    def forward(self, x, batch, cos, sin, mask):
        """x [batch*S, H] in the compute type; cos and sin [S, head_dim]; mask [S, S] is added to the scores. Returns [batch*S, H]."""
        s = self.shape
        weight = torch.cat([self.q_proj, self.k_proj, self.v_proj]).to(x.dtype)
        qkv = (x @ weight.t()).view(batch, -1, s.heads + 2 * s.kv_heads, s.head_dim).transpose(1, 2)
        rotated, v = qkv.split([s.heads + s.kv_heads, s.kv_heads], 1)
        low, high = rotated.chunk(2, -1)
        rotated = rotated * cos + torch.cat([-high, low], -1) * sin
        q, k = rotated.split([s.heads, s.kv_heads], 1)
        q = (q * s.head_dim**-0.5).reshape(batch, s.kv_heads, -1, s.head_dim)  # the heads of one KV head, one below the other
        scores = (q @ k.transpose(-1, -2)).unflatten(2, (-1, k.shape[2])) + mask
        y = (torch.softmax(scores, -1).flatten(2, 3) @ v).view(batch, s.heads, -1, s.head_dim)
        return y.transpose(1, 2).reshape(x.shape[0], -1) @ self.o_proj.to(x.dtype).t()


class Experts(nn.Module):
    """Mixtral's sparse layer: softmax over all experts in float32, the `top_k` largest, divided by their sum."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.gate = nn.Parameter(torch.randn(shape.experts, shape.hidden) * 0.02) if shape.experts > 1 else None
        self.w1 = nn.Parameter(torch.randn(shape.experts, shape.expert_width, shape.hidden) * 0.02)
        self.w3 = nn.Parameter(torch.randn(shape.experts, shape.expert_width, shape.hidden) * 0.02)
        self.w2 = nn.Parameter(torch.zeros(shape.experts, shape.hidden, shape.expert_width))

    def forward(self, x):
        """x [N, H] -> ([N, H], gate probabilities [N, E] float32, chosen experts [N, top_k]); the dense twin has no gate and
        returns None for both."""
        if self.gate is None:
            return self.expert(x, [x.shape[0]], None), None, None
        probabilities = torch.softmax(x.float() @ self.gate.t(), -1)
        weights, chosen = probabilities.topk(self.shape.top_k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        route = Route(chosen, self.shape.experts)
        y = self.expert(Dispatch.apply(x, route), route.counts, route.rows_of_weights(weights).to(x.dtype))
        return Combine.apply(y, route), probabilities, chosen

    def expert(self, rows, counts, weights):
        """w2 (silu(w1 x) * w3 x) * weight; the weight goes in before w2, where rows are narrower."""
        up = torch.cat([self.w1, self.w3], 1).to(rows.dtype)
        a, b = GroupedLinear.apply(rows, up, counts).chunk(2, -1)
        h = F.silu(a) * b
        if weights is not None:
            h = h * weights
        return GroupedLinear.apply(h, self.w2.to(rows.dtype), counts)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.input_norm = nn.Parameter(torch.ones(shape.hidden))
        self.post_norm = nn.Parameter(torch.ones(shape.hidden))
        self.attention = Attention(shape)
        self.experts = Experts(shape)


class Network(nn.Module):
    """Tied embeddings, `shape.layers` layers, a final norm."""

    def __init__(self, shape, seed=1):
        super().__init__()
        torch.manual_seed(seed)
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))

    def rope(self, length):
        s = self.shape
        inverse = s.rope_theta ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        angles = torch.arange(length).float().unsqueeze(1) * inverse
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(s.compute), angles.sin().to(s.compute)

    def forward(self, tokens):
        """tokens [B, S+1] -> (mean cross-entropy of tokens 1.. given those before, [(probabilities, chosen)] per layer)."""
        s = self.shape
        inputs, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1)
        length = inputs.shape[1]
        cos, sin = self.rope(length)
        mask = torch.full((length, length), float("-inf"), dtype=s.compute).triu(1)
        x = F.embedding(inputs.reshape(-1), self.embedding)
        gates = []
        for layer in self.layers:
            h = RmsNorm.apply(x, layer.input_norm, s.norm_epsilon, s.compute)
            x = x + layer.attention(h, len(tokens), cos, sin, mask)
            h = RmsNorm.apply(x, layer.post_norm, s.norm_epsilon, s.compute)
            y, probabilities, chosen = layer.experts(h)
            x = x + y
            gates.append((probabilities, chosen))
        h = RmsNorm.apply(x, self.norm, s.norm_epsilon, s.compute)
        return HeadLoss.apply(h, self.embedding.to(s.compute), targets), gates


def balance_loss(probabilities, chosen):
    """The load-balancing loss of Switch Transformers (Fedus et al. 2021, eq. 4-6) for top-k: E * sum_e f_e P_e; 1 at balance."""
    experts = probabilities.shape[1]
    share = chosen.flatten().bincount(minlength=experts).float() / chosen.numel()
    return experts * (share * probabilities.mean(0)).sum()


def alignment_loss(probabilities, domain_rows):
    """Minus the mutual information of domain and expert (Mod-Squad, Chen et al. 2022, eq. 3), in nats: H(E|D) - H(E).
    `domain_rows`: row ranges (slices), one for each domain present, that partition the rows of `probabilities`."""
    def entropy(p):
        return -(p * (p + 1e-9).log()).sum()

    rows = probabilities.shape[0]
    within = sum((d.stop - d.start) / rows * entropy(probabilities[d].mean(0)) for d in domain_rows)
    return within - entropy(probabilities.mean(0))
