"""Generation with a key-value cache: the context is encoded once per series and shared by its samples.

Axes: N series, S samples, L bars of context, H bars of the horizon, F features, K time features, D width, V ids.
"""

import functools
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model.checkpoint import check_pair
from kronos.model.inference.fine_head import FineHead
from kronos.model.inference.kv_cache import LEAST_ROWS, Cache, KeyValues, Norm, Product, Stack, padded
from kronos.model.inference.sampling import filter_and_sample, per_bar
from kronos.model.predictor import Kronos, check_conditions
from kronos.model.time_embedding import embed_time
from kronos.model.tokenizer import KronosTokenizer
from kronos.utils.errors import UserError

FINE_ROTARY = ("public", "trained")
SLIDING = ("exact", "cached")


class Engine:
    """A tokenizer and a predictor prepared for generation; build it once for many batches. Weights are copied.

    There is no dropout, so the train or eval mode of the models does not matter and is not changed. `dtype`
    (None: the predictor's) is that of the products; softmaxes and norms are computed in float32. `compiled` runs
    the predictor's blocks through torch.compile, which changes results by rounding only. `sliding` says what happens
    once context and drawn bars are more than max_context: "exact" runs the last max_context bars again at every bar,
    as the public code does; "cached" drops the oldest bar from the cache, so that a bar costs what it did before, but
    the hidden states of the others still depend on dropped bars. `batch_invariant` makes a series' float32 results
    on a CPU equal bit for bit whatever the batch and the number of threads: products of few rows are padded, which
    costs time in small batches. Elsewhere, and with `compiled`, it has no effect.
    """

    def __init__(
        self,
        tokenizer: KronosTokenizer,
        model: Kronos,
        *,
        max_context: int = 512,
        fine_rotary: str = "public",
        sliding: str = "exact",
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        batch_invariant: bool = False,
    ) -> None:
        check_pair(tokenizer, model)
        if fine_rotary not in FINE_ROTARY:
            raise UserError(f"fine_rotary is {fine_rotary!r}, expected one of {', '.join(FINE_ROTARY)}")
        if sliding not in SLIDING:
            raise UserError(f"sliding is {sliding!r}, expected one of {', '.join(SLIDING)}")
        if any(hasattr(module, "base_layer") for one in (tokenizer, model) for module in one.modules()):
            raise UserError(
                "a model with an adapter cannot forecast: merge it first (peft's merge_and_unload)"
            )
        if max_context < 1:
            raise UserError(f"max_context is {max_context}, expected at least 1")
        # No reference to the predictor: `engine_for` frees an engine together with its predictor.
        self.tokenizer, self.max_context, self.config = tokenizer, max_context, model.config
        self.time_emb, self.calendar_emb = model.time_emb, model.calendar_emb
        self.conditions = model.conditions
        self.window = max_context if sliding == "cached" else None
        self.device = model.head.proj_s1.weight.device
        dtype = self.dtype = dtype or model.head.proj_s1.weight.dtype
        pads = batch_invariant and self.device.type == "cpu" and not compiled
        least = self.least_rows = LEAST_ROWS if pads else 0
        with torch.inference_mode():
            self.encoder = Stack(tokenizer.encoder, dtype, least_rows=least)
            self.decoder = Stack(tokenizer.decoder, dtype, least_rows=least)
            block = 0 if self.conditions is None else self.conditions.block
            self.stack = Stack(model.transformer, dtype, compiled, least, block)
            if self.conditions is not None:
                self.condition = Product(self.conditions.projection, dtype=dtype, least_rows=least)
            self.norm = Norm(model.norm, dtype, weighted=True)
            self.coarse = Product(model.head.proj_s1, dtype=dtype, least_rows=least)
            trained = fine_rotary == "trained"
            self.fine = FineHead(model.dep_layer, model.head.proj_s2, trained, dtype, least)
            self.fusion = Product(model.embedding.fusion_proj, dtype=dtype, least_rows=least)
            # The query of the fine head is not scaled.
            self.token_embedding = model.embedding.emb_s1.weight.to(dtype)
            self.tables = [
                table.weight.to(dtype) * model.embedding.scale
                for table in (model.embedding.emb_s1, model.embedding.emb_s2)
            ]

    @torch.inference_mode()
    def __call__(
        self,
        x_NLF: Tensor,
        stamp_NLK: Tensor,
        future_stamp_NHK: Tensor,
        *,
        uniform_NSH2: Tensor,
        conditions_NLC: Tensor | None = None,
        temperature: float | Sequence[float] = 1.0,
        top_k: int | None = 0,
        top_p: float | None = 0.9,
        clip: float = 5.0,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return float32 [N, S, H, F]: the next H bars, normalised as `x_NLF` is, one path per uniform[:, s].

        `uniform_NSH2` in [0, 1) draws the coarse and the fine id of each bar. `temperature` is one number, or one
        per bar of the horizon. `progress` is called with the number of bars done so far. `conditions_NLC` are those
        of the context, for a model that has some; the bars that are drawn see the values of its last bar.
        """
        check_conditions(self.conditions, conditions_NLC)
        x_NLF = x_NLF.to(self.device, torch.float32).clamp(-clip, clip)
        length, horizon = x_NLF.shape[1], future_stamp_NHK.shape[1]
        if not 1 <= horizon <= self.max_context:
            raise UserError(f"horizon is {horizon}, expected 1 to max_context = {self.max_context}")
        uniform = uniform_NSH2.to(self.device)
        s1, s2 = self._encode(x_NLF)
        kept = slice(max(0, length - self.max_context), None)
        time, future = self._time(stamp_NLK[:, kept]), self._time(future_stamp_NHK)
        added = None if conditions_NLC is None else self._added(conditions_NLC[:, kept])
        embedded = self._embed(s1[:, kept], s2[:, kept], time)
        window = _Window(self, embedded, uniform.shape[1], horizon, added)
        drawn = s1.new_empty(2, len(s1), uniform.shape[1], horizon)
        temperatures = per_bar(temperature, horizon)
        for bar in range(horizon):
            rules = {"temperature": temperatures[bar], "top_k": top_k, "top_p": top_p}
            hidden = window.hidden
            coarse = _draw(self.coarse(hidden), uniform[:, :, bar, 0], rules)
            fine = _draw(window.fine_logits(self.token_embedding[coarse]), uniform[:, :, bar, 1], rules)
            drawn[0, :, :, bar], drawn[1, :, :, bar] = coarse, fine
            if bar + 1 < horizon:  # the bar after the last is not needed
                window.add(self._embed(coarse, fine, future[:, None, bar]))
            if progress is not None:
                progress(bar + 1)
        return self._decode(s1, s2, drawn[0], drawn[1]).float()

    def _embed(self, s1: Tensor, s2: Tensor, time: Tensor) -> Tensor:
        pair = torch.cat((F.embedding(s1, self.tables[0]), F.embedding(s2, self.tables[1])), dim=-1)
        return self.fusion(pair) + time

    def _time(self, stamp: Tensor) -> Tensor:
        return embed_time(self.time_emb, self.calendar_emb, stamp.to(self.device)).to(self.dtype)

    def _added(self, conditions_NLC: Tensor) -> Tensor:
        """Return what the conditions add to the hidden states, [N, L, D]."""
        assert self.conditions is not None
        return self.condition(self.conditions.summed(conditions_NLC.to(self.device)).to(self.dtype))

    def _encode(self, x_NLF: Tensor) -> tuple[Tensor, Tensor]:
        """Return coarse and fine ids [N, L]; those of bar t depend on the bars up to t."""
        module = self.tokenizer
        x, _ = self.encoder.prefix(self._linear(x_NLF, module.embed, torch.float32).to(self.dtype))
        x = self._linear(x, module.quant_embed, self.dtype)
        return module.tokenizer.ids(x)

    def _decode(self, s1_NL: Tensor, s2_NL: Tensor, s1_NSH: Tensor, s2_NSH: Tensor) -> Tensor:
        """Return [N, S, H, F]: the last max_context bars decoded from position 0, the context once per series."""
        first = max(0, s1_NL.shape[1] + s1_NSH.shape[2] - self.max_context)
        own = self._bits(s1_NSH, s2_NSH)
        series, samples, horizon, _ = own.shape
        if first < s1_NL.shape[1]:
            context = self._bits(s1_NL[:, first:], s2_NL[:, first:])
            _, cache = self.decoder.prefix(context, samples, horizon, hidden=False)
            own = self.decoder.extend(own, cache)
        else:
            own = self.decoder.prefix(own.flatten(0, 1))[0].unflatten(0, (series, samples))
        return self._linear(own.float(), self.tokenizer.head, torch.float32)

    def _bits(self, s1: Tensor, s2: Tensor) -> Tensor:
        signs = self.tokenizer.tokenizer.signs(s1, s2).to(self.dtype)
        return self._linear(signs, self.tokenizer.post_quant_embed, self.dtype)

    def _linear(self, x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        """Apply a layer whose weights are not copied, in `dtype`, to `x` of that type."""
        count = x.shape[:-1].numel()
        if count >= self.least_rows:
            return F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype))
        rows = padded(x.reshape(count, -1), self.least_rows)
        return F.linear(rows, layer.weight.to(dtype), layer.bias.to(dtype))[:count].view(*x.shape[:-1], -1)


class _Window:
    """The bars that the predictor sees: the last max_context of context and drawn bars, positions from 0.

    While all bars fit, each new bar extends the caches. Once the window slides, positions shift and the first bar
    drops out, so all hidden states change: the window is run again, as in the public code, except that the part
    shared by the samples is run once and the first block's projections, which have no position, are reused. With
    sliding="cached" positions go on and the caches serve the last max_context bars; since rotary scores depend on
    differences of positions only, what differs is that older hidden states have seen bars that dropped out.
    """

    def __init__(
        self,
        engine: Engine,
        context_NLD: Tensor,
        samples: int,
        horizon: int,
        added_NLD: Tensor | None = None,
    ) -> None:
        # What the conditions add to the bars after the context, [N, 1, 1, D]: to their embeddings, or after a block.
        last = None if added_NLD is None else added_NLD[:, None, -1:]
        self.to_embeddings = self.to_hidden = None
        if added_NLD is not None and engine.stack.adds_after == 0:
            context_NLD, added_NLD, self.to_embeddings = context_NLD + added_NLD, None, last
        elif added_NLD is not None:
            self.to_hidden = last
        self.engine, self.context, self.samples, self.added = engine, context_NLD, samples, added_NLD
        series, length, self.width = context_NLD.shape
        self.total, self.first = length, 0
        cached = engine.window is not None
        room = horizon if cached else min(horizon, engine.max_context - length)
        self.slides = not cached and length + horizon - 1 > engine.max_context
        if self.slides:
            self.context = engine.stack.with_projections(context_NLD)
            self.own = self.context.new_empty(series, samples, horizon, self.context.shape[-1])
        hidden = self._prefix(self.context, samples, room, self.added)
        self.hidden = hidden[:, None, -1].expand(-1, samples, -1)  # [N, S, D] of the newest bar

    def _prefix(self, rows: Tensor, samples: int, room: int, added_NPD: Tensor | None) -> Tensor:
        """Return hidden states of bars from position 0 on; `rows` are embeddings, with projections once it slides."""
        x, unrotated = rows[..., : self.width], rows[..., self.width :] if self.slides else None
        kept = samples if room else 0
        window = self.engine.window
        hidden, self.cache = self.engine.stack.prefix(
            x, kept, room, unrotated_NPE=unrotated, added_NPD=added_NPD, window=window
        )
        hidden = self.engine.norm(hidden)
        self.keys = self.engine.fine.start(hidden, samples, room, window)
        return hidden

    def _extend(self, x_NSQD: Tensor, cache: Cache) -> None:
        first = cache.position
        hidden = self.engine.norm(self.engine.stack.extend(x_NSQD, cache, self.to_hidden))
        assert isinstance(self.keys, KeyValues)
        self.engine.fine.append(self.keys, hidden, first)
        self.hidden = hidden[:, :, -1]

    def add(self, x_NSD: Tensor) -> None:
        """Add one bar of every sample, given its embedding [N, S, D]."""
        length = self.context.shape[1]
        if self.to_embeddings is not None:
            x_NSD = x_NSD + self.to_embeddings[:, :, 0]
        if self.slides:
            self.own[:, :, self.total - length] = self.engine.stack.with_projections(x_NSD)
        self.total += 1
        self.first = max(0, self.total - self.engine.max_context) if self.slides else 0
        if not self.first:
            return self._extend(x_NSD[:, :, None], self.cache)
        own = self.own[:, :, max(0, self.first - length) : self.total - length]
        if self.samples > 1 and self.first < length:
            added = None if self.added is None else self.added[:, self.first :]
            self._prefix(self.context[:, self.first :], self.samples, own.shape[2], added)
            return self._extend(own[..., : self.width], self.cache)
        shared = self.context[:, None, self.first :].expand(-1, self.samples, -1, -1)
        rows = torch.cat((shared, own), dim=2)
        hidden = self._prefix(rows.flatten(0, 1), 1, 0, self._added_to_all(own.shape[2]))
        self.hidden = hidden[:, -1].unflatten(0, rows.shape[:2])

    def _added_to_all(self, own: int) -> Tensor | None:
        """Return what is added to the context from `first` on and to `own` bars after it, for each sample of each."""
        if self.added is None or self.to_hidden is None:
            return None
        later = self.to_hidden[:, 0].expand(-1, own, -1)
        return torch.cat((self.added[:, self.first :], later), dim=1).repeat_interleave(self.samples, dim=0)

    def fine_logits(self, token_NSD: Tensor) -> Tensor:
        """Return logits [N, S, V] of the next bar's fine id, given the embedding of its coarse id."""
        position = self.total - self.first - 1
        hidden, series = self.hidden, len(token_NSD)
        if self.keys.series != series:  # past the context, each sample is a series of its own
            hidden, token_NSD = hidden.flatten(0, 1)[:, None], token_NSD.flatten(0, 1)[:, None]
        return self.engine.fine(self.keys, hidden, token_NSD, position).view(series, self.samples, -1)


def _draw(logits_NSV: Tensor, uniform_NS: Tensor, rules: dict) -> Tensor:
    ids = filter_and_sample(logits_NSV.flatten(0, 1), uniform_R=uniform_NS.flatten(), **rules)
    return ids.view(uniform_NS.shape)


_LAST_ENGINES: WeakKeyDictionary[Kronos, tuple[tuple, Engine]] = WeakKeyDictionary()


def engine_for(tokenizer: KronosTokenizer, model: Kronos, **options: Any) -> Engine:
    """Return an Engine of the pair; the one of the last call where neither an option nor a weight has changed."""
    state = id(tokenizer), options, _fingerprint(tokenizer), _fingerprint(model)
    before, engine = _LAST_ENGINES.get(model, (None, None))
    if engine is None or before != state:
        engine = Engine(tokenizer, model, **options)
        _LAST_ENGINES[model] = state, engine
    return engine


@torch.no_grad()
def _fingerprint(module: torch.nn.Module) -> tuple:
    """Return a value that changes with every change of a weight, in place or not, through `.data` or not.

    An in-place operation raises the weight's version counter, except through `.data`: there the checksum changes.
    """
    weights = [weight.detach() for weight in chain(module.parameters(), module.buffers())]
    with torch.autocast(weights[0].device.type, enabled=False):
        checksums = torch.stack([_checksum(weight) for weight in weights]).tolist()
    return tuple(
        (weight.data_ptr(), weight.dtype, 0 if weight.is_inference() else weight._version, checksum)
        for weight, checksum in zip(weights, checksums, strict=True)
    )


def _checksum(weight: Tensor) -> Tensor:
    """Return rows^T W columns with random coefficients: sensitive to order and signs, in one pass over memory."""
    matrix = weight.reshape(-1, weight.shape[-1] if weight.ndim else 1)
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    rows, columns = (_coefficients(size, matrix.device, matrix.dtype) for size in matrix.shape)
    return torch.dot(matrix @ columns, rows)


@functools.cache
def _coefficients(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return fixed random numbers in [0.5, 1.5)."""
    draws = torch.rand(size, generator=torch.Generator().manual_seed(size), device="cpu")
    return (draws + 0.5).to(device, dtype)


def generate(
    tokenizer: KronosTokenizer,
    model: Kronos,
    x_NLF: Tensor,
    stamp_NLK: Tensor,
    future_stamp_NHK: Tensor,
    *,
    horizon: int,
    conditions_NLC: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = 0,
    top_p: float | None = 0.9,
    sample_count: int = 1,
    clip: float = 5.0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Return sampled paths, float32 [N, S, H, F], normalised as the bars `x_NLF` are.

    `generator` None draws from torch's global generator. `options` are those of Engine.
    """
    if future_stamp_NHK.shape[1] != horizon:
        raise UserError(f"{future_stamp_NHK.shape[1]} future stamps for a horizon of {horizon}")
    engine = engine_for(tokenizer, model, **options)
    device = generator.device if generator is not None else engine.device
    shape = (len(x_NLF), sample_count, horizon, 2)
    return engine(
        x_NLF,
        stamp_NLK,
        future_stamp_NHK,
        uniform_NSH2=torch.rand(shape, generator=generator, device=device),
        conditions_NLC=conditions_NLC,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        clip=clip,
    )
