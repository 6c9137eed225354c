import json
import subprocess
import sys

import pytest
import torch

from kronos.model import (
    PREDICTOR_PRESETS,
    TOKENIZER_PRESETS,
    Kronos,
    KronosTokenizer,
    check_pair,
    digest,
    load_predictor,
    load_tokenizer,
    save_model,
    tokenizer_preset_for,
)
from kronos.utils.errors import UserError


def test_public_shapes_have_the_public_parameter_counts():
    counts = {}
    with torch.device("meta"):
        for name, arguments in PREDICTOR_PRESETS.items():
            counts[name] = sum(p.numel() for p in Kronos(**arguments).parameters())
        tokenizer = sum(p.numel() for p in KronosTokenizer(**TOKENIZER_PRESETS["base"]).parameters())
    assert {name: round(count / 1e6, 1) for name, count in counts.items()} == {
        "nano": 0.2,
        "mini": 4.1,
        "small": 24.7,
        "base": 102.3,
        "large": 499.2,
    }
    assert round(tokenizer / 1e6, 2) == 3.96


def test_every_predictor_preset_has_a_tokenizer_that_fits():
    for name in PREDICTOR_PRESETS:
        tokenizer = TOKENIZER_PRESETS[tokenizer_preset_for(name)]
        assert (tokenizer["s1_bits"], tokenizer["s2_bits"]) == (
            PREDICTOR_PRESETS[name]["s1_bits"],
            PREDICTOR_PRESETS[name]["s2_bits"],
        )
    with pytest.raises(UserError, match="model_preset is 'huge', expected one of nano, mini"):
        tokenizer_preset_for("huge")


def test_saved_model_loads_bit_for_bit_in_eval_mode_without_touching_the_random_state(nano, tmp_path):
    state = torch.get_rng_state()
    for model, load in zip(nano, (load_tokenizer, load_predictor), strict=True):
        folder = tmp_path / type(model).__name__
        save_model(model, folder)
        assert sorted(file.name for file in folder.iterdir()) == [
            "config.json",
            "digests.json",
            "model.safetensors",
        ]
        loaded = load(folder)
        assert not loaded.training and loaded.config == model.config
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert digest(loaded) == digest(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_does_not_import_the_compiler(nano, tmp_path):
    """torch._dynamo takes a second to import; arithmetic and random draws on the meta device would need it."""
    for model in nano:
        save_model(model, tmp_path / type(model).__name__)
    code = (
        "import sys; from kronos.model import load_predictor, load_tokenizer;"
        "load_tokenizer('KronosTokenizer'); load_predictor('Kronos'); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "False"


def test_digest_follows_weights_and_config(nano):
    _, predictor = nano
    other = Kronos(**predictor.config)
    other.load_state_dict(predictor.state_dict())
    assert digest(other) == digest(predictor)
    with torch.no_grad():
        other.norm.weight[0] += 1e-6
    assert digest(other) != digest(predictor)


def test_a_pair_that_does_not_fit_is_refused_with_both_values(nano):
    tokenizer, _ = nano
    check_pair(*nano)
    with torch.device("meta"):
        other = Kronos(**PREDICTOR_PRESETS["mini"])
    with pytest.raises(UserError, match=r"tokenizer gives 8\+8 bits, predictor expects 10\+10"):
        check_pair(tokenizer, other)


@pytest.fixture
def folder(nano, tmp_path):
    save_model(nano[1], tmp_path / "saved")
    return tmp_path / "saved"


def test_missing_folder_and_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load_predictor(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json is a file: give the folder"):
        load_predictor(folder / "config.json")
    with pytest.raises(UserError, match=r"lacks d_in, n_enc_layers.*not that of a KronosTokenizer"):
        load_tokenizer(folder)
    with pytest.raises(UserError, match="a revision is for Hub names only"):
        load_predictor(folder, revision="main")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        load_predictor(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_predictor(folder)


def test_truncated_weights_are_refused_with_both_sizes(folder):
    (folder / "digests.json").unlink()
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(
        UserError, match=rf"damaged: {len(whole) - 100} bytes, its header says {len(whole)} bytes"
    ):
        load_predictor(folder)
    for rubbish in (b"", whole[:20], b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(rubbish)
        with pytest.raises(UserError, match=r"damaged: .* no safetensors header"):
            load_predictor(folder)


def test_keys_and_shapes_that_differ_are_named(folder):
    (folder / "digests.json").unlink()  # as other programs save
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layers": 3}))
    with pytest.raises(UserError, match=r"missing transformer\.2\.norm1\.weight.* and \d+ more"):
        load_predictor(folder)
    (folder / "config.json").write_text(json.dumps(config | {"n_layers": 1}))
    with pytest.raises(UserError, match=r"not expected transformer\.1\."):
        load_predictor(folder)
    (folder / "config.json").write_text(json.dumps(config | {"ff_dim": 64}))
    with pytest.raises(UserError, match=r"w1\.weight is \[128, 64\], config\.json says \[64, 64\]"):
        load_predictor(folder)


def test_impossible_shapes_are_refused_in_words():
    with pytest.raises(UserError, match="width 60 does not split into 8 heads"):
        Kronos(**(PREDICTOR_PRESETS["nano"] | {"d_model": 60, "n_heads": 8}))
    with pytest.raises(UserError, match="17 bits do not split into groups of 4"):
        KronosTokenizer(**(TOKENIZER_PRESETS["nano"] | {"s1_bits": 9}))
