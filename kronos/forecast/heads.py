"""The answers of a stored head to contexts of bars: log returns, probabilities, volatilities or scores.

Axes: N contexts, L bars of a context, F features, C conditions, D width of the predictor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kronos.data.bars import CLOSE
from kronos.data.outcomes import context_volatility
from kronos.forecast.embeddings import embed_arrays
from kronos.model import Kronos, KronosTokenizer
from kronos.model.heads import ForecastHead, HeadedPredictor
from kronos.utils.digests import read_object
from kronos.utils.errors import UserError
from kronos.utils.files import given_path

FILE, WEIGHTS = "head.json", "checkpoints/best_model"
REMEDY = "run  python -m kronos head  again"


@dataclass(frozen=True)
class StoredHead:
    """A head, what it answers, and the predictor that was adapted with it (None: the head is on a frozen one).

    `facts` is the content of head.json: objective, horizon, lookback, clip, adapter, the digests of the tokenizer
    and the predictor that it was trained on, and the days of training and validation.
    """

    head: ForecastHead
    predictor: Kronos | None
    facts: Mapping[str, Any]

    def answers(
        self, tokenizer: KronosTokenizer, predictor: Kronos, bars_NLF: np.ndarray, stamps_NL5: np.ndarray,
        conditions_NLC: np.ndarray | None = None, batch_size: int = 256,
    ) -> np.ndarray:  # fmt: skip
        """Return one number per context, float64 [N]: a log return, a probability, a volatility per bar or a score.

        Returns and volatilities are NaN where a close of the context is not positive.

        Args:
            tokenizer: the tokenizer that the head was trained with.
            predictor: the predictor that it was trained on; an adapted one of the head's own takes its place.
            bars_NLF: raw bars of the contexts.
            stamps_NL5: their time features.
            conditions_NLC: their conditions, for a predictor that has some.
            batch_size: contexts at a time.
        """
        trunk = (
            predictor if self.predictor is None else self.predictor.to(next(predictor.parameters()).device)
        )
        states = embed_arrays(
            tokenizer,
            trunk,
            bars_NLF,
            stamps_NL5,
            clip=self.facts["clip"],
            conditions_NLC=conditions_NLC,
            batch_size=batch_size,
        )
        with torch.inference_mode():
            found = self.head.target(torch.from_numpy(states)).double()
        objective = self.facts["objective"]
        if objective == "direction":
            return found.sigmoid().numpy()
        if objective == "rank":
            return found.numpy()
        volatility = context_volatility(bars_NLF[..., CLOSE])
        return np.asarray(volatility * (found if objective == "return" else found.exp()).numpy())


def load_head(folder: str | Path) -> StoredHead:
    """Load the head in a folder that the head stage wrote. Raises UserError where there is none, or it is damaged."""
    place = given_path(str(folder))
    if not (place / FILE).is_file():
        raise UserError(f"no head in {place} ({FILE} missing): {REMEDY}, or give the folder of another one")
    facts = read_object(place / FILE, REMEDY)
    if facts["adapter"] == "none":
        return StoredHead(ForecastHead.from_pretrained(place / WEIGHTS), None, facts)
    model = HeadedPredictor.from_pretrained(place / WEIGHTS)
    return StoredHead(model.head, model.predictor, facts)
