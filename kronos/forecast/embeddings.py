"""One vector per (day, instrument): the predictor's hidden state after the last bar of the context.

Axes: N contexts, L bars of a context, F features, D width of the predictor.
"""

from typing import Literal

import numpy as np
import torch

from kronos.forecast.arrays import normalised, run_batches
from kronos.model import Kronos, KronosTokenizer

Pooling = Literal["last", "mean"]


def embed_arrays(
    tokenizer: KronosTokenizer,
    predictor: Kronos,
    bars_NLF: np.ndarray,
    stamps_NLK: np.ndarray,
    *,
    clip: float = 5.0,
    pooling: Pooling = "last",
    conditions_NLC: np.ndarray | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Return float32 [N, D]: hidden states after the final norm, of the last bar or their mean over the context.

    The context is normalised by itself and turned into ids as for a forecast. A vector depends on its context only.
    `conditions_NLC` float32 are those of the context, for a predictor that has some. A batch that does not fit in
    memory is halved. Raises UserError where one context does not fit.
    """
    device = next(predictor.parameters()).device

    def run(part: slice) -> np.ndarray:
        x, _, _ = normalised(bars_NLF[part])
        stamps = torch.from_numpy(stamps_NLK[part].astype(np.int64))
        with torch.inference_mode():
            s1, s2 = tokenizer.encode(x.clamp_(-clip, clip).to(device), half=True)
            known = None if conditions_NLC is None else torch.from_numpy(conditions_NLC[part]).to(device)
            hidden = predictor.hidden(s1, s2, stamps.to(device), None, known)
            vectors = hidden[:, -1] if pooling == "last" else hidden.mean(dim=1)
        return vectors.float().cpu().numpy()

    if not len(bars_NLF):
        return np.zeros((0, predictor.d_model), np.float32)
    return run_batches(run, len(bars_NLF), batch_size, None)
