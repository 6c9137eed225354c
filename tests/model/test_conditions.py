"""Conditions change nothing before the first step, and forecasts with the cache equal those without it."""

import json

import pytest
import torch
from toy_series import bars, stamps

from kronos.model import PREDICTOR_PRESETS, Kronos, digest, load_predictor
from kronos.model.conditions import Conditions
from kronos.model.inference.engine import Engine, generate
from kronos.utils.errors import UserError

COLUMNS = [
    {"name": "sector", "kind": "category", "categories": ["bank", "steel", "oil"]},
    {"name": "volatility", "kind": "number", "mean": 2.0, "deviation": 0.5},
]
BLOCKS = (0, 1, 2)  # before the first block, between the blocks, after the last


def described(block: int) -> dict:
    return {"block": block, "columns": COLUMNS}


def conditioned(model: Kronos, block: int, trained: bool) -> Kronos:
    """A copy of the model with conditions, as before training or as if trained."""
    torch.manual_seed(11)
    copy = Kronos(**model.config)
    copy.load_state_dict(model.state_dict())
    copy.add_conditions(Conditions.from_json(described(block)))
    if trained:
        with torch.no_grad():
            copy.conditions.projection.weight.normal_(std=0.05)
            copy.conditions.projection.bias.normal_(std=0.05)
            for table in copy.conditions.tables:
                table.weight[-1].normal_()
    return copy.eval()


def values(batch: int, length: int) -> torch.Tensor:
    """Conditions [batch, length, 2] with missing ones and a category that the column does not have."""
    generator = torch.Generator().manual_seed(5)
    sector = torch.randint(0, 4, (batch, length), generator=generator).float()
    number = torch.randn(batch, length, generator=generator) * 2 + 2
    found = torch.stack((sector, number), dim=-1)
    found[torch.rand(found.shape, generator=generator) < 0.2] = torch.nan
    return found


@pytest.mark.parametrize("block", BLOCKS)
def test_before_the_first_step_logits_and_forecasts_are_those_without_conditions_bit_for_bit(nano, block):
    tokenizer, model = nano
    other = conditioned(model, block, trained=False)
    x, stamp, future = bars(3, 20), stamps(3, 20), stamps(3, 6, first=20)
    s1, s2 = tokenizer.encode(x, half=True)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            plain = model(s1, s2, stamp, use_teacher_forcing=True, s1_targets=s1)
            same = other(s1, s2, stamp, use_teacher_forcing=True, s1_targets=s1, conditions=values(3, 20))
        assert all(torch.equal(*pair) for pair in zip(plain, same, strict=True))
    uniform = torch.rand(3, 2, 6, 2, generator=torch.Generator().manual_seed(1))
    for max_context in (64, 22):
        rules = {"max_context": max_context, "batch_invariant": True}
        paths = Engine(tokenizer, model, **rules)(x, stamp, future, uniform_NSH2=uniform)
        with_some = Engine(tokenizer, other, **rules)
        assert torch.equal(
            paths, with_some(x, stamp, future, uniform_NSH2=uniform, conditions_NLC=values(3, 20))
        )


# context, horizon, max_context: inside, crossing the edge, beyond it, and a context that leaves the window altogether
@pytest.mark.parametrize(
    ("length", "horizon", "max_context"), [(20, 6, 64), (20, 9, 24), (40, 5, 24), (10, 12, 12)]
)
@pytest.mark.parametrize("block", BLOCKS)
def test_cached_generation_equals_plain_passes_in_which_later_bars_see_the_last_bars_conditions(
    nano, block, length, horizon, max_context
):
    tokenizer, model = nano[0], conditioned(nano[1], block, trained=True)
    x, stamp, future = bars(4, length), stamps(4, length), stamps(4, horizon, first=length)
    given = values(4, length)
    conditions = torch.cat((given, given[:, -1:].expand(-1, horizon, -1)), dim=1)
    for samples in (1, 2):
        ours = generate(
            tokenizer, model, x, stamp, future, horizon=horizon, max_context=max_context, top_k=1,
            sample_count=samples, fine_rotary="trained", conditions_NLC=given,
        )  # fmt: skip
        s1, s2 = tokenizer.encode(x, half=True)
        times = torch.cat((stamp, future), dim=1)
        with torch.no_grad():
            for _ in range(horizon):
                part = slice(max(0, s1.shape[1] - max_context), s1.shape[1])
                hidden = model.hidden(s1[:, part], s2[:, part], times[:, part], None, conditions[:, part])
                chosen = model.coarse_logits(hidden).argmax(-1)
                fine = model.fine_logits(hidden, chosen)[:, -1:].argmax(-1)
                s1, s2 = torch.cat((s1, chosen[:, -1:]), dim=1), torch.cat((s2, fine), dim=1)
            part = slice(max(0, s1.shape[1] - max_context), None)
            expected = tokenizer.decode((s1[:, part], s2[:, part]), half=True)[:, -horizon:]
        for sample in ours.unbind(1):
            torch.testing.assert_close(sample, expected, rtol=0, atol=1e-4)
    plain = generate(tokenizer, nano[1], x, stamp, future, horizon=horizon, max_context=max_context, top_k=1)
    assert not torch.equal(plain[:, 0], ours[:, 0]), "the conditions matter"


