"""The different texts of a column, so that each is read once."""

import numpy as np
import pyarrow as pa


def coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Return for each row the place of its text among the different ones, the number of those for none, and them."""
    joined = (
        column.combine_chunks()
        if not pa.types.is_dictionary(column.type)
        else column.unify_dictionaries().combine_chunks()
    )
    if not isinstance(joined, pa.DictionaryArray) and not isinstance(joined, pa.ChunkedArray):
        joined = joined.dictionary_encode()
    if isinstance(joined, pa.ChunkedArray):
        joined = joined.chunk(0)
    words = [str(word) for word in joined.dictionary.to_pylist()]
    return joined.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.int64), words
