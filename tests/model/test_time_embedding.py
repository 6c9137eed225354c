"""Time features beside the five of the public models: no change before training, one key, refused in words."""

import json

import pytest
import torch
from toy_series import bars, stamps

from kronos.model import PREDICTOR_PRESETS, Kronos, digest, load_predictor
from kronos.model.inference.engine import Engine
from kronos.model.time_embedding import PUBLIC
from kronos.utils.errors import UserError

CALENDAR = ("days_to_holiday", "half_day")


def described(*names: str) -> dict:
    return {"names": list(names), "calendar": "XNYS", "freq": "day", "label": "end"}


def with_calendar(model: Kronos, trained: bool) -> Kronos:
    copy = Kronos(**model.config)
    copy.load_state_dict(model.state_dict())
    state = torch.get_rng_state()
    copy.add_time_features(described(*PUBLIC, *CALENDAR))
    assert torch.equal(state, torch.get_rng_state())
    if trained:
        for table in copy.calendar_emb.tables.values():
            torch.nn.init.normal_(table.weight)
    return copy.eval()


def further(stamp: torch.Tensor) -> torch.Tensor:
    """Stamps with two more features."""
    generator = torch.Generator().manual_seed(2)
    days = torch.randint(0, 11, stamp.shape[:2], generator=generator)
    half = torch.randint(0, 2, stamp.shape[:2], generator=generator)
    return torch.cat((stamp, torch.stack((days, half), dim=-1)), dim=-1)


def test_before_the_first_step_logits_and_forecasts_are_the_public_models_bit_for_bit(nano):
    tokenizer, model = nano
    x, stamp, future = bars(3, 20), stamps(3, 20), stamps(3, 4, first=20)
    s1, s2 = tokenizer.encode(x, half=True)
    uniform = torch.rand(3, 2, 4, 2, generator=torch.Generator().manual_seed(1))
    for trained in (False, True):
        other = with_calendar(model, trained)
        with torch.no_grad():
            plain = model(s1, s2, stamp, use_teacher_forcing=True, s1_targets=s1)
            same = other(s1, s2, further(stamp), use_teacher_forcing=True, s1_targets=s1)
        assert all(torch.equal(*pair) != trained for pair in zip(plain, same, strict=True))
        engines = [Engine(tokenizer, one, batch_invariant=True) for one in (model, other)]
        paths = engines[0](x, stamp, future, uniform_NSH2=uniform)
        found = engines[1](x, further(stamp), further(future), uniform_NSH2=uniform)
        assert torch.equal(paths, found) != trained


def test_a_checkpoint_says_so_under_one_key_and_has_the_public_weights_by_their_names(nano, tmp_path):
    other = with_calendar(nano[1], trained=True)
    other.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config == {**PREDICTOR_PRESETS["nano"], "time_features": described(*PUBLIC, *CALENDAR)}
    loaded = load_predictor(tmp_path / "other")
    assert digest(loaded) == digest(other)
    own = {name for name in loaded.state_dict() if name not in nano[1].state_dict()}
    assert own == {f"calendar_emb.tables.{name}.weight" for name in CALENDAR}


def test_random_weights_may_have_fewer_features_in_any_order_and_read_them_by_name(nano):
    names = ("month", "half_day", "hour")
    torch.manual_seed(1)
    model = Kronos(**PREDICTOR_PRESETS["nano"], time_features=described(*names)).eval()
    tables = {name for name, _ in model.time_emb.named_parameters()}
    assert tables == {"hour_embed.weight", "month_embed.weight"}
    stamp = torch.tensor([[[3, 1, 7]]])
    torch.testing.assert_close(
        model.time_emb(stamp)[0, 0],
        model.time_emb.hour_embed.weight[7] + model.time_emb.month_embed.weight[3],
    )
    assert model.calendar_emb(stamp).abs().max() == 0


def test_time_features_that_are_none_are_refused_in_one_line(nano, tmp_path):
    model = with_calendar(nano[1], trained=False)
    with pytest.raises(
        ValueError, match="has the time features minute, hour, weekday, day, month, further ones"
    ):
        Kronos(**PREDICTOR_PRESETS["nano"]).add_time_features(described("hour", "half_day"))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "digests.json").unlink()
    file = tmp_path / "model" / "config.json"
    for given, message in (
        (7, "not an object with names, calendar"),
        (described("hour", "hour"), "expected one of minute, hour, weekday, day, month at least, each once"),
        (described("half_day"), "at least, each once"),
        (described("hour", "moon"), "has the names hour, moon"),
    ):
        file.write_text(json.dumps({**model.config, "time_features": given}))
        with pytest.raises(UserError, match=message):
            load_predictor(tmp_path / "model")