def test_a_forecast_with_conditions_does_not_depend_on_its_batch_bit_for_bit(nano):
    tokenizer, model = nano[0], conditioned(nano[1], 1, trained=True)
    engine = Engine(tokenizer, model, batch_invariant=True)
    x, stamp, future, given = bars(5, 20), stamps(5, 20), stamps(5, 4, first=20), values(5, 20)
    uniform = torch.rand(5, 2, 4, 2, generator=torch.Generator().manual_seed(1))
    whole = engine(x, stamp, future, uniform_NSH2=uniform, conditions_NLC=given)
    alone = engine(x[:1], stamp[:1], future[:1], uniform_NSH2=uniform[:1], conditions_NLC=given[:1])
    assert torch.equal(whole[:1], alone)


def test_numbers_are_standardised_and_clipped_and_what_is_missing_or_unknown_has_its_own_row(nano):
    embedding = conditioned(nano[1], 1, trained=True).conditions
    sector, number = (table.weight for table in embedding.tables)
    rows = torch.tensor([[0.0, 2.5], [2.0, 100.0], [torch.nan, torch.nan], [3.0, torch.inf], [-1.0, 2.0]])
    expected = [
        sector[0] + number[0], sector[2] + 5 * number[0], sector[3] + number[1], sector[3] + number[1], sector[3]
    ]  # fmt: skip
    torch.testing.assert_close(embedding.summed(rows), torch.stack(expected))


def test_a_checkpoint_with_conditions_says_so_under_one_key_and_one_without_is_as_it_was(nano, tmp_path):
    _, model = nano
    model.save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "config.json").read_text()) == PREDICTOR_PRESETS["nano"]
    other = conditioned(model, 1, trained=True)
    other.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config == {**PREDICTOR_PRESETS["nano"], "conditions": described(1)}
    loaded = load_predictor(tmp_path / "other")
    assert digest(loaded) == digest(other) and digest(loaded) != digest(model)
    own = {name for name in other.state_dict() if name not in model.state_dict()}
    assert own and all(name.startswith("conditions.") for name in own)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    public = pytest.importorskip("model.kronos", reason="the public package is not installed")
    public.Kronos.from_pretrained(tmp_path / "plain", strict=True)


def test_conditions_that_are_none_are_refused_in_one_line(nano, tmp_path):
    model = conditioned(nano[1], 1, trained=False)
    s1 = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(UserError, match="trained with the conditions sector, volatility: give their values"):
        model.hidden(s1, s1)
    with pytest.raises(UserError, match="trained without conditions: leave them out"):
        nano[1].hidden(s1, s1, None, None, values(1, 4))
    cases = [
        (described(3), "condition_block is 3, the predictor has 2 blocks"),
        ({"block": 1, "columns": COLUMNS[:1] * 2}, "a column twice"),
        ({"block": 1, "columns": [{**COLUMNS[1], "deviation": 0}]}, "not above 0"),
        ({"block": True, "columns": COLUMNS}, "block of 0 or more"),
        (7, "not an object with block and columns"),
    ]
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "digests.json").unlink()
    file = tmp_path / "model" / "config.json"
    for given, message in cases:
        file.write_text(json.dumps({**model.config, "conditions": given}))
        with pytest.raises(UserError, match=message):
            load_predictor(tmp_path / "model")
