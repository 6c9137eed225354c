"""The same model as the public package: keys, ids, reconstructions, logits, losses and every gradient.

Equal means per tensor: max|a - b| <= 1e-5 x max|b|, float32, dropout 0. The public side runs in train mode
where its evaluation mode is not causal.
"""

import pytest
import torch
from torch.nn.functional import mse_loss
from toy_series import bars, stamps

from kronos.model import (
    PREDICTOR_PRESETS,
    TOKENIZER_PRESETS,
    Kronos,
    KronosTokenizer,
    load_predictor,
    load_tokenizer,
)

public = pytest.importorskip("model", reason="the public package kronos-model-arch is not installed")

DROPOUTS = ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p", "token_dropout_p")
SHAPES = ["mini", "small", pytest.param("base", marks=pytest.mark.slow)]
TOLERANCE = 1e-5


def without_dropout(arguments: dict) -> dict:
    return arguments | {name: 0.0 for name in DROPOUTS if name in arguments}


def stir(module: torch.nn.Module) -> None:
    """Move every weight, so that no norm is 1 and no bias is 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    assert ours.shape == theirs.shape, name
    scale = theirs.abs().max().item()
    assert scale > 0, f"{name} is zero everywhere: it proves nothing"
    assert (ours - theirs).abs().max().item() <= TOLERANCE * scale, name


def assert_gradients_equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients
    for name, parameter in ours.named_parameters():
        assert_equal(parameter.grad, gradients.pop(name), name)
    assert not gradients


def predictor_pair(shape: str, folder):
    """A public model and ours, loaded from the folder that the public one saved."""
    torch.manual_seed(11)
    theirs = public.Kronos(**without_dropout(PREDICTOR_PRESETS[shape]))
    stir(theirs)
    theirs.save_pretrained(folder)
    return load_predictor(folder).train(), theirs.train()


@pytest.fixture(scope="module", params=SHAPES)
def predictors(request, tmp_path_factory):
    return predictor_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    torch.manual_seed(12)
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = public.KronosTokenizer(**TOKENIZER_PRESETS["base"])
    stir(theirs)
    theirs.save_pretrained(folder)
    return load_tokenizer(folder).train(), theirs.train()


def tokens(model, batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """Random coarse ids, fine ids and drawn coarse ids, [batch, length] each."""
    generator = torch.Generator().manual_seed(5)
    high = (2**model.s1_bits, 2**model.s2_bits, 2**model.s1_bits)
    return tuple(torch.randint(0, top, (batch, length), generator=generator) for top in high)


def assert_same_tensors(state: dict, other: dict) -> None:
    assert list(state) == list(other)
    for name, tensor in state.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


def test_public_predictor_reads_what_ours_saves(predictors, tmp_path):
    ours, theirs = predictors
    assert_same_tensors(ours.state_dict(), theirs.state_dict())
    ours.save_pretrained(tmp_path / "ours")
    back = public.Kronos.from_pretrained(tmp_path / "ours", strict=True)
    assert_same_tensors(back.state_dict(), theirs.state_dict())


def test_public_tokenizer_reads_what_ours_saves(tokenizers, tmp_path):
    ours, theirs = tokenizers
    assert_same_tensors(ours.state_dict(), theirs.state_dict())
    ours.save_pretrained(tmp_path / "ours")
    back = public.KronosTokenizer.from_pretrained(tmp_path / "ours", strict=True)
    assert_same_tensors(back.state_dict(), theirs.state_dict())


def test_fixed_time_tables_have_the_public_keys():
    arguments = PREDICTOR_PRESETS["nano"] | {"learn_te": False}
    ours, theirs = Kronos(**arguments), public.Kronos(**arguments)
    assert "time_emb.minute_embed.emb.weight" in ours.state_dict()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    s1, s2, _ = tokens(ours, 2, 9)
    assert_equal(ours.decode_s1(s1, s2, stamps(2, 9))[0], theirs.decode_s1(s1, s2, stamps(2, 9))[0], "coarse")
    assert not ours.time_emb.minute_embed.emb.weight.requires_grad


def test_logits_losses_and_gradients_equal_the_public_predictor(predictors):
    ours, theirs = predictors
    s1, s2, draw = tokens(ours, 2, 33)
    stamp = stamps(2, 32)
    losses = []
    for model in (ours, theirs):
        model.zero_grad()
        logits = model(s1[:, :-1], s2[:, :-1], stamp, use_teacher_forcing=True, s1_targets=draw[:, :-1])
        loss = model.head.compute_loss(*logits, s1[:, 1:], s2[:, 1:])
        loss[0].backward()
        losses.append((*logits, *(part.reshape(1) for part in loss)))
    for name, a, b in zip(("coarse", "fine", "loss", "coarse loss", "fine loss"), *losses, strict=True):
        assert_equal(a, b, name)
    assert_gradients_equal(ours, theirs)


def test_stepwise_decoding_equals_the_public_predictor_in_eval_mode(predictors):
    ours, theirs = predictors
    s1, s2, draw = tokens(ours, 2, 20)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        logits, hidden = ours.decode_s1(s1, s2, stamps(2, 20))
        public_logits, public_hidden = theirs.decode_s1(s1, s2, stamps(2, 20))
        fine = ours.decode_s2(hidden, draw[:, -1:])
        public_fine = theirs.decode_s2(public_hidden, draw[:, -1:])
    ours.train(), theirs.train()
    assert_equal(logits, public_logits, "coarse")
    assert_equal(hidden, public_hidden, "hidden")
    assert_equal(fine, public_fine, "fine")


def test_ids_equal_the_public_tokenizer_wherever_the_sign_is_clear(tokenizers):
    ours, theirs = tokenizers
    x = bars(8, 100)
    with torch.no_grad():
        unclear = (torch.nn.functional.normalize(ours.pre_signs(x), dim=-1).abs() <= 1e-5).any(-1)
        assert int(unclear.sum()) <= 8, "of 800 bars at most 8 have a bit this close to 0"
        for half in (False, True):
            a, b = ours.encode(x, half=half), theirs.encode(x, half=half)
            for mine, public_ids in zip(a, b, strict=True) if half else [(a, b)]:
                assert torch.equal(mine[~unclear], public_ids[~unclear])
            assert_equal(ours.decode(b, half=half), theirs.decode(b, half=half), "decoded")


def test_reconstructions_loss_and_gradients_equal_the_public_tokenizer(tokenizers):
    ours, theirs = tokenizers
    x = bars(4, 50, seed=1)
    results = []
    for model in (ours, theirs):
        model.zero_grad()
        (coarse, full), quantizer_loss, quantized, ids = model(x)
        loss = (mse_loss(coarse, x) + mse_loss(full, x) + quantizer_loss) / 2
        loss.backward()
        results.append((coarse, full, quantizer_loss.reshape(1), quantized, loss.reshape(1), ids))
    *floats, (_, ids, public_ids) = zip(
        ("coarse", "full", "quantizer loss", "quantised", "loss", "ids"), *results, strict=True
    )
    for name, a, b in floats:
        assert_equal(a, b, name)
    assert torch.equal(ids, public_ids)
    assert_gradients_equal(ours, theirs)


# Where the public code is wrong: ours beside it.


def fine_gradient_beyond(model, bar: int) -> float:
    """The largest gradient of the fine logits at `bar` with respect to later hidden states."""
    s1, s2, draw = tokens(model, 1, 12)
    _, hidden = model.decode_s1(s1, s2, stamps(1, 12))
    hidden = hidden.detach().requires_grad_()
    model.decode_s2(hidden, draw)[:, bar].sum().backward()
    return hidden.grad[:, bar + 1 :].abs().max().item()


def test_fine_head_is_causal_in_every_mode_where_the_public_one_is_not(predictors):
    ours, theirs = predictors
    for mode in (True, False):
        assert fine_gradient_beyond(ours.train(mode), 6) == 0
    assert fine_gradient_beyond(theirs.eval(), 6) > 0
    ours.train(), theirs.train()


def test_single_query_sees_all_bars_in_train_mode_where_the_public_one_sees_the_first(predictors):
    ours, theirs = predictors
    s1, s2, draw = tokens(ours, 1, 12)
    with torch.no_grad():
        _, hidden = ours.decode_s1(s1, s2, stamps(1, 12))
        training, public_training = (m.train().decode_s2(hidden, draw[:, -1:]) for m in (ours, theirs))
        evaluating, public_evaluating = (m.eval().decode_s2(hidden, draw[:, -1:]) for m in (ours, theirs))
    ours.train(), theirs.train()
    assert torch.equal(training, evaluating)
    assert_equal(evaluating, public_evaluating, "fine")
    assert (public_training - public_evaluating).abs().max() > 1e-3


def test_trained_rotary_generates_with_the_positions_of_training_and_public_without(predictors):
    ours, _ = predictors
    s1, s2, draw = tokens(ours, 2, 12)
    with torch.no_grad():
        hidden = ours.hidden(s1, s2, stamps(2, 12))
        whole = ours.fine_logits(hidden, draw)[:, -1]
        trained = ours.fine_logits(hidden, draw[:, -1:], rotary="trained")[:, -1]
        unrotated = ours.fine_logits(hidden, draw[:, -1:])[:, -1]
    assert_equal(trained, whole, "fine")
    assert (unrotated - whole).abs().max() > 1e-3


def test_unequal_bits_decode_to_what_the_forward_pass_makes_where_the_public_code_fails():
    torch.manual_seed(13)
    ours = KronosTokenizer(**(TOKENIZER_PRESETS["nano"] | {"s1_bits": 6, "s2_bits": 10}))
    theirs = public.KronosTokenizer(**ours.config)
    theirs.load_state_dict(ours.state_dict())
    x = bars(2, 30)
    with torch.no_grad():
        (_, full), _, _, ids = ours(x)
        s1, s2 = ours.encode(x, half=True)
        assert int(s1.max()) < 2**6 and torch.equal(s1 | (s2 << 6), ids)
        assert_equal(ours.decode(ids), full, "whole")
        assert_equal(ours.decode((s1, s2), half=True), full, "halves")
        assert (theirs.decode([s1, s2], half=True) - full).abs().max() > 1e-3


def test_padded_bars_change_nothing_after_them():
    torch.manual_seed(14)
    model = Kronos(**PREDICTOR_PRESETS["nano"]).eval()
    s1, s2, draw = tokens(model, 2, 16)
    other = s1.clone()
    other[0, :5] = 7
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, :5] = True
    with torch.no_grad():
        given = {"stamp": stamps(2, 16), "use_teacher_forcing": True, "s1_targets": draw}
        a = model(s1, s2, padding_mask=mask, **given)
        b = model(other, s2, padding_mask=mask, **given)
        unmasked = model(s1, s2, **given)
    for masked, changed, plain in zip(a, b, unmasked, strict=True):
        assert masked.isfinite().all()
        assert_equal(changed[0, 5:], masked[0, 5:], "padded")
        assert_equal(masked[1], plain[1], "not padded")
